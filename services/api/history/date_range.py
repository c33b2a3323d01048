"""The dates of a timeline: date_from, date_to and interval, as the original reads them
(docs/contract.md §5)."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from services.api.calls import RestCall
from services.api.http.parameters import DATE_FROM, DATE_TO, Choice, Text
from shared.domain.errors import BadInput
from shared.domain.person.replay import FOREVER
from shared.inputs.dates import DateReading, end_of, micros, plus, read_date, start_of

DAYS_DEFAULT = 7
"""Days before now at which a timeline begins that names no date_from."""

INTERVAL = Choice(
    "interval",
    "How far equal dates are moved apart.",
    absent="day",
    choices=("minute", "hour", "day", "week", "month"),
)

ALL = "all"
"""The date_from of everything there is."""


def span_of(call: RestCall) -> tuple[int, int]:
    """The stamps from date_from to date_to; all stamps without them."""
    now = _now(call.context.clock.now_us(), call.project.zone)
    since, until = _date(call, DATE_FROM, now), _date(call, DATE_TO, now)
    if since is not None and until is not None:
        _check_order(_beginning(since), until.last)
    first = -FOREVER if since is None else micros(_beginning(since))
    last = FOREVER if until is None else micros(until.last)
    return first, last


def date_range(call: RestCall, now_us: int, born_us: int) -> tuple[datetime, datetime]:
    """From the start of the first day to the end of the last; equal dates are moved apart by the
    interval. `born_us` is when a timeline of everything begins."""
    now = _now(now_us, call.project.zone)
    since, until = _date(call, DATE_FROM, now), _date(call, DATE_TO, now)
    if call.parameter(DATE_FROM) == ALL:
        first = start_of(_now(born_us, call.project.zone), "d")
    elif since is None:
        first = start_of(now - timedelta(days=DAYS_DEFAULT), "d")
    else:
        first = _beginning(since)
    if until is None:
        last = end_of(now, "d")
    elif since is not None and since.before == until.before:
        last = _moved(first, call.parameter(INTERVAL))
    else:
        last = until.last
    _check_order(first, last)
    return first, last


def _now(now_us: int, zone: str) -> datetime:
    return datetime.fromtimestamp(now_us / 1e6, ZoneInfo(zone))


def _date(call: RestCall, parameter: Text, now: datetime) -> DateReading | None:
    """What a date means; None without one, and for everything."""
    text = call.parameter(parameter)
    if not text or (text == ALL and parameter is DATE_FROM):
        return None
    reading = read_date(text, now)
    if reading is None:
        raise parameter.wrong(
            "must be a date (2026-01-31), a time (ISO 8601) or relative (-7d, mStart)."
        )
    return reading


def _beginning(reading: DateReading) -> datetime:
    """Where a range begins: with the day, or so many hours or minutes ago."""
    return reading.first if reading.is_day else reading.before


def _moved(first: datetime, interval: str) -> datetime:
    """The end of a range whose dates are equal."""
    if interval in ("minute", "hour"):
        return plus(first, timedelta(**{f"{interval}s": 1}))
    if interval == "week":
        return end_of(first + timedelta(days=6), "d")
    return end_of(first, "m" if interval == "month" else "d")


def _check_order(first: datetime, last: datetime) -> None:
    if last < first:
        raise BadInput("date_to lies before date_from.", attr="date_to")
