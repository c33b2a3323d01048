"""Cost of erasing 1,000 persons: one batched run against one mutation a person, and readers.

Both sides rewrite the same four tables, for the same people, in turns, with the same reader beside.
One mutation a person is measured for a few persons and multiplied: 1,000 would take an hour or two.
A turn's batched run is the whole `personlog deletions run`: start, hide, erase step by step, wait
for the removal of the old files, count through the mask, sign.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path

from bench.reader import reading
from bench.report import Row
from services.projector.search import Feeder
from shared.domain.commands import Scope
from shared.domain.ids import DEAD, fragment_id
from shared.log.embedded.log import EmbeddedLog
from shared.log.identity import TOPICS
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query
from shared.store.generations import take_on
from shared.store.objects import Objects
from tests.support.engine import EngineProcess
from tests.support.erasing import World, working
from tests.support.processes import ROOT

PEOPLE, EVENTS, CHANGES, MONTHS = 20_000, 120, 12, 12
"""Persons; events and changes of each, spread evenly over the months: 2.4 M and 0.24 M rows."""

DELETED, SINGLE, TURNS = 1_000, 3, 1
"""Persons of one batched run; persons erased one by one beside it; turns.

Each turn erases other persons, and takes one of the 15 minutes of `make bench`.
"""

SINGLE_TABLES = ("captured_events", "timeline", "fragments", "search")
READABLE = 1_000
"""Persons that the reader reads."""

IDLE_SECONDS = 6.0
"""Time of the measurement of the reader alone."""

SEED = 6

_PEOPLE = Query(
    name="people",
    sql="CREATE TABLE people (n UInt32, fragment UUID) ENGINE = MergeTree ORDER BY n",
)
_NO_PEOPLE = Query(name="no_people", sql="DROP TABLE people SYNC")
_EVENTS = Query(
    name="events",
    sql="""
INSERT INTO captured_events
    (project, fragment, timestamp, uuid, version, event, distinct_id, properties, received_at)
SELECT 1, fragment,
    toDateTime64('2024-01-15 00:00:00', 6, 'UTC') + toIntervalMonth({month:UInt8}) + number AS at,
    generateUUIDv4(number), 1, ['seen', 'paid', 'opened'][number % 3 + 1], concat('p', toString(n)),
    concat('{"page":"/', hex(cityHash64(n, number, {month:UInt8})),
        '","referrer":"https://example.com/', hex(sipHash64(n, number)),
        '","amount":', toString(number % 977), ',"browser":"Firefox","note":"',
        hex(sipHash128(number, n)), hex(sipHash128(n, number, 1)), hex(sipHash128(n, number, 2)),
        hex(sipHash128(n, number, 3)), repeat(' lib posthog-js 1.2 ', 20), '"}'), at
FROM people CROSS JOIN numbers({each:UInt32}) AS numbers""",
)
_CHANGES = Query(
    name="changes",
    sql="""
INSERT INTO timeline
    (project, fragment, version, topic, at, stamp, command, source, keys, kinds, before, after)
SELECT 1, fragment, 1 + {month:UInt8} * 100 + number, 'property.set',
    toDateTime64('2024-01-15 00:00:00', 6, 'UTC') + toIntervalMonth({month:UInt8}) AS at,
    toUnixTimestamp64Micro(at),
    generateUUIDv4(number), 'seen', ['page', 'amount'], [1, 1], ['"/"', '1'],
    [concat('"', hex(cityHash64(n, number)), '"'), toString(n)]
