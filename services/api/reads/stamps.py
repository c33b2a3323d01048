"""Ids and stamps of commands. Stamps never go back."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

import uuid_utils

from shared.domain.ids import uuid_of
from shared.runtime.clock import Clock


class Mint(Protocol):
    """Where ids come from. Only the API mints them."""

    def __call__(self) -> UUID: ...


def uuid7() -> UUID:
    """A time-ordered random uuid."""
    return uuid_of(uuid_utils.uuid7().int)


class Stamps:
    """Stamps for commands: receive time in microseconds, never below one that was issued or seen
    before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.highest = 0

    def reserve(self, count: int) -> int:
        """The first of `count` consecutive stamps."""
        first = max(self._clock.now_us(), self.highest + 1)
        self.highest = first + max(count, 1) - 1
        return first

    def observe(self, stamp: int) -> None:
        """Issue no stamp below this one from now on."""
        self.highest = max(self.highest, stamp)
