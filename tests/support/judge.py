"""Judgement of a fault test: the whole log is read again and compared. Never trusts what the services say.

*Acknowledged*: answered with 2xx. *Lost*: acknowledged and not in the log, or in the log and without its outcome in
the store. *Duplicated*: one event uuid or Idempotency-Key that took effect twice. *Difference*: a row of the store
unlike the one that a single pass over the log gives. *Recovery*: from the end of a fault (the kill; the SIGCONT; what
a killed part takes to start again is in it) until a write made after it is acknowledged and visible to a read.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

from services.projector import rows as r
from shared.domain.commands import Capture, decode
from shared.domain.errors import BadRecord
from shared.domain.ids import COMMANDS, IDENTITY, Position, parse_positions
from shared.log.connect import connect_log
from shared.log.memory import MemoryLog
from shared.runtime.settings import read, with_keys
from shared.store.client import Store
from shared.store.queries import Query
from shared.store.timeline import TIMELINE, Row
from tests.support.chaos import Chaos
from tests.support.invariants import Expected

DRAIN_SECONDS_MAX = 120.0
PARTS = 16
"""The tables are read in so many parts: each fits a read's limits."""


class Verdict(NamedTuple):
    """What the log and the store say afterwards."""

    records: int
    lost: int
    duplicated: int
    differences: int
    named: list[str]


def summary(log: str, chaos: Chaos, verdict: Verdict) -> str:
    times = chaos.recoveries or [0.0]
    return (
        f"{log}: acknowledged {chaos.acknowledged:,}, records {verdict.records:,}, resent"
        f" {sum(writer.resent for writer in chaos.writers):,}, faults {sum(chaos.faults.values())} of"
        f" {len(chaos.faults)} kinds ({chaos.kills} kills), lost {verdict.lost}, duplicated {verdict.duplicated},"
        f" differences {verdict.differences}, recovery median {statistics.median(times):.2f} s max {max(times):.2f} s"
    )


def judge(chaos: Chaos) -> Verdict:
    """Drain, read the whole log again, and compare."""
    settings, _ = with_keys(read(chaos.stack.environment))
    return asyncio.run(_judge(settings, chaos))


async def _judge(settings: Any, chaos: Chaos) -> Verdict:
    log, store = connect_log(settings), await Store.connect(settings.store_url)
    try:
        await log.start()
        await _drained(log, store)
        copy = await _copied(log)
        expected = Expected(copy)
        expected.finish()
        return await _compared(chaos, copy, expected, store)
    finally:
        await log.close()
        await store.close()


async def _drained(log: Any, store: Store) -> None:
    """Wait until the position rows stand at the heads, erase records of deletes included."""
    async with asyncio.timeout(DRAIN_SECONDS_MAX):
        for topic, table in ((IDENTITY, "identity"), (COMMANDS, "fragments")):
            while True:
                heads = [head for head in await log.heads(topic) if head.offset >= 0]
                sql = f"SELECT max(version) FROM {table} WHERE project = 0 GROUP BY fragment"
                reached = sorted(version for (version,) in await store.rows(Query(name="positions", sql=sql)))
                if reached == sorted(head.version for head in heads):
                    break
                await asyncio.sleep(0.05)


async def _copied(log: Any) -> MemoryLog:
    """Every record of both topics, read by a new member of a new group."""
    copy = MemoryLog(log.partitions())
    for topic in (COMMANDS, IDENTITY):
        heads = {head.partition: head.offset for head in await log.heads(topic)}
        reader = log.reader(topic, f"judge-{uuid4().hex}")
        await reader.start()
        try:
            async with asyncio.timeout(DRAIN_SECONDS_MAX):
                sought: frozenset[int] = frozenset()
                while any(len(copy._records[topic, one]) <= head for one, head in heads.items()):
                    for partition in reader.assigned() - sought:
                        reader.seek(Position(topic, partition, len(copy._records[topic, partition]) - 1))
                    sought = reader.assigned()
                    for record in await reader.fetch(records_max=10_000, wait_seconds=0.5):
                        assert record.offset == len(copy._records[topic, record.partition]), "a gap in the log"
                        copy._records[topic, record.partition].append(record)
        finally:
            await reader.close()
    return copy


