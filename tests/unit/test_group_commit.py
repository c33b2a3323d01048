"""Group commit: what is sent together, in which order, and what becomes of everybody's future. In virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.runtime.group_commit import (
    CROWD,
    CROWD_SECONDS,
    LINGER_SECONDS,
    NO_LINGER,
    Capacity,
    GroupCommit,
    Linger,
    Pending,
)
from tests.support.virtual import virtual

SEND_SECONDS = 0.01
MANY = 2 * CROWD


class Full(Exception):
    """It does not fit."""


class Closing(Exception):
    """The sender was cancelled."""


class World:
    """Sends that take SEND_SECONDS each: when they began, and of which items."""

    def __init__(self, size_max: int = 1_000, capacity: Capacity | None = None, linger: Linger = NO_LINGER) -> None:
        self.sends: list[tuple[float, list[Any]]] = []
        self.broken: set[Any] = set()
        self.capacity = capacity or Capacity(10_000, Full)
        self.groups: GroupCommit[Any, Any] = GroupCommit(
            self.send, size_max=size_max, capacity=self.capacity, closing=Closing, linger=linger, name="sender"
        )

    async def send(self, group: list[Pending[Any, Any]]) -> None:
        items = [pending.item for pending in group]
        self.sends.append((round(now(), 6), items))
        await asyncio.sleep(SEND_SECONDS)
        if self.broken.intersection(items):
            raise OSError("broken")
        for item, _, future in group:
            if not future.done():
                future.set_result(item * 2)

    def submit(self, *items: Any, size: int = 1) -> list[asyncio.Future[Any]]:
        return [self.groups.submit(item, size) for item in items]

    async def later(self, seconds: float, item: Any) -> Any:
        await asyncio.sleep(seconds)
        return await self.groups.submit(item, 1)

    @property
    def items(self) -> list[list[Any]]:
        return [items for _, items in self.sends]

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.sends]


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_one_group_is_in_flight_and_what_comes_meanwhile_is_the_next_in_order() -> None:
    world = World()
    first = world.submit(1, 2)
    await asyncio.sleep(SEND_SECONDS / 2)
    rest = world.submit(3, 4, 5)
    assert world.groups.waiting == 3
    assert await asyncio.gather(*first, *rest) == [2, 4, 6, 8, 10]
    assert world.sends == [(0.0, [1, 2]), (SEND_SECONDS, [3, 4, 5])]
    assert world.groups.waiting == world.capacity.size == 0


@virtual
async def test_a_group_holds_what_fits_but_at_least_one_item() -> None:
    world = World(size_max=10)
    await asyncio.gather(*world.submit(1, 2, size=4), *world.submit(3, size=3), *world.submit(4, size=25))
    assert world.items == [[1, 2], [3], [4]]


@virtual
async def test_what_waits_and_is_in_flight_has_one_room_and_several_may_share_it() -> None:
    capacity = Capacity(10, Full)
    one, other = World(capacity=capacity), World(capacity=capacity)
    waiting = [*one.submit(1, size=6), *other.submit(2, size=3)]
    await asyncio.sleep(SEND_SECONDS / 2)  # in flight
    with pytest.raises(Full):
        other.submit(3, size=2)
    waiting += other.submit(4, size=1)
    assert await asyncio.gather(*waiting) == [2, 4, 8]
    assert capacity.size == 0
    assert other.items == [[2], [4]], "what was refused is not sent"


@virtual
async def test_a_failed_group_is_told_and_the_next_is_sent() -> None:
    world = World()
    world.broken = {2}
    first = world.submit(1, 2)
    await asyncio.sleep(SEND_SECONDS / 2)
    rest = world.submit(3)
    outcomes = await asyncio.gather(*first, *rest, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError, OSError, int]
    assert world.capacity.size == 0


@virtual
async def test_an_item_that_was_dropped_or_given_up_is_not_sent_and_leaves_its_room() -> None:
    world = World()
    world.submit(1)
    await asyncio.sleep(SEND_SECONDS / 2)
    dropped, abandoned, kept = world.submit(2, 3, 4)
    world.groups.drop(dropped)
    assert world.capacity.size == 3
    abandoned.cancel()
    assert await kept == 8
    assert world.items == [[1], [4]]
    assert world.capacity.size == 0 and not dropped.done()


@virtual
async def test_nothing_is_sent_when_nobody_waits_any_more() -> None:
    world = World()
    world.submit(1)
    await asyncio.sleep(SEND_SECONDS / 2)
    (abandoned,) = world.submit(2)
    abandoned.cancel()
    await world.groups.drain()
    assert world.items == [[1]]


@virtual
async def test_an_item_in_flight_is_not_dropped() -> None:
    world = World()
    (future,) = world.submit(1)
    await asyncio.sleep(SEND_SECONDS / 2)
    world.groups.drop(future)
    assert await future == 2 and world.capacity.size == 0


@virtual
async def test_a_future_of_the_callers_own_is_the_items() -> None:
    world = World()
    own: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    assert world.groups.submit(5, 1, own) is own
    assert await own == 10


@virtual
@pytest.mark.parametrize("seconds", [0.0, SEND_SECONDS / 2], ids=["before it begins", "in flight"])
async def test_closing_tells_everybody_and_later_items_have_a_sender_of_their_own(seconds: float) -> None:
    world = World()
    futures = world.submit(1)
    if seconds:
        await asyncio.sleep(seconds)
        futures += world.submit(2)
    await world.groups.close()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Closing}
    assert world.capacity.size == 0
    assert await world.submit(3)[0] == 6


@virtual
async def test_who_waits_when_the_sender_is_cancelled_while_it_lingers_is_told() -> None:
    world = World(linger=Linger())
    await asyncio.gather(*world.submit(*range(MANY)))
    (future,) = world.submit(1)
    await asyncio.sleep(LINGER_SECONDS / 2)
    next(task for task in asyncio.all_tasks() if task.get_name() == "sender").cancel()
    with pytest.raises(Closing):
        await future
    assert world.capacity.size == 0


@virtual
async def test_a_crowd_that_was_answered_is_waited_for_and_no_longer_than_until_it_is_there() -> None:
    world = World(linger=Linger())
    await asyncio.gather(*world.submit(*range(MANY)))
    again = [world.later(0.005 + 0.00005 * place, place) for place in range(MANY)]
    await asyncio.gather(*again)
    assert [len(items) for items in world.items] == [MANY, MANY]
    assert world.times[1] == pytest.approx(SEND_SECONDS + 0.005 + 0.00005 * (MANY - 1)), "at the last one"


@virtual
@pytest.mark.parametrize(
    ("count", "pause", "linger", "waited"),
    [
        (MANY, 0.005, Linger(), LINGER_SECONDS),
        (CROWD, 0.005, Linger(), LINGER_SECONDS),
        (CROWD - 1, 0.005, Linger(), 0.0),
        (MANY, CROWD_SECONDS + 0.001, Linger(), 0.0),
        (MANY, 0.0, Linger(cycle=SEND_SECONDS + 0.0005), 0.0005),
        (MANY, 0.0, Linger(cycle=SEND_SECONDS), 0.0),
        (MANY, 0.005, NO_LINGER, 0.0),
    ],
    ids=[
        "nobody else comes back",
        "just a crowd",
        "too few for a crowd",
        "long ago",
        "a slow send",
        "a slower one",
        "without lingering",
    ],
)
async def test_how_long_the_first_one_lingers(count: int, pause: float, linger: Linger, waited: float) -> None:
    world = World(linger=linger)
    await asyncio.gather(*world.submit(*range(count)))
    assert await world.later(pause, 1) == 2
    assert world.times[1] == pytest.approx(SEND_SECONDS + pause + waited)


@virtual
async def test_those_who_came_during_a_send_belong_to_the_crowd() -> None:
    """Else two halves would take turns for ever."""
    world = World(linger=Linger())
    first, second = world.submit(*range(CROWD)), [world.later(0.001, place) for place in range(CROWD)]
    again = [world.later(SEND_SECONDS + 0.001, place) for place in range(CROWD)]
    await asyncio.gather(*first, *second, *again)
    assert [len(items) for items in world.items] == [CROWD, 2 * CROWD]


@virtual
async def test_a_failed_crowd_is_not_waited_for() -> None:
    world = World(linger=Linger())
    world.broken = {0}
    await asyncio.gather(*world.submit(*range(MANY)), return_exceptions=True)
    assert await world.later(0.005, 1) == 2
    assert world.times[1] == pytest.approx(SEND_SECONDS + 0.005)


@virtual
async def test_draining_answers_everything_without_lingering() -> None:
    world = World(linger=Linger())
    await asyncio.gather(*world.submit(*range(MANY)))
    futures = world.submit(1)
    await asyncio.sleep(LINGER_SECONDS / 2)
    futures += world.submit(2)
    await world.groups.drain()
    assert [future.result() for future in futures] == [2, 4]
    assert now() == pytest.approx(SEND_SECONDS + LINGER_SECONDS / 2 + SEND_SECONDS)
