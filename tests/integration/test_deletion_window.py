"""When a sweep may run and what survives its end: windows, requests that wait too long, locks, receipts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.deleter.app import DAY_US, HOUR_US, Deleter
from services.deleter.locks import locked
from services.deleter.receipts import Receipts, broken_links, check, public_key
from services.deleter.sweep.guard import Guard
from services.deleter.sweep.run import Sweep
from services.deleter.sweep.run_options import RunOptions
from shared.domain.deletion import DeletionRequest
from shared.domain.errors import StoreUnavailable, Transient
from shared.runtime import telemetry
from shared.runtime.clock import ManualClock
from shared.runtime.settings import Settings
from shared.store.clickhouse.queries import Query
from tests.support.erasing import World, life


class Killed(BaseException):
    """What no handler may take for an error."""


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

    short = Sweep(world.store, world.objects, world.ledger, now_us, RunOptions(closes_at=ticking.us + 4))
    assert not await short.erase()
    stopped = await world.found(delete.request)
    assert stopped.state == "erasing"
    assert stopped.partition is not None
    done, of = stopped.partition
    assert 0 < done < of

    await world.sweep().run(projected=True)
    assert (await world.found(delete.request)).state == "verified"
    assert len(await world.rows("captured_events", "ann", hidden=True)) == 0


async def test_a_request_that_waits_too_long_opens_a_window_at_any_hour(world: World, tmp_path: Path) -> None:
    deleter = Deleter(Settings(data=tmp_path, window="0 0 29 2 *", window_hours=2), world.log, world.store)
    deleter.ledger, moment = world.ledger, world.clock.us
    deleter.now_us = lambda: moment
    assert await deleter.closes_at() is None
    await life(world, "ann")
    delete = world.delete("ann")
    await world.tell(delete)
    await world.settle()
    asked = (await world.found(delete.request)).cutoff
    moment = asked + 25 * DAY_US
    assert await deleter.closes_at() is None
    moment += 1
    assert await deleter.closes_at() == moment + 2 * HOUR_US
    assert telemetry.OLDEST_DELETION._value.get() == pytest.approx(25 * 86_400)
    await world.sweep().run(projected=True)
    assert await deleter.closes_at() is None
    assert telemetry.OLDEST_DELETION._value.get() == 0


async def test_a_run_for_an_overdue_request_waits_for_no_load(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(guard: Guard) -> None:
        raise StoreUnavailable("busy")

    monkeypatch.setattr(Guard, "start", busy)
    deleter = Deleter(Settings(data=tmp_path), world.log, world.store)
    deleter.ledger, moment = world.ledger, world.clock.us
    deleter.now_us = lambda: moment
    await life(world, "ann")
    delete = world.delete("ann")
    await world.tell(delete)
    await world.settle()
    moment = (await world.found(delete.request)).cutoff + 25 * DAY_US
    with pytest.raises(StoreUnavailable, match="busy"):
        await deleter.sweep(None)
    assert (await world.found(delete.request)).state == "pending"
    moment += 1
    assert [request.state for request in await deleter.sweep(None)] == ["verified"]


async def test_a_crash_between_receipt_and_ledger_makes_no_second_receipt(world: World, tmp_path: Path) -> None:
    await life(world, "ann", "bob")
    await world.tell(world.delete("ann"), world.delete("bob"))
    await world.settle()
    receipts = Receipts(world.store, tmp_path / "receipts")

    async def dying(requests: Sequence[DeletionRequest], now_us: int) -> None:
        await receipts.issue(requests, now_us)
        raise Killed

    with pytest.raises(Killed):
        await world.sweep(issue=dying).run(projected=True)
    first = {path.name: path.read_bytes() for path in (tmp_path / "receipts").glob("*.json")}
    ended = await world.sweep(issue=receipts.issue).run(projected=True)
    assert [request.state for request in ended] == ["verified", "verified"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "receipts").glob("*.json")} == first
    assert await world.store.rows(Query(name="t", sql="SELECT count(), max(sequence) FROM receipts")) == [(2, 2)]
    key = public_key(tmp_path / "receipts" / "public-key.pem")
    assert broken_links([check(raw, key) for raw in first.values()]) == []


async def test_a_restored_table_takes_the_receipts_from_their_files(world: World, tmp_path: Path) -> None:
    receipts = Receipts(world.store, tmp_path / "receipts")
    for who in ("ann", "bob"):
        await life(world, who)
        await world.tell(world.delete(who))
        await world.settle()
        await world.sweep(issue=receipts.issue).run(projected=True)
    rows = Query(name="t", sql="SELECT sequence, request, body FROM receipts ORDER BY sequence")
    first = await world.store.rows(rows)
    await world.store.command(Query(name="t", sql="TRUNCATE TABLE receipts"))
    (tmp_path / "receipts" / "notes.json").write_text("{}")  # not ours: no reason to stop

    await life(world, "cat")
    await world.tell(world.delete("cat"))
    await world.settle()
    (ended,) = await world.sweep(issue=receipts.issue).run(projected=True)
    assert ended.state == "verified"
    again = await world.store.rows(rows)
    assert again[:2] == first
    assert [sequence for sequence, _, _ in again] == [1, 2, 3]
    key = public_key(tmp_path / "receipts" / "public-key.pem")
    assert broken_links([check(body.encode(), key) for _, _, body in again]) == []


async def test_a_lock_keeps_the_other_process_out(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(locked(tmp_path / "run" / "sweep.lock", 0.1))
        with pytest.raises(Transient):
            await stack.enter_async_context(locked(tmp_path / "run" / "sweep.lock", 0.1))
    async with locked(tmp_path / "run" / "sweep.lock", 0.1):
        pass
