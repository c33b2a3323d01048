"""Where the processor time of an acknowledged append goes: the API's parts, in one process.

Each part is called as the API calls it, on the request that `appends` sends, and its processor time
is that of all threads of this process: what a writer thread does counts. No socket and no client,
whose time `appends` has.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from bench.appends import CONNECTIONS, request_of_batch, request_of_event
from bench.report import Row
from services.api.app import COLLECTED_OBJECTS, build, pipeline_of
from services.api.capture.payload import decode
from services.api.capture.v0 import outcomes_of
from services.api.context import Context
from services.api.http.messages import Response
from services.api.http.pipeline import Guards, Pipeline
from services.api.http.routing import Route, Router
from services.api.http.transports.front import Front
from shared.domain.ids import COMMANDS, DEAD, Position
from shared.log.embedded.log import EmbeddedLog
from shared.log.identity import TOPICS
from shared.log.memory import MemoryLog
from shared.log.port import Entry, Log
from shared.runtime.clock import SystemClock
from shared.runtime.process.lifecycle import collect_seldom
from shared.store.clickhouse.access import ensure_bootstrap
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.objects import Objects
from tests.support.engine import EngineProcess
from tests.support.processes import PERSONAL_KEY, TOKEN

CALLS, TURNS = 6_400, 5
BATCH_CALLS = 64

Stage = Callable[[int], Awaitable[None]]
"""Does its part so many times."""


class InstantLog(MemoryLog):
    """Acknowledges at once, and keeps nothing."""

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Position]]:
        future: asyncio.Future[list[Position]] = asyncio.get_running_loop().create_future()
        future.set_result([Position(COMMANDS, entry.partition, 1) for entry in entries])
        return future


class Answers:
    """Counts answers, and tells when all that are due have come."""

    def __init__(self) -> None:
        self._due = 0
        self._all = asyncio.Event()

    def expect(self, count: int) -> None:
        self._due = count
        self._all.clear()

    def count(self) -> None:
        self._due -= 1
        if self._due == 0:
            self._all.set()

    async def wait(self) -> None:
        await self._all.wait()


class Wire(asyncio.Transport):
    """Where answers go that nobody reads."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: Any) -> None:
        self._answers.count()

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        return None


def stages(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    engine = EngineProcess(data / "engine").start()
    try:
        return asyncio.run(_measure(engine, data))
    finally:
        engine.stop()


async def _measure(engine: EngineProcess, data: Path) -> list[Row]:
    collect_seldom(COLLECTED_OBJECTS)  # as the API does
    store = await Store.connect(engine.url("stages"))
    await migrate(store)
    await ensure_bootstrap(store, PERSONAL_KEY, TOKEN, SystemClock().now_us)
    await store.close()
    store = await Store.connect(engine.url("stages"))
    log = EmbeddedLog(data / "log", {COMMANDS: 16} | dict.fromkeys((*TOPICS[1:], DEAD), 1))
    await log.start()
    instant = await _context(InstantLog(), store)
    try:
        embedded = await _context(log, store)
        return await _rows(instant, embedded)
    finally:
        await log.close()
        await store.close()


async def _context(log: Log, store: Store) -> Context:
    return await build(log, store, Objects("memory:///"), SystemClock())


async def _rows(instant: Context, embedded: Context) -> list[Row]:
    whole = {name: await _seconds(_requests(instant, make), calls) for name, make, calls in KINDS}
    return [
        await _row("front and pipeline, answer included", _trivial(instant), CALLS),
        await _row("decoding the body of one event", _decoding(1), CALLS),
        await _row("decoding, command and record of one event", _outcomes(instant, 1), CALLS),
        _formatted("the whole append, a log that acknowledges at once", whole["event"] / CALLS),
        await _row("the whole append, embedded log", _requests(embedded, request_of_event), CALLS),
        await _row("decoding a batch of 100, an event", _decoding(100), BATCH_CALLS, 100),
        await _row("the same, with commands and records", _outcomes(instant, 100), BATCH_CALLS, 100),
        _formatted("a batch's event, a log that acknowledges at once", whole["batch"] / BATCH_CALLS / 100),
        await _row(
            "a batch's event, embedded log", _requests(embedded, request_of_batch), BATCH_CALLS, 100
        ),
    ]


KINDS = (("event", request_of_event, CALLS), ("batch", request_of_batch, BATCH_CALLS))


def _trivial(context: Context) -> Stage:
    """The path of a request whose endpoint does nothing."""
    route = Route(
        "POST", "/capture/", "", lambda call: Response(body=b"{}"), access="open", body_bytes_max=10**6
    )
    guards = Guards(
        access=context.access, limits=context.limits, gate=context.gate, spools=context.spools,
        clock=context.clock, admission=context.admission,
    )  # fmt: skip
    pipeline = Pipeline(Router((), [route]), guards, context, lambda request: request)
    return _through(pipeline, request_of_event)


def _requests(context: Context, request: Callable[[int], bytes]) -> Stage:
    return _through(pipeline_of(context), request)


def _through(pipeline: Pipeline, request: Callable[[int], bytes]) -> Stage:
    front = Front(pipeline)
    messages = [request(number) for number in range(CONNECTIONS)]

    async def stage(calls: int) -> None:
        answers = Answers()
        connections = [front.connect() for _ in messages]
        for connection in connections:
            connection.connection_made(Wire(answers))
        for _ in range(calls // len(messages)):
            answers.expect(len(messages))
            for connection, message in zip(connections, messages, strict=True):
                connection.data_received(message)
            await answers.wait()
        for connection in connections:
            connection.connection_lost(None)

    return stage


def _body(count: int) -> bytes:
    message = request_of_event(1) if count == 1 else request_of_batch(1)
    return message.partition(b"\r\n\r\n")[2]


def _decoding(count: int) -> Stage:
    body = _body(count)

    async def stage(calls: int) -> None:
        for _ in range(calls):
            decode(body, "application/json", {})

    return stage


def _outcomes(context: Context, count: int) -> Stage:
    body = _body(count)
    project = context.access.by_token(TOKEN)
    assert project is not None

    async def stage(calls: int) -> None:
        for _ in range(calls):
            outcomes_of(context, decode(body, "application/json", {}), project)

    return stage


async def _seconds(stage: Stage, calls: int) -> float:
    """The median processor time of a stage that is warm."""
    await stage(min(calls, 640))
    turns = []
    for _ in range(TURNS):
        began = time.process_time()
        await stage(calls)
        turns.append(time.process_time() - began)
    return statistics.median(turns)


async def _row(name: str, stage: Stage, calls: int, events: int = 1) -> Row:
    return _formatted(name, await _seconds(stage, calls) / calls / events)


def _formatted(name: str, seconds: float) -> Row:
    return name, f"{seconds * 1e6:.1f} µs", "", "", f"median of {TURNS} turns, c = {CONNECTIONS}"
