"""Time as a parameter. Never read by the domain."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Microseconds since the epoch, UTC."""

    def now_us(self) -> int: ...


class SystemClock:
    """The machine's clock, made to rise: no two answers are equal, and a step back is not passed on."""

    def __init__(self) -> None:
        self._last = 0

    def now_us(self) -> int:
        self._last = max(time.time_ns() // 1_000, self._last + 1)
        return self._last


class ManualClock:
    """A clock that tests move."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us
