"""The dates of a timeline: date_from, date_to and interval, as the original reads them
(docs/contract.md §5)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from services.api.calls import RestCall
from services.api.http.parameters import DATE_FROM, DATE_TO, Choice, Text
from shared.domain.errors import BadInput
from shared.domain.person.replay import FOREVER

DAYS_DEFAULT = 7
"""Days before now at which a timeline begins that names no date_from."""

INTERVAL = Choice(
    "interval",
    "How far equal dates are moved apart.",
    absent="day",
    choices=("minute", "hour", "day", "week", "month"),
)

_RELATIVE = re.compile(r"-(\d{1,4})([hdwmy])(Start|End)?")


def span_of(call: RestCall) -> tuple[int, int]:
    """The stamps from date_from to date_to; all stamps without them."""
    zone = ZoneInfo(call.project.zone)
    now = datetime.fromtimestamp(call.context.clock.now_us() / 1e6, zone)
    since, until = _date(call, DATE_FROM, now), _date(call, DATE_TO, now)
    if until is not None and _is_day(call.parameter(DATE_TO)):
        until = _day_end(until)
    if since is not None and until is not None and until < since:
        raise BadInput("date_to lies before date_from.", attr="date_to")
    first = -FOREVER if since is None else micros(since)
    last = FOREVER if until is None else micros(until)
    return first, last


def date_range(
    call: RestCall, zone: ZoneInfo, now: datetime
) -> tuple[datetime, datetime]:
    """From the start of the first day to the end of the last; equal dates are moved apart by the
    interval."""
    since = _date(call, DATE_FROM, now) or _midnight(now - timedelta(days=DAYS_DEFAULT))
    until = _date(call, DATE_TO, now)
    if until is None:
        return since, _day_end(now)
    if until == since:
        interval = call.parameter(INTERVAL)
        if interval == "hour":
            return since, until + timedelta(hours=1)
        if interval == "month":
            following = (until.replace(day=1) + timedelta(days=32)).replace(day=1)
            return since, _day_end(following - timedelta(days=1))
        return since, _day_end(until)
    if _is_day(call.parameter(DATE_TO)):
        until = _day_end(until)
    if until < since:
        raise BadInput("date_to lies before date_from.", attr="date_to")
    return since, until


def _is_day(text: str) -> bool:
    """Whether a date means all of its day."""
    return len(text) == len("2026-01-01") or text.startswith("-")


def _date(call: RestCall, parameter: Text, now: datetime) -> datetime | None:
    text = call.parameter(parameter)
    if not text:
        return None
    match = _RELATIVE.fullmatch(text)
    try:
        if match is not None:
            count, unit = int(match[1]), match[2]
            if unit == "h":
                return now - timedelta(hours=count)
            if unit in "dw":
                return _midnight(
                    now - timedelta(days=count * (7 if unit == "w" else 1))
                )
            months = now.year * 12 + now.month - 1 - count * (12 if unit == "y" else 1)
            first = now.replace(year=months // 12, month=months % 12 + 1, day=1)
            last = ((first + timedelta(days=32)).replace(day=1) - timedelta(days=1)).day
            return _midnight(first.replace(day=min(now.day, last)))
        parsed = datetime.fromisoformat(text)
        return (
            parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=now.tzinfo)
        )
    except (ValueError, OverflowError):
        raise parameter.wrong(
            "must be a date (2026-01-31), a time (ISO 8601) or relative (-7d)."
        ) from None


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _day_end(moment: datetime) -> datetime:
    return moment.replace(hour=23, minute=59, second=59, microsecond=999_999)


def micros(moment: datetime) -> int:
    """A time as stamps have it: microseconds since 1970."""
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
