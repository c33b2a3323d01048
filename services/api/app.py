"""The API process: the composition of its parts, and what `ready` means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir

from aiohttp import web
from prometheus_client import Histogram

from services.api.capture import sdk_endpoints as sdk
from services.api.capture import v0 as capture
from services.api.capture import v1 as capture_v1
from services.api.context import CONTEXT, Bounds, Context
from services.api.deletions import bulk, cancels, purge
from services.api.deletions import endpoints as deletions
from services.api.history import activity, export
from services.api.history import properties_timeline as timeline
from services.api.history import property_history as history
from services.api.http import openapi
from services.api.http.errors import error_middleware
from services.api.http.guards.access import Access
from services.api.http.guards.costly import Gate
from services.api.http.guards.rate_limit import CaptureQuotas, Limits
from services.api.http.routing import LIMITS, Route, mount
from services.api.http.spool import Spools
from services.api.http.transports.fast_person import ExpressPerson
from services.api.persons import endpoints as persons
from services.api.persons import lists
from services.api.persons import merge_and_split as identities
from services.api.reads.persons import Reads
from services.api.reads.stamps import Stamps, uuid7
from services.api.reads.watermarks import Watermarks
from services.api.recordings import capture as recordings
from services.api.recordings import sessions
from services.api.recordings.block_writer import Blocks
from shared.domain.commands import Command
from shared.domain.errors import LogClosed, LogMismatch, Superseded, Transient
from shared.domain.ids import COMMANDS, Position
from shared.log.connect import connect_log
from shared.log.port import Log
from shared.runtime import telemetry
from shared.runtime.clock import Clock
from shared.runtime.express import Express
from shared.runtime.lifecycle import collect_seldom, serve, url_of
from shared.runtime.ops import Check, add_ops
from shared.runtime.processes import announced
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import agree, clock_of, watch
from shared.runtime.trouble import full, watch_disks
from shared.store.client import Store
from shared.store.connect import connect_store, judge_of
from shared.store.generations import counted, current
from shared.store.logwatch import LogWatch
from shared.store.objects import Objects
from shared.store.shared_memory import SharedMemory, memory_of

METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"))
"""Methods that metrics tell apart: a client may send any word, and every word would be a series."""

_NOUNS = (lists, persons, identities, activity, timeline, history, sessions, bulk, deletions, cancels, purge, export)

ROUTES: tuple[Route, ...] = (
    *(route for noun in _NOUNS for route in noun.COLLECTION_ROUTES),
    *(route for noun in _NOUNS for route in noun.ROUTES),
)
"""All of REST. The order matters: literal paths before those with an id."""

GATED = web.AppKey("gated", frozenset[str])
"""The routes that take or tell something of persons."""

COLLECTED_OBJECTS = 50_000
"""An answered request leaves no cycles; what failed may, with a body of at most 20 MiB."""

BODY_BYTES_MAX = 21 * 1_048_576
"""aiohttp's own limit, above every route's; the routes check theirs."""


async def run(settings: Settings) -> None:
    """Answer until cancelled."""
    store = await connect_store(settings, "api")
    known = await current(store)
    log = connect_log(settings, known)
    runner = None
    context = None
    try:
        clock, judge = clock_of(settings), judge_of(settings, store)
        if judge is not None:
            await agree(clock, judge, settings)
        await log.start()
        log_watch = LogWatch(log, store, known)
        with suppress(LogMismatch, Superseded, Transient):  # the answers say it, until the right log is there
            await log_watch.start()
        memory = memory_of(settings, log.partitions(), log.generation)
        context = await build(log, store, Objects(settings.objects_url), clock, bounds_of(settings), memory, log_watch)
        app = application(context, settings.static, {"disk": lambda: _disk_has_space(settings.data)})
        express = Express(capture.ExpressCapture(context, _observe_answer), ExpressPerson(context, _observe_answer))
        runner = await serve(app, settings.host, settings.port, reuse_port=True, express=express)
        collect_seldom(COLLECTED_OBJECTS)
        disks = watch_disks((settings.data, Path(gettempdir())))
        with announced(settings.data, "api", url_of(runner)):
            await asyncio.gather(watch(clock, settings, judge), disks, log_watch.follow())
    finally:
        if runner is not None:
            await runner.cleanup()
        if context is not None:
            await context.blocks.close()
            await context.watermarks.close()
            await context.fed.close()
            await context.access.close()
        await log.close()
        await store.close()


def bounds_of(settings: Settings) -> Bounds:
    return Bounds(
        limits=Limits(settings.key_rate, settings.key_burst),
        quotas=CaptureQuotas(
            settings.capture_events_per_second, settings.capture_bytes_per_second, settings.capture_burst_seconds
        ),
        gate=Gate(settings.scans),
        spools=Spools(settings.export_bytes),
    )


async def build(
    log: Log,
    store: Store,
    objects: Objects,
    clock: Clock,
    bounds: Bounds | None = None,
    memory: SharedMemory | None = None,
    watch: LogWatch | None = None,
) -> Context:
    """The parts of one API process on a started log, a connected store and an object store."""
    bounds = bounds or Bounds()
    access = Access(store, clock)
    await access.start()
    stamps = Stamps(clock)
    reads = Reads(store, log.partitions, stamps.seen, memory)
    board = memory.board if memory is not None else None
    watermarks = Watermarks(store, reads.queries["watermarks"], stamps.seen, board)
    await watermarks.refresh()

    async def append(commands: Sequence[Command]) -> list[Position]:
        return await context.append(commands)

    context = Context(
        log=log,
        generations=await counted(store, log),
        watch=watch or LogWatch(log, store, None),
        store=store,
        access=access,
        reads=reads,
        watermarks=watermarks,
        fed=Watermarks(store, reads.queries["search_watermarks"], stamps.seen),
        limits=bounds.limits,
        quotas=bounds.quotas,
        gate=bounds.gate,
        spools=bounds.spools,
        stamps=stamps,
        clock=clock,
        mint=uuid7,
        blocks=Blocks(objects, append, stamps, clock, uuid7),
    )
    return context


def application(context: Context, static: str = "", checks: Mapping[str, Check] | None = None) -> web.Application:
    """All routes; `static` is the folder of posthog-js's files, `checks` are what else `ready` means."""
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_observe, error_middleware, _gate])
    app[CONTEXT] = context
    app.on_response_prepare.append(_add_headers)
    capture.register(app)
    capture_v1.register(app)
    recordings.register(app)
    captures = _paths(app)
    sdk.register(app, static)
    stubs = _paths(app) - captures
    mount(app, ROUTES)
    app[GATED] = _paths(app) - stubs
    openapi.register(app, ROUTES)
    add_ops(
        app, {"log": lambda: _log_answers(context), "store": lambda: _store_answers(context), **(checks or {})}
    )
    return app


