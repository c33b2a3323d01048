"""Cost of projection: commands a second against raw inserts of ready rows into the same engine.

Measured on both logs. The log is filled once. Each turn has its own database in one engine, so that
every projector starts on empty tables; the last has rebuilds from the timeline and coalesced reads.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from bench.filling import fragment_row
from bench.logs import EMBEDDED, MERGES, PROJECTED, on_both_logs
from bench.report import Row, row
from services.api.reads.persons import Reads
from services.projector.tables.rows import FRAGMENTS, columns
from shared.domain.commands import Write, encode, route
from shared.domain.ids import COMMANDS, IDENTITY, fragment_id
from shared.log.connect import connect_log
from shared.log.port import Entry
from shared.runtime.settings import OWNER, read, with_keys
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from tests.support.processes import ROOT, Stack, wait_for

TURNS = 5
"""Measurements of each side, in turns; the median counts."""

COMMANDS_COUNT, PERSONS = 80_000, 20_000
"""Of one turn: eight full batches, two to four seconds of projection."""

INSERTS, INSERT_ROWS = 5, 10_000
"""Raw inserts of one turn, and the rows of each, equal to a full batch."""

POLL_SECONDS = 0.1
"""Between two checks of the projection, so that a turn is wrong by 4 % at most.

A check takes 6 ms of one of the engine's threads, which are idle half of the time.
"""

CAUGHT_UP_SECONDS_MAX = 300.0

REBUILDS, REBUILT_COUNT = 3, 240_000
"""A rebuild stops projection for a fixed time, which would dominate with fewer facts."""

PROPERTIES = '{"a":1,"b":"x","c":0.5,"d":[1],"e":1,"f":2}'
CELLS = '{"a":[1,1,0],"b":[1,1,0],"c":[1,1,0],"d":[1,1,0],"e":[0,0,1],"f":[0,0,1]}'
"""Of a raw row, as a command of these properties leaves it."""

CONNECTIONS = 64
READS, CROWD = 2_000, 2_000

STATE_ONLY, WITH_TIMELINE = ("bench.state_only",), ("services.cli", "projector")
"""Modules that run as the projector."""


def projection(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    return on_both_logs(data, _measure)


def _measure(data: Path, log: str, environment: dict[str, str]) -> list[Row]:
    rates: dict[tuple[str, ...], list[float]] = {STATE_ONLY: [], WITH_TIMELINE: []}
    raw: dict[tuple[str, ...], list[float]] = {STATE_ONLY: [], WITH_TIMELINE: []}
    with engine(data, **environment) as stack:
        asyncio.run(fill(stack, COMMANDS_COUNT))
        for turn in range(TURNS):
            for kind, name in ((STATE_ONLY, "state"), (WITH_TIMELINE, "timeline")):
                with database(stack, f"{name}_{turn}") as turn_stack:
                    raw[kind] += asyncio.run(_raw_inserts(store_url(turn_stack)))
                    rates[kind].append(projected(turn_stack, kind, COMMANDS_COUNT))
        size = f"{COMMANDS_COUNT:,} commands, {PERSONS:,} persons, cold, {log}"
        size = f"{size}; insert of {INSERT_ROWS:,} rows"
        rows = [
            row(
                "projected commands, state only / raw insert rows",
                rates[STATE_ONLY],
                raw[STATE_ONLY],
                size,
            ),
            row(
                "projected commands, with timeline / raw insert rows",
                rates[WITH_TIMELINE],
                raw[WITH_TIMELINE],
                size,
            ),
        ]
        if log == EMBEDDED:
            asyncio.run(fill(stack, REBUILT_COUNT - COMMANDS_COUNT))
            with database(stack, "rebuilt") as rebuilt:
                rate = projected(rebuilt, WITH_TIMELINE, REBUILT_COUNT)
                rows += _rebuilds_and_reads(rebuilt, rate)
    return rows


def _rebuilds_and_reads(stack: Stack, rate: float) -> list[Row]:
    rebuilds = [_rebuild_rate(stack) for _ in range(REBUILDS)]
    single, many, crowd = asyncio.run(_side_by_side(store_url(stack)))
    return [
        row(
            "rebuilt facts, compared and swapped / projected commands",
            rebuilds,
            [rate],
            f"{REBUILT_COUNT:,} facts, 0 differences, median of {REBUILDS}",
        ),
        row("coalesced GET / one query each, 64 in flight", many, single, f"{PERSONS:,} persons"),
        row("the same, 2,000 in flight", crowd, single, "against one query each, 64 in flight"),
    ]


@contextmanager
def engine(data: Path, **environment: str) -> Iterator[Stack]:
    """Run the engine of a stack only, with its tables."""
    stack = Stack(data, **environment)
    process = stack.spawn("engine", log="engine.log")
    run = data / "run"
    run.mkdir(exist_ok=True)
    (run / "engine.pid").write_text(f"{process.pid}")  # as `up` does
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{stack.engine_port}/ping"), 30, "the engine")
        _migrate(stack)
        yield stack
    finally:
        stack.stop()


@contextmanager
def database(stack: Stack, name: str, data: Path | None = None) -> Iterator[Stack]:
    """Yield a stack on the same engine with an empty database, dropped afterwards.

    Its log is the same, or that of another folder. Merges have ended before it begins.
    """
    url = f"{store_url(stack).rpartition('/')[0]}/{name}"
    kafka = stack.environment.get("PERSONLOG_KAFKA", "")
    empty = Stack(data or stack.data, PERSONLOG_CLICKHOUSE=url, PERSONLOG_KAFKA=kafka)
    _migrate(empty)
    wait_for(lambda: stack.query(MERGES) == "0", 60, "the merges")
    try:
        yield empty
    finally:
        empty.stop()
        stack.query(f"DROP DATABASE {name} SYNC")


def _migrate(stack: Stack) -> None:
    done = stack.call("migrate")
    assert done.returncode == 0, done.stderr


def store_url(stack: Stack) -> str:
    settings, _ = with_keys(read(stack.environment))
    return settings.store_url(OWNER)


def projected(stack: Stack, kind: tuple[str, ...], count: int) -> float:
    """Run a projector; return commands a second, from the first visible ones to the last."""
    with (stack.data / "projector.log").open("ab") as out:
        command = [sys.executable, "-m", *kind]
        projector = subprocess.Popen(
            command, cwd=ROOT, env=stack.environment, stdout=out, stderr=out
        )
    try:
        return asyncio.run(_caught_up(store_url(stack), count))
    finally:
        projector.terminate()
        projector.wait(timeout=15)


async def fill(stack: Stack, count: int) -> None:
    """Append commands of about 300 bytes for 20,000 persons: 4 set, 3 set_once, 1 unset."""
    settings, _ = with_keys(read(stack.environment))
    log = connect_log(settings)
    await log.start()
    try:
        counts = log.partitions()
        for start in range(0, count, 1_000):
            writes = [command(number) for number in range(start, start + 1_000)]
            await log.append([Entry(*route(write, counts), encode(write)) for write in writes])
    finally:
        await log.close()


def command(number: int) -> Write:
    """Build a command for one of the persons."""
    name = f"person-{number % PERSONS}"
    return Write(
        id=uuid4(),
        project=1,
        at=1_700_000_000_000_000 + number,
        actor="bench",
        fragment=fragment_id(1, name),
        distinct_id=name,
        set={"a": number, "b": "some text", "c": number / 4, "d": [number]},
        set_once={"e": 1, "f": 2, "g": 3},
        unset=("z",),
        reason="update",
    )


async def _caught_up(url: str, count: int) -> float:
    store = await Store.connect(url)
    try:
        first: tuple[float, int] | None = None
        deadline = time.monotonic() + CAUGHT_UP_SECONDS_MAX
        while time.monotonic() < deadline:
            ((done,),) = await store.rows(PROJECTED)
            now = time.perf_counter()
            if done and first is None:
                first = (now, done)
            if done == count:
                assert first is not None
                return (count - first[1]) / (now - first[0])
            await asyncio.sleep(POLL_SECONDS)
        raise RuntimeError(f"the projector did not catch up within {CAUGHT_UP_SECONDS_MAX:.0f} s")
    finally:
        await store.close()


def _rebuild_rate(stack: Stack) -> float:
    """Run `personlog rebuild --verify`; return its facts a second, by its own clock."""
    done = stack.call("rebuild", "--verify", seconds=600)
    report = re.search(
        r"swapped: ([\d,]+) facts .* in ([\d.]+) s; .* 0 differences, 0 corrupt", done.stdout
    )
    assert done.returncode == 0 and report is not None, done.stdout + done.stderr
    return int(report[1].replace(",", "")) / float(report[2])


async def _raw_inserts(url: str) -> list[float]:
    """Insert ready fragment rows column-wise by the same client; return rows a second of each."""
    rates = []
    store = await Store.connect(url)
    try:
        for _ in range(INSERTS):
            rows = [fragment_row(number, PROPERTIES, CELLS) for number in range(INSERT_ROWS)]
            began = time.perf_counter()
            await store.insert("fragments", columns(FRAGMENTS, rows))
            rates.append(INSERT_ROWS / (time.perf_counter() - began))
        await store.command(Query(name="empty", sql="TRUNCATE TABLE fragments SYNC"))
        return rates
    finally:
        await store.close()


async def _side_by_side(url: str) -> tuple[list[float], list[float], list[float]]:
    store = await Store.connect(url)
    try:
        reads = _reads(store)
        single, many, crowd = [], [], []
        for _ in range(TURNS):
            single.append(await _gets(store, None, READS // 10))
            many.append(await _gets(store, reads, READS))
            crowd.append(await _gets(store, reads, 10 * READS, CROWD))
        return single, many, crowd
    finally:
        await store.close()


def _reads(store: Store) -> Reads:
    return Reads(store, lambda: {COMMANDS: 16, IDENTITY: 4}, lambda stamp: None)


async def _gets(store: Store, reads: Reads | None, count: int, clients: int = CONNECTIONS) -> float:
    """Measure GETs a second with `clients` in flight; without `reads` each has its own query."""
    waiting = iter(range(count))
    began = time.perf_counter()

    async def client() -> None:
        for number in waiting:
            key: UUID = fragment_id(1, f"person-{number % PERSONS}")
            assert await (reads or _reads(store)).by_fragment(1, key) is not None

    await asyncio.gather(*(client() for _ in range(clients)))
    return count / (time.perf_counter() - began)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False