FROM people CROSS JOIN numbers({each:UInt32}) AS numbers""",
)
_WRITTEN = Query(
    name="written",
    sql="SELECT sum(value) FROM system.events"
    " WHERE event = 'WriteBufferFromFileDescriptorWriteBytes'",
)
_SIZE = Query(
    name="size",
    sql="SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()",
)
_MERGES = Query(
    name="merges", sql="SELECT count() FROM system.merges WHERE database = currentDatabase()"
)


def deletions(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    engine = EngineProcess(data / "engine").start()
    try:
        return asyncio.run(_measure(engine, data))
    finally:
        engine.stop()


async def _measure(engine: EngineProcess, data: Path) -> list[Row]:
    store = await Store.connect(engine.url("deletions"))
    await migrate(store)
    await store.command(_PEOPLE)
    await store.close()
    store = await Store.connect(engine.url("deletions"))  # a store knows the tables that it has met
    # the run compares the log with the tables, so that both must be there
    log = EmbeddedLog(data / "log", dict.fromkeys((*TOPICS, DEAD), 1))
    await log.start()
    try:
        await take_on(log, store, time.time_ns() // 1_000)
        async with working(store, Objects(str(data / "objects")), log) as world:
            await _fill(world)
            return await _turns(world, engine.url("deletions"), data)
    finally:
        await log.close()


async def _fill(world: World) -> None:
    store = world.store
    names = [f"p{number}" for number in range(PEOPLE)]
    fragments = [fragment_id(1, name) for name in names]
    await store.insert("people", {"n": list(range(PEOPLE)), "fragment": fragments})
    for month in range(MONTHS):
        await store.command(_EVENTS, month=month, each=EVENTS // MONTHS)
        await store.command(_CHANGES, month=month, each=CHANGES // MONTHS)
    await store.command(_NO_PEOPLE)
    for start in range(0, PEOPLE, 1_000):
        group = names[start : start + 1_000]
        await world.tell(*(world.capture(name, plan="pro", email=name) for name in group))
    await world.settle()
    await Feeder(store, world.log.partitions()).feed()
    await _until_merged(store)
    size = await _number(store, _SIZE) >> 20
    print(f"{PEOPLE:,} persons, {PEOPLE * EVENTS:,} events, {size} MB", flush=True)


async def _turns(world: World, url: str, data: Path) -> list[Row]:
    chosen = random.Random(SEED)
    people = chosen.sample(range(PEOPLE), TURNS * (DELETED + SINGLE) + READABLE)
    readable = [f"p{people.pop()}" for _ in range(READABLE)]
    single: list[tuple[float, int]] = []
    batched: list[tuple[float, int]] = []
    slow: list[tuple[float, float]] = []
    for turn in range(TURNS):
        lone = [f"p{people.pop()}" for _ in range(SINGLE)]
        async with reading(url, world.log.partitions(), readable):
            single.append(await _timed(world.store, _single(world.store, lone)))
        scope = Scope(profile=True, events=True)
        await world.tell(*(world.delete(f"p{people.pop()}", scope) for _ in range(DELETED)))
        await world.settle()
        await Feeder(world.store, world.log.partitions()).feed()
        await _until_merged(world.store)
        async with reading(url, world.log.partitions(), readable) as idle:
            await asyncio.sleep(IDLE_SECONDS)
        async with reading(url, world.log.partitions(), readable) as busy:
            batched.append(await _timed(world.store, _batched(url, data)))
        await _until_merged(world.store)
        async with reading(url, world.log.partitions(), readable) as idle_again:
            await asyncio.sleep(IDLE_SECONDS)
        idle += idle_again
        slow.append((_p99(busy), _p99(idle)))
        costs = f"single {single[-1]}, batched {batched[-1]}"
        print(f"turn {turn}: {costs}, p99 {slow[-1]}, {len(busy)} reads", flush=True)
    return _report(single, batched, slow)


def _report(
    single: Sequence[tuple[float, int]],
    batched: Sequence[tuple[float, int]],
    slow: Sequence[tuple[float, float]],
) -> list[Row]:
    each = [statistics.median(turn[side] / SINGLE for turn in single) for side in (0, 1)]
    whole = [statistics.median(turn[side] for turn in batched) for side in (0, 1)]
    busy, idle = (statistics.median(turn[side] for turn in slow) * 1_000 for side in (0, 1))
    events = f"{PEOPLE * EVENTS / 1e6:.1f} M events in {MONTHS} months"
    note = f"{events}; {DELETED:,} × the mean of {SINGLE}; turns: {TURNS}"
    ratios = [each[side] * DELETED / whole[side] for side in (0, 1)]
    return [
        (
            f"{DELETED:,} persons: one mutation a person and table / one batched run, seconds",
            f"{whole[0]:.1f} s",
            f"{each[0] * DELETED:,.0f} s",
            f"**{ratios[0]:.0f}**",
            note,
        ),
        (
            "the same, bytes written",
            f"{whole[1] / 1e6:,.0f} MB",
            f"{each[1] * DELETED / 1e6:,.0f} MB",
            f"**{ratios[1]:.0f}**",
            "by the engine's own counter",
        ),
        (
            "reads of a person while erasing / idle, p99",
            f"{busy:.1f} ms",
            f"{idle:.1f} ms",
            f"**{busy / idle:.2f}**",
            f"turns: {TURNS}",
        ),
    ]


async def _single(store: Store, names: Sequence[str]) -> None:
    """Delete as systems without a batched run: one mutation a person and table."""
    for name in names:
        for table in SINGLE_TABLES:
            sql = (
                f"ALTER TABLE {table} DELETE WHERE project = 1 AND fragment = {{fragment:UUID}}"
                " SETTINGS mutations_sync = 1"
            )
            await store.command(Query(name="single", sql=sql), fragment=fragment_id(1, name))


async def _batched(url: str, data: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("PERSONLOG_")
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.cli",
        "deletions",
        "run",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env=environment | {"PERSONLOG_DATA": str(data), "PERSONLOG_CLICKHOUSE": url},
    )
    output = (await process.communicate())[0].decode()
    assert output.endswith(f"{DELETED} verified, 0 failed, 0 left open\n"), output


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


async def _timed(store: Store, work: Awaitable[None]) -> tuple[float, int]:
    """Do the work; return its seconds, and the bytes that the engine wrote meanwhile."""
    before, began = await _number(store, _WRITTEN), time.perf_counter()
    await work
    return time.perf_counter() - began, await _number(store, _WRITTEN) - before


async def _until_merged(store: Store) -> None:
    """Wait until no merge runs: merges write too."""
    while await _number(store, _MERGES):
        await asyncio.sleep(0.2)


async def _number(store: Store, query: Query) -> int:
    ((value,),) = await store.rows(query)
    return int(value)
