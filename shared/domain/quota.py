"""How much may be taken at once and how much a second, by GCRA: one number of state, no window to
wait out. Pure."""

from __future__ import annotations

SECOND_NS = 1_000_000_000


class Quota:
    """`burst` at once, and `rate` a second from then on, evenly."""

    __slots__ = ("_interval", "_span", "burst")

    def __init__(self, rate: float, burst: int) -> None:
        self.burst = burst
        self._interval = SECOND_NS / rate
        self._span = int(burst * self._interval)

    def spend(self, due: int, now: int, cost: int) -> tuple[int, int]:
        """(state', wait) of taking `cost` at `now`, in nanoseconds. The state is when nothing is
        owed any more.

        With a wait nothing was taken. What is more than the burst waits until nothing is owed, and
        is then owed whole: no request waits for ever, and none is cheaper for being large.
        """
        owed = due - now if due > now else 0
        charge = int(cost * self._interval)
        wait = owed + charge - self._span if charge < self._span else owed
        return (due, wait) if wait > 0 else (now + owed + charge, 0)

    def remaining(self, due: int, now: int) -> int:
        """How much could be taken at once."""
        free = self._span - max(due - now, 0)
        return max(0, int(free / self._interval + 1e-6))


def seconds(nanoseconds: int) -> int:
    """Whole seconds, rounded up, as headers have them."""
    return -(-max(nanoseconds, 0) // SECOND_NS)
