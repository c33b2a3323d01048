"""When a captured event was. Never a server, never a clock."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.capture.event_times import DELIVERY_US_MAX, skew_of
from shared.domain.commands import Capture
from shared.inputs.times import STORED_US_MAX, STORED_US_MIN, time_us_of
from tests.support.capturing import HOUR, NOW, SECOND, captured, commands, repaired, scene


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01t00:00:01z", 1),
        ("1970-01-01T03:00:01+03", 1),
        ("1970-01-01T03:00:01.5+03:00", 1.5),
        ("1969-12-31T23:59:59.5Z", -0.5),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
        ("1970-01-01 00:00:01", 1),
        (1_795_426_830, 1_795_426_830),
        (1_795_426_830_346, 1_795_426_830.346),
        (1_795_426_830.346, 1_795_426_830.346),
        ("1795426830346", 1_795_426_830.346),
        ("Mon, 23 Nov 2026 09:40:30 +0000", 1_795_426_830),
        ("23 Nov 2026 04:40:30 -0500", 1_795_426_830),
        ("Mon, 23 Nov 2026 09:40:30 GMT", 1_795_426_830),
        (0, 0),
    ],
)
def test_times_are_rfc_3339_or_2822_or_numbers_of_seconds_or_milliseconds(text: Any, seconds: float) -> None:
    assert time_us_of(text) == round(seconds * SECOND)


@pytest.mark.parametrize(
    "nonsense",
    [
        "", "soon", "²", "9" * 400, "1e5", 1e308, -1e308, 10**400, True, [], {}, "9" * 20, "2026-13-01",
        "Mon, 32 Nov 2026 09:40:30 +0000", "0006-01-01T00:00:00Z", -1e19,
    ],
)  # fmt: skip
def test_what_is_no_time_is_now_and_told(nonsense: Any) -> None:
    assert time_us_of(nonsense) is None
    command, repairs = repaired(timestamp=nonsense)
    assert command.timestamp == NOW and repairs == [("time_ignored", "timestamp")]
    assert captured(timestamp=None).timestamp == NOW


def test_the_senders_skew_is_taken_off_the_timestamp() -> None:
    event = {"event": "e", "distinct_id": "d", "timestamp": "1970-01-01T00:01:00Z"}
    (command,) = commands(event, scenery=scene(skew=60 * SECOND - NOW + HOUR))
    assert isinstance(command, Capture) and command.timestamp == NOW - HOUR


def test_sent_at_of_an_array_element_counts_for_it_alone() -> None:
    (command,) = commands(timestamp="1970-01-01T00:01:00Z", sent_at="1970-01-01T00:02:00Z", scenery=scene(skew=7))
    assert isinstance(command, Capture) and command.timestamp == NOW - 60 * SECOND


@pytest.mark.parametrize("late", [0, 1, 30 * SECOND, 149 * SECOND, DELIVERY_US_MAX])
def test_a_slow_delivery_is_not_a_wrong_clock(late: int) -> None:
    assert skew_of(NOW - late, NOW) == skew_of(NOW + late, NOW) == skew_of(None, NOW) == 0


@pytest.mark.parametrize("wrong", [DELIVERY_US_MAX + 1, HOUR, 400 * 24 * HOUR])
def test_a_clock_that_is_wrong_is_corrected(wrong: int) -> None:
    assert (skew_of(NOW - wrong, NOW), skew_of(NOW + wrong, NOW)) == (-wrong, wrong)


def test_ignore_sent_at_turns_the_correction_off() -> None:
    fields: dict[str, Any] = {"timestamp": "2026-11-23T00:00:00Z", "properties": {"$ignore_sent_at": True}}
    (command,) = commands(scenery=scene(skew=HOUR), **fields)
    assert isinstance(command, Capture) and command.timestamp == time_us_of("2026-11-23T00:00:00Z")


def test_an_offset_beats_the_timestamp() -> None:
    assert captured(offset=1_500, timestamp="2020-01-01T00:00:00Z").timestamp == NOW - 1_500_000
    assert captured(offset="x", timestamp="2020-01-01T00:00:00Z").timestamp == time_us_of("2020-01-01T00:00:00Z")


def test_more_than_23_hours_ahead_is_now() -> None:
    def at(seconds: int) -> int:
        return captured(timestamp=NOW // SECOND + seconds).timestamp

    assert at(23 * 3_600) == NOW + 23 * HOUR
    assert at(23 * 3_600 + 1) == NOW
    assert repaired(timestamp="2099-01-01T00:00:00Z")[1] == [("time_ignored", "timestamp")]


def test_a_time_is_kept_within_what_the_store_holds() -> None:
    (command,) = commands(timestamp="1900-01-01T00:00:00Z", scenery=scene(skew=HOUR))
    assert isinstance(command, Capture) and command.timestamp == STORED_US_MIN
    assert STORED_US_MIN < NOW < STORED_US_MAX


def test_a_customers_own_property_called_timestamp_is_no_time() -> None:
    assert captured(properties={"timestamp": "2020-01-01T00:00:00Z"}).timestamp == NOW