async def _compared(chaos: Chaos, log: MemoryLog, expected: Expected, store: Store) -> Verdict:
    named: list[str] = []
    differences = 0
    for table, names, key, rows in (
        ("fragments", r.FRAGMENTS, 2, [r.fragment_row(one) for one in expected.fragments.values() if one.version]),
        ("identity", r.IDENTITY, 2, [r.membership_row(one) for one in expected.memberships.values() if one.version]),
        ("timeline", TIMELINE, 4, list(expected.timeline.values())),
        ("captured_events", r.CAPTURED_EVENTS, 0, list(expected.captured.values())),
    ):
        held = await _held(store, table, names, key)
        wanted = {_key(table, row): row for row in rows}
        wrong = [one for one in held.keys() | wanted.keys() if held.get(one) != wanted.get(one)]
        differences += len(wrong)
        named += [f"{table} {one}: held {held.get(one)}, expected {wanted.get(one)}" for one in wrong[:3]]
    lost, duplicated = _lost(chaos, log, expected), 0
    uuids = "SELECT count() FROM (SELECT uuid FROM captured_events FINAL GROUP BY uuid HAVING count() > 1)"
    duplicated += (await store.rows(Query(name="uuids", sql=uuids)))[0][0]
    duplicated += _twice(log, expected)
    records = sum(len(records) for records in log._records.values())
    return Verdict(records, lost, duplicated, differences, named)


async def _held(store: Store, table: str, names: tuple[str, ...], key: int) -> dict[Any, Row]:
    """The newest row of every key."""
    by = "project, fragment, uuid" if table == "captured_events" else ", ".join(names[:key])
    if table in ("fragments", "identity"):
        by = "project, fragment"
    sql = (
        f"SELECT {', '.join(names)} FROM {table} WHERE project != 0"
        f" AND cityHash64(fragment) % {PARTS} = {{part:UInt32}} ORDER BY {by}, version DESC LIMIT 1 BY {by}"
    )
    found: dict[Any, Row] = {}
    for part in range(PARTS):
        for row in await store.rows(Query(name=table, sql=sql), part=part):
            plain = tuple(list(cell) if isinstance(cell, list | tuple) else cell for cell in row)
            found[_key(table, plain)] = plain
    return found


def _key(table: str, row: Row) -> Any:
    if table == "captured_events":
        return row[0], row[1], row[3]
    return row[:2] if table in ("fragments", "identity") else row[:4]


def _lost(chaos: Chaos, log: MemoryLog, expected: Expected) -> int:
    """Acknowledged event uuids without an outcome, and acknowledged positions that are not in the log."""
    uuids = {key[2] for key in expected.captured}
    lost = sum(uuid not in uuids for writer in chaos.writers for uuid in writer.events)
    for writer in chaos.writers:
        for token in writer.positions:
            for topic, partition, offset in parse_positions(token):
                lost += topic in (COMMANDS, IDENTITY) and offset >= len(log._records[topic, partition])
    return lost


def _twice(log: MemoryLog, expected: Expected) -> int:
    """Event uuids and keys of which two records took effect."""
    effects: Counter[Any] = Counter()
    changed = {row[6] for row in expected.timeline.values()}
    for topic in (COMMANDS, IDENTITY):
        for record in log.records(topic):
            with suppress(BadRecord):
                command = decode(record.value)
                if command.id in changed:
                    named = command.uuid if isinstance(command, Capture) else command.key
                    if named:
                        effects[topic, getattr(command, "fragment", None), named] += 1
    return sum(count - 1 for count in effects.values())
