"""The real worker coroutine on the in-memory log and tables, failed and killed wherever it awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest

from services.projector.fold import FragmentFolder, IdentityFolder
from services.projector.progress import WorkerProgress
from services.projector.shares import ROWS_BYTES, SHARE_BYTES
from services.projector.tables import rows as r
from services.projector.tables.clickhouse import LoadedState
from services.projector.tables.memory import MemoryTables
from services.projector.worker import Worker
from shared.domain.commands import Command, Delete, MergePersons, Write, decode, encode, route
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, Position, fragment_id, partition_of
from shared.log.dead import CORRUPT, DEAD_IN_A_ROW_MAX, letters
from shared.log.embedded.frames import SPOILT
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from tests.support.oracle import Oracle
from tests.support.virtual import virtual

TURNS_MAX = 4_000
"""Event-loop turns until a worker must have caught up: hundreds of times what it needs."""


def worker(
    log: MemoryLog, tables: MemoryTables, topic: str, observe: Callable[[WorkerProgress], None] = lambda progress: None
) -> Worker:
    folder = FragmentFolder() if topic == COMMANDS else IdentityFolder()
    monotonic = asyncio.get_running_loop().time
    reader = log.reader(topic, "g")
    return Worker(log=log, reader=reader, tables=tables, folder=folder, monotonic=monotonic, observe=observe)


async def append(log: MemoryLog, *commands: Command) -> list[Position]:
    counts = log.partitions()
    return await log.append([Entry(*route(one, counts), encode(one)) for one in commands])


async def caught_up(log: MemoryLog, tables: MemoryTables, *topics: str) -> None:
    """Wait until every position row is at its head, follow-ups included."""
    for _ in range(TURNS_MAX):
        behind = False
        for topic in topics:
            for head in await log.heads(topic):
                loaded = await MemoryTables.load(tables, topic, [head.partition], [])
                behind |= loaded.positions.get(head.partition, (0, 0))[0] != head.version
        if not behind:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the worker did not catch up")


def write(name: str, at: int, **changes: Any) -> Write:
    return Write(id=uuid4(), project=1, at=at, fragment=fragment_id(1, name), distinct_id=name, **changes)


async def stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@virtual
async def test_commands_become_rows_with_their_positions() -> None:
    log, tables = MemoryLog(), MemoryTables()
    tasks = [asyncio.create_task(worker(log, tables, topic).run()) for topic in (COMMANDS, IDENTITY)]
    await append(log, write("a", 10, set={"x": 1}), write("b", 11, set={"y": 2}), write("a", 12, set={"x": 3}))
    await append(
        log,
        MergePersons(
            id=uuid4(), project=1, at=13, into=fragment_id(1, "a"), source=fragment_id(1, "b"), mode="operator"
        ),
    )
    await caught_up(log, tables, COMMANDS, IDENTITY)
    await stop(*tasks)
    row = tables.state[COMMANDS][1, fragment_id(1, "a")]
    assert row[r.FRAGMENTS.index("properties")] == '{"x":3}'
    assert list(tables.state[IDENTITY][1, fragment_id(1, "a")][4]) == [fragment_id(1, "a"), fragment_id(1, "b")]
    assert sorted(key[3] for key in tables.timeline) == ["fragment.changed"] * 3 + ["person.joined", "person.merged"]
    assert len(tables.numbers) == 2


@virtual
async def test_a_deletes_erase_records_and_request_are_in_the_log_before_its_position_is_visible() -> None:
    log, tables = MemoryLog(), MemoryTables()
    seen: list[tuple[int, int]] = []
    original = tables.write_state

    async def spy(topic: str, state: list[Any], positions: Sequence[tuple[Position, int]]) -> None:
        if topic == IDENTITY:
            erases = [one for one in log.records(COMMANDS) if b'"erase"' in one.value]
            seen.append((len(erases), len(log.records(DELETIONS))))
        await original(topic, state, positions)

    tables.write_state = spy  # type: ignore[method-assign]
    tasks = [asyncio.create_task(worker(log, tables, topic).run()) for topic in (COMMANDS, IDENTITY)]
    await append(log, write("a", 10, set={"x": 1}))
    await append(log, Delete(id=uuid4(), project=1, at=11, person=fragment_id(1, "a"), request=uuid4()))
    await caught_up(log, tables, IDENTITY)
    await caught_up(log, tables, COMMANDS)
    await stop(*tasks)
    assert seen == [(1, 1)]
    assert tables.state[COMMANDS][1, fragment_id(1, "a")][r.FRAGMENTS.index("properties")] == "{}"


def check(log: MemoryLog, tables: MemoryTables) -> None:
    """Tables equal to the oracle's replay of the log, and one timeline row for every effect."""
    oracle = Oracle()
    for topic in (IDENTITY, COMMANDS):
        for record in log.records(topic):
            oracle.apply(decode(record.value), record.position.version)
    for (project, key), row in tables.state[COMMANDS].items():
        if project:
            fragment = r.fragment_of(row)
            expected = oracle.fragment(key)
            assert fragment.properties == oracle.shown(expected)
            shown = (fragment.created_at or None, fragment.erased)
            assert shown == (expected["born"], expected["erased"]), (fragment, expected)
    people = {key: person for person in oracle.people for key in person}
    for (project, key), row in tables.state[IDENTITY].items():
        if project:
            assert row[3] == people[key][0]
    last = {}
    for project, key, version, topic in tables.timeline:
        if project and topic.startswith("fragment."):
            last[key] = max(version, last.get(key, 0))
    for key, version in last.items():
        assert version <= tables.state[COMMANDS][1, key][2], "the timeline is ahead of the state for good"


