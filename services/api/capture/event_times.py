"""When a captured event was: its own time, corrected where the sender's clock is wrong. Pure."""

from __future__ import annotations

from typing import Any

from services.api.capture.request_context import RequestContext
from shared.domain.commands import PropertyMap
from shared.inputs.repairs import Repairs
from shared.inputs.times import STORED_US_MAX, STORED_US_MIN, time_us_of

AHEAD_US_MAX = 23 * 3_600_000_000
"""A clock that is wrong by more than that is not believed."""

DELIVERY_US_MAX = 150_000_000
"""A request that arrives so long after it says it was sent was slow on its way; its sender's clock
is right."""


def event_time(
    event: dict[str, Any],
    properties: PropertyMap,
    context: RequestContext,
    repairs: Repairs,
    at: int,
) -> int:
    """offset beats timestamp; a timestamp is corrected by the sender's skew; where there is none,
    or one that is no time, it is `at`."""
    now, offset = context.received_at, event.get("offset")
    if (
        isinstance(offset, int | float)
        and not isinstance(offset, bool)
        and 0 <= offset < 1e12
    ):
        return now - int(offset * 1_000)
    if event.get("timestamp") is None:
        return at
    timestamp = time_us_of(event["timestamp"])
    if timestamp is None:
        repairs.add("time_ignored", "timestamp")
        return at
    # of an event outside a batch, such as an element of an array
    sent_at = time_us_of(event.get("sent_at"))
    skew = context.skew if sent_at is None else skew_of(sent_at, context.arrived_at)
    time = timestamp - (0 if properties.get("$ignore_sent_at") is True else skew)
    if time > now + AHEAD_US_MAX:
        repairs.add("time_ignored", "timestamp")
        return at
    return min(max(time, STORED_US_MIN), STORED_US_MAX)


def skew_of(sent_at: int | None, arrived_at: int) -> int:
    """By how much a sender's clock is ahead of ours. Up to two and a half minutes behind is a slow
    delivery, and no wrong clock."""
    skew = 0 if sent_at is None else sent_at - arrived_at
    return 0 if abs(skew) <= DELIVERY_US_MAX else skew
