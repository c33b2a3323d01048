"""The unmodified Python SDK of PostHog, with only the host changed: the story of all SDKs, and 10,000 events."""

from __future__ import annotations

from typing import Any

import posthog
import pytest

from tests.support.processes import PERSONAL_KEY, TOKEN, Stack, wait_for
from tests.support.sdks import captured, ends_right, told_by_python

pytestmark = pytest.mark.sdk
PERSONS, EVENTS = 1_000, 10_000
SECONDS_MAX = 120.0


@pytest.mark.parametrize("mode", ["v0", "v1"])
def test_the_story_ends_right_and_the_sdk_has_no_complaint(either_stack: Stack, mode: str) -> None:
    assert told_by_python(either_stack.url, mode) == []
    _, strangers = ends_right(either_stack, "anon-1")
    assert len(strangers) == 1  # the SDK makes ids up: for a group's event with a profile, for a nameless one without
    assert captured(either_stack, "$groupidentify") == strangers
    assert len(captured(either_stack, "nobody")) == 1 and captured(either_stack, "viewed") == ["anon-1"]


def test_with_a_key_the_sdk_looks_for_flags_and_has_no_complaint(either_stack: Stack) -> None:
    assert told_by_python(either_stack.url, key=PERSONAL_KEY) == []


def test_every_person_is_right_after_ten_thousand_events_of_the_python_sdk(either_stack: Stack) -> None:
    stack = either_stack
    errors: list[Any] = []
    client = posthog.Posthog(
        TOKEN, host=stack.url, gzip=True, max_queue_size=2 * EVENTS, on_error=lambda error, _: errors.append(error)
    )
    for index in range(EVENTS):
        person, turn = index % PERSONS, index // PERSONS
        client.capture(
            "order placed" if index % 3 else "visited",
            distinct_id=f"person-{person}@example.com",
            properties={
                "amount": index / 4,
                "$set": {"turn": turn, "email": f"person-{person}@example.com", f"only_{turn}": index},
                "$set_once": {"first_turn": turn},
                "$unset": [f"only_{turn - 1}"],
            },
        )
    client.shutdown()
    assert errors == []
    expected = {
        f"person-{person}@example.com": {
            "turn": EVENTS // PERSONS - 1,
            "email": f"person-{person}@example.com",
            "first_turn": 0,
            f"only_{EVENTS // PERSONS - 1}": EVENTS - PERSONS + person,
        }
        for person in range(PERSONS)
    }
    wait_for(lambda: _ours(stack) == expected, SECONDS_MAX, "every person to be right")
    assert len({row["id"] for row in _rows(stack)}) == PERSONS


def test_an_alias_by_the_sdk_makes_one_person_of_two(either_stack: Stack) -> None:
    stack = either_stack
    client = posthog.Posthog(TOKEN, host=stack.url, gzip=True)
    client.set(distinct_id="device-1", properties={"theme": "dark"})
    client.set(distinct_id="ada", properties={"plan": "pro"})
    client.alias(previous_id="device-1", distinct_id="ada")
    client.shutdown()
    ids = wait_for(
        lambda: [row["distinct_ids"] for row in _rows(stack) if len(row["distinct_ids"]) == 2], 30, "the merge"
    )
    assert sorted(ids[0]) == ["ada", "device-1"]
    row = stack.persons("/?distinct_id=ada").json["results"][0]
    assert row["properties"]["theme"] == "dark" and row["properties"]["plan"] == "pro"
    assert row["is_identified"] is True


def _ours(stack: Stack) -> dict[str, dict[str, Any]]:
    """The properties that the test sent, by distinct id; the SDK adds its own about the machine."""
    return {
        row["distinct_ids"][0]: {key: value for key, value in row["properties"].items() if not key.startswith("$")}
        for row in _rows(stack)
    }


def _rows(stack: Stack) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    path = "/?limit=500"
    for _ in range(10):
        page = stack.persons(path).json
        rows += page["results"]
        if page["next"] is None:
            return rows
        path = "/?" + page["next"].partition("?")[2]
    raise AssertionError("more pages than persons")
