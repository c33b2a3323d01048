"""The deleter on a real engine, fed by the real projector. Never with rows that it could not have written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.deleter.app import locked
from services.deleter.intake import Intake
from services.deleter.ledger import Ledger
from services.deleter.receipts import Receipts, broken_links, check, public_key
from services.deleter.sweep import Sweep, unlocked
from services.deleter.window import Window
from services.projector.fold import FragmentFolder, IdentityFolder
from services.projector.search import Feeder
from services.projector.tables import ClickHouseTables
from services.projector.worker import Worker
from shared.domain.commands import Cancel, Capture, Command, Delete, Merge, Request, Scope, Split, encode, route
from shared.domain.deletion import DeletionRequest
from shared.domain.errors import Transient
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, fragment_id
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from shared.runtime.clock import ManualClock
from shared.store.client import Store
from shared.store.migrate import migrate
from shared.store.queries import Query
from shared.store.targets import TABLES

JANUARY, MARCH = 1_736_500_000_000_000, 1_741_600_000_000_000
SECONDS_MAX = 20.0
PROFILE, EVERYTHING, EVENTS = Scope(profile=True), Scope(profile=True, events=True, recordings=True), Scope(events=True)


class World:
    """A log, a projector and a deleter's parts on one database."""

    def __init__(self, store: Store) -> None:
        self.store, self.log, self.clock = store, MemoryLog(), ManualClock(MARCH + 86_400_000_000)
        self.ledger = Ledger(store, Window(cron="0 5 * * 0", hours=6, zone="UTC"))
        self.at = JANUARY
        self.intake = Intake(
            log=self.log, reader=self.log.reader(DELETIONS, "deleter"), ledger=self.ledger, lock=unlocked,
            now_us=self.clock.now_us,
        )  # fmt: skip
        self.workers = [
            Worker(
                log=self.log, reader=self.log.reader(folder.topic, "projector"), tables=ClickHouseTables(store),
                folder=folder, monotonic=time.monotonic,
            )
            for folder in (FragmentFolder(), IdentityFolder())
        ]  # fmt: skip

    async def tell(self, *commands: Command) -> None:
        counts = self.log.partitions()
        await self.log.append([Entry(*route(command, counts), encode(command)) for command in commands])

    def capture(self, who: str, month: int = JANUARY, **properties: Any) -> Capture:
        self.at = max(self.at, month) + 1
        return Capture(
            id=uuid4(), project=1, at=self.at, fragment=fragment_id(1, who), distinct_id=who, uuid=uuid4(),
            event="seen", timestamp=self.at, set=properties,
        )  # fmt: skip

    def delete(self, who: str, scope: Scope = EVERYTHING) -> Delete:
        self.at += 1
        return Delete(id=uuid4(), project=1, at=self.at, person=fragment_id(1, who), request=uuid4(), scope=scope)

    def request(self, who: str, scope: Scope) -> Request:
        self.at += 1
        person = fragment_id(1, who)
        return Request(
            id=uuid4(), project=1, at=self.at, request=uuid4(), person=person, members=(person,), scope=scope
        )

    def sweep(self, closes_at: int | None = None) -> Sweep:
        return Sweep(self.store, self.ledger, self.clock.now_us, closes_at=closes_at)

    async def settle(self) -> None:
        """Project and take over all that is in the log."""
        deadline = time.monotonic() + SECONDS_MAX
        probe = self.sweep()
        while True:
            heads = [*await self.log.heads(IDENTITY), *await self.log.heads(COMMANDS)]
            if await probe.projected(heads) and heads == [
                *await self.log.heads(IDENTITY), *await self.log.heads(COMMANDS)
            ]:  # fmt: skip
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await self.take_over()

    async def take_over(self) -> None:
        (head,) = await self.log.heads(DELETIONS)
        deadline = time.monotonic() + SECONDS_MAX
        while await self.ledger.position(0) != head:
            await self.intake.turn()
            assert time.monotonic() < deadline

    async def found(self, request: UUID) -> DeletionRequest:
        return (await self.ledger.find([(1, request)]))[request]

    async def rows(self, table: str, who: str, hidden: bool = False) -> list[tuple[Any, ...]]:
        columns = {"timeline": "topic, version", "fragments": "properties, version, erased"}.get(table, "version")
        condition = "has(fragments, {who:UUID})" if table == "recordings" else "fragment = {who:UUID}"
        query = Query(name="rows", sql=f"SELECT {columns} FROM {table} WHERE {condition} ORDER BY version")
        read = self.store.rows_with_hidden if hidden else self.store.rows
        return await read(query, who=fragment_id(1, who))

    async def all_rows(self, who: str, hidden: bool = False) -> dict[str, list[tuple[Any, ...]]]:
        return {table: await self.rows(table, who, hidden) for table in TABLES}


