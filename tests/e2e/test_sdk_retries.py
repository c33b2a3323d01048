"""What SDKs send again is stored once: after a status, a dropped connection, half an answer; stored before or not.

Each tells its story through a server that first has personlog store the request and answers a failure, then answers
the failure and stores nothing, and then passes on. `test_sdk.py` and its siblings hold what comes of a story told once.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.outages import Answer, Failure, failing
from tests.support.processes import Stack
from tests.support.sdks import (
    ends_right,
    event_counts,
    everybody,
    told_by_go,
    told_by_node,
    told_by_python,
    told_by_rust,
)
from tests.support.stacks import Projects

pytestmark = pytest.mark.sdk

FAILURES: tuple[Answer, ...] = (503, 500, 429, 408, "dropped")
"""What makes these SDKs send again."""

EVENTS = Counter("viewed $identify tidied $create_alias $groupidentify met".split())
STORIES: dict[str, tuple[Callable[..., Any], str, Counter[str]]] = {
    "python": (told_by_python, "v0", EVENTS + Counter(["$set", "$set_once", "nobody"])),
    "python-v1": (told_by_python, "v1", EVENTS + Counter(["$set", "$set_once", "nobody"])),
    "node": (told_by_node, "v0", EVENTS + Counter(["upgraded"])),
    "node-v1": (told_by_node, "v1", EVENTS + Counter(["upgraded"])),
    "go": (told_by_go, "v0", EVENTS + Counter(["upgraded", "$identify"])),
    "rust": (told_by_rust, "v0", EVENTS + Counter(["upgraded"])),
    "rust-v1": (told_by_rust, "v1", EVENTS + Counter(["upgraded"])),
}
"""How each is told, and its events; some add that a flag was asked for."""

NOT_REPEATED = {("rust-v1", 429)}
"""docs/operations.md says so."""

CASES = [(sdk, failure) for sdk in STORIES for failure in FAILURES if (sdk, failure) not in NOT_REPEATED]
GATEWAYS = [(sdk, status) for sdk in STORIES for status in (502, 504) if not sdk.startswith("python")]
"""Python's takes every 5xx for the same, and waits 3 s for the third try."""


@pytest.fixture
def fresh(projects: Projects) -> Stack:
    """A project of its own: each story is of the same people."""
    return projects.fresh()


@pytest.mark.parametrize(("sdk", "failure"), [*CASES, *GATEWAYS, ("go", 400)])
def test_what_is_sent_again_after_a_failure_is_stored_once(fresh: Stack, sdk: str, failure: Answer) -> None:
    answers = tell(fresh, sdk, [Failure(failure, forwarded=True), Failure(failure, forwarded=False)])
    assert answers[:3] == [failure, failure, 200] and set(answers[3:]) <= {200}


@pytest.mark.parametrize("sdk", STORIES)
def test_half_an_answer_loses_and_doubles_nothing(fresh: Stack, sdk: str) -> None:
    answers = tell(fresh, sdk, [Failure("cut", forwarded=True)])
    assert answers[0] == "cut" and set(answers[1:]) <= {200}


def test_posthog_rs_takes_429_for_final_over_v1(fresh: Stack) -> None:
    with failing(fresh.port, [Failure(429, forwarded=False)]) as (host, answers):
        told = told_by_rust(host, "v1", token=fresh.token)
    assert answers == [429, 200] and len(told["complaints"]) == 1  # it then says that a flag was asked for
    everybody(fresh)
    assert event_counts(fresh) == Counter(["$feature_flag_called"])


def tell(project: Stack, sdk: str, failures: Sequence[Failure]) -> list[Answer]:
    """Tell a story while the first requests fail; what each was answered. It ends as if nothing had failed."""
    tell_it, mode, events = STORIES[sdk]
    with failing(project.port, failures) as (host, answers):
        tell_it(host, mode, token=project.token)
    ends_right(project, "anon-1")
    counts = event_counts(project)
    counts.pop("$feature_flag_called", None)
    assert counts == events
    return answers


PHP_TIME = "2026-11-30T08:15:00+00:00"
"""posthog-php's times are whole seconds."""

POST_SECONDS_MAX = 60.0
"""A hundredth of a second on a quiet machine."""

PHP_LIBRARY = {"library": "posthog-php", "library_version": "3.6.0", "library_consumer": "LibCurl"}
PHP_LIB = {"$lib": "posthog-php", "$lib_version": "3.6.0", "$lib_consumer": "LibCurl"}


def php_message(event: str, kind: str, distinct_id: str | None, properties: dict[str, Any], **more: Any) -> Any:
    """A message of posthog-php, after its public source: no uuid, and PHP's empty arrays are lists."""
    return {
        "event": event, "distinct_id": distinct_id, "properties": {**properties, **PHP_LIB}, **more, **PHP_LIBRARY,
        "groups": [], "timestamp": PHP_TIME, "type": kind,
    }  # fmt: skip


PHP_STORY = [
    php_message("viewed", "capture", "anon-1", {"$active_feature_flags": [], "$process_person_profile": False}),
    php_message(
        "$identify", "capture", "ada",
        {"$anon_distinct_id": "anon-1", "$set": {"plan": "free"}, "$set_once": {"first_plan": "free"}},
    ),
    php_message("$identify", "identify", "ada", {"plan": "pro"}, **{"$set": {"plan": "pro"}}),
    php_message("tidied", "capture", "ada", {"$unset": ["theme"], "$set": []}),
    php_message("$create_alias", "alias", None, {"distinct_id": "ada", "alias": "ada-2"}),
    php_message("met", "capture", "ada", {}),
    php_message("met", "capture", "ada", {}),  # twice within one second is twice
]  # fmt: skip


@pytest.mark.parametrize("failure", [503, 500, 429, "dropped"])
def test_the_bytes_of_php_sent_again_are_stored_once(fresh: Stack, failure: Answer) -> None:
    body = json.dumps({"batch": PHP_STORY, "api_key": fresh.token}).replace("/", "\\/").encode()  # as PHP escapes
    with failing(fresh.port, [Failure(failure, forwarded=True), Failure(failure, forwarded=False)]) as (host, answers):
        for _ in range(3):
            post(host, body)
    assert answers == [failure, failure, 200]
    ends_right(fresh, "anon-1")
    assert event_counts(fresh) == Counter([message["event"] for message in PHP_STORY])


def test_what_php_sends_again_in_other_bytes_is_the_same(fresh: Stack) -> None:
    batch = {"batch": PHP_STORY, "api_key": fresh.token}
    post(fresh.url, json.dumps(batch).encode())
    post(fresh.url, json.dumps(dict(reversed(batch.items())), indent=1).encode())
    post(fresh.url, gzip.compress(json.dumps(batch).encode()), Content_Encoding="gzip")
    everybody(fresh)
    assert event_counts(fresh) == Counter([message["event"] for message in PHP_STORY])


def post(host: str, body: bytes, **headers: str) -> None:
    """One request as libcurl sends it, whatever comes of it."""
    connection = http.client.HTTPConnection(urlsplit(host).netloc, timeout=POST_SECONDS_MAX)
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/batch/", body, {"Content-Type": "application/json", **more})
    with contextlib.suppress(http.client.RemoteDisconnected):
        connection.getresponse().read()
    connection.close()
