"""A project's quota: above it 429 with when to send again, in the shape of each protocol, and nothing is stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.support.processes import Answer, Stack, free_port, wait_for
from tests.support.stacks import make_projects

SECONDS_MAX = 60.0
HEADERS = {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After"}


@pytest.fixture(scope="module")
def limited(stack: Stack) -> Iterator[Stack]:
    """A second API of the stack: 20 events or 600 kB at once, and 1 or 30 kB a second."""
    port = str(free_port())
    api = stack.spawn(
        "api", log="quota.log", PERSONLOG_PORT=port, PERSONLOG_CAPTURE_EVENTS_PER_SECOND="1",
        PERSONLOG_CAPTURE_BYTES_PER_SECOND="30000", PERSONLOG_CAPTURE_BURST_SECONDS="20",
    )  # fmt: skip
    project = make_projects(stack, 1)[0]
    project.url = f"http://127.0.0.1:{port}"
    wait_for(project.ready, SECONDS_MAX, "the second API")
    yield project
    api.terminate()
    api.wait(timeout=SECONDS_MAX)


def fresh(limited: Stack) -> Stack:
    """A project that has sent nothing yet."""
    stack = make_projects(limited, 1)[0]
    wait_for(lambda: stack.persons("/?limit=1").status == 200, SECONDS_MAX, "the project to be known")
    return stack


def throttled(answer: Answer) -> None:
    assert answer.status == 429, answer.body
    assert answer.headers.keys() >= HEADERS
    assert int(answer.headers["Retry-After"]) >= 1


def batch(stack: Stack, count: int, text: str = "", **headers: str) -> Answer:
    events = [{"event": "e", "distinct_id": "a", "properties": {"text": text}} for _ in range(count)]
    return stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": events}, key=None, **headers)


def test_a_project_above_its_events_is_told_when_to_send_again_and_another_is_not(limited: Stack) -> None:
    stack, other = fresh(limited), fresh(limited)
    assert batch(stack, 20).status == 200
    for headers in ({}, {"Origin": "https://example.com"}):  # by both ways through the API
        refused = batch(stack, 20, **headers)
        throttled(refused)
        assert refused.json | {"detail": ""} == {
            "type": "throttled_error", "code": "throttled", "detail": "", "attr": None,
        }  # fmt: skip
        assert refused.headers["RateLimit-Limit"] == "20"
        assert 15 <= int(refused.headers["Retry-After"]) <= 20
    assert "Retry-After" in refused.headers["Access-Control-Expose-Headers"]
    assert batch(other, 20).status == 200
    wait_for(lambda: stack.capture(event="e", distinct_id="a").status == 200, SECONDS_MAX, "its turn")


def test_bytes_count_as_they_are_unpacked_and_an_event_refused_costs_once(limited: Stack) -> None:
    stack = fresh(limited)
    assert batch(stack, 1, "x" * 500_000).status == 200
    refused = batch(stack, 1, "x" * 500_000)
    throttled(refused)
    assert refused.headers["RateLimit-Limit"] == "600000"
    other = fresh(limited)
    for _ in range(5):  # each has a bad event, and is looked at twice on its way
        events: list[Any] = [{"event": "e", "distinct_id": "a"}, {"event": "e", "distinct_id": ""}]
        sent = {"api_key": other.token, "batch": events}
        assert other.ask("POST", "/batch/", sent, key=None).json["warnings"][0]["index"] == 1
    assert batch(other, 10).status == 200
    throttled(batch(other, 10))


def test_v1_refuses_the_whole_request_in_its_own_shape(limited: Stack) -> None:
    stack = fresh(limited)

    def send(count: int) -> Answer:
        events = [
            {"event": "e", "uuid": str(uuid4()), "distinct_id": "a", "timestamp": "2026-11-23T09:38:19Z"}
            for _ in range(count)
        ]
        return stack.ask(
            "POST", "/i/v1/analytics/events", {"batch": events}, key=stack.token, PostHog_Sdk_Info="test/1",
            PostHog_Attempt="1", PostHog_Request_Id=str(uuid4()), PostHog_Request_Timestamp="2026-11-23T09:38:20Z",
        )  # fmt: skip

    assert send(20).status == 200
    refused = send(20)
    throttled(refused)
    assert refused.json.keys() == {"error", "error_description", "error_uri"}
    assert refused.json["error"] == "throttled"


def test_recordings_count_too(limited: Stack) -> None:
    stack = fresh(limited)

    def send() -> Answer:
        snapshot = {"type": 2, "data": "x" * 400_000, "timestamp": 1_795_426_700_000}
        properties = {
            "$session_id": "s-1", "$snapshot_data": [snapshot], "distinct_id": "a", "token": stack.token,
        }  # fmt: skip
        return stack.ask("POST", "/s/", [{"event": "$snapshot", "properties": properties}], key=None)

    assert send().status == 200
    throttled(send())


def test_a_flood_of_one_project_stores_no_more_than_its_quota(limited: Stack) -> None:
    stack = fresh(limited)
    said: list[int] = []
    began = threading.Barrier(8)

    def flood() -> None:
        began.wait()
        said.extend(batch(stack, 5).status for _ in range(10))

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(said) == {200, 429}
    assert said.count(200) >= 4
