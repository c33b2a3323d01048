"""How often a key may ask: GCRA, one number of memory a key. Never shared between API processes, so a key's limit is
that of one process; off unless the settings say otherwise.

A key may send `burst` requests at once, and from then on `rate` a second, evenly: there is no window to wait out.
"""

from __future__ import annotations

from uuid import UUID

from services.api import errors

SECOND_US = 1_000_000


class Limits:
    """When each key's next request would be due, in microseconds: its theoretical arrival time."""

    def __init__(self, rate: float, burst: int) -> None:
        self._burst = max(burst, 1)
        self._interval = int(SECOND_US / rate) if rate > 0 else 0
        self._due: dict[UUID, int] = {}  # as many as there are keys

    @property
    def counting(self) -> bool:
        """Whether there is a limit at all."""
        return self._interval > 0

    def take(self, key: UUID, elapsed_us: int) -> dict[str, str]:
        """Count one request; the RateLimit headers of its answer, none while limits are off. 429 when too early."""
        if not self._interval:
            return {}
        due = max(self._due.get(key, 0), elapsed_us)
        early = due - elapsed_us - (self._burst - 1) * self._interval
        if early > 0:
            raise errors.throttled(-(-early // SECOND_US), self._headers(due - elapsed_us))
        self._due[key] = due + self._interval
        return self._headers(self._due[key] - elapsed_us)

    def _headers(self, ahead_us: int) -> dict[str, str]:
        """`ahead_us`: how long until the key is as if it had never asked."""
        return {
            "RateLimit-Limit": str(self._burst),
            "RateLimit-Remaining": str(max(0, self._burst - -(-ahead_us // self._interval))),
            "RateLimit-Reset": str(-(-ahead_us // SECOND_US)),
        }
