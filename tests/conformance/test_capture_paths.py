"""Capture v0 and v1 on the real stack: the unmodified Python SDK over v1, and one event over both paths counts once."""

from __future__ import annotations

import gzip
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import orjson
import posthog
import pytest

from shared.inputs.ids import stored_id
from tests.support.processes import Stack, wait_for

V1 = "/i/v1/analytics/events"
UUID_OF_DROP = "6a86395a-0000-4000-8000-000000000009"
TIME = "2026-11-23T09:38:20+00:00"


def by_v0(stack: Stack, events: list[dict[str, Any]]) -> str:
    body = {"api_key": stack.token, "batch": events, "sent_at": TIME}
    answer = stack.ask("POST", "/batch/", gzip.compress(orjson.dumps(body)), key=None)
    assert answer.status == 200, answer.body
    return answer.headers["Position"]


def by_v1(stack: Stack, events: list[dict[str, Any]], attempt: int = 1) -> str:
    body = gzip.compress(orjson.dumps({"created_at": TIME, "batch": [one | {"options": {}} for one in events]}))
    said = {"PostHog_Sdk_Info": "test/1", "PostHog_Request_Id": str(UUID(int=1)), "PostHog_Request_Timestamp": TIME}
    answer = stack.ask("POST", V1, body, key=stack.token, Content_Encoding="gzip", PostHog_Attempt=str(attempt), **said)
    assert answer.status == 200, answer.body
    assert {one["result"] for one in answer.json["results"].values()} == {"ok"}
    return answer.headers["Position"]


def state(stack: Stack, distinct_id: str, position: str) -> dict[str, Any]:
    """The person with this id once reads have seen the position, and the rows of all captured events of the project."""
    answer = stack.persons(f"/?distinct_id={distinct_id}", Min_Position=position)
    (person,) = answer.json["results"]
    timeline = stack.persons(f"/{person['id']}/properties_timeline/?source=changes").json["points"]
    rows = stack.query(
        f"SELECT uuid, event, distinct_id FROM captured_events FINAL WHERE project = {stack.project} ORDER BY uuid"
        " FORMAT JSONEachRow"
    )
    return {"person": person, "timeline": timeline, "captured": rows.splitlines()}


@pytest.mark.parametrize("first", ["v0", "v1"])
def test_a_batch_sent_by_both_paths_changes_nothing_the_second_time(stack: Stack, first: str) -> None:
    name, anon = f"user-{uuid4()}", f"anon-{uuid4()}"
    events = [
        {"event": "visited", "distinct_id": anon, "properties": {"$set": {"theme": "dark"}, "$browser": "Firefox"}},
        {"event": "$identify", "distinct_id": name, "properties": {"$anon_distinct_id": anon, "$set": {"plan": "a"}}},
        {"event": "order", "distinct_id": name, "properties": {"$set": {"plan": "b"}, "$set_once": {"first": 1}}},
        {"event": "left", "distinct_id": name, "properties": {"$unset": ["theme"], "$process_person_profile": True}},
    ]
    events = [one | {"uuid": str(uuid4()), "timestamp": TIME} for one in events]
    senders = {"v0": by_v0, "v1": by_v1}
    before = state(stack, name, senders[first](stack, events))
    assert before["person"]["properties"]["plan"] == "b" and len(before["person"]["distinct_ids"]) == 2
    assert sum(f'"uuid":"{one["uuid"]}"' in row for one in events for row in before["captured"]) == len(events)
    senders["v1" if first == "v0" else "v0"](stack, events)
    senders[first](stack, events[::-1])
    assert state(stack, name, by_v1(stack, events, attempt=2)) == before


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate", "zstd"])
def test_the_unmodified_python_sdk_over_v1_loses_nothing_and_stays_quiet(stack: Stack, compression: str) -> None:
    failures: list[Any] = []
    client = posthog.Posthog(
        stack.token, host=stack.url, capture_mode="v1", capture_compression=compression,
        on_error=lambda error, _: failures.append(error),
    )  # fmt: skip
    name = f"sdk-{compression}"
    for index in range(250):
        client.capture("order", distinct_id=name, properties={"amount": index, "$set": {"last": index}})
    client.set(distinct_id=name, properties={"email": f"{name}@example.com"})
    client.set_once(distinct_id=name, properties={"first": 1})
    client.alias(previous_id=name, distinct_id=f"{name}-other")
    client.shutdown()
    assert failures == []

    wanted = {"last": 249, "email": f"{name}@example.com", "first": 1}
    count = f"SELECT count() FROM captured_events FINAL WHERE distinct_id = '{name}'"

    def seen() -> bool:
        """Each partition is projected by itself: the alias may be seen before the properties."""
        rows = stack.persons(f"/?distinct_id={name}").json["results"]
        return (
            len(rows) == 1
            and len(rows[0]["distinct_ids"]) == 2
            and rows[0]["is_identified"]
            and rows[0]["properties"].items() >= wanted.items()
            and stack.query(count) == "253"
        )

    wait_for(seen, 60, "250 captures, a set, a set_once and an alias")
    kept = stack.query(f"SELECT properties FROM captured_events FINAL WHERE distinct_id = '{name}' AND event = '$set'")
    assert '"$lib":"posthog-python"' in kept.replace("\\", "")


def test_the_sdk_is_told_of_a_drop_and_of_nothing_else(stack: Stack) -> None:
    failures: list[Any] = []
    client = posthog.Posthog(
        stack.token, host=stack.url, capture_mode="v1", on_error=lambda error, _: failures.append(error)
    )
    client.capture("kept", distinct_id="told")
    client.capture("cut", distinct_id="x" * 300)
    without_person = {"$process_person_profile": False, "$anon_distinct_id": "x"}
    client.capture("$identify", distinct_id="told", properties=without_person, uuid=UUID_OF_DROP)
    client.shutdown()
    (failure,) = failures
    assert failure.drops == [(UUID_OF_DROP, "person_processing_disabled")]
    for kept in ("told", stored_id("x" * 300)):
        wait_for(lambda: stack.persons(f"/?distinct_id={quote(kept)}").json["results"], 60, "what was kept")  # noqa: B023
