"""Times as clients and files write them, to microseconds since 1970 in UTC: one reading for
capture, REST, filters and import.

What PostHog's parser reads (JavaScript's dates, then ISO 8601) is read the same; digits alone are
an epoch where they can be nothing else. Anything else is no time, never a guess.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from shared.inputs.legacy_dates import days_of, milliseconds_of

STORED_US_MIN, STORED_US_MAX = -2_208_988_800_000_000, 10_413_791_999_000_000
"""1900 to 2299: what the store's times hold. A time outside is none."""

TIME_CHARS_MAX = 100
"""No time is longer: `Date.toString` with a long name of its zone has 70."""

EPOCH_UNITS = ((11, 1_000_000), (14, 1_000), (17, 1))
"""Digits of an integer in seconds, milliseconds and microseconds, at most, and microseconds of one;
more are nanoseconds."""

_EPOCH = re.compile(r"[0-9]{9,20}|[0-9]{9,11}\.[0-9]{1,9}")
_FRACTION = re.compile(r":[0-9]{2}[.,]([0-9]{3})([0-9]{1,3})")

_ZONE_NAME = re.compile(r"([+-][0-9]{2}:?[0-9]{2}|Z)\[[A-Za-z0-9_+/-]{1,40}\]$")
"""Java's name of a zone behind its offset, which says the same."""

_ISO = re.compile(
    r"(?P<year>[0-9]{4})"
    r"(?:-?W(?P<week>[0-9]{2})(?:-?(?P<weekday>[1-7]))?|-?(?P<ordinal>[0-9]{3})"
    r"|(?:-?(?P<month>[0-9]{2})(?:-?(?P<day>[0-9]{2}))?)?)"
    r"(?:T(?P<hour>[0-9]{2})(?::?(?P<minute>[0-9]{2})(?::?(?P<second>[0-9]{2})"
    r"(?:[.,](?P<fraction>[0-9]{1,30}))?)?)?"
    r"(?:Z|(?P<zone_hour>[+-][0-9]{2})(?::?(?P<zone_minute>[0-9]{2}))?)?)?",
    re.IGNORECASE,
)


def time_us_of(value: Any) -> int | None:
    """Microseconds since 1970 of a text or a number; None when it is no time."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _of_number(value)
    if not isinstance(value, str) or len(value) > TIME_CHARS_MAX:
        return None
    return _stored(_of_text(value.strip()))


def _of_text(text: str) -> int | None:
    if _EPOCH.fullmatch(text):
        return _of_epoch(text)
    text = _ZONE_NAME.sub(r"\1", text)
    moment = milliseconds_of(text)
    if moment is None:
        return _of_iso(text)
    fraction = _FRACTION.search(text)
    if fraction is None or int(fraction[1]) != moment % 1000:
        return moment * 1000
    return moment * 1000 + int(fraction[2].ljust(3, "0"))


def _of_number(value: float) -> int | None:
    """Of seconds, or of smaller units where seconds would lie beyond the year 5138."""
    size = abs(value)
    if not size < 1e20:
        return None
    if size < 1e11:
        return _stored(round(value * 1_000_000))
    if size < 1e14:
        return _stored(round(value * 1_000))
    return _stored(round(value) if size < 1e17 else round(value / 1_000))


def _of_epoch(text: str) -> int:
    """Of digits alone: never through a float, which has too few digits for nanoseconds."""
    whole, _, fraction = text.partition(".")
    for digits_max, unit in EPOCH_UNITS:
        if len(whole) <= digits_max:
            return int(whole) * unit + int(fraction.ljust(6, "0")[:6])
    return int(whole) // 1_000


def _of_iso(text: str) -> int | None:
    """ISO 8601 that JavaScript does not read: basic forms, ordinal days, weeks."""
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    days = _days(match)
    hour, minute, second, zone_hour, zone_minute = (
        int(match[name] or 0)
        for name in ("hour", "minute", "second", "zone_hour", "zone_minute")
    )
    is_time = hour < 24 and minute < 60 and second < 60
    if days is None or not (is_time or (hour, minute, second) == (24, 0, 0)):
        return None
    sign = -1 if (match["zone_hour"] or "").startswith("-") else 1
    minutes = hour * 60 + minute - zone_hour * 60 - sign * zone_minute
    fraction = (match["fraction"] or "").ljust(6, "0")[:6]
    return ((days * 1440 + minutes) * 60 + second) * 1_000_000 + int(fraction)


def _days(match: re.Match[str]) -> int | None:
    """The day of an ISO text, in days since 1970; None for one that no calendar has."""
    year = int(match["year"])
    try:
        if match["week"]:
            day = date.fromisocalendar(
                year, int(match["week"]), int(match["weekday"] or 1)
            )
        elif match["ordinal"]:
            day = date.fromordinal(
                date(year, 1, 1).toordinal() + int(match["ordinal"]) - 1
            )
            if day.year != year:
                return None
        else:
            day = date(year, int(match["month"] or 1), int(match["day"] or 1))
    except ValueError:
        return None
    return days_of(day.year, day.month, day.day)


def _stored(time_us: int | None) -> int | None:
    if time_us is None or not STORED_US_MIN <= time_us <= STORED_US_MAX:
        return None
    return time_us
