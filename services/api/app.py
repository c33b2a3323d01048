"""The API process: the composition of its parts, and what `ready` means."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import gettempdir

from services.api import operations
from services.api.calls import call_of
from services.api.capture import recordings, sdk_endpoints, v0, v1
from services.api.context import Bounds, Context
from services.api.deletions import bulk, cancels, purge
from services.api.deletions import endpoints as deletions
from services.api.history import activity, export, ingestion_warnings
from services.api.history import properties_timeline as timeline
from services.api.history import property_history as history
from services.api.http.documents import openapi
from services.api.http.guards.access import Access
from services.api.http.guards.costly import Gate
from services.api.http.guards.rate_limit import CaptureQuotas, RateLimiter
from services.api.http.pipeline import Guards, Pipeline
from services.api.http.routing import Route, Router
from services.api.http.spool import Spools
from services.api.http.transports.front import serve
from services.api.persons import batch_reads, lists
from services.api.persons import endpoints as persons
from services.api.persons import merge_and_split as identities
from services.api.reads.persons import Reads
from services.api.reads.rendered import RenderedPersons
from services.api.reads.stamps import Stamps, uuid7
from services.api.reads.watermarks import Watermarks
from services.api.recordings import sessions
from services.api.writes.block_writer import BlockStore
from shared.domain.commands import Command
from shared.domain.errors import LogClosed, LogMismatch, Superseded, Transient
from shared.domain.ids import COMMANDS, Position
from shared.log.connect import connect_log
from shared.log.port import Log
from shared.runtime.clock import Clock
from shared.runtime.process.lifecycle import collect_seldom, url_of
from shared.runtime.process.ops import Check
from shared.runtime.process.processes import announced
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import agree, clock_of, watch
from shared.runtime.trouble import full, watch_disks
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.connect import connect_store, judge_of
from shared.store.generations import counted, current
from shared.store.logwatch import LogWatch
from shared.store.objects import Objects
from shared.store.shared_memory.segment import SharedMemory, memory_of

_NOUNS = (
    lists,
    batch_reads,
    persons,
    identities,
    activity,
    timeline,
    history,
    ingestion_warnings,
    sessions,
    bulk,
    deletions,
    cancels,
    purge,
)

ROUTES: tuple[Route, ...] = (
    *(route for noun in _NOUNS for route in noun.COLLECTION_ROUTES),
    *(route for noun in _NOUNS for route in noun.ROUTES),
    *export.routes(
        export.Holdings(
            sessions.archived_sessions,
            sessions.archived_snapshots,
            deletions.requests_of,
        )
    ),
)
"""All of REST. The order matters: literal paths before those with an id."""

COLLECTED_OBJECTS = 50_000
"""An answered request leaves no cycles; what failed may, with a body of at most 20 MiB."""


async def run(settings: Settings) -> None:
    """Answer until cancelled."""
    store = await connect_store(settings, "api")
    generations = await current(store)
    log = connect_log(settings, generations)
    server = None
    context = None
    try:
        clock, judge = clock_of(settings), judge_of(settings, store)
        if judge is not None:
            await agree(clock, judge, settings)
        await log.start()
        log_watch = LogWatch(log, store, generations)
        with suppress(
            LogMismatch, Superseded, Transient
        ):  # the answers say it, until the right log is there
            await log_watch.start()
        memory = memory_of(settings, log.partitions(), log.generation)
        context = await build(
            log,
            store,
            Objects(settings.objects_url),
            clock,
            bounds_of(settings),
            memory,
            log_watch,
        )
        pipeline = pipeline_of(
            context, settings.static, {"disk": lambda: _disk_has_space(settings.data)}
        )
        server = await serve(pipeline, settings.host, settings.port, reuse_port=True)
        collect_seldom(COLLECTED_OBJECTS)
        disks = watch_disks((settings.data, Path(gettempdir())))
        with announced(settings.data, "api", url_of(server)):
            await asyncio.gather(
                watch(clock, settings, judge), disks, log_watch.follow()
            )
    finally:
        if server is not None:
            await server.cleanup()
        if context is not None:
            await context.blocks.close()
            await context.watermarks.close()
            await context.search_watermarks.close()
            await context.access.close()
        await log.close()
        await store.close()


def bounds_of(settings: Settings) -> Bounds:
    return Bounds(
        limits=RateLimiter(settings.key_rate, settings.key_burst),
        quotas=CaptureQuotas(
            settings.capture_events_per_second,
            settings.capture_bytes_per_second,
            settings.capture_burst_seconds,
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
    reads = Reads(store, log.partitions, stamps.observe, memory)
    board = memory.board if memory is not None else None
    watermarks = Watermarks(store, reads.queries["watermarks"], stamps.observe, board)
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
        rendered=RenderedPersons(reads),
        watermarks=watermarks,
        search_watermarks=Watermarks(
            store, reads.queries["search_watermarks"], stamps.observe
        ),
        limits=bounds.limits,
        quotas=bounds.quotas,
        gate=bounds.gate,
        spools=bounds.spools,
        stamps=stamps,
        clock=clock,
        mint=uuid7,
        blocks=BlockStore(objects, append, stamps, clock, uuid7),
    )
    return context


def pipeline_of(
    context: Context, static: str = "", checks: Mapping[str, Check] | None = None
) -> Pipeline:
    """All routes; `static` is the folder of posthog-js's files, `checks` are what else `ready`
    means."""
    guards = Guards(
        access=context.access,
        limits=context.limits,
        gate=context.gate,
        admission=context.admission,
        spools=context.spools,
        clock=context.clock,
    )
    ready = {
        "log": lambda: _log_answers(context),
        "store": lambda: _store_answers(context),
        **(checks or {}),
    }
    return Pipeline(
        router_of(static, ready), guards, context, partial(call_of, context)
    )


def router_of(static: str, checks: Mapping[str, Check]) -> Router:
    """Every path of the API."""
    others = (
        *v0.ROUTES,
        *v1.ROUTES,
        *sdk_endpoints.routes(static),
        *recordings.ROUTES,
        *operations.routes(checks),
    )
    return Router(
        ROUTES, (*others, *openapi.routes_of(openapi.document(ROUTES, others)))
    )


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
