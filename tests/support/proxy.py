"""An HTTP proxy before the engine that counts what changes something and may stop at one such step.

It never changes what it passes on: whoever waits for an answer gets the engine's, or a broken connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args

import aiohttp
from aiohttp import web
from yarl import URL

from shared.runtime.process.lifecycle import serve
from tests.support.processes import free_port

Moment = Literal["before", "during", "after"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)
"""Before the engine has the statement, when it has it and has not answered, and when it has answered."""

BODY_BYTES_MAX = 64 << 20
ENGINE_SECONDS_MAX = 300.0
"""One statement of a test's few rows: an engine that takes longer has hung."""

HOP_HEADERS = frozenset({"host", "connection", "keep-alive", "content-length", "transfer-encoding"})
"""They speak of one connection, and there are two."""

_CHANGE = re.compile(r"\s*(INSERT)\s+INTO\s+`?(\w+)|\s*(DELETE)\s+FROM\s+`?(\w+)|\s*(ALTER)\s+TABLE\s+([^\s(]+)", re.I)


class Stop(NamedTuple):
    """What to do at the step with this name, and when; the one who asked then gets no answer."""

    step: str
    moment: Moment
    act: Callable[[], Awaitable[Any]]


class Proxy:
    """Made by `proxying`. `steps` names the changes since `watch`; `stopped` says whether the stop was come to."""

    def __init__(self, engine: str) -> None:
        self.port = free_port()
        self.steps: list[str] = []
        self.stopped = False
        self._engine = engine
        self._stop: Stop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._left: set[asyncio.Task[Any]] = set()

    def watch(self, stop: Stop | None = None) -> None:
        """Begin a new list, and do what `stop` says when its step comes."""
        self.steps, self.stopped, self._stop = [], False, stop

    async def settle(self) -> None:
        """Until the engine has answered, or lost, what was passed on for somebody who was killed meanwhile."""
        await asyncio.gather(*self._left, return_exceptions=True)
        self._left.clear()

    async def handle(self, http: web.Request) -> web.Response:
        """Pass one request on; break the connection instead of an answer when there is none."""
        body = await http.read()
        stop = None
        if change := _change(http, body):
            number = sum(step.startswith(change) for step in self.steps) + 1
            self.steps.append(f"{change} #{number}")
            stop = self._stop if self._stop and self._stop.step == self.steps[-1] else None
        if stop is None:
            try:
                return await self._pass_on(http, body, asyncio.Event())
            except aiohttp.ClientError:
                return _broken(http)
        self.stopped = True
        if stop.moment != "before":
            sent = asyncio.Event()
            passed = asyncio.create_task(self._pass_on(http, body, sent))
            self._left.add(passed)
            passed.add_done_callback(lambda _: sent.set())
            await (sent.wait() if stop.moment == "during" else asyncio.wait({passed}))
        await stop.act()
        return _broken(http)

    async def _pass_on(self, http: web.Request, body: bytes, sent: asyncio.Event) -> web.Response:
        assert self._session is not None
        async with self._session.request(
            http.method,
            URL(self._engine + http.path_qs, encoded=True),
            data=body,
            headers=[(name, value) for name, value in http.headers.items() if name.lower() not in HOP_HEADERS],
            trace_request_ctx=sent,
        ) as answer:
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_HEADERS]
            return web.Response(status=answer.status, body=await answer.read(), headers=dict(kept))


@asynccontextmanager
async def proxying(engine: str) -> AsyncIterator[Proxy]:
    """A proxy that answers on a port of its own, in this event loop."""
    proxy = Proxy(engine)
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    told = aiohttp.TraceConfig()
    told.on_request_chunk_sent.append(_tell_sent)
    async with aiohttp.ClientSession(
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=ENGINE_SECONDS_MAX),
        trace_configs=[told],
        # A kept connection may be one to an engine that was killed since, and then it says nothing of the new one.
        connector=aiohttp.TCPConnector(force_close=True),
    ) as session:
        proxy._session = session
        runner = await serve(app, "127.0.0.1", proxy.port)
        try:
            yield proxy
        finally:
            await proxy.settle()
            await runner.cleanup()


async def _tell_sent(
    _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestChunkSentParams
) -> None:
    context.trace_request_ctx.set()


def _change(http: web.Request, body: bytes) -> str:
    """What a request changes, in few words; empty when it only reads."""
    statement = _field(http, body, "query") or body[:500].decode("utf-8", "replace")
    found = _CHANGE.match(statement)
    if found is None:
        return ""
    verb, place = (group for group in found.groups() if group)
    if place.startswith("{"):
        place = f"{_field(http, body, 'param_table')} {_field(http, body, 'param_partition0')}"
    return f"{verb.upper()} {place}"


def _field(http: web.Request, body: bytes, name: str) -> str:
    """A field of a form or of the URL."""
    field = re.compile(rf'name="{name}"\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--'.encode(), re.DOTALL)
    found = field.search(body) if http.content_type == "multipart/form-data" else None
    return found[1].decode() if found else http.query.get(name, "")


def _broken(http: web.Request) -> web.Response:
    if http.transport is not None:
        http.transport.abort()
    return web.Response(status=502)
