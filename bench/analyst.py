"""Reads of persons beside three endless queries of an analyst, against the same reads alone.

The reader is a separate process that logs in as `api` and reads persons by key, each from the
tables. The analyst's three queries are as many as an analyst may start: one runs and two wait. The
reads are measured idle, beside the queries, and idle again, in one run.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from bench.reader import reading
from bench.report import Row
from shared.domain.ids import COMMANDS, IDENTITY, NAMESPACE
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query, load
from shared.store.clickhouse.roles import ANALYST, API, DATABASE
from tests.support.engine import EngineProcess

TURNS, SECONDS = 3, 6.0
"""Turns of each kind of query; time of one measurement of the reader: some hundred reads."""

FIRST_READS = 20
"""First reads of a reader, not counted: they open connections, and fill the engine's caches."""

PEOPLE, ROWS, READABLE = 100_000, 400_000, 1_000
"""Persons; rows of the timeline, with a change each; persons that are read."""

PARTITIONS = {COMMANDS: 16, IDENTITY: 4}

QUERIES = 3
"""Concurrent queries of the analyst."""

SETTLED_SECONDS_MAX, POLL_SECONDS = 300.0, 0.1
ANSWER_SECONDS_MAX = 400.0

ENDLESS = {
    "hashes": "SELECT max(cityHash64(a.after, b.after))"
    " FROM property_changes AS a, property_changes AS b",
    "regular expressions": "SELECT countIf(match(concat(a.after, b.after), '^.*(7+|a)+.*x$'))"
    " FROM property_changes AS a, property_changes AS b",
}
"""Each covers 160 thousand million pairs; the analyst's limits of rows and time end it sooner."""

_FILL = Query(
    name="fill",
    sql="""
INSERT INTO timeline
    (project, fragment, version, topic, at, stamp, command, source, keys, kinds, before, after)
SELECT 1, reinterpretAsUUID(sipHash128(number % {people:UInt32})), number + 1, 'fragment.changed',
    toDateTime64('2025-01-01 00:00:00', 6, 'UTC') + toIntervalSecond(number * 60) AS at,
    toUnixTimestamp64Micro(at),
    generateUUIDv4(number), 'seen', ['page'], [1], [''], [concat('"/', hex(sipHash64(number)), '"')]
FROM numbers({rows:UInt64})""",
)
_MERGING = Query(name="merging", sql="SELECT count() FROM system.merges")
_RUNNING = Query(
    name="running",
    sql=f"SELECT count() FROM system.processes WHERE user = '{ANALYST.name}'",
)
_KILL = Query(name="kill", sql=f"KILL QUERY WHERE user = '{ANALYST.name}' SYNC FORMAT Null")


def analyst(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    engine = EngineProcess(data / "engine").start()
    try:
        return asyncio.run(_measure(engine))
    finally:
        engine.stop()


async def _measure(engine: EngineProcess) -> list[Row]:
    owner = await Store.connect(engine.url(DATABASE))
    try:
        await migrate(owner)
        await _fill(owner)
        rows: list[Row] = []
        for kind, sql in ENDLESS.items():
            busy: list[float] = []
            idle: list[float] = []
            for _ in range(TURNS):
                idle += await _read(engine)
                async with _endless_queries(engine, owner, sql):
                    busy += await _read(engine)
                idle += await _read(engine)
            reads = f"{len(busy):,} reads beside, {len(idle):,} idle, of {TURNS} turns"
            note = f"{kind}; {reads}; {ROWS:,} changes"
            name = "p99 of reads of a person beside three endless queries / idle"
            rows += [
                _row(name, 0.99, busy, idle, note),
                _row("p50 of the same", 0.5, busy, idle, kind),
            ]
        return rows
    finally:
        await owner.close()


async def _fill(owner: Store) -> None:
    queries = load(Path(__file__).with_name("fill.sql"))
    await owner.command(
        queries["fragments"],
        start=0,
        count=PEOPLE,
        partitions=PARTITIONS[COMMANDS],
        namespace=NAMESPACE.hex,
    )
    await owner.command(queries["identity"], start=0, count=PEOPLE)
    await owner.command(_FILL, people=PEOPLE, rows=ROWS)
    async with asyncio.timeout(SETTLED_SECONDS_MAX):
        while (await owner.rows(_MERGING))[0][0]:
            await asyncio.sleep(POLL_SECONDS)


async def _read(engine: EngineProcess) -> list[float]:
    """Read persons, and return the seconds of each read."""
    names = [f"person-{number}" for number in range(0, PEOPLE, PEOPLE // READABLE)]
    async with reading(engine.url(DATABASE, API.name), PARTITIONS, names) as seconds:
        await asyncio.sleep(SECONDS)
    return seconds[FIRST_READS:]


@asynccontextmanager
async def _endless_queries(engine: EngineProcess, owner: Store, sql: str) -> AsyncIterator[None]:
    """Run the analyst's queries meanwhile; raise RuntimeError when one ends before the block."""
    queries = [asyncio.create_task(asyncio.to_thread(_ask, engine, sql)) for _ in range(QUERIES)]
    try:
        async with asyncio.timeout(SETTLED_SECONDS_MAX):
            while not (await owner.rows(_RUNNING))[0][0]:
                await asyncio.sleep(POLL_SECONDS)
        yield
        if any(query.done() for query in queries):
            raise RuntimeError("An endless query of the analyst has ended.")
    finally:
        while not all(query.done() for query in queries):  # a waiting query is killed once it runs
            await owner.command(_KILL)
            await asyncio.sleep(POLL_SECONDS)


def _ask(engine: EngineProcess, sql: str) -> None:
    """Run a query until it is killed."""
    password = engine.passwords[ANALYST.name]
    headers = {"X-ClickHouse-User": ANALYST.name, "X-ClickHouse-Key": password}
    url = f"{engine.address}/?database={DATABASE}"
    request = urllib.request.Request(url, sql.encode(), headers)
    with suppress(OSError, HTTPException):
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as answer:
            answer.read()


def _row(name: str, share: float, busy: list[float], idle: list[float], note: str) -> Row:
    beside, limit = (sorted(side)[int(len(side) * share)] * 1_000 for side in (busy, idle))
    return name, f"{beside:.1f} ms", f"{limit:.1f} ms", f"**{beside / limit:.2f}**", note
