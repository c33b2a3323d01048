"""How often a key may ask, and how much a project may capture. Never shared between API processes:
a limit is that of one process. Memory is one state for each key or project that is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from services.api.http import errors
from shared.domain.quota import Quota, seconds
from shared.runtime import telemetry

MICROSECOND_NS = 1_000

CAPTURE_EVENTS, CAPTURE_BYTES = 50_000, 50_000_000
"""A second, of one project: more than one process takes of single events, a tenth above what it
takes in batches."""

CAPTURE_BURST_SECONDS = 10
"""What a project may send at once: a device that was offline, an import."""

States = tuple[int, int]
"""Of a project: when nothing is owed any more, of events and of bytes."""


class RateLimiter:
    """Rate limits of keys: when each owes nothing any more. Off without settings."""

    def __init__(self, rate: float, burst: int) -> None:
        self._quota = Quota(rate, max(burst, 1)) if rate > 0 else None
        self._due: dict[UUID, int] = {}

    @property
    def counting(self) -> bool:
        """Whether there is a limit at all."""
        return self._quota is not None

    def take(self, key: UUID, elapsed_us: int) -> dict[str, str]:
        """Count one request; the RateLimit headers of its answer, none while limits are off. 429
        when too early."""
        quota, now = self._quota, elapsed_us * MICROSECOND_NS
        if quota is None:
            return {}
        due, wait = quota.spend(self._due.get(key, 0), now, 1)
        headers = errors.rate_limits(
            quota.burst, quota.left(due, now), seconds(due - now)
        )
        if wait:
            raise errors.throttled(seconds(wait), headers)
        self._due[key] = due
        return headers


class CaptureQuotas:
    """What each project has sent with its token: events, and bytes of JSON. A rate of 0 is no
    limit."""

    def __init__(
        self,
        events: int = CAPTURE_EVENTS,
        size: int = CAPTURE_BYTES,
        burst_seconds: int = CAPTURE_BURST_SECONDS,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._events, self._bytes = (
            Quota(rate, rate * burst_seconds) if rate > 0 else None
            for rate in (events, size)
        )
        self._now = monotonic_ns
        self._due: dict[int, States] = {}

    def take(self, project: int, events: int, size: int) -> None:
        """Count a request, or raise 429 with when to send it again."""
        now = self._now()
        first, second = self._due.get(project, (0, 0))
        if self._events is not None:
            first, wait = self._events.spend(first, now, events)
            if wait:
                raise self._refusal(self._events, first, now, wait)
        if self._bytes is not None:
            second, wait = self._bytes.spend(second, now, size)
            if wait:
                raise self._refusal(self._bytes, second, now, wait)
        self._due[project] = first, second

    def _refusal(self, quota: Quota, due: int, now: int, wait: int) -> errors.ApiError:
        telemetry.REFUSED.labels("quota").inc()
        limits = errors.rate_limits(
            quota.burst, quota.left(due, now), seconds(due - now)
        )
        return errors.throttled(seconds(wait), limits)
