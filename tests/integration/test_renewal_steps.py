"""A renewal on the real engine: cut off at every step and gone on with, past what the log forgot, the last one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from services.projector.fold import FragmentFolder, IdentityFolder
from services.projector.rebuild.run import Rebuild
from services.projector.search import Feeder
from services.projector.tables import rows as r
from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.worker import Worker
from services.renewing.books import StoreBooks
from shared.domain.errors import LogMismatch, Rejected, StoreUnavailable, Superseded
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, GENERATIONS_MAX, IDENTITY, Position, position_key
from shared.log.identity import Generation, LogIdentity
from shared.log.memory import MemoryLog
from shared.log.renewal import PROJECTED, Counts, Lost, Renewal
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.generations import current, generations
from tests.support import history

COUNT, PERSONS, START = 400, 40, 1_795_000_000_000_000
FEW, MANY = {COMMANDS: 4, IDENTITY: 2, DELETIONS: 1, DEAD: 1}, {COMMANDS: 7, IDENTITY: 3, DELETIONS: 1, DEAD: 1}
SECONDS_MAX = 120.0


class World:
    """A store, and the generations of its log in memory."""

    def __init__(self, store: Store) -> None:
        self.store, self.logs = store, [MemoryLog(FEW, lambda: START)]
        self.books = StoreBooks(store, FEW, self.now_us)

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    @property
    def first(self) -> Generation:
        return Generation(number=1, identity=LogIdentity(id="memory", partitions=FEW))

    async def make(self, number: int, counts: Counts) -> MemoryLog:
        if number > len(self.logs):
            self.logs.append(MemoryLog(counts, lambda: START, number, f"g{number}"))
        return self.logs[number - 1]

    async def renew(self, books: Any = None) -> Generation:
        renewal = Renewal(books=books or self.books, make=self.make)
        rows = [row for topic in PROJECTED for row in (await self.books.positions(topic)).values()]
        if not any(row.generation > 1 for row in rows):  # else it was begun, as the command finds out (run.py)
            await self.take_over()
            await renewal.end(self.logs[0])
        return await renewal.begin(await generations(self.store), self.first, MANY)

    async def take_over(self) -> None:
        """As the deleter does with what a delete asks of it."""
        await self.books.move(await self.logs[0].heads(DELETIONS))

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return await self.store.rows(Query(name="test", sql=sql))

    async def state(self) -> tuple[list[Any], list[Any]]:
        order = "FINAL WHERE project != 0 ORDER BY project, fragment"
        return (
            await self.rows(f"SELECT {', '.join(r.FRAGMENTS)} FROM fragments {order}"),
            await self.rows(f"SELECT {', '.join(r.IDENTITY)} FROM identity {order}"),
        )

    async def rebuilt(self) -> None:
        report = await Rebuild(self.store, self.logs[-1].partitions(), self.now_us, lambda report: None).run(
            verify=True
        )
        assert (report.state, report.differences, report.corrupt, report.findings) == ("swapped", 0, 0, [])


class Cut:
    """Books whose store goes away before or after one of the calls that write."""

    def __init__(self, books: StoreBooks, call: int, *, after: bool) -> None:
        self._books, self._left, self._after, self.calls = books, call, after, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._books, name)
        if name == "positions":
            return method

        async def called(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self._left and not self._after:
                raise StoreUnavailable("cut off")
            found = await method(*arguments)
            if self.calls == self._left:
                raise StoreUnavailable("cut off")
            return found

        return called


@pytest.fixture
async def world(store: Store) -> World:
    """A projected history in the first generation."""
    made = World(store)
    await history.append(made.logs[0], *history.commands(5, COUNT, PERSONS, START))
    await history.projected(store, made.logs[0])
    return made


async def test_nothing_of_a_person_changes_and_projection_goes_on_in_other_partitions(world: World) -> None:
    before = await world.state()
    opened = await world.renew()
    assert (opened.number, opened.partitions) == (2, MANY)
    assert await current(world.store) == opened
    assert [one.state for one in await generations(world.store)] == ["closed", "open"]
    assert await world.state() == before
    await world.rebuilt()
    assert await world.state() == before
    second = world.logs[1]
    await history.append(second, *history.commands(6, COUNT, PERSONS, START + COUNT * 1_000))
    await history.projected(world.store, second)
    whole = MemoryLog(dict.fromkeys(MANY, 1))  # the first generation, and then the second
    for topic in MANY:
        whole._records[topic, 0] = [record for log in world.logs for record in log.records(topic)]
    assert history.same_as_oracle(whole, await world.state())
    assert await Feeder(world.store, MANY).feed() > 0
    await world.rebuilt()
    assert await world.books.positions(COMMANDS) == {
        head.partition: head for head in (await second.heads(COMMANDS))[: FEW[COMMANDS]]
    }


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(1, 6))
async def test_one_that_was_cut_off_is_gone_on_with(world: World, call: int, *, after: bool) -> None:
    """The calls: move (past gaps, of which there are none), feed, begin, and write twice."""
    before = await world.state()
    with pytest.raises(StoreUnavailable):
        await world.renew(Cut(world.books, call, after=after))
    opened = await world.renew()
    assert (opened.number, len(world.logs)) == (2, 2)
    assert [one.state for one in await generations(world.store)] == ["closed", "open"]
    await history.append(world.logs[1], *history.commands(6, 100, PERSONS, START + COUNT * 1_000))
    await history.projected(world.store, world.logs[1])
    assert {row[:2] for row in before[0]} <= {row[:2] for row in (await world.state())[0]}
    await world.rebuilt()


async def test_every_table_stands_before_the_first_record_of_every_partition_that_there_ever_was(world: World) -> None:
    await world.renew()
    version = (2 << 48) - 1
    for topic, table in ((COMMANDS, "fragments"), (IDENTITY, "identity"), (COMMANDS, "search"), (IDENTITY, "search")):
        sql = f"SELECT fragment, max(version) FROM {table} WHERE project = 0 GROUP BY fragment"
        found = dict(await world.rows(sql))
        for partition in range(MANY[topic]):
            assert int(found[position_key(topic, partition)]) == version, (table, partition)
    taken = await world.rows("SELECT partition, max(version) FROM deletion_positions GROUP BY partition")
    assert taken == [(0, version)]
    world.logs.append(MemoryLog(FEW, lambda: START, 3, "g3"))
    second = (await current(world.store)) or world.first
    await Renewal(books=world.books, make=world.make).begin(await generations(world.store), second, FEW)
    found = dict(await world.rows("SELECT fragment, max(version) FROM fragments WHERE project = 0 GROUP BY fragment"))
    assert [found[position_key(COMMANDS, one)] >> 48 for one in range(MANY[COMMANDS])] == [2] * MANY[COMMANDS]
    assert {found[position_key(COMMANDS, one)] + 1 for one in range(MANY[COMMANDS])} == {3 << 48}


async def test_a_worker_of_a_generation_that_ended_starts_again_and_tables_that_are_older_are_refused(
    world: World,
) -> None:
    await world.renew()
    assert isinstance(await ended(world, world.logs[0]), Superseded)
    third = MemoryLog(MANY, generation=3)
    assert isinstance(await ended(world, third), LogMismatch)


async def ended(world: World, log: MemoryLog) -> BaseException:
    """The error of a worker that cannot go on."""
    tables = ClickHouseTables(world.store)
    for folder in (FragmentFolder(), IdentityFolder()):
        worker = Worker(
            log=log, reader=log.reader(folder.topic, "g"), tables=tables, folder=folder, monotonic=time.monotonic
        )
        async with asyncio.timeout(SECONDS_MAX):
            (error,) = await asyncio.gather(worker.run(), return_exceptions=True)
    assert isinstance(error, BaseException)
    return error


async def test_what_the_log_forgot_before_it_was_projected_is_passed_over_and_told(world: World) -> None:
    log = world.logs[0]
    (head, *_) = await log.heads(COMMANDS)
    await history.append(log, *history.commands(6, COUNT, PERSONS, START + COUNT * 1_000))
    log.forget(COMMANDS, 0, head.offset + 11)
    renewal = Renewal(books=world.books, make=world.make)
    projecting = asyncio.create_task(late(world, log))
    lost = await renewal.end(log)
    await projecting
    assert lost == [Lost(COMMANDS, 0, head.offset, head.offset + 10)]
    assert str(lost[0]).startswith("personlog.commands/0: 10 records are lost, ")
    assert (await renewal.begin([], world.first, MANY)).number == 2


async def late(world: World, log: MemoryLog) -> None:
    """Projectors that are started when the gap is passed."""
    while (await world.books.positions(COMMANDS))[0].next < (await log.starts(COMMANDS))[0].offset:
        await asyncio.sleep(0.02)
    await history.projected(world.store, log)
    await world.take_over()


async def test_a_generation_that_is_given_up_says_how_far_each_partition_was(world: World) -> None:
    lost = await Renewal(books=world.books, make=world.make).abandon(FEW)
    heads = [*await world.logs[0].heads(COMMANDS), *await world.logs[0].heads(IDENTITY)]
    assert lost == [Lost(*head[:3], None) for head in heads] + [Lost(DELETIONS, 0, -1, None)]
    assert str(lost[0]).endswith(f"projected up to {heads[0].offset}; what was written after it is lost")


async def test_after_the_last_generation_there_is_none(world: World) -> None:
    last = Generation(number=GENERATIONS_MAX, identity=LogIdentity(id="last", partitions=FEW))
    with pytest.raises(Rejected, match="there are no more generations"):
        await Renewal(books=world.books, make=world.make).begin([], last, FEW)
    before = Position(COMMANDS, 0, 2**47, GENERATIONS_MAX - 1)
    assert Position(COMMANDS, 0, -1, GENERATIONS_MAX).version > before.version
