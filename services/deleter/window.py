"""The deletion window: an opening (cron), a duration and a zone. Never reads the clock.

A scheduler fires points; erasing needs an interval. So the question is a predicate: the last
opening is not after now, and now lies before opening + duration. The opening is turned to UTC
first: the duration is elapsed time, and no window is an hour short or long on a day when the clocks
change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

AHEAD_MINUTES = 181
"""Where the search backwards starts, past now: local time repeats itself by at most three hours
anywhere."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Hours in which erasing may run."""

    cron: str
    hours: float
    zone: str

    def open_at(self, now_us: int) -> bool:
        return self.closes_at(now_us) is not None

    def closes_at(self, now_us: int) -> int | None:
        """The end of the window that is open now; None when none is."""
        opening = self._last_opening(now_us)
        if opening is None:
            return None
        closing = opening + round(self.hours * 3_600_000_000)
        return closing if now_us < closing else None

    def next_opening(self, now_us: int) -> int | None:
        """The first opening after now; None when the cron names a day that never comes."""
        for opening in CronSim(self.cron, self._local(now_us)):
            if _us(opening) > now_us:
                return _us(opening)
        return None

    def _last_opening(self, now_us: int) -> int | None:
        start = self._local(now_us + AHEAD_MINUTES * 60_000_000)
        for opening in CronSim(self.cron, start, reverse=True):
            if _us(opening) <= now_us:
                return _us(opening)
        return None

    def _local(self, us: int) -> datetime:
        return (_EPOCH + timedelta(microseconds=us)).astimezone(ZoneInfo(self.zone))


def _us(time: datetime) -> int:
    return (time.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
