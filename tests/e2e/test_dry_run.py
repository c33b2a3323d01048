"""dry_run=true on every deleting call: it counts what the deletion then reaches, and deletes nothing."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.support.asking import sent_in_a_row, shown
from tests.support.processes import Answer, Stack

ALL = {"fragments", "timeline", "search", "captured_events", "recordings"}
CALLS: dict[str, tuple[str, str, Any, set[str]]] = {
    "DELETE": ("DELETE", "/{id}/", None, {"fragments", "timeline", "search"}),
    "DELETE with all": ("DELETE", "/{id}/?delete_events=true&delete_recordings=true", None, ALL),
    "DELETE of events": ("DELETE", "/{id}/?delete_events=true&keep_person=true", None, {"captured_events", "causes"}),
    "delete_events": ("POST", "/{id}/delete_events/", {}, {"captured_events", "causes"}),
    "delete_recordings": ("POST", "/{id}/delete_recordings/", {}, {"recordings"}),
    "bulk_delete": ("POST", "/bulk_delete/", {"ids": ["{id}", "{nobody}"], "delete_events": True},
                    ALL - {"recordings"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def stack(erasing_stack: Stack) -> Stack:
    return erasing_stack


@pytest.fixture
def name(stack: Stack) -> str:
    name = f"user-{uuid4().hex[:12]}"
    sent_in_a_row(
        stack,
        (f"{name}-device", "open", {"$set": {"theme": "dark"}}),
        *((name, event, {"$set": {"plan": event}}) for event in ("sign up", "pay", "pay")),
        (name, "$merge_dangerously", {"alias": f"{name}-device"}),
    )
    assert len(stack.persons(f"/?search={name}").json["results"]) == 1  # waits until the search table is fed
    return name


def asked(stack: Stack, call: str, name: str, dry: str = "true") -> Answer:
    method, path, body, _ = CALLS[call]
    path = path.replace("{id}", stack.uuid(name))
    if body:
        body = body | {"ids": [stack.uuid(name), stack.uuid("nobody")]}
    return stack.persons(f"{path}{'&' if '?' in path else '?'}dry_run={dry}", method, body)


@pytest.mark.parametrize("call", CALLS)
def test_a_dry_run_counts_by_target_and_deletes_nothing(stack: Stack, name: str, call: str) -> None:
    before = shown(stack, name)
    requests = stack.persons("/deletion_requests/?limit=1000").json
    answer = asked(stack, call, name)
    assert (answer.status, answer.json["dry_run"], answer.json["persons_found"]) == (200, True, 1)
    assert answer.json["unmatched"] == ([stack.uuid("nobody")] if call == "bulk_delete" else [])
    assert set(answer.json["targets"]) == CALLS[call][3]
    assert answer.json["rows"] == sum(one["rows"] for one in answer.json["targets"].values())
    for target, one in answer.json["targets"].items():
        assert one["objects"] == 0
        assert (one["bytes"] > 0) == (one["rows"] > 0) == (target != "recordings"), target
        assert one["months"] == (1 if target in ("timeline", "captured_events", "causes") else 0)
    assert shown(stack, name) == before
    assert stack.persons("/deletion_requests/?limit=1000").json == requests


def test_what_is_counted_is_what_the_deletion_then_hides(stack: Stack, name: str) -> None:
    counted = asked(stack, "DELETE with all", name).json["targets"]
    request = asked(stack, "DELETE with all", name, "false").headers["Location"]
    assert stack.call("deletions", "run").returncode == 0
    phases = stack.ask("GET", request).json["phases"]
    for target in ("timeline", "captured_events", "recordings"):
        assert phases[target]["hidden"] == counted[target]["rows"], target
    assert counted["captured_events"]["rows"] == 5
    for target in ("fragments", "search"):  # rows of older versions may be merged away meanwhile
        assert phases[target]["hidden"] <= counted[target]["rows"] + 2, target


def test_a_dry_run_of_nobody_is_404_and_of_nothing_is_zeros(stack: Stack) -> None:
    for call in ("DELETE", "delete_events", "delete_recordings"):
        assert asked(stack, call, "nobody-ever").status == 404
    answer = stack.persons("/bulk_delete/?dry_run=true", "POST", {"ids": [123_456_789]})
    assert (answer.status, answer.json["persons_found"], answer.json["rows"]) == (200, 0, 0)


@pytest.mark.parametrize("call", CALLS)
def test_a_dry_run_that_is_no_boolean_is_refused_and_deletes_nothing(stack: Stack, name: str, call: str) -> None:
    answer = asked(stack, call, name, "yes")
    assert (answer.status, answer.json["attr"]) == (400, "dry_run")
    assert shown(stack, name) is not None
