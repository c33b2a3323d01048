"""How much may be taken at once and how much a second, by GCRA: one number of state, no window to wait out. Pure."""

from __future__ import annotations

from typing import NamedTuple

SECOND_NS = 1_000_000_000


class Quota(NamedTuple):
    """`burst` at once, and `rate` a second from then on, evenly."""

    rate: float
    burst: int

    def spend(self, due: int, now: int, cost: int) -> tuple[int, int]:
        """(state', wait) of taking `cost` at `now`, in nanoseconds. The state is when nothing is owed any more.

        With a wait nothing was taken. What is more than the burst waits until nothing is owed, and is then owed whole:
        no request waits for ever, and none is cheaper for being large.
        """
        owed = max(due - now, 0)
        wait = owed - self._time(max(self.burst - cost, 0))
        return (due, wait) if wait > 0 else (now + owed + self._time(cost), 0)

    def left(self, due: int, now: int) -> int:
        """How much could be taken at once."""
        free = self._time(self.burst) - max(due - now, 0)
        return max(0, round(free * self.rate / SECOND_NS - 0.5 + 1e-6))

    def _time(self, cost: int) -> int:
        return int(cost * SECOND_NS / self.rate)


def seconds(nanoseconds: int) -> int:
    """Whole seconds, rounded up, as headers have them."""
    return -(-max(nanoseconds, 0) // SECOND_NS)