@pytest.fixture
async def world(engine_url: str) -> AsyncIterator[World]:
    store = await Store.connect(engine_url)
    await migrate(store)
    world = World(store)
    await world.intake._reader.start()
    tasks = [asyncio.create_task(worker.run()) for worker in world.workers]
    yield world
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.close()


async def life(world: World, *people: str) -> None:
    """Events in two months, in INSERTs of their own: superseded rows lie in other parts than the newest."""
    for month in (JANUARY, MARCH):
        await world.tell(*(world.capture(who, month, email=f"{who}@example.com", seen=month) for who in people))
        await world.settle()


async def test_rows_are_hidden_then_gone_and_other_people_keep_theirs(world: World) -> None:
    await life(world, "ann", "bob", "cat", "dora")
    await world.tell(Merge(id=uuid4(), project=1, at=world.at, into=fragment_id(1, "ann"),
                           source=fragment_id(1, "bob"), into_id="ann", source_id="bob", mode="operator"))  # fmt: skip
    await world.settle()
    await world.store.insert("recordings", {
        "project": [1, 1], "session": ["s1", "s2"], "version": [1, 1], "started_at": [JANUARY, JANUARY],
        "fragments": [[fragment_id(1, "bob"), fragment_id(1, "zoe")], [fragment_id(1, "dora")]],
    })  # fmt: skip
    both, profile = world.delete("ann"), world.delete("cat", PROFILE)
    await world.tell(both, profile)
    await world.settle()
    others = await world.all_rows("dora", hidden=True)
    assert (await world.found(both.request)).members == (fragment_id(1, "ann"), fragment_id(1, "bob"))

    sweep = world.sweep()
    hidden = await sweep.hide(projected=True)
    assert {request.id for request in hidden} == {both.request, profile.request}
    assert hidden[0].hidden == {
        "causes": 0,
        "captured_events": 4,
        "fragments": 4,
        "recordings": 1,
        "search": 0,
        "timeline": 6,
    }
    for who in ("ann", "bob"):
        # Sorted: versions of two topics are offsets of two logs, which may be equal.
        assert sorted(topic for topic, _ in await world.rows("timeline", who)) == ["fragment.erased", "person.deleted"]
        assert [properties for properties, _, _ in await world.rows("fragments", who)] == ["{}"]
        assert len(await world.rows("captured_events", who)) == 0
        assert len(await world.rows("captured_events", who, hidden=True)) == 2
    assert len(await world.rows("captured_events", "cat")) == 2
    assert (await world.found(both.request)).state == "hidden"

    assert await sweep.erase()
    ended = await sweep.verify()
    assert {(request.id, request.state) for request in ended} == {
        (both.request, "verified"), (profile.request, "verified")
    }  # fmt: skip
    for who in ("ann", "bob", "cat"):
        assert await world.all_rows(who, hidden=True) == await world.all_rows(who)
    assert await world.all_rows("dora", hidden=True) == others
    assert len(others["recordings"]) == 1
    assert set((await world.found(both.request)).remaining.values()) == {0}


async def test_search_rows_go_too_and_what_a_fragment_left_in_the_rows_of_others(world: World) -> None:
    feeder = Feeder(world.store, world.log.partitions())
    together = {"into": fragment_id(1, "ann"), "source": fragment_id(1, "bob"), "mode": "operator"}
    await life(world, "ann", "bob")
    await feeder.feed()
    for command in (
        Merge(id=uuid4(), project=1, at=world.at, **together),
        Split(id=uuid4(), project=1, at=world.at, person=fragment_id(1, "ann"), keep=fragment_id(1, "ann")),
    ):
        await world.tell(command)
        await world.settle()
        await feeder.feed()
    await world.tell(world.delete("bob", PROFILE))
    await world.settle()
    await feeder.feed()
    sweep = world.sweep()
    (request,) = await sweep.hide(projected=True)
    assert request.hidden["search"] > 0
    assert await sweep.erase()
    assert [one.state for one in await sweep.verify()] == ["verified"]
    sql = "SELECT fragment, living, toString(distinct_ids), toString(properties) FROM search WHERE project = 1"
    left = await world.store.rows_with_hidden(Query(name="all", sql=sql))
    assert "bob" not in str([row[2:] for row in left])
    assert [row[1] for row in left if row[0] == fragment_id(1, "bob")] == [0]
    shown = [row for row in left if row[1]]
    assert shown and all(row[0] == fragment_id(1, "ann") and "ann@example.com" in row[3] for row in shown)


