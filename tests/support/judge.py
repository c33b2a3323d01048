"""Judgement of a fault test: the whole log is read again and compared. Never trusts what the services say.

*Acknowledged*: answered with 2xx. *Lost*: acknowledged and not in the log at or below the position it came with, or in
the log and without its outcome in the store; a deletion request that a delete made and the ledger does not hold.
*Duplicated*: one event uuid or Idempotency-Key that took effect twice. *Difference*: a row of the store unlike the one
that a single pass over the log gives, or a fragment or person unlike what the oracle says. Follow-up commands (erase
records, requests) may be in the log twice: they count once. *Recovery*: see `chaos.Recovery`.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

from services.projector.tables import rows as r
from shared.domain.commands import Capture, Command, Delete, Erase, RequestDeletion, decode
from shared.domain.errors import BadRecord
from shared.domain.ids import COMMANDS, DELETIONS, IDENTITY, Position, parse_positions
from shared.domain.person.identity_events import PersonDeleted
from shared.log.connect import connect_log
from shared.log.memory import MemoryLog
from shared.runtime.settings import OWNER, read, with_keys
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.timeline import TIMELINE, Row
from tests.support.chaos import Acknowledged, Chaos
from tests.support.invariants import Expected, check_oracle
from tests.support.processes import Stack

DRAIN_SECONDS_MAX = 120.0
PARTS = 16
"""The tables are read in so many parts: each fits a read's limits."""


class Run(Protocol):
    """What is judged: what was acknowledged by which processes."""

    @property
    def stack(self) -> Stack: ...

    @property
    def answers(self) -> list[Acknowledged]: ...


class Verdict(NamedTuple):
    """What the log and the store say afterwards."""

    records: int
    lost: int
    duplicated: int
    differences: int
    named: list[str]


def summary(log: str, chaos: Chaos, verdict: Verdict) -> str:
    times = [recovery.served for _, recovery in chaos.recoveries] or [0.0]
    kills = [recovery.served for name, recovery in chaos.recoveries if name.startswith("kill_")] or [0.0]
    return (
        f"{log}: acknowledged {chaos.acknowledged:,}, records {verdict.records:,}, resent"
        f" {sum(writer.resent for writer in chaos.writers):,}, faults {len(chaos.recoveries)} of"
        f" {len(chaos.faults)} kinds ({chaos.kills} kills), lost {verdict.lost}, duplicated {verdict.duplicated},"
        f" differences {verdict.differences}, recovery median {statistics.median(times):.2f} s max {max(times):.2f} s,"
        f" of kills alone median {statistics.median(kills):.2f} s, of a bare start beside them"
        f" {statistics.median(chaos.starts or [0.0]):.2f} s"
    )


def by_kind(chaos: Chaos) -> str:
    """How often each kind of fault came, and its recovery: median and worst until served, median until moved."""
    told = []
    for kind, count in sorted(chaos.faults.items()):
        served, moved = zip(*(recovery for name, recovery in chaos.recoveries if name == kind), strict=True)
        times = f"{statistics.median(served):.2f} {max(served):.2f} {statistics.median(moved):.2f}"
        told.append(f"{kind} {count}: {times}")
    return "; ".join(told)


def judge(run: Run) -> Verdict:
    """Drain, read the whole log again, and compare."""
    settings, _ = with_keys(read(run.stack.environment))
    return asyncio.run(_judge(settings, run))


async def _judge(settings: Any, run: Run) -> Verdict:
    log, store = connect_log(settings), await Store.connect(settings.store_url(OWNER))
    try:
        await log.start()
        await _drained(log, store)
        copy = await _copied(log)
        expected = Expected([copy])
        expected.finish()
        return await _compared(run, copy, expected, store)
    finally:
        await log.close()
        await store.close()


async def _drained(log: Any, store: Store) -> None:
    """Wait until the position rows stand at the heads, erase records of deletes included."""
    async with asyncio.timeout(DRAIN_SECONDS_MAX):
        for topic, sql in (
            (IDENTITY, "SELECT max(version) FROM identity WHERE project = 0 GROUP BY fragment"),
            (COMMANDS, "SELECT max(version) FROM fragments WHERE project = 0 GROUP BY fragment"),
            (DELETIONS, "SELECT max(version) FROM deletion_positions GROUP BY partition"),
        ):
            while True:
                heads = [head for head in await log.heads(topic) if head.offset >= 0]
                reached = sorted(version for (version,) in await store.rows(Query(name="positions", sql=sql)))
                if reached == sorted(head.version for head in heads):
                    break
                await asyncio.sleep(0.05)


async def _copied(log: Any) -> MemoryLog:
    """Every record of the three topics, read by a new member of a new group."""
    copy = MemoryLog(log.partitions())
    for topic in (COMMANDS, IDENTITY, DELETIONS):
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


