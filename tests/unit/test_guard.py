"""The load guard, with an engine that is as busy as a test says and a clock that moves when it sleeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from services.deleter.sweep.guard import PAUSE_SECONDS, PAUSED_SECONDS_MAX, PROBES, Guard
from shared.domain.errors import StoreUnavailable
from shared.runtime import telemetry
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query

QUIET = (0.0, 0, 10**12)
"""Share of the pool, lag of replicas in seconds, free bytes."""


class Engine:
    """Answers as told: a load for each look, the last one for ever; each probe takes `seconds` of the clock."""

    def __init__(self, *loads: tuple[float, int, int]) -> None:
        self.loads: Sequence[tuple[float, int, int]] = loads or (QUIET,)
        self.looks = 0
        self.seconds, self.now = 0.001, 0.0
        self.slept: list[float] = []

    async def rows(self, query: Query) -> list[tuple[Any, ...]]:
        if query.name == "probe":
            self.now += self.seconds
            return []
        self.looks += 1
        return [self.loads[min(self.looks, len(self.loads)) - 1]]

    async def pause(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def guard(self) -> Guard:
        return Guard(cast(Store, self), pause=self.pause, monotonic=lambda: self.now)


def always() -> bool:
    return True


async def test_a_quiet_engine_is_not_waited_for() -> None:
    engine = Engine()
    guard = engine.guard()
    await guard.start()
    assert await guard.clear(always, 10**11)
    assert engine.slept == []


@pytest.mark.parametrize(
    ("load", "reason", "label"),
    [
        ((0.9, 0, 10**12), "90% of the threads for merges are taken", "merges"),
        ((0.0, 61, 10**12), "a replica is 61 s behind", "replicas"),
        ((0.0, 0, 1_999), "the partition needs 2,000 bytes and 1,999 are free", "disk"),
    ],
    ids=["merges", "replicas", "disk"],
)
async def test_a_step_waits_until_there_is_room(load: tuple[float, int, int], reason: str, label: str) -> None:
    engine = Engine(load, load, QUIET)
    paused = telemetry.DELETION_PAUSES.labels(label)._value.get()
    assert await engine.guard().clear(always, 1_000)
    assert engine.slept == [PAUSE_SECONDS] * 2
    assert telemetry.DELETION_PAUSES.labels(label)._value.get() == paused + 2

    lasting = Engine(load)
    with pytest.raises(StoreUnavailable, match=reason):
        await lasting.guard().clear(always, 1_000)
    assert PAUSED_SECONDS_MAX < sum(lasting.slept) <= PAUSED_SECONDS_MAX + 2 * PAUSE_SECONDS


@pytest.mark.parametrize("load", [(0.75, 0, 10**12), (0.0, 60, 10**12), (0.0, 0, 2_000)], ids=["pool", "lag", "disk"])
async def test_the_limits_themselves_are_room_enough(load: tuple[float, int, int]) -> None:
    engine = Engine(load)
    assert await engine.guard().clear(always, 1_000)
    assert engine.slept == []


@pytest.mark.parametrize(
    ("idle", "busy", "waits"), [(0.010, 0.031, True), (0.010, 0.029, False), (0.001, 0.019, False), (0.2, 0.7, True)]
)
async def test_readers_are_slow_when_they_are_three_times_as_slow_and_somebody_notices(
    idle: float, busy: float, waits: bool
) -> None:
    engine = Engine()
    engine.seconds = idle
    guard = engine.guard()
    await guard.start()
    engine.seconds = busy

    async def pause(seconds: float) -> None:
        engine.slept.append(seconds)
        engine.seconds = idle

    guard._pause = pause
    assert await guard.clear(always)
    assert engine.slept == ([PAUSE_SECONDS] if waits else [])


async def test_one_slow_read_is_a_hiccup() -> None:
    engine = Engine()
    guard = engine.guard()
    await guard.start()
    probes = iter([1.0] * (PROBES // 2) + [0.001] * PROBES)
    plain = engine.rows

    async def rows(query: Query) -> list[tuple[Any, ...]]:
        if query.name == "probe":
            engine.seconds = next(probes)
        return await plain(query)

    engine.rows = rows  # type: ignore[method-assign]
    assert await guard.clear(always)
    assert engine.slept == []


async def test_the_end_of_the_window_ends_the_wait() -> None:
    engine = Engine((0.9, 0, 10**12))
    assert not await engine.guard().clear(lambda: len(engine.slept) < 3)
    assert len(engine.slept) == 3
