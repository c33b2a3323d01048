"""The deleter on a real engine, fed by the real projector. Never with rows that it could not have written."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from services.deleter.ledger import Ledger
from services.deleter.sweep.run import Sweep
from services.projector.search import Feeder
from shared.domain.commands import Cancel, MergePersons, RequestDeletion, Scope, SplitPerson
from shared.domain.errors import Transient
from shared.domain.ids import DEAD, DELETIONS, fragment_id
from shared.log.port import Entry
from shared.store.clickhouse.queries import Query
from tests.support.erasing import EVENTS, JANUARY, PROFILE, World, life


async def test_rows_are_hidden_then_gone_and_other_people_keep_theirs(world: World) -> None:
    await life(world, "ann", "bob", "cat", "dora")
    await world.tell(MergePersons(id=uuid4(), project=1, at=world.at, into=fragment_id(1, "ann"),
                           source=fragment_id(1, "bob"), into_id="ann", source_id="bob", mode="operator"))  # fmt: skip
    await world.settle()
    alone = await world.record(("bob", "s1", b"bob clicks"))
    shared = await world.record(("ann", "s1", b"ann clicks"), ("dora", "s2", b"dora clicks"))
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
        "objects": 2,
        "recordings": 2,
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
    assert len(others["recording_blocks"]) == 1
    assert await world.objects.read(alone) is None
    assert await world.objects.read(shared) == bytes(10) + b"dora clicks"
    assert set((await world.found(both.request)).remaining.values()) == {0}


async def test_search_rows_go_too_and_what_a_fragment_left_in_the_rows_of_others(world: World) -> None:
    feeder = Feeder(world.store, world.log.partitions())
    together = {"into": fragment_id(1, "ann"), "source": fragment_id(1, "bob"), "mode": "operator"}
    await life(world, "ann", "bob")
    await feeder.feed()
    for command in (
        MergePersons(id=uuid4(), project=1, at=world.at, **together),
        SplitPerson(id=uuid4(), project=1, at=world.at, person=fragment_id(1, "ann"), keep=fragment_id(1, "ann")),
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
    early = RequestDeletion(id=uuid4(), project=1, at=delete.at, request=delete.request, person=delete.person,
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
        await Sweep(world.store, world.objects, dying, world.clock.now_us).hide(projected=True)
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
    request = RequestDeletion(id=uuid4(), project=1, at=world.at, request=uuid4(), person=members[0], members=members,
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
