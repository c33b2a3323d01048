"""Coalesced reads: what is asked together, who waits for whom, and what an error does. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.api.reads import query_batcher as coalesce
from services.api.reads.query_batcher import Coalesced
from shared.domain.errors import StoreUnavailable
from shared.runtime import group_commit
from shared.runtime.group_commit import CROWD_SECONDS, LINGER_SECONDS
from tests.support.virtual import run

CALL_SECONDS = 0.01
CROWD = range(20)


class World:
    """Calls that take CALL_SECONDS each: when they began, and of which keys."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, list[int]]] = []
        self.failing = False
        self.reads: Coalesced[int, int] = Coalesced(self.many)

    async def many(self, keys: Sequence[int]) -> dict[int, int]:
        self.calls.append((round(asyncio.get_running_loop().time(), 6), list(keys)))
        await asyncio.sleep(CALL_SECONDS)
        if self.failing:
            raise StoreUnavailable("away")
        return {key: key * 2 for key in keys if key >= 0}

    async def later(self, seconds: float, key: int) -> int | None:
        await asyncio.sleep(seconds)
        return await self.reads.get(key)

    @property
    def sizes(self) -> list[int]:
        return [len(keys) for _, keys in self.calls]


def test_one_call_in_flight_and_the_rest_in_the_next() -> None:
    async def scene() -> None:
        world = World()
        first = asyncio.create_task(world.reads.get(1))
        rest = [asyncio.create_task(world.later(0.001 * place, key)) for place, key in enumerate((2, 3, 3, -1), 1)]
        assert await first == 2
        assert await asyncio.gather(*rest) == [4, 6, 6, None]
        assert world.calls == [(0.0, [1]), (CALL_SECONDS, [2, 3, -1])]

    run(scene())


def test_a_crowd_that_was_answered_is_waited_for() -> None:
    async def scene() -> None:
        world = World()
        await asyncio.gather(*(world.reads.get(key) for key in CROWD))
        again = [world.later(0.005 + 0.00005 * place, key) for place, key in enumerate(CROWD)]
        await asyncio.gather(*again)
        assert world.sizes == [len(CROWD), len(CROWD)]
        assert world.calls[1][0] == pytest.approx(CALL_SECONDS + 0.005 + 0.00005 * (len(CROWD) - 1)), "at the last one"

    run(scene())


def test_half_a_crowd_waits_for_the_other_half() -> None:
    """Clients that ask while others are answered: else two halves would take turns for ever."""

    async def scene() -> None:
        world = World()
        halves = CROWD[:10], CROWD[10:]
        first = [world.reads.get(key) for key in halves[0]]
        second = [world.later(0.001, key) for key in halves[1]]
        again = [world.later(CALL_SECONDS + 0.001, key + 100) for key in halves[0]]
        await asyncio.gather(*first, *second, *again)
        assert world.sizes == [10, 20]

    run(scene())


@pytest.mark.parametrize(
    ("asked", "pause", "waited"),
    [(20, 0.005, LINGER_SECONDS), (group_commit.CROWD - 1, 0.005, 0.0), (20, CROWD_SECONDS + 0.001, 0.0)],
    ids=["who does not come back", "few", "long ago"],
)
def test_nobody_waits_longer_than_is_said(asked: int, pause: float, waited: float) -> None:
    async def scene() -> None:
        world = World()
        await asyncio.gather(*(world.reads.get(key) for key in range(asked)))
        assert await world.later(pause, 1) == 2
        assert world.calls[1] == (pytest.approx(CALL_SECONDS + pause + waited), [1])

    run(scene())


def test_one_who_asks_for_many_is_no_crowd() -> None:
    async def scene() -> None:
        world = World()
        await world.reads.ask(range(100))
        await asyncio.sleep(0.005)
        assert await world.reads.ask(range(30)) == [key * 2 for key in range(30)]
        assert world.calls[1][0] == pytest.approx(CALL_SECONDS + 0.005)

    run(scene())


@pytest.mark.parametrize(
    "seconds", [LINGER_SECONDS / 2, LINGER_SECONDS + CALL_SECONDS / 2], ids=["gathering", "calling"]
)
def test_who_waits_when_the_caller_is_cancelled_is_told(seconds: float) -> None:
    async def scene() -> None:
        world = World()
        await asyncio.gather(*(world.reads.get(key) for key in CROWD))
        asked = world.reads.ask([1])
        caller = next(task for task in asyncio.all_tasks() if task.get_name() == "coalesced reads")
        await asyncio.sleep(seconds)
        later = world.reads.ask([2])
        caller.cancel()
        for future in (asked, later):
            with pytest.raises(StoreUnavailable):
                await future
        assert await world.reads.get(3) == 6, "the next one has a caller of its own"

    run(scene())


def test_an_error_reaches_everybody_and_the_next_call_is_made() -> None:
    async def scene() -> None:
        world = World()
        world.failing = True
        found = await asyncio.gather(*(world.reads.get(key) for key in (1, 2)), return_exceptions=True)
        assert [type(one) for one in found] == [StoreUnavailable, StoreUnavailable]
        world.failing = False
        assert await world.reads.get(1) == 2

    run(scene())


def test_calls_and_waiting_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "KEYS_MAX", 3)
    monkeypatch.setattr(coalesce, "WAITING_MAX", 7)

    async def scene() -> None:
        world = World()
        asked = [asyncio.create_task(world.reads.get(key)) for key in range(8)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert found[:7] == [key * 2 for key in range(7)]
        assert isinstance(found[7], StoreUnavailable)
        assert world.sizes == [3, 3, 1]

    run(scene())
