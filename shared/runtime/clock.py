"""Clocks, passed as parameters. The domain reads none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

FOLLOWED_US = 60_000_000
"""How far the machine's clock is followed away from the time that has gone by.

NTP steps by less. A stamp of a clock that is ahead wins over all writes until that time comes.
"""


class Clock(Protocol):
    """Microseconds since the epoch, UTC."""

    def now_us(self) -> int: ...

    def elapsed_us(self) -> int:
        """Microseconds since a fixed moment: durations that setting the clock does not change."""


def _elapsed_ns() -> int:
    """Nanoseconds since boot, sleep included: cannot be set, and is shared by all processes."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SystemClock:
    """The machine's clock, strictly rising, and not followed when it jumps.

    Beyond FOLLOWED_US the elapsed time counts instead, from the moment `since`, when it was zero.
    """

    def __init__(
        self,
        since: int | None = None,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        elapsed_ns: Callable[[], int] = _elapsed_ns,
    ) -> None:
        """Count from `since`, shared by other processes; without it, from the clock's time now."""
        self._wall_ns = wall_ns
        self._elapsed_ns = elapsed_ns
        self._last = 0
        if since is None:
            since = self._wall_ns() // 1_000 - self._elapsed_ns() // 1_000
        self.since = since

    def now_us(self) -> int:
        wall = self._wall_ns() // 1_000
        counted = self.since + self._elapsed_ns() // 1_000
        now = wall if -FOLLOWED_US <= wall - counted <= FOLLOWED_US else counted
        self._last = max(now, self._last + 1)
        return self._last

    def elapsed_us(self) -> int:
        return self._elapsed_ns() // 1_000

    def ahead_us(self) -> int:
        """Microseconds by which the clock is ahead of the elapsed time; negative when behind."""
        return self._wall_ns() // 1_000 - self.since - self._elapsed_ns() // 1_000

    def set(self, now_us: int) -> None:
        """Count from this time, given by a more trusted clock."""
        self.since = now_us - self._elapsed_ns() // 1_000


class ManualClock:
    """A clock that tests set."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us

    def elapsed_us(self) -> int:
        return self.us