@web.middleware
async def _gate(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """While the log is not the tables' own, nothing of persons is taken, nor told: it may be of before a write."""
    if request.app[CONTEXT].watch.mismatch is not None and request.method != "OPTIONS":
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in request.app[GATED]:
            raise LogMismatch("The service cannot answer until its log is put right.")
    return await handler(request)


@web.middleware
async def _observe(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    began = time.perf_counter()
    try:
        response = await handler(request)
    finally:
        request.app[CONTEXT].load.forget(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unknown"
    method = request.method if request.method in METHODS else "other"
    _timer(method, route, response.status).observe(time.perf_counter() - began)
    return response


def _observe_answer(method: str, route: str, status: int, seconds: float) -> None:
    _timer(method, route, status).observe(seconds)


@cache
def _timer(method: str, route: str, status: int) -> Histogram:
    """The metric of these labels: looking it up takes as long as observing. As many as routes times statuses."""
    return telemetry.HTTP_SECONDS.labels(method, route, status)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(request.get(LIMITS, {}))
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")


def _paths(app: web.Application) -> frozenset[str]:
    return frozenset(resource.canonical for resource in app.router.resources())


async def _log_answers(context: Context) -> str:
    if context.watch.wrong:
        return context.watch.wrong
    await context.log.heads(COMMANDS)
    if context.log.refused:
        return LogClosed().detail
    return await context.log.trouble()


async def _disk_has_space(folder: Path) -> str:
    return full(folder)


async def _store_answers(context: Context) -> str:
    await context.watermarks.refresh()
    return ""