async def test_a_reused_id_keeps_its_new_life(world: World) -> None:
    await life(world, "ann")
    delete = world.delete("ann")
    await world.tell(delete)
    await world.settle()
    again = world.capture("ann", email="new@example.com")
    await world.tell(again)
    await world.settle()
    await world.sweep().run(projected=True)
    assert (await world.found(delete.request)).state == "verified"
    rows = await world.all_rows("ann", hidden=True)
    assert sorted(topic for topic, _ in rows["timeline"]) == ["fragment.changed", "fragment.erased", "person.deleted"]
    assert len(rows["captured_events"]) == 1
    assert rows["fragments"][-1][0] == '{"email":"new@example.com"}'
    assert "ann@example.com" not in str(rows)

    second = world.delete("ann")
    await world.tell(second)
    await world.settle()
    await world.sweep().run(projected=True)
    assert (await world.found(second.request)).state == "verified"
    assert "new@example.com" not in str(await world.all_rows("ann", hidden=True))


async def test_a_request_waits_while_its_erase_records_are_not_applied(world: World) -> None:
    await life(world, "ann")
    delete = world.delete("ann")
    early = Request(id=uuid4(), project=1, at=delete.at, request=delete.request, person=delete.person,
                    members=(delete.person,), scope=delete.scope)  # fmt: skip
    await world.tell(early)
    await world.take_over()
    assert await world.sweep().run(projected=True) == []
    assert (await world.found(delete.request)).state == "pending"
    assert len(await world.rows("captured_events", "ann")) == 2
    await world.tell(delete)
    await world.settle()
    await world.sweep().run(projected=True)
    assert (await world.found(delete.request)).state == "verified"


async def test_deleting_events_keeps_the_person_and_what_came_after_the_cut_off(world: World) -> None:
    await life(world, "ann")
    request = world.request("ann", EVENTS)
    await world.tell(request, world.capture("ann", seen="later"))
    await world.settle()
    timeline = await world.rows("timeline", "ann")
    assert await world.sweep().run(projected=False) == []
    await world.sweep().run(projected=True)
    assert (await world.found(request.request)).state == "verified"
    assert len(await world.rows("captured_events", "ann", hidden=True)) == 1
    assert await world.rows("timeline", "ann", hidden=True) == timeline


async def test_a_window_that_closes_stops_between_partitions_and_the_next_one_goes_on(world: World) -> None:
    await life(world, "ann")
    delete = world.delete("ann")
    await world.tell(delete)
    await world.settle()
    closed = world.sweep(closes_at=world.clock.us)
    assert await closed.run(projected=True) == []
    assert (await world.found(delete.request)).state == "pending"

    await world.sweep().hide(projected=True)
    ticking = ManualClock(world.clock.us)

    def now_us() -> int:
        ticking.us += 1
        return ticking.us

    short = Sweep(world.store, world.ledger, now_us, closes_at=ticking.us + 4)
    assert not await short.erase()
    stopped = await world.found(delete.request)
    assert stopped.state == "erasing"
    assert stopped.partition is not None
    done, of = stopped.partition
    assert 0 < done < of

    await world.sweep().run(projected=True)
    assert (await world.found(delete.request)).state == "verified"
    assert len(await world.rows("captured_events", "ann", hidden=True)) == 0


async def test_a_request_cancelled_before_hiding_deletes_nothing(world: World) -> None:
    await life(world, "ann")
    request = world.request("ann", EVENTS)
    cancel = Cancel(id=uuid4(), project=1, at=world.at + 1, request=request.request)
    await world.tell(request, cancel)
    await world.settle()
    assert await world.sweep().run(projected=True) == []
    assert (await world.found(request.request)).state == "cancelled"
    assert len(await world.rows("captured_events", "ann")) == 2


async def test_a_request_in_the_log_twice_is_one_request_and_a_late_cancel_is_refused(world: World) -> None:
    await life(world, "ann")
    request = world.request("ann", EVENTS)
    await world.tell(request, request)
    await world.settle()
    await world.sweep().hide(projected=True)
    before = await world.found(request.request)
    await world.tell(request, Cancel(id=uuid4(), project=1, at=world.at + 1, request=request.request))
    await world.take_over()
    assert await world.found(request.request) == before
    assert await world.ledger.states() == {"hidden": 1}


