"""What a sweep does about other work in the engine: it waits, and never takes, stops or counts what is not its own."""

from __future__ import annotations

from typing import Any

import pytest

from services.deleter.sweep import rewriting
from services.deleter.sweep.guard import Guard
from shared.domain.errors import StoreUnavailable
from shared.store.clickhouse.queries import Query
from tests.support.erasing import World, life


def statement(sql: str) -> Query:
    return Query(name="foreign", sql=sql)


MUTATIONS = statement(
    "SELECT mutation_id, is_done, is_killed FROM system.mutations "
    "WHERE database = currentDatabase() AND table = 'timeline' AND command LIKE '%throwIf%'"
)


async def deleted(world: World, who: str) -> Any:
    await life(world, who, "dora")
    delete = world.delete(who)
    await world.tell(delete)
    await world.settle()
    return delete.request


@pytest.mark.parametrize("step", ["hide", "erase"])
async def test_a_foreign_mutation_that_hangs_is_waited_for_and_never_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    request = await deleted(world, "ann")
    if step == "erase":
        await world.sweep().hide(projected=True)
    hangs = "ALTER TABLE timeline UPDATE source = toString(throwIf(1, 'foreign')) WHERE 1 SETTINGS mutations_sync = 0"
    await world.store.command(statement(hangs))
    with monkeypatch.context() as patch, pytest.raises(StoreUnavailable, match="1 mutations do not end"):
        patch.setattr(rewriting, "MUTATION_SECONDS_MAX", 0.5)
        await world.sweep().run(projected=True)
    ((name, done, killed),) = await world.store.rows(MUTATIONS)
    assert (done, killed) == (0, 0)
    assert (await world.found(request)).state == {"hide": "pending", "erase": "erasing"}[step]

    await world.store.command(statement(f"KILL MUTATION WHERE mutation_id = '{name}' AND table = 'timeline' SYNC"))
    await world.sweep().run(projected=True)
    assert (await world.found(request)).state == "verified"


async def test_the_end_of_a_foreign_mutation_with_the_same_text_is_not_taken_for_the_own(world: World) -> None:
    request = await deleted(world, "ann")
    ((partition,),) = await world.store.rows(statement("SELECT DISTINCT _partition_id FROM timeline LIMIT 1"))
    same = f"ALTER TABLE timeline APPLY DELETED MASK IN PARTITION ID '{partition}' SETTINGS mutations_sync = 2"
    for table in ("timeline", "captured_events", "fragments"):
        await world.store.command(statement(same.replace("timeline", table)))
    others = await world.all_rows("dora", hidden=True)
    await world.sweep().run(projected=True)
    assert (await world.found(request)).state == "verified"
    assert await world.all_rows("ann", hidden=True) == await world.all_rows("ann")
    assert len(await world.rows("captured_events", "ann", hidden=True)) == 0
    assert await world.all_rows("dora", hidden=True) == others


async def test_rows_that_somebody_else_hid_are_no_remnant_of_a_run(world: World) -> None:
    request = await deleted(world, "ann")
    await world.store.command(statement("DELETE FROM captured_events WHERE event = 'seen' SETTINGS mutations_sync = 2"))
    await world.sweep().run(projected=True)
    found = await world.found(request)
    assert (found.state, found.hidden["captured_events"]) == ("verified", 2)
    assert len(await world.rows("captured_events", "dora", hidden=True)) == 0  # theirs were hidden: erased as well


@pytest.mark.parametrize("place", ["detached", "shadow"])
async def test_rows_that_may_lie_elsewhere_fail_the_request(world: World, place: str) -> None:
    request = await deleted(world, "ann")
    run = world.sweep()
    ((partition,),) = await world.store.rows(statement("SELECT DISTINCT _partition_id FROM captured_events LIMIT 1"))
    if place == "detached":
        await world.store.command(statement(f"ALTER TABLE captured_events DETACH PARTITION ID '{partition}'"))
    else:
        await world.store.command(statement("CREATE TABLE fragments_rebuild AS fragments"))
    await run.run(projected=True)
    failed = await world.found(request)
    where = "detached parts of captured_events" if place == "detached" else "the table fragments_rebuild"
    assert (failed.state, failed.reason) == ("failed", f"rows may lie elsewhere: {where}")

    if place == "detached":
        await world.store.command(statement(f"ALTER TABLE captured_events ATTACH PARTITION ID '{partition}'"))
    else:
        await world.store.command(statement("DROP TABLE fragments_rebuild SYNC"))
    await world.sweep().run(projected=True)
    assert (await world.found(request)).state == "verified"
    assert len(await world.rows("captured_events", "ann", hidden=True)) == 0


async def test_the_guard_lets_a_quiet_engine_work(world: World) -> None:
    request = await deleted(world, "ann")
    guard = Guard(world.store)
    await world.sweep(guard=guard).run(projected=True)
    assert (await world.found(request)).state == "verified"
