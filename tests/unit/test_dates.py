"""Dates of filters and timelines: what each that PostHog's date pickers send means there, and here."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.inputs.dates import MICROSECOND, end_of, micros, read_date, start_of

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 5, 31, 14, 35, 10, 123_456, tzinfo=BERLIN)
"""A 31st, and summer."""

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Pacific/Apia", "Asia/Kolkata",
)  # fmt: skip

PICKED = [  # (text, its moment, where a range from it begins, where one to it ends): PostHog's relative_date_parse
    ("-1h", "2026-05-31 13:35:10.123456", "2026-05-31 13:35:10.123456", "2026-05-31 13:59:59.999999"),
    ("-24h", "2026-05-30 14:35:10.123456", "2026-05-30 14:35:10.123456", "2026-05-30 14:59:59.999999"),
    ("-48h", "2026-05-29 14:35:10.123456", "2026-05-29 14:35:10.123456", "2026-05-29 14:59:59.999999"),
    ("-30M", "2026-05-31 14:05:10.123456", "2026-05-31 14:05:10.123456", "2026-05-31 14:05:59.999999"),
    ("-1d", "2026-05-30 14:35:10.123456", "2026-05-30 00:00:00", "2026-05-30 23:59:59.999999"),
    ("-0d", "2026-05-31 14:35:10.123456", "2026-05-31 00:00:00", "2026-05-31 23:59:59.999999"),
    ("-7d", "2026-05-24 14:35:10.123456", "2026-05-24 00:00:00", "2026-05-24 23:59:59.999999"),
    ("7d", "2026-05-24 14:35:10.123456", "2026-05-24 00:00:00", "2026-05-24 23:59:59.999999"),
    ("-14d", "2026-05-17 14:35:10.123456", "2026-05-17 00:00:00", "2026-05-17 23:59:59.999999"),
    ("-90d", "2026-03-02 14:35:10.123456", "2026-03-02 00:00:00", "2026-03-02 23:59:59.999999"),
    ("-180d", "2025-12-02 14:35:10.123456", "2025-12-02 00:00:00", "2025-12-02 23:59:59.999999"),
    ("-1w", "2026-05-24 14:35:10.123456", "2026-05-24 00:00:00", "2026-05-24 23:59:59.999999"),
    ("-1m", "2026-04-30 14:35:10.123456", "2026-04-30 00:00:00", "2026-04-30 23:59:59.999999"),
    ("-3m", "2026-02-28 14:35:10.123456", "2026-02-28 00:00:00", "2026-02-28 23:59:59.999999"),
    ("-12m", "2025-05-31 14:35:10.123456", "2025-05-31 00:00:00", "2025-05-31 23:59:59.999999"),
    ("-1q", "2026-03-01 14:35:10.123456", "2026-03-01 00:00:00", "2026-03-01 23:59:59.999999"),
    ("-1y", "2025-05-31 14:35:10.123456", "2025-05-31 00:00:00", "2025-05-31 23:59:59.999999"),
    ("dStart", "2026-05-31 00:00:00", "2026-05-31 00:00:00", "2026-05-31 23:59:59.999999"),
    ("dEnd", "2026-05-31 23:59:59.999999", "2026-05-31 00:00:00", "2026-05-31 23:59:59.999999"),
    ("-1dStart", "2026-05-30 00:00:00", "2026-05-30 00:00:00", "2026-05-30 23:59:59.999999"),
    ("-1dEnd", "2026-05-30 23:59:59.999999", "2026-05-30 00:00:00", "2026-05-30 23:59:59.999999"),
    ("hStart", "2026-05-31 14:00:00", "2026-05-31 14:00:00", "2026-05-31 14:59:59.999999"),
    ("-1hEnd", "2026-05-31 13:59:59.999999", "2026-05-31 13:59:59.999999", "2026-05-31 13:59:59.999999"),
    ("mStart", "2026-05-01 00:00:00", "2026-05-01 00:00:00", "2026-05-01 23:59:59.999999"),
    ("mEnd", "2026-05-31 23:59:59.999999", "2026-05-31 00:00:00", "2026-05-31 23:59:59.999999"),
    ("-1mStart", "2026-04-01 00:00:00", "2026-04-01 00:00:00", "2026-04-01 23:59:59.999999"),
    ("-1mEnd", "2026-04-30 23:59:59.999999", "2026-04-30 00:00:00", "2026-04-30 23:59:59.999999"),
    ("yStart", "2026-01-01 00:00:00", "2026-01-01 00:00:00", "2026-01-01 23:59:59.999999"),
    ("-1yStart", "2025-01-01 00:00:00", "2025-01-01 00:00:00", "2025-01-01 23:59:59.999999"),
    ("-1yEnd", "2025-12-31 23:59:59.999999", "2025-12-31 00:00:00", "2025-12-31 23:59:59.999999"),
    ("2026-05-02", None, "2026-05-02 00:00:00", "2026-05-02 23:59:59.999999"),
    ("2026-5-2", None, "2026-05-02 00:00:00", "2026-05-02 23:59:59.999999"),
    ("20260502", None, "2026-05-02 00:00:00", "2026-05-02 23:59:59.999999"),
    ("2026-05-02T10:00", "2026-05-02 10:00:00", "2026-05-02 10:00:00", "2026-05-02 10:00:00"),
    ("2026-05-02 10:00:00", "2026-05-02 10:00:00", "2026-05-02 10:00:00", "2026-05-02 10:00:00"),
    ("2026-05-02T10:00:00.5", "2026-05-02 10:00:00.5", "2026-05-02 10:00:00.5", "2026-05-02 10:00:00.5"),
    ("2026-05-02T10:00:00Z", "2026-05-02 12:00:00", "2026-05-02 12:00:00", "2026-05-02 12:00:00"),
    ("2026-05-02T00:00:00Z", "2026-05-02 02:00:00", "2026-05-02 02:00:00", "2026-05-02 02:00:00"),
    ("2026-05-02T10:00:00 07:00", "2026-05-02 05:00:00", "2026-05-02 05:00:00", "2026-05-02 05:00:00"),
    ("2026-05-02T10:00:00-07:00", "2026-05-02 19:00:00", "2026-05-02 19:00:00", "2026-05-02 19:00:00"),
]  # fmt: skip


def local(text: str) -> datetime:
    whole, _, fraction = text.partition(".")
    return datetime.fromisoformat(whole).replace(microsecond=int(fraction.ljust(6, "0")), tzinfo=BERLIN)


@pytest.mark.parametrize(("text", "moment", "since", "until"), PICKED, ids=[row[0] for row in PICKED])
def test_what_the_date_pickers_send_means_the_same(text: str, moment: str | None, since: str, until: str) -> None:
    reading = read_date(text, NOW)
    assert reading is not None
    if moment is not None:
        assert reading.before == reading.after == local(moment)
    assert (reading.first if reading.is_day else reading.before, reading.last) == (local(since), local(until))


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "-d", "d", "Start", "-7", "7", "0", "17", "-7D", "-7x", "wStart", "-1qEnd", "-99999d", "-9999y",
        "all", "2026-02-30", "2026-13-01", "2026-05-02T25:00", "true", "null", "-1.5d", "--1d", "-1d ",
        "yesterday", "١٢d",
    ],
)  # fmt: skip
def test_what_is_no_date_is_none_and_never_now(text: str) -> None:
    """The original takes a text in which it finds nothing for now."""
    assert read_date(text, NOW) is None


@given(st.dates(date(1975, 1, 1), date(2100, 1, 1)), st.sampled_from(ZONES))
def test_a_day_is_all_of_it_in_its_zone_whatever_the_clocks_do(day: date, zone: str) -> None:
    now = datetime(2026, 5, 31, tzinfo=ZoneInfo(zone))
    reading, following = (read_date(each.isoformat(), now) for each in (day, day + timedelta(days=1)))
    assert reading is not None and following is not None
    assert micros(reading.last) + 1 == micros(following.first)  # no gap, no overlap
    assert reading.before == reading.first and reading.after == reading.last and reading.is_day
    assert timedelta(hours=22) < reading.last.astimezone(UTC) - reading.first.astimezone(UTC) < timedelta(hours=26) or (
        zone == "Pacific/Apia"  # it has left a day out
    )


@given(
    st.datetimes(datetime(1975, 1, 1), datetime(2100, 1, 1)).map(lambda one: one.replace(tzinfo=UTC)),
    st.sampled_from(ZONES), st.sampled_from("Mhdmy"),
)  # fmt: skip
def test_a_moment_lies_between_the_start_and_the_end_of_its_unit(moment: datetime, zone: str, unit: str) -> None:
    here = moment.astimezone(ZoneInfo(zone))
    start, end = start_of(here, unit), end_of(here, unit)
    assert micros(start) <= micros(here) <= micros(end)
    assert start_of(end, unit) == start
    following = (end.astimezone(UTC) + MICROSECOND).astimezone(here.tzinfo)
    assert start_of(following, unit).astimezone(UTC) == following.astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "zone", "text", "hours"),
    [
        ("2026-03-29T12:00:00", "Europe/Berlin", "-24h", 24), ("2026-03-29T12:00:00", "Europe/Berlin", "-1d", 23),
        ("2026-10-25T12:00:00", "Europe/Berlin", "-1d", 25), ("2026-03-08T12:00:00", "America/New_York", "-1w", 167),
    ],
)  # fmt: skip
def test_hours_are_time_that_has_passed_and_days_keep_the_clock(now: str, zone: str, text: str, hours: int) -> None:
    here = datetime.fromisoformat(now).replace(tzinfo=ZoneInfo(zone))
    reading = read_date(text, here)
    assert reading is not None
    assert here.astimezone(UTC) - reading.before.astimezone(UTC) == timedelta(hours=hours)
