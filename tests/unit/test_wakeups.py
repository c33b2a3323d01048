"""Whoever waits to be woken also looks by itself. In virtual time; docs/adr/024 lists who waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.api.http.guards.access import POLL_SECONDS, Access
from services.api.reads.watermarks import WAIT_SECONDS_MAX, Watermarks
from services.deleter import app, purges
from services.deleter.app import Deleter
from services.projector.fold import FragmentFolder
from services.projector.lookout import LOOK_SECONDS, LOOKS_MAX
from services.projector.progress import WorkerProgress
from services.projector.search import LOOK_SECONDS as FEED_SECONDS
from services.projector.search import SHARED_LOOK_SECONDS, Duty, Feeder
from services.projector.tables import rows as r
from services.projector.tables.memory import MemoryTables
from services.projector.worker import Worker
from shared.domain.commands import Cancel, DeletionCommand, RequestDeletion, Scope, Write, encode, route
from shared.domain.errors import Corrupt, StoreUnavailable
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, Position, fragment_id, position_key
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from shared.runtime.clock import ManualClock
from shared.runtime.settings import Settings
from shared.runtime.wakeup import Wakeup
from shared.store.clickhouse import access as access_tables
from shared.store.clickhouse.failures import StoreError
from shared.store.clickhouse.queries import Query
from tests.support.virtual import virtual

PARTITIONS = {COMMANDS: 1, IDENTITY: 1, DELETIONS: 1, DEAD: 1}

AT_ONCE = 0.3
"""Who is woken works within this: a feeder makes a pause after each round."""


class CountingFeeder(Feeder):
    """Says when it fed."""

    def __init__(self) -> None:
        super().__init__(None, PARTITIONS)  # type: ignore[arg-type]  # it asks nothing
        self.fed_at: list[float] = []

    async def feed(self) -> int:
        self.fed_at.append(asyncio.get_running_loop().time())
        return 0


class IdleDeleter(Deleter):
    """Says when each of its tasks did its work, which is none."""

    def __init__(self, data: Path) -> None:
        settings = Settings(data=data)
        super().__init__(settings, MemoryLog(PARTITIONS), None)  # type: ignore[arg-type]  # it asks nothing
        self.worked: dict[str, list[float]] = {name: [] for name in ("sweep", "restore", "purge", "forget")}
        self.fails: Exception | None = None
        self.left = False
        self._restores.round = self._restoring  # type: ignore[method-assign]
        self.purges.round = self._purging  # type: ignore[method-assign]

    def note(self, name: str) -> None:
        self.worked[name].append(asyncio.get_running_loop().time())
        if self.fails is not None:
            raise self.fails

    async def closes_at(self) -> int | None:
        self.note("sweep")
        return None

    async def _all_taken_over(self) -> bool:
        self.note("forget")
        return False

    async def _restoring(self) -> bool:
        self.note("restore")
        return self.left

    async def _purging(self) -> bool:
        self.note("purge")
        return self.left

    async def run(self, owns: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.sweep_in_windows(owns))
            group.create_task(self.restore_cancelled(owns))
            group.create_task(self.purges.run(owns, self.woken.purge))
            group.create_task(self.forget(owns))


@pytest.fixture
def deleter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IdleDeleter]:
    monkeypatch.setattr(app, "EmbeddedLog", MemoryLog)
    yield IdleDeleter(tmp_path)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def request(scope: Scope) -> RequestDeletion:
    return RequestDeletion(id=uuid4(), project=1, at=1, request=uuid4(), person=UUID(int=1), members=(), scope=scope)


@virtual
async def test_what_is_set_while_the_task_works_ends_its_next_wait() -> None:
    wakeup, time = Wakeup(), asyncio.get_running_loop().time
    assert await wakeup.wait(60) and time() == 0, "who starts must look"
    wakeup.set()
    assert await wakeup.wait(60) and time() == 0
    assert not await wakeup.wait(60) and time() == 60


@virtual
async def test_a_feeder_that_becomes_the_owner_feeds_although_nobody_writes() -> None:
    """It started before its projector had any partition, and what was flushed before had woken nobody since."""
    feeder, woken, duty = CountingFeeder(), Wakeup(), Duty.OTHERS
    task = asyncio.create_task(feeder.run(woken, lambda: duty, lambda: False))
    await asyncio.sleep(1)
    assert feeder.fed_at == []
    duty = Duty.ALONE
    woken.set()  # as the worker tells
    await asyncio.sleep(AT_ONCE)
    assert len(feeder.fed_at) == 1
    await stopped(task)


@virtual
@pytest.mark.parametrize(("duty", "seconds"), [(Duty.ALONE, FEED_SECONDS), (Duty.SHARED, SHARED_LOOK_SECONDS)])
async def test_a_feeder_that_nobody_wakes_feeds_all_the_same(duty: Duty, seconds: float) -> None:
    feeder, duties = CountingFeeder(), [Duty.OTHERS]
    task = asyncio.create_task(feeder.run(Wakeup(), lambda: duties[-1], lambda: False))
    await asyncio.sleep(10)
    duties.append(duty)
    await asyncio.sleep(FEED_SECONDS + AT_ONCE)
    assert feeder.fed_at
    await asyncio.sleep(10 * (seconds + AT_ONCE))
    assert len(feeder.fed_at) >= 10
    await stopped(task)


@virtual
async def test_a_worker_tells_its_feeder_when_partitions_come_and_go() -> None:
    log, told = MemoryLog(PARTITIONS), list[WorkerProgress]()
    worker = Worker(
        log=log, reader=(reader := log.reader(COMMANDS, "g")), tables=MemoryTables(), folder=FragmentFolder(),
        monotonic=asyncio.get_running_loop().time, observe=told.append,
    )  # fmt: skip
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(1)
    assert [(one.topic, one.records) for one in told] == [(COMMANDS, 0)]
    reader.assign(frozenset())
    await asyncio.sleep(1)
    assert len(told) == 2
    assert worker.positions == {}
    await stopped(task)


async def write(log: MemoryLog, number: int) -> None:
    command = Write(id=uuid4(), project=1, at=number, fragment=fragment_id(1, "a"), distinct_id="a", set={"n": number})
    await log.append([Entry(*route(command, PARTITIONS), encode(command))])


@virtual
async def test_a_worker_whose_reader_forgot_where_to_go_on_tells_it_again() -> None:
    log, tables = MemoryLog(PARTITIONS), MemoryTables()
    reader = log.reader(COMMANDS, "g")
    time = asyncio.get_running_loop().time
    worker = Worker(log=log, reader=reader, tables=tables, folder=FragmentFolder(), monotonic=time)
    task = asyncio.create_task(worker.run())
    await write(log, 1)
    await asyncio.sleep(1)
    reader.assign(frozenset())  # taken away and given back between two looks of the worker's
    reader.assign(frozenset({0}))
    await write(log, 2)
    began = time()
    while worker.positions.get(0) != Position(COMMANDS, 0, 1):
        assert time() - began < 3 * LOOK_SECONDS
        await asyncio.sleep(0.1)
    assert r.fragment_of(tables.state[COMMANDS][1, fragment_id(1, "a")]).properties == {"n": 2}
    await stopped(task)


@virtual
async def test_a_worker_whose_reader_gives_nothing_for_good_ends_so_that_another_process_is_started() -> None:
    log = MemoryLog(PARTITIONS)
    reader = log.reader(COMMANDS, "g")
    time = asyncio.get_running_loop().time
    worker = Worker(log=log, reader=reader, tables=MemoryTables(), folder=FragmentFolder(), monotonic=time)

    async def hanging(*, records_max: int, wait_seconds: float, without: Any = ()) -> list[Any]:
        await asyncio.sleep(wait_seconds)
        return []

    reader.fetch = hanging  # type: ignore[method-assign]
    await write(log, 1)
    with pytest.raises(Corrupt, match="do not come"):
        await worker.run()
    assert time() < (LOOKS_MAX + 3) * LOOK_SECONDS


@virtual
async def test_a_worker_in_a_crowd_of_records_is_not_taken_for_one_that_hangs() -> None:
    log, tables = MemoryLog(PARTITIONS), MemoryTables()
    time = asyncio.get_running_loop().time
    folder = FragmentFolder()
    worker = Worker(log=log, reader=log.reader(COMMANDS, "g"), tables=tables, folder=folder, monotonic=time)
    dropped: list[float] = []
    folder.drop = lambda: dropped.append(time())  # type: ignore[method-assign]
    task = asyncio.create_task(worker.run())
    for number in range(600):
        await write(log, number)
        await asyncio.sleep(0.07)
    assert dropped == []
    await stopped(task)


@virtual
async def test_every_task_of_the_deleter_works_as_soon_as_it_is_the_owner(deleter: IdleDeleter) -> None:
    owned = False
    task = asyncio.create_task(deleter.run(lambda: owned))
    await asyncio.sleep(1)
    assert all(times == [] for times in deleter.worked.values()), "it stands by"
    owned = True
    deleter.woken.on_commands([])
    await asyncio.sleep(AT_ONCE)
    assert {name: len(times) for name, times in deleter.worked.items()} == dict.fromkeys(deleter.worked, 1)
    await stopped(task)


FALLBACKS = {
    "sweep": app.SWEEP_SECONDS, "restore": app.CANCELLING_SECONDS, "purge": purges.LOOK_SECONDS,
    "forget": app.FORGET_RETRY_SECONDS,
}  # fmt: skip


@virtual
async def test_every_task_of_the_deleter_works_although_nobody_tells_it_that_it_is_the_owner(
    deleter: IdleDeleter,
) -> None:
    owned = False
    task = asyncio.create_task(deleter.run(lambda: owned))
    await asyncio.sleep(1)
    owned = True
    await asyncio.sleep(max(FALLBACKS.values()) + 1)
    for name, times in deleter.worked.items():
        assert times[0] <= FALLBACKS[name] + AT_ONCE, name
    await stopped(task)


@virtual
@pytest.mark.parametrize(
    ("commands", "names"),
    [
        ([Cancel(id=uuid4(), project=1, at=1, request=uuid4())], {"restore"}),
        ([request(Scope(purge="ssn"))], {"purge"}),
        ([request(Scope(profile=True))], set()),  # requests that come while the window is open share a sweep
    ],
    ids=["a cancel", "a purge", "a deletion"],
)
async def test_what_is_taken_over_wakes_whoever_has_to_do_with_it(
    deleter: IdleDeleter, commands: Sequence[DeletionCommand], names: set[str]
) -> None:
    task = asyncio.create_task(deleter.run(lambda: True))
    await asyncio.sleep(1)
    before = {name: len(times) for name, times in deleter.worked.items()}
    deleter.woken.on_commands(commands)
    await asyncio.sleep(AT_ONCE)
    assert {name for name, times in deleter.worked.items() if len(times) > before[name]} == names
    await stopped(task)


@virtual
@pytest.mark.parametrize("what", ["left", "away"])
async def test_the_deleter_comes_back_soon_to_what_is_left_and_to_a_store_that_was_away(
    deleter: IdleDeleter, what: str
) -> None:
    deleter.left = what == "left"
    deleter.fails = StoreUnavailable() if what == "away" else None
    task = asyncio.create_task(deleter.run(lambda: True))
    await asyncio.sleep(10)
    assert len(deleter.worked["restore"]) >= 5
    assert len(deleter.worked["purge"]) >= 3
    await asyncio.sleep(2 * app.SWEEP_SECONDS)
    assert len(deleter.worked["sweep"]) >= 3
    await stopped(task)


class StoreThatMoves:
    """Position rows that reach a version at a moment."""

    def __init__(self, at: float) -> None:
        self.at = at

    async def rows(self, query: Query) -> list[Any]:
        moved = asyncio.get_running_loop().time() >= self.at
        return [(position_key(COMMANDS, 0), Position(COMMANDS, 0, 5).version, 0)] if moved else []


class Silent:
    """A position board on which nobody confirms anything."""

    def read(self) -> list[Any]:
        return []


@virtual
@pytest.mark.parametrize("board", [None, Silent()], ids=["a server", "a writer that confirms nothing"])
async def test_who_waits_for_a_position_hears_of_it_though_no_writer_says_so(board: Any) -> None:
    marks = Watermarks(StoreThatMoves(1.0), Query(name="q", sql=""), lambda stamp: None, board)  # type: ignore[arg-type]
    await marks.wait([Position(COMMANDS, 0, 5)])
    assert asyncio.get_running_loop().time() < 1.0 + AT_ONCE < WAIT_SECONDS_MAX
    await marks.close()


@virtual
async def test_keys_are_read_again_whatever_became_of_the_poll_before(monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[float] = []

    async def refusing(store: Any) -> list[Any]:
        polls.append(asyncio.get_running_loop().time())
        if len(polls) == 2:
            raise StoreError("refused")
        return []

    monkeypatch.setattr(access_tables, "list_projects", refusing)
    monkeypatch.setattr(access_tables, "list_keys", refusing)
    access = Access(None, ManualClock(0))  # type: ignore[arg-type]
    monkeypatch.setattr(access_tables, "list_keys", lambda store: asyncio.sleep(0, []))
    await access.start()
    await asyncio.sleep(5 * POLL_SECONDS)
    assert len(polls) >= 4
    await access.close()


async def ended(deleter: IdleDeleter) -> set[str]:
    """The waiters that work again after they have been made the owner, told or not, within what is promised of each."""
    owned = False
    feeder = CountingFeeder()
    duty: Callable[[], Duty] = lambda: Duty.ALONE if owned else Duty.OTHERS  # noqa: E731
    feeding = asyncio.create_task(feeder.run(woken := Wakeup(), duty, lambda: False))
    task = asyncio.create_task(deleter.run(lambda: owned))
    await asyncio.sleep(1)
    owned = True
    woken.set()
    deleter.woken.on_commands([])
    await asyncio.sleep(max(FALLBACKS.values()) + 1)
    await stopped(task)
    await stopped(feeding)
    return {"feeder"} & ({"feeder"} if feeder.fed_at else set()) | {
        name for name, times in deleter.worked.items() if times
    }


@virtual
@pytest.mark.parametrize(
    ("planted", "expected"),
    [((), True), (("set",), True), (("look",), True), (("set", "look"), False)],
    ids=["nothing", "wake-ups lost", "never looked", "both"],
)
async def test_one_of_wake_up_and_look_is_enough_and_a_waiter_without_either_is_found(
    deleter: IdleDeleter, planted: tuple[str, ...], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last case is the planted fault: what the feeder was."""
    if "set" in planted:
        monkeypatch.setattr(Wakeup, "set", lambda self: None)
    if "look" in planted:
        wait = Wakeup.wait

        async def endless(self: Wakeup, seconds: float) -> bool:
            return await wait(self, 1e9)

        monkeypatch.setattr(Wakeup, "wait", endless)
    found = await ended(deleter)
    assert found == ({"feeder", *deleter.worked} if expected else set())
