"""What projector and deleter share of reading a topic: pauses, records that are gone, dead letters in a row."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from services.projector.tables.marks import Vouched
from services.projector.tables.memory import MemoryTables
from shared.domain.errors import Corrupt, Fenced, LogMismatch, LogUnavailable, StoreUnavailable, Transient
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, GENERATION_FIRST, Position, hash64
from shared.log.consumer import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN, Consumer
from shared.log.dead import DEAD_IN_A_ROW_MAX, TOO_MANY_DEAD, DeadRun
from shared.log.memory import MemoryLog
from shared.log.port import Entry, Record
from tests.support.virtual import virtual
from tests.unit.test_newer_versions import PARTITIONS, ListedLedger, asked, encode, intake, ran


def record(offset: int, generation: int = GENERATION_FIRST) -> Record:
    return Record(COMMANDS, 0, offset, 0, b"", b"garbage", generation)


def test_a_dead_letter_counts_once_however_often_it_is_read() -> None:
    run = DeadRun()
    for _ in range(3):
        assert all(run.add(record(offset)) for offset in range(DEAD_IN_A_ROW_MAX))
    assert run.length == DEAD_IN_A_ROW_MAX
    assert not run.add(record(DEAD_IN_A_ROW_MAX))
    assert not run.add(record(DEAD_IN_A_ROW_MAX)), "and goes on being one too many"


def test_a_good_record_ends_a_run_of_dead_letters_but_not_of_those_behind_it() -> None:
    run = DeadRun()
    run.add(record(1))
    run.add(record(2))
    run.end(record(0))  # read again from there
    assert run.length == 2
    run.end(record(3))
    assert run.length == 0
    run.add(record(0, GENERATION_FIRST + 1))
    assert run.length == 1


@virtual
async def test_too_many_dead_letters_in_a_row_stop_the_intake_and_lose_nothing() -> None:
    log, ledger = MemoryLog(PARTITIONS), ListedLedger()
    garbage = Entry(DELETIONS, 0, b"1", b"garbage")
    await log.append([*[garbage] * DEAD_IN_A_ROW_MAX, Entry(DELETIONS, 0, b"1", encode(asked(1)))])
    await log.append([garbage] * (DEAD_IN_A_ROW_MAX + 5))
    one = intake(log, ledger)
    await ran(one, lambda: bool(one.stopped))
    assert (one.stopped, one.owns()) == (TOO_MANY_DEAD, False)
    assert ledger.documents.keys() == {UUID(int=1)}, "a good record among them begins a new run"
    assert len(log.records(DEAD)) == 2 * DEAD_IN_A_ROW_MAX
    assert ledger.at.position.offset == 2 * DEAD_IN_A_ROW_MAX


@virtual
async def test_who_lost_a_partition_starts_again_at_once_and_trouble_is_waited_out() -> None:
    log, loop = MemoryLog(PARTITIONS), asyncio.get_running_loop()
    consumer = Consumer(log, log.reader(COMMANDS, "g"), COMMANDS, MemoryTables())
    pauses: list[float] = []
    for error in [Fenced(), Fenced(), *[StoreUnavailable("away")] * 9, Fenced()]:
        before = loop.time()
        await consumer.back_off(error)
        pauses.append(loop.time() - before)
    assert pauses[:3] == pytest.approx([0, 0, BACKOFF_SECONDS_MIN], abs=1e-6)
    assert pauses[-2:] == pytest.approx([BACKOFF_SECONDS_MAX, 0], abs=1e-6)
    consumer.recover()
    before = loop.time()
    await consumer.back_off(StoreUnavailable("away"))
    assert loop.time() - before == pytest.approx(BACKOFF_SECONDS_MIN)


@virtual
async def test_records_that_are_gone_once_may_come_back_and_twice_are_gone() -> None:
    log = MemoryLog(PARTITIONS)
    reader = log.reader(COMMANDS, "g")
    consumer = Consumer(log, reader, COMMANDS, MemoryTables())
    await consumer.take_over([0, 1], holding=False)
    with pytest.raises(Transient, match="gone"):
        await consumer.explain(Corrupt("gone"), [0, 1])
    await consumer.fetch(1, 0.0)
    with pytest.raises(Transient, match="gone"):
        await consumer.explain(Corrupt("gone"), [0, 1])
    with pytest.raises(Corrupt, match="gone"):
        await consumer.explain(Corrupt("gone"), [0, 1])


@virtual
async def test_a_log_that_changed_while_it_was_compared_is_left_to_its_watch() -> None:
    """Which of the two logs the evidence is of, nobody knows: the watch compares again, and tells the operator."""
    log, tables = MemoryLog(PARTITIONS), MemoryTables()
    await log.append([Entry(COMMANDS, 0, b"", b"right")])
    await tables.write_state(COMMANDS, [], [Vouched(Position(COMMANDS, 0, 0), 0, 0, hash64(b"wrong"))])
    consumer = Consumer(log, log.reader(COMMANDS, "g"), COMMANDS, tables)
    with pytest.raises(LogMismatch):
        await consumer.take_over([0], holding=False)

    read = log.read

    async def meanwhile(position: Position) -> Record | None:
        log.doubt()
        return await read(position)

    log.read = meanwhile  # type: ignore[method-assign]
    with pytest.raises(LogUnavailable):
        await consumer.take_over([0], holding=False)