@virtual
async def test_a_worker_whose_position_was_moved_by_somebody_else_starts_again_from_the_table() -> None:
    log, tables = MemoryLog({COMMANDS: 1, IDENTITY: 1, DELETIONS: 1, DEAD: 1}), MemoryTables()
    first, second = worker(log, tables, COMMANDS), worker(log, tables, COMMANDS)
    tasks = [asyncio.create_task(one.run()) for one in (first, second)]
    await asyncio.sleep(0)
    for one in (first, second):
        one._reader.assign(frozenset({0}))  # type: ignore[attr-defined]  # both believe that they own it
    for number in range(1, 31):
        await append(log, write("a", number, set={"x": number, f"n{number}": 1}))
        await asyncio.sleep(0.02)
    await caught_up(log, tables, COMMANDS)
    await stop(*tasks)
    shown = r.fragment_of(tables.state[COMMANDS][1, fragment_id(1, "a")]).properties
    assert shown == {"x": 30} | {f"n{number}": 1 for number in range(1, 31)}
    assert len(tables.timeline) == 30


@virtual
async def test_a_record_that_cannot_be_read_goes_to_the_dead_letters_and_harms_no_neighbour() -> None:
    log, tables = MemoryLog({COMMANDS: 1, IDENTITY: 1, DELETIONS: 1, DEAD: 1}), MemoryTables()
    await append(log, write("a", 1, set={"x": 1}))
    await log.append([Entry(COMMANDS, 0, b"k", b"garbage")])
    wrong = Delete(id=uuid4(), project=1, at=2, person=fragment_id(1, "a"), request=uuid4())
    await log.append([Entry(COMMANDS, 0, b"k", encode(wrong))])
    await append(log, write("a", 3, set={"y": 2}))
    task = asyncio.create_task(worker(log, tables, COMMANDS).run())
    await caught_up(log, tables, COMMANDS)
    await stop(task)
    assert r.fragment_of(tables.state[COMMANDS][1, fragment_id(1, "a")]).properties == {"x": 1, "y": 2}
    dead = log.records(DEAD)
    assert [one.value.partition(b"\n")[2] for one in dead] == [b"garbage", encode(wrong)]
    assert b'"offset":1' in dead[0].value
    failures = {row[21] for key, row in tables.timeline.items() if key[3] == "command.failed"}
    assert failures == {"partition 0: Not a command", "partition 0: BadRecord"}  # kinds, without what was in them


@virtual
async def test_a_record_whose_bytes_are_spoilt_goes_to_the_dead_letters_though_it_can_be_read() -> None:
    log, tables = MemoryLog({COMMANDS: 1, IDENTITY: 1, DELETIONS: 1, DEAD: 1}), MemoryTables()
    await append(log, write("a", 1, set={"x": 1}), write("a", 2, set={"x": 2}), write("a", 3, set={"y": 3}))
    records = log._records[COMMANDS, 0]
    records[1] = records[1]._replace(fault=SPOILT)
    told: list[WorkerProgress] = []
    one = worker(log, tables, COMMANDS, told.append)
    task = asyncio.create_task(one.run())
    await caught_up(log, tables, COMMANDS)
    await stop(task)
    assert r.fragment_of(tables.state[COMMANDS][1, fragment_id(1, "a")]).properties == {"x": 1, "y": 3}
    assert [dead for progress in told for dead in progress.dead] == [(Position(COMMANDS, 0, 1), CORRUPT)]
    (letter,) = [one async for one in letters(log, "g")]
    assert letter.value == records[1].value
    assert letter.source == Position(COMMANDS, 0, 1)


@virtual
async def test_too_many_dead_letters_in_a_row_stop_the_partition_and_lose_nothing() -> None:
    log, tables = MemoryLog({COMMANDS: 1, IDENTITY: 1, DELETIONS: 1, DEAD: 1}), MemoryTables()
    await log.append([Entry(COMMANDS, 0, b"k", b"garbage")] * (DEAD_IN_A_ROW_MAX + 5))
    one = worker(log, tables, COMMANDS)
    task = asyncio.create_task(one.run())
    for _ in range(TURNS_MAX):
        if one.stopped and one.positions[0].offset == DEAD_IN_A_ROW_MAX - 1:
            break
        await asyncio.sleep(0.05)
    await stop(task)
    assert one.stopped.keys() == {0}
    assert len(log.records(DEAD)) == DEAD_IN_A_ROW_MAX
    loaded = await tables.load(COMMANDS, [0], [])
    assert loaded.positions[0][0] == Position(COMMANDS, 0, DEAD_IN_A_ROW_MAX - 1).version