async def test_a_crash_between_the_steps_of_hiding_is_repeated_by_the_next_run(world: World) -> None:
    await life(world, "ann")
    delete = world.delete("ann")
    await world.tell(delete)
    await world.settle()

    class Dies(Ledger):
        async def save(self, requests: Any, now_us: int) -> None:
            if any(request.state == "hidden" for request in requests):
                raise Transient("killed before the ledger heard of it")
            await super().save(requests, now_us)

    dying = Dies(world.store, world.ledger._window)
    with pytest.raises(Transient):
        await Sweep(world.store, dying, world.clock.now_us).hide(projected=True)
    begun = await world.found(delete.request)
    assert (begun.state, begun.cancellable) == ("pending", False)
    assert len(await world.rows("captured_events", "ann")) == 0
    await world.sweep().run(projected=True)
    done = await world.found(delete.request)
    assert (done.state, done.hidden["captured_events"]) == ("verified", 2)


async def test_rows_that_come_back_fail_the_request_and_the_next_run_takes_them(world: World) -> None:
    await life(world, "ann")
    delete = world.delete("ann")
    await world.tell(delete)
    await world.settle()
    sweep = world.sweep()
    await sweep.hide(projected=True)
    await sweep.erase()
    await world.store.insert("captured_events", {
        "project": [1], "fragment": [fragment_id(1, "ann")], "timestamp": [JANUARY], "uuid": [uuid4()],
        "version": [1 << 48], "received_at": [JANUARY],
    })  # fmt: skip
    await sweep.verify()
    failed = await world.found(delete.request)
    assert (failed.state, failed.reason) == ("failed", "rows are left: 1 in captured_events")
    await world.sweep().run(projected=True)
    assert (await world.found(delete.request)).state == "verified"


async def test_a_statement_takes_ten_thousand_fragments(world: World) -> None:
    members = tuple(UUID(int=number) for number in range(1, 10_001))
    request = Request(id=uuid4(), project=1, at=world.at, request=uuid4(), person=members[0], members=members,
                      scope=Scope(events=True, recordings=True))  # fmt: skip
    await world.store.insert("captured_events", {
        "project": [1, 1], "fragment": [members[-1], UUID(int=99_999)], "timestamp": [JANUARY] * 2,
        "uuid": [uuid4(), uuid4()], "received_at": [JANUARY] * 2,
    })  # fmt: skip
    await world.tell(request)
    await world.take_over()
    await world.sweep().run(projected=True)
    assert (await world.found(request.request)).state == "verified"
    count = Query(name="count", sql="SELECT count() FROM captured_events")
    assert await world.store.rows_with_hidden(count) == [(1,)]


async def test_a_record_that_is_no_request_goes_to_the_dead_letters(world: World) -> None:
    await world.log.append([Entry(DELETIONS, 0, b"1", b"nonsense")])
    await world.take_over()
    (dead,) = world.log.records(DEAD)
    assert dead.value.endswith(b"\nnonsense")


async def test_a_lock_keeps_the_other_process_out(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(locked(tmp_path / "run" / "sweep.lock", 0.1))
        with pytest.raises(Transient):
            await stack.enter_async_context(locked(tmp_path / "run" / "sweep.lock", 0.1))
    async with locked(tmp_path / "run" / "sweep.lock", 0.1):
        pass


class Killed(BaseException):
    """What no handler may take for an error."""


async def test_a_crash_between_receipt_and_ledger_makes_no_second_receipt(world: World, tmp_path: Path) -> None:
    await life(world, "ann", "bob")
    await world.tell(world.delete("ann"), world.delete("bob"))
    await world.settle()
    receipts = Receipts(world.store, tmp_path / "receipts")

    async def dying(requests: Sequence[DeletionRequest], now_us: int) -> None:
        await receipts.issue(requests, now_us)
        raise Killed

    with pytest.raises(Killed):
        await Sweep(world.store, world.ledger, world.clock.now_us, issue=dying).run(projected=True)
    first = {path.name: path.read_bytes() for path in (tmp_path / "receipts").glob("*.json")}
    ended = await Sweep(world.store, world.ledger, world.clock.now_us, issue=receipts.issue).run(projected=True)
    assert [request.state for request in ended] == ["verified", "verified"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "receipts").glob("*.json")} == first
    assert await world.store.rows(Query(name="t", sql="SELECT count(), max(sequence) FROM receipts")) == [(2, 2)]
    key = public_key(tmp_path / "receipts" / "public-key.pem")
    assert broken_links([check(raw, key) for raw in first.values()]) == []