async def _compared(run: Run, log: MemoryLog, expected: Expected, store: Store) -> Verdict:
    named: list[str] = []
    differences = 0
    kept: dict[str, dict[Any, Row]] = {}
    for table, names, key, rows in (
        ("fragments", r.FRAGMENTS, 2, [r.fragment_row(one) for one in expected.fragments.values() if one.version]),
        ("identity", r.IDENTITY, 2, [r.membership_row(one) for one in expected.memberships.values() if one.version]),
        ("timeline", TIMELINE, 4, list(expected.timeline.values())),
        ("captured_events", r.CAPTURED_EVENTS, 0, list(expected.captured.values())),
        ("numbers", r.NUMBERS, 2, [(*key, fragment) for key, fragment in expected.numbers.items()]),
    ):
        held = kept[table] = await _held(store, table, names, key)
        wanted = {_key(table, row): row for row in rows}
        wrong = [one for one in held.keys() | wanted.keys() if held.get(one) != wanted.get(one)]
        differences += len(wrong)
        named += [f"{table} {one}: held {held.get(one)}, expected {wanted.get(one)}" for one in wrong[:3]]
    if not differences:  # the store is what the folds say: are the folds right?
        try:
            states = {
                COMMANDS: {key: r.FragmentState._make(row) for key, row in kept["fragments"].items()},
                IDENTITY: {key: r.IdentityState._make(row) for key, row in kept["identity"].items()},
            }
            check_oracle([log], states)
        except AssertionError as error:
            differences += 1
            named.append(f"the oracle: {error}")
    lost = _lost(run, log)
    unheld, unmade = await _ledger(log, expected, store)
    named += [*lost[:3], *unheld[:3], *unmade[:3]]
    uuids = "SELECT count() FROM (SELECT uuid FROM captured_events FINAL GROUP BY uuid HAVING count() > 1)"
    duplicated = (await store.rows(Query(name="uuids", sql=uuids)))[0][0] + _twice(log, expected)
    records = sum(len(records) for records in log._records.values())
    return Verdict(records, len(lost) + len(unheld), duplicated, differences + len(unmade), named)


async def _held(store: Store, table: str, names: tuple[str, ...], key: int) -> dict[Any, Row]:
    """The newest row of every key."""
    by = "project, fragment, uuid" if table == "captured_events" else ", ".join(names[:key])
    newest = "" if table == "numbers" else ", version DESC"
    sql = (
        f"SELECT {', '.join(names)} FROM {table} WHERE project != 0"
        f" AND cityHash64(fragment) % {PARTS} = {{part:UInt32}} ORDER BY {by}{newest} LIMIT 1 BY {by}"
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
    return row[:4] if table == "timeline" else row[:2]


def _lost(run: Run, log: MemoryLog) -> list[str]:
    """What was acknowledged and is not in the log where its position says; what it did there, the rows tell."""
    at: dict[Any, list[Position]] = {}
    for topic in (COMMANDS, IDENTITY):
        for record in log.records(topic):
            command = _command(record.value)
            if command is not None:
                named: UUID | int = command.uuid if isinstance(command, Capture) else command.key
                at.setdefault(named, []).append(record.position)
    lost = []
    for answer in run.answers:
        reached = {(one.topic, one.partition): one.offset for one in parse_positions(answer.position)}
        for wanted in (*answer.events, *answer.keys):
            places = at.get(wanted, [])
            if not any(place.offset <= reached.get((place.topic, place.partition), -1) for place in places):
                lost.append(f"acknowledged at {answer.position}, found at {places}: {wanted}")
    return lost


async def _ledger(log: MemoryLog, expected: Expected, store: Store) -> tuple[list[str], list[str]]:
    """Deletion requests that are missing in the ledger, and those in it that nobody made."""
    deletes = [command for record in log.records(IDENTITY) if isinstance(command := _command(record.value), Delete)]
    effective = {row[6] for row in expected.timeline.values() if row[3] == PersonDeleted.TOPIC}
    made = {command.request for command in deletes if command.id in effective}
    requests = (_command(record.value) for record in log.records(DELETIONS))
    asked = [command for command in requests if isinstance(command, RequestDeletion)]
    held = {
        request for (request,) in await store.rows(Query(name="requests", sql="SELECT request FROM deletion_requests"))
    }
    wanted = made | {command.request for command in asked}
    return [f"no deletion request {one}" for one in wanted - held], [f"who made {one}?" for one in held - wanted]


def _command(value: bytes) -> Command | None:
    with suppress(BadRecord):
        return decode(value)
    return None


def _twice(log: MemoryLog, expected: Expected) -> int:
    """Event uuids and keys of which two records took effect, each at a fragment or at an identity."""
    effects: Counter[Any] = Counter()
    changed = {(row[6], row[2]) for row in expected.timeline.values()}
    for topic in (COMMANDS, IDENTITY):
        for record in log.records(topic):
            command = _command(record.value)
            if command is not None and (command.id, record.position.version) in changed:
                if isinstance(command, Erase):
                    effects[topic, command.fragment, command.iver] += 1
                elif named := command.uuid if isinstance(command, Capture) else command.key:
                    effects[topic, getattr(command, "fragment", None), named] += 1
    return sum(count - 1 for count in effects.values())