@virtual
async def test_the_caches_stay_within_their_bound_and_nothing_is_folded_on_an_old_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.projector.fold.CACHE_MAX", 3)
    log, tables = MemoryLog({COMMANDS: 1, IDENTITY: 1, DELETIONS: 1, DEAD: 1}), MemoryTables()
    workers = [worker(log, tables, topic) for topic in (COMMANDS, IDENTITY)]
    tasks = [asyncio.create_task(one.run()) for one in workers]
    names = [f"n{number}" for number in range(12)]
    for turn in range(1, 8):
        await append(log, *(write(name, turn, set={f"t{turn}": turn}) for name in names))
        pairs = list(zip(names[turn:], names, strict=False))
        await append(
            log,
            *(
                MergePersons(
                    id=uuid4(), project=1, at=turn, into=fragment_id(1, a), source=fragment_id(1, b), mode="operator"
                )
                for a, b in pairs[:2]
            ),
        )
        await asyncio.sleep(0.03 * (turn % 3))
    await caught_up(log, tables, COMMANDS, IDENTITY)
    assert all(len(one._folder._cache) <= 12 for one in workers)  # type: ignore[attr-defined]  # at most one batch
    await stop(*tasks)
    for name in names:
        row = tables.state[COMMANDS][1, fragment_id(1, name)]
        assert r.fragment_of(row).properties == {f"t{turn}": turn for turn in range(1, 8)}
    check(log, tables)


def in_partition(partition: int, count: int) -> list[str]:
    """Distinct ids whose fragments lie in this partition of two."""
    names = (f"person-{number}" for number in range(10_000))
    return [name for name in names if partition_of(fragment_id(1, name), 2) == partition][:count]


@virtual
async def test_heavy_records_of_one_partition_wait_while_the_others_become_visible() -> None:
    """And become visible themselves, in their order, batch by batch."""
    log, tables = MemoryLog({COMMANDS: 2, IDENTITY: 1, DELETIONS: 1, DEAD: 1}), MemoryTables()
    (giant,), others = in_partition(0, 1), in_partition(1, 20)
    flushes: list[tuple[int, int]] = []  # offsets that became visible in both partitions
    original = tables.write_state

    async def spy(topic: str, state: list[Any], positions: Sequence[Any]) -> None:
        await original(topic, state, positions)
        seen = {one.position.partition: one.position.offset for one in positions}
        flushes.append((seen.get(0, -1), seen.get(1, -1)))

    tables.write_state = spy  # type: ignore[method-assign]
    heavy = [write(giant, number, set={"x": "x" * 400_000, "n": number}) for number in range(40)]
    await append(log, *heavy, *(write(name, 100, set={"y": 1}) for name in others))
    task = asyncio.create_task(worker(log, tables, COMMANDS).run())
    await caught_up(log, tables, COMMANDS)
    await stop(task)
    assert flushes[0][1] == len(others) - 1
    steps = [first for first, _ in flushes]
    assert steps[0] * 400_000 < 2 * SHARE_BYTES
    assert steps == sorted(set(steps))
    assert r.fragment_of(tables.state[COMMANDS][1, fragment_id(1, giant)]).properties["n"] == 39
    assert len(tables.timeline) == 40 + len(others)


@virtual
async def test_large_rows_are_loaded_by_shares_and_small_ones_beside_them_at_once() -> None:
    """Tiny records may rewrite large rows: what they load is bounded before it is loaded."""
    log, tables = MemoryLog({COMMANDS: 2, IDENTITY: 1, DELETIONS: 1, DEAD: 1}), MemoryTables()
    giants, others = in_partition(0, 12), in_partition(1, 5)
    await append(log, *(write(name, 1, set={"x": "x" * 400_000}) for name in giants))
    first = asyncio.create_task(worker(log, tables, COMMANDS).run())
    await caught_up(log, tables, COMMANDS)
    await stop(first)
    loads: list[int] = []
    original = tables.load

    async def spy(*args: Any, whole: bool = False) -> LoadedState:
        found = await original(*args, whole=whole)
        loads.append(sum(len(row[11]) for row in found.rows))
        return found

    tables.load = spy  # type: ignore[method-assign]
    await append(log, *(write(name, 2, set={"y": 1}) for name in (*giants, *others)))
    second = asyncio.create_task(worker(log, tables, COMMANDS).run())
    await caught_up(log, tables, COMMANDS)
    await stop(second)
    assert max(loads) < ROWS_BYTES + 500_000
    shown = [r.fragment_of(tables.state[COMMANDS][1, fragment_id(1, name)]).properties for name in (*giants, *others)]
    assert [one["y"] for one in shown] == [1] * 17
    assert [len(one.get("x", "")) for one in shown] == [400_000] * 12 + [0] * 5
