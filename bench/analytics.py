"""Cost of an analyst's queries over the timeline, against a full scan of the columns they read.

The queries are those of docs/analytics.md, word for word; the scan reads the same columns of the
same rows and drops them. Both sides run in turns.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from pathlib import Path

from bench.report import Row
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query
from tests.support.engine import EngineProcess
from tests.support.processes import ROOT

ROWS, PEOPLE, CHUNK = 10_000_000, 1_000_000, 1_000_000
"""Rows of the timeline over a year, ten a person, with three properties; persons; rows of one
INSERT."""

TURNS = 3
"""A turn of the four queries and their scans takes 20 s, and turns differ little."""

MERGED_SECONDS_MAX = 300.0

_FILL = Query(
    name="fill",
    sql="""
INSERT INTO timeline
    (project, fragment, version, topic, at, stamp, command, source, keys, kinds, before, after)
WITH number % {people:UInt32} AS person, intDiv(number, {people:UInt32}) AS turn,
    ['"free"', '"trial"', '"pro"', '"team"'] AS plans
SELECT 1, reinterpretAsUUID(sipHash128(person)), number + 1, 'fragment.changed',
    toDateTime64('2025-01-01 00:00:00', 6, 'UTC')
        + toIntervalSecond(intDiv(number * 31536000, {rows:UInt64})) AS at,
    toUnixTimestamp64Micro(at), generateUUIDv4(number), 'seen', ['plan', 'page', 'amount'],
    [1, 1, 1],
    [if(turn = 0, '', plans[1 + cityHash64(person, turn) % 4]),
        concat('"/', hex(cityHash64(number)), '"'), toString(number % 977)],
    [plans[1 + cityHash64(person, turn + 1) % 4],
        concat('"/', hex(cityHash64(number + 1)), '"'), toString(number % 978)]
FROM numbers({start:UInt64}, {count:UInt64})""",
)
_MERGING = Query(
    name="merging",
    sql="SELECT count() FROM system.merges WHERE database = currentDatabase()",
)

_KEY = "project, fragment, version, topic"
QUESTIONS = {
    "Transitions of a value": f"{_KEY}, keys, before, after",
    "Time in a state": f"{_KEY}, keys, before, after, stamp, at",
    "A funnel over changes": f"{_KEY}, keys, before, after, at",
    "Counts as of a moment": f"{_KEY}, keys, before, after, stamp, at",
}
"""Headings of docs/analytics.md, and the columns that their queries read."""


def analytics(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    engine = EngineProcess(data / "engine").start()
    try:
        return asyncio.run(_measure(engine))
    finally:
        engine.stop()


def query(heading: str) -> Query:
    """Read the query under a heading of docs/analytics.md."""
    text = (ROOT / "docs/analytics.md").read_text()
    block = re.search(rf"^## {heading}\n.*?^```sql\n(.*?)^```$", text, re.M | re.S)
    assert block is not None, heading
    return Query(name=heading, sql=block[1])


async def _measure(engine: EngineProcess) -> list[Row]:
    store = await Store.connect(engine.url("analytics"))
    try:
        await migrate(store)
        for start in range(0, ROWS, CHUNK):
            await store.command(_FILL, people=PEOPLE, rows=ROWS, start=start, count=CHUNK)
        deadline = time.monotonic() + MERGED_SECONDS_MAX
        while time.monotonic() < deadline and (await store.rows(_MERGING))[0][0]:
            await asyncio.sleep(0.5)
        rows = []
        for heading, columns in QUESTIONS.items():
            condition = f"project = 1 AND NOT ignore({columns})"
            scan = Query(name="scan", sql=f"SELECT count() FROM timeline WHERE {condition}")
            turns = [
                (await _seconds(store, query(heading)), await _seconds(store, scan))
                for _ in range(TURNS)
            ]
            cost, limit = (statistics.median(turn[side] for turn in turns) for side in (0, 1))
            name = f"{heading.lower()} / a full scan of its columns"
            note = f"{ROWS / 1e6:.0f} M rows, medians of {TURNS} turns"
            rows.append((name, f"{cost:.2f} s", f"{limit:.2f} s", f"**{cost / limit:.1f}**", note))
        return rows
    finally:
        await store.close()


async def _seconds(store: Store, statement: Query) -> float:
    began = time.perf_counter()
    await store.rows(statement)
    return time.perf_counter() - began
