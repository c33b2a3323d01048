"""The clock that is not believed when it jumps, and the moment that processes share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import StoreUnavailable
from shared.runtime import timekeeping
from shared.runtime.clock import FOLLOWED_US, SystemClock
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import advice, agree, clock_of, path_of

SECOND, DAY = 1_000_000, 86_400_000_000
START = 1_800_000_000_000_000


class Machine:
    """A clock that somebody sets, beside the time that goes by. Microseconds."""

    def __init__(self) -> None:
        self.wall, self.elapsed = START, 7 * DAY

    def pass_by(self, us: int) -> None:
        self.wall += us
        self.elapsed += us

    def clock(self, since: int | None = None) -> SystemClock:
        return SystemClock(since, wall_ns=lambda: self.wall * 1_000, elapsed_ns=lambda: self.elapsed * 1_000)


@given(st.lists(st.tuples(st.integers(0, 100 * SECOND), st.integers(-3 * DAY, 3 * DAY))))
def test_whatever_a_clock_is_set_to_time_rises_and_keeps_to_what_has_gone_by(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    clock = machine.clock()
    last, true = clock.now_us(), START
    for passed, set_by in steps:
        machine.pass_by(passed)
        machine.wall += set_by
        true += passed
        now = clock.now_us()
        assert now > last
        assert abs(now - true) <= FOLLOWED_US + len(steps)
        last = now


def test_a_clock_of_two_days_ahead_and_back_moves_no_stamp() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += 2 * DAY
    assert clock.now_us() == START
    machine.pass_by(SECOND)
    assert clock.now_us() == START + SECOND
    machine.wall -= 2 * DAY
    machine.pass_by(SECOND)
    assert clock.now_us() == START + 2 * SECOND


def test_a_small_step_is_followed() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += 30 * SECOND
    assert clock.now_us() == START + 30 * SECOND
    assert advice(clock.ahead_us(), Settings()) == ""


def test_what_takes_a_second_takes_a_second_whatever_the_clock_is_set_to() -> None:
    machine = Machine()
    clock = machine.clock()
    began = clock.elapsed_us()
    machine.pass_by(SECOND)
    machine.wall -= 30 * SECOND
    assert clock.elapsed_us() - began == SECOND


def test_a_process_that_starts_while_the_clock_is_wrong_counts_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, settings = Machine(), Settings(data=tmp_path)
    monkeypatch.setattr(timekeeping, "SystemClock", machine.clock)
    first = clock_of(settings)
    machine.wall += 2 * DAY
    later = clock_of(settings)
    machine.pass_by(SECOND)
    assert later.now_us() == first.now_us() == START + SECOND
    assert "172,800 s ahead" in advice(later.ahead_us(), settings)


def test_after_a_new_start_of_the_machine_its_clock_is_believed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, settings = Machine(), Settings(data=tmp_path)
    monkeypatch.setattr(timekeeping, "SystemClock", machine.clock)
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(timekeeping, "BOOT", boot)
    boot.write_text("one\n")
    clock_of(settings)
    boot.write_text("two\n")
    machine.elapsed = 0
    assert clock_of(settings).now_us() == START


@pytest.mark.parametrize("content", [b"", b"{", b'{"boot": 1}'])
def test_half_a_file_is_none(tmp_path: Path, content: bytes) -> None:
    settings = Settings(data=tmp_path)
    path_of(settings).parent.mkdir()
    path_of(settings).write_bytes(content)
    assert abs(clock_of(settings).ahead_us()) < FOLLOWED_US


def judge(machine: Machine, off: int = 0) -> Callable[[], Awaitable[int]]:
    async def now() -> int:
        return machine.wall + off

    return now


def test_a_server_whose_clock_differs_is_believed_and_so_is_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, settings = Machine(), Settings(data=tmp_path)
    monkeypatch.setattr(timekeeping, "SystemClock", machine.clock)
    machine.wall += 2 * DAY  # since the machine was started: nobody here can know
    clock = clock_of(settings)
    assert clock.now_us() == START + 2 * DAY
    asyncio.run(agree(clock, judge(machine, -2 * DAY), settings))
    fresh = clock_of(settings)
    machine.pass_by(SECOND)
    assert fresh.now_us() == START + SECOND
    assert fresh.ahead_us() == 2 * DAY


def test_a_server_that_does_not_answer_changes_nothing(tmp_path: Path) -> None:
    async def away() -> int:
        raise StoreUnavailable

    clock = Machine().clock()
    asyncio.run(agree(clock, away, Settings(data=tmp_path)))
    assert clock.now_us() == START
