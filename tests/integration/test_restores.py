"""A cancelled deletion on a real engine: what the deleter reads, what the projector replays, what runs leave alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from services.deleter.restores import Restores, TimelineHistory
from services.deleter.sweep.run_options import unlocked
from services.projector.rebuild import run as rebuild
from services.projector.rebuild.run import Rebuild
from services.projector.tables import clickhouse as tables
from shared.domain.commands import Cancel, Delete, MergePersons
from shared.domain.ids import COMMANDS, Position, fragment_id
from shared.domain.person.fragment import HOUR_US
from shared.store.clickhouse.queries import Query, load
from tests.support.erasing import EVERYTHING, JANUARY, MARCH, PROFILE, SECONDS_MAX, World, life

TOLD = "distinct_id, number, created_at, seen_at, erased, erased_at, properties, cells"


def restores(world: World) -> Restores:
    async def projected(positions: Sequence[Position]) -> bool:
        deadline = time.monotonic() + SECONDS_MAX
        while not await world.sweep().projected(positions):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    return Restores(
        log=world.log,
        history=TimelineHistory(world.store),
        ledger=world.ledger,
        lock=unlocked,
        projected=projected,
        now_us=world.clock.now_us,
    )


def merge(world: World, into: str, source: str) -> MergePersons:
    world.at += 1
    named: dict[str, Any] = {"into": fragment_id(1, into), "source": fragment_id(1, source), "mode": "identify"}
    return MergePersons(id=uuid4(), project=1, at=world.at, into_id=into, source_id=source, **named)


async def shown(world: World, *people: str) -> list[tuple[Any, ...]]:
    """What readers see of fragments and identities, without versions."""
    found: list[tuple[Any, ...]] = []
    for table, columns in (("fragments", TOLD), ("identity", "root, members, identified, erase, erased_at")):
        sql = f"SELECT {columns} FROM {table} WHERE fragment = {{who:UUID}} ORDER BY version DESC LIMIT 1"
        for who in people:
            found += await world.store.rows(Query(name="shown", sql=sql), who=fragment_id(1, who))
    return found


async def cancel(world: World, delete: Delete) -> None:
    world.at += 1
    await world.tell(Cancel(id=uuid4(), project=1, at=world.at, actor="key:1", request=delete.request))
    await world.settle()


async def test_a_person_of_three_ids_comes_back_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FACTS_PAGE", 2)
    people = ("ann", "bob", "cat")
    await life(world, *people)
    await world.tell(merge(world, "ann", "bob"), merge(world, "ann", "cat"))
    await world.tell(*(world.capture("bob", MARCH, **{f"key{number}": number}) for number in range(7)))
    await world.settle()
    before = await shown(world, *people)
    delete = world.delete("bob")
    await world.tell(delete)
    await world.settle()
    assert await shown(world, *people) != before
    await cancel(world, delete)
    request = await world.found(delete.request)
    assert (request.state, request.members) == ("cancelling", tuple(fragment_id(1, who) for who in people))
    assert not await restores(world).round()
    assert (await world.found(delete.request)).state == "cancelled"
    assert await shown(world, *people) == before
    assert await world.sweep().run(projected=True) == []
    actors = Query(name="actors", sql="SELECT DISTINCT actor, topic FROM timeline WHERE topic LIKE '%restored'")
    assert sorted(await world.store.rows(actors)) == [("key:1", "fragment.restored"), ("key:1", "person.restored")]


async def test_a_rebuild_leaves_out_what_was_taken_back_and_knows_nothing_beyond_its_positions(world: World) -> None:
    await life(world, "ann")
    delete = world.delete("ann")
    await world.tell(delete)
    await world.settle()
    await cancel(world, delete)
    assert not await restores(world).round()
    rebuilding = Rebuild(world.store, world.log.partitions(), world.clock.now_us, lambda report: None)
    report = await rebuilding.run(verify=True)
    assert (report.state, report.differences, report.corrupt, report.findings) == ("swapped", 0, 0, [])
    sql = "SELECT topic, version FROM timeline WHERE topic LIKE 'fragment.%' ORDER BY version"
    topics = Query(name="topics", sql=sql)
    facts = dict(await world.store.rows(topics))
    everything = {"everybody": 1, "fragments": [], "project": 0, "fragment": UUID(int=0), "version": 0, "topic": ""}
    page = load(Path(rebuild.__file__).with_name("rebuild.sql"))["page"]
    for reached, told in ((facts["fragment.restored"] - 1, True), (facts["fragment.restored"], False)):
        partitions = world.log.partitions()[COMMANDS]
        rows = await world.store.rows(
            page, **everything, commands=[reached] * partitions, partitions=partitions, limit=1_000
        )
        assert any(row[3] == "fragment.erased" for row in rows) is told


async def test_when_it_was_last_seen_is_told_by_events_with_a_person_only(world: World) -> None:
    early, late = world.capture("ann", JANUARY), world.capture("ann", MARCH)
    nobody = msgspec.structs.replace(
        late, uuid=uuid4(), timestamp=late.timestamp + 9 * HOUR_US, person=False,
        properties=msgspec.Raw(b'{"$process_person_profile":false}'),
    )  # fmt: skip
    await world.tell(late, early, nobody)
    await world.settle()
    before = await shown(world, "ann")
    delete = world.delete("ann", PROFILE)
    await world.tell(delete)
    await world.settle()
    await cancel(world, delete)
    assert not await restores(world).round()
    assert (await shown(world, "ann"))[0] == before[0]
    assert before[0][3] == late.timestamp // HOUR_US * HOUR_US


async def test_a_restore_that_is_refused_leaves_the_request_to_the_next_run(world: World) -> None:
    await life(world, "ann", "bob", "dora")
    await world.tell(merge(world, "ann", "bob"))
    delete = world.delete("ann")
    await world.tell(delete, world.capture("bob", again=1), merge(world, "dora", "bob"))
    await world.settle()
    await cancel(world, delete)
    assert not await restores(world).round()
    request = await world.found(delete.request)
    assert (request.state, request.refusal) == ("pending", "belongs_to_another")
    await world.sweep().run(projected=True)
    assert (await world.found(delete.request)).state == "verified"
    assert "ann@example.com" not in str(await world.all_rows("ann", hidden=True))


async def test_a_run_touches_neither_what_is_being_cancelled_nor_who_shares_a_member_with_it(world: World) -> None:
    await life(world, "ann", "bob")
    first, other = world.delete("ann"), world.delete("bob")
    again, second = world.capture("ann", life=2), world.delete("ann")
    await world.tell(first, again, second, other)
    await world.settle()
    await cancel(world, first)
    ended = await world.sweep().run(projected=True)
    assert [request.id for request in ended] == [other.request]
    states = [(await world.found(one.request)).state for one in (first, second, other)]
    assert states == ["cancelling", "pending", "verified"]
    assert not await restores(world).round()
    assert (await world.found(first.request)).refusal == "deleted_again"
    assert len(await world.sweep().run(projected=True)) == 2


async def test_a_window_that_erased_a_former_life_takes_nothing_from_the_restored_one(world: World) -> None:
    await life(world, "ann")
    former = world.delete("ann")
    await world.tell(former, world.capture("ann", MARCH, present=1))
    await world.settle()
    before = await shown(world, "ann")
    present = world.delete("ann", EVERYTHING)
    await world.tell(present)
    await world.settle()
    requests = {one.request: (await world.found(one.request)).state for one in (former, present)}
    assert set(requests.values()) == {"pending"}
    await cancel(world, present)  # the former one waits for it
    assert await world.sweep().run(projected=True) == []
    assert not await restores(world).round()
    assert [one.id for one in await world.sweep().run(projected=True)] == [former.request]
    assert await shown(world, "ann") == before
    assert "ann@example.com" not in str(await world.all_rows("ann", hidden=True))
    third = world.delete("ann", EVERYTHING)
    await world.tell(third)
    await world.settle()
    await cancel(world, third)
    assert not await restores(world).round()
    assert await shown(world, "ann") == before


async def test_a_round_that_finds_the_projector_behind_goes_on_later(world: World) -> None:
    await life(world, "ann")
    delete = world.delete("ann")
    await world.tell(delete)
    await world.settle()
    before = len(world.log.records("personlog.identity"))
    await cancel(world, delete)
    step = restores(world)

    async def behind(positions: Sequence[Position]) -> bool:
        return False

    step._projected = behind
    assert await step.round()
    assert len(world.log.records("personlog.identity")) == before
    passes = iter((True, False, True, False))

    async def now_and_then(positions: Sequence[Position]) -> bool:
        return next(passes)

    step._projected = now_and_then
    assert await step.round() and await step.round()
    assert len(world.log.records("personlog.identity")) == before + 1  # sent once by one process
    again = restores(world)  # another process knows nothing of that
    await world.settle()
    assert not await again.round()
    assert (await world.found(delete.request)).state == "cancelled"
