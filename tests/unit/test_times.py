"""Times are read as PostHog's own parser reads them, and what it does not read is no time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.inputs.times import STORED_US_MAX, STORED_US_MIN, TIME_CHARS_MAX, time_us_of

GOLDEN: dict[str, int | None] = orjson.loads((Path(__file__).parents[1] / "golden" / "times.json").read_bytes())
"""Texts, and milliseconds as `new Date` and then luxon have them (tests/golden/times.mjs)."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2299, 12, 30), timezones=st.just(UTC))


def test_the_table_is_worth_its_name() -> None:
    assert len(GOLDEN) >= 300
    assert sum(meaning is not None for meaning in GOLDEN.values()) >= 150


@pytest.mark.parametrize("text", GOLDEN)
def test_a_text_means_what_it_means_there(text: str) -> None:
    meaning, time_us = GOLDEN[text], time_us_of(text)
    if meaning is None or not STORED_US_MIN <= meaning * 1_000 <= STORED_US_MAX:
        assert time_us is None
    else:
        assert time_us is not None
        assert time_us // 1_000 == meaning


@given(MOMENTS, st.integers(-14 * 60, 14 * 60))
def test_a_moment_is_read_in_every_zone_and_to_the_microsecond(moment: datetime, minutes: int) -> None:
    local = moment.astimezone(timezone(timedelta(minutes=minutes)))
    assert time_us_of(local.isoformat()) == (moment - EPOCH) // timedelta(microseconds=1)
    second = moment.replace(microsecond=0)
    assert time_us_of(format_datetime(second.astimezone(local.tzinfo))) == (second - EPOCH) // timedelta(microseconds=1)


@given(st.text(max_size=TIME_CHARS_MAX + 1))
def test_no_text_is_an_error(text: str) -> None:
    time_us = time_us_of(text)
    assert time_us is None or STORED_US_MIN <= time_us <= STORED_US_MAX


@pytest.mark.parametrize(
    ("value", "time_us"),
    [
        (1704067200, 1_704_067_200_000_000),
        (1704067200.5, 1_704_067_200_500_000),
        (1704067200123, 1_704_067_200_123_000),
        (1704067200123456, 1_704_067_200_123_456),
        (1704067200123456789, 1_704_067_200_123_457),
        ("1704067200", 1_704_067_200_000_000),
        ("1704067200.25", 1_704_067_200_250_000),
        ("1704067200123", 1_704_067_200_123_000),
        ("1704067200123456", 1_704_067_200_123_456),
        ("1704067200123456789", 1_704_067_200_123_456),
        (" 2024-01-01 ", 1_704_067_200_000_000),
        ("20240101", 1_704_067_200_000_000),
        ("2024-01-01T01:00+01:00[Europe/Berlin]", 1_704_067_200_000_000),
        *[(value, None) for value in ("", True, None, [], {}, 1e300, float("nan"), -1e10, "24", "10:00", "1" * 21)],
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_and_digits_are_an_epoch_where_they_can_be_nothing_else(value: Any, time_us: int | None) -> None:
    assert time_us_of(value) == time_us
