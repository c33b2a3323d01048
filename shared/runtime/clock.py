"""Time as a parameter. Never read by the domain."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

FOLLOWED_US = 60_000_000
"""How far the machine's clock is followed away from the time that has gone by. NTP steps by less; what a wrong clock
has stamped wins over everything that is written until that time comes."""


class Clock(Protocol):
    """Microseconds since the epoch, UTC."""

    def now_us(self) -> int: ...

    def elapsed_us(self) -> int:
        """Since some moment: for measuring how long something takes, whatever a clock is set to meanwhile."""


def _elapsed_ns() -> int:
    """Since the machine was started, time asleep included: nobody can set it, and all its processes share it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SystemClock:
    """The machine's clock, made to rise, and not believed when it jumps: no two answers are equal.

    Beyond FOLLOWED_US the time that has gone by counts instead, from the moment `since`, at which it was zero.
    """

    def __init__(
        self,
        since: int | None = None,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        elapsed_ns: Callable[[], int] = _elapsed_ns,
    ) -> None:
        """`since` is what other processes count from; without it the clock is believed once, now."""
        self._wall_ns, self._elapsed_ns = wall_ns, elapsed_ns
        self._last = 0
        self.since = self._wall_ns() // 1_000 - self._elapsed_ns() // 1_000 if since is None else since

    def now_us(self) -> int:
        wall = self._wall_ns() // 1_000
        counted = self.since + self._elapsed_ns() // 1_000
        now = wall if -FOLLOWED_US <= wall - counted <= FOLLOWED_US else counted
        self._last = max(now, self._last + 1)
        return self._last

    def elapsed_us(self) -> int:
        return self._elapsed_ns() // 1_000

    def ahead_us(self) -> int:
        """How far the machine's clock is ahead of the time that has gone by; negative when it is behind."""
        return self._wall_ns() // 1_000 - self.since - self._elapsed_ns() // 1_000

    def set(self, now_us: int) -> None:
        """Count from here: somebody who knows better says that it is this late."""
        self.since = now_us - self._elapsed_ns() // 1_000


class ManualClock:
    """A clock that tests move."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us

    def elapsed_us(self) -> int:
        return self.us
