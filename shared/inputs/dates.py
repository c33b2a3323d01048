"""Dates as filters and timelines take them: a day, a time, or relative to now, as the original's
date pickers send them. One reading for both. Pure.

A date without a time is the whole day, in the zone of `now`.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple

from shared.inputs.times import time_us_of

MICROSECOND = timedelta(microseconds=1)
DAY_US = 86_400_000_000
QUARTER_WEEKS = 13
"""A quarter back is so many weeks, as the original has it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RELATIVE = re.compile(r"-?([0-9]{1,4})?([hdwmqyM])(Start|End)?")
_LOCAL = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}(:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?)?",
    re.IGNORECASE,
)
"""A time of ISO 8601 without a zone."""

_DAY = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(?![0-9])")
_LOST_PLUS = re.compile(r"(T[0-9:.,]+) ([0-9]{2}:?[0-9]{2})$", re.IGNORECASE)
"""An offset whose sign a query has made a blank."""

_YEAR = re.compile(r"[0-9]{4}")
"""What every date has; JavaScript reads a 7 as July 2001."""

_WITH_TIME = re.compile(r":|[0-9]T[0-9]|^[0-9.]{9,}$", re.IGNORECASE)
"""What only a text with a time has, or an epoch."""


class DateReading(NamedTuple):
    """What a date means. All in the zone of `now`, ends to the microsecond."""

    before: datetime
    """What is earlier is before the date."""

    after: datetime
    """What is later is after it."""

    first: datetime
    last: datetime
    """What lies between both is on it: a day, an hour for hours back, a minute, or one moment."""

    is_day: bool


def read_date(text: str, now: datetime) -> DateReading | None:
    """What a text means; None when it is no date. `now` has a zone."""
    relative = _RELATIVE.fullmatch(text)
    if relative is None:
        return read_absolute(text, now.tzinfo or UTC)
    try:
        return _relative(relative, now)
    except (ValueError, OverflowError):  # years that no calendar has
        return None


def read_absolute(text: str, zone: tzinfo) -> DateReading | None:
    """What a day or a time means, one without an offset in this zone; None when it is neither."""
    text = _LOST_PLUS.sub(r"\1+\2", text.strip())
    try:
        return _absolute(text, zone)
    except (ValueError, OverflowError):  # days that no calendar has
        return None


def micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // MICROSECOND


def start_of(moment: datetime, unit: str) -> datetime:
    """When the minute (M), the hour, the day, the month or the year of a moment begins."""
    if unit in "hM":
        start = moment.replace(second=0, microsecond=0)
        return start if unit == "M" else start.replace(minute=0)
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if unit == "d":
        return start
    return start.replace(day=1, month=1 if unit == "y" else start.month)


def end_of(moment: datetime, unit: str) -> datetime:
    """The last microsecond of the same."""
    start = start_of(moment, unit)
    if unit in "hM":
        length = timedelta(hours=1) if unit == "h" else timedelta(minutes=1)
        return plus(start, length - MICROSECOND)
    days = {"m": 32, "y": 367}.get(unit, 1)
    return plus(start_of(start + timedelta(days=days), unit), -MICROSECOND)


def plus(moment: datetime, duration: timedelta) -> datetime:
    """The moment at which so much time has passed, whatever clocks are turned."""
    return (moment.astimezone(UTC) + duration).astimezone(moment.tzinfo)


def _relative(match: re.Match[str], now: datetime) -> DateReading | None:
    number, unit, position = match.groups()
    if (number is None and position is None) or (position and unit in "wq"):
        return None  # a bare letter; the original ignores the position there
    moment = _back(now, int(number or 0), unit)
    if position:
        moment = start_of(moment, unit) if position == "Start" else end_of(moment, unit)
    span = unit if unit in "hM" else "d"
    return DateReading(
        moment, moment, start_of(moment, span), end_of(moment, span), span == "d"
    )


def _absolute(text: str, zone: tzinfo) -> DateReading | None:
    time_us = time_us_of(text) if _YEAR.search(text) else None
    if time_us is None:
        return None
    if (day := _DAY.match(text)) is not None:
        date(*map(int, day.groups()))  # 30 February is no day: ValueError
    moment = _EPOCH + timedelta(microseconds=time_us)
    if time_us % DAY_US == 0 and _WITH_TIME.search(text) is None:
        first = moment.replace(tzinfo=zone)
        last = end_of(first, "d")
        return DateReading(first, last, first, last, is_day=True)
    if _LOCAL.fullmatch(text):
        moment = moment.replace(tzinfo=zone)
    moment = moment.astimezone(zone)
    return DateReading(moment, moment, moment, moment, is_day=False)


def _back(now: datetime, count: int, unit: str) -> datetime:
    """So many units before now. Hours and minutes are time that has passed; days and longer keep
    the clock, and months end where a day is missing."""
    if unit in "hM":
        passed = timedelta(hours=count) if unit == "h" else timedelta(minutes=count)
        return plus(now, -passed)
    if unit in "dwq":
        weeks = {"w": 7, "q": 7 * QUARTER_WEEKS}.get(unit, 1)
        return now - timedelta(days=count * weeks)
    months = now.year * 12 + now.month - 1 - count * (12 if unit == "y" else 1)
    first = now.replace(year=months // 12, month=months % 12 + 1, day=1)
    last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    return first.replace(day=min(now.day, last.day))
