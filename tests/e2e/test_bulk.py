"""bulk_delete and the routes that only exist so that scripts of the original go on working."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.support.asking import sent, shown
from tests.support.processes import Stack


def made(stack: Stack, *names: str) -> None:
    batch = [{"event": "e", "distinct_id": one, "properties": {"$set": {"a": 1}}} for one in names]
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None)
    assert stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200


def test_persons_are_deleted_by_uuid_and_integer_id_and_strangers_are_named(stack: Stack, name: str) -> None:
    made(stack, f"{name}-1", f"{name}-2", f"{name}-3")
    number = shown(stack, f"{name}-2")["id"]  # type: ignore[index]  # it is there
    stranger = str(uuid4())
    answer = stack.persons("/bulk_delete/", "POST", {"ids": [stack.uuid(f"{name}-1"), number, stranger, 123_456_789]})
    assert answer.status == 202
    body = answer.json
    assert len(body["deletion_requests"]) == 2
    assert body | {"deletion_requests": None} == {
        "persons_found": 2, "persons_deleted": 2, "persons_queued_for_deletion": 0, "deletion_errors": [],
        "events_queued_for_deletion": False, "recordings_queued_for_deletion": False,
        "stays": ["events", "recordings"], "unmatched": [stranger, 123_456_789],
        "deletion_request": body["deletion_requests"][0], "deletion_requests": None,
    }  # fmt: skip
    assert shown(stack, f"{name}-1") is None and shown(stack, f"{name}-2") is None
    assert shown(stack, f"{name}-3") is not None
    for request in body["deletion_requests"]:
        assert stack.persons(f"/deletion_requests/{request}/").json["state"] == "pending"


def test_two_ids_of_one_person_delete_it_once(stack: Stack, name: str) -> None:
    made(stack, name, f"{name}-device")
    stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": f"{name}-device"})
    answer = stack.persons("/bulk_delete/", "POST", {"distinct_ids": [name, f"{name}-device", "nobody"]})
    assert (answer.json["persons_found"], answer.json["unmatched"]) == (1, ["nobody"])
    assert len(answer.json["deletion_requests"]) == 1


def test_each_person_counts_once_as_deleted_or_as_queued(stack: Stack, name: str) -> None:
    """However many of its ids are named, and whether reads have seen it yet or not."""
    made(stack, *(f"{name}-{number}" for number in range(4)))
    for number in (1, 2):
        stack.persons(f"/{stack.uuid(f'{name}-0')}/merge/", "POST", {"distinct_id": f"{name}-{number}"})
    body = stack.persons(
        "/bulk_delete/", "POST", {"distinct_ids": [f"{name}-{number}" for number in (0, 1, 2, 1, 3)]}
    ).json
    assert (body["persons_found"], body["persons_deleted"], body["persons_queued_for_deletion"]) == (2, 2, 0)
    made(stack, f"{name}-late")
    uuid = stack.uuid(f"{name}-late")
    body = stack.persons("/bulk_delete/", "POST", {"ids": [uuid, uuid]}, Prefer="respond-async").json
    assert (body["persons_found"], body["persons_deleted"], body["persons_queued_for_deletion"]) == (1, 0, 1)


def test_a_person_may_be_kept_while_its_events_go(stack: Stack, name: str) -> None:
    made(stack, name)
    flags = {"delete_events": True, "delete_recordings": True, "keep_person": True}
    body = stack.persons("/bulk_delete/", "POST", {"ids": [stack.uuid(name)], **flags}).json
    assert (body["persons_found"], body["persons_deleted"], body["persons_queued_for_deletion"]) == (1, 0, 0)
    assert body["events_queued_for_deletion"] is body["recordings_queued_for_deletion"] is True
    assert shown(stack, name) is not None
    asked = stack.persons("/bulk_delete/", "POST", {"ids": [stack.uuid(name)], "keep_person": True}).json
    assert (asked["persons_found"], asked["deletion_requests"]) == (1, [])


@pytest.mark.parametrize("keep", [False, True])
def test_a_repeat_with_its_key_tells_the_first_outcome_and_spares_the_new_life(
    stack: Stack, name: str, keep: bool
) -> None:
    made(stack, name)
    body = {"distinct_ids": [name, "nobody-ever"], "delete_events": True, "keep_person": keep}
    key = f"bulk {name}"
    first = stack.persons("/bulk_delete/", "POST", body, Idempotency_Key=key)
    assert (first.status, first.json["persons_found"], first.json["unmatched"]) == (202, 1, ["nobody-ever"])
    sent(stack, name, **{"$set": {"life": "new"}})
    again = stack.persons("/bulk_delete/", "POST", body, Idempotency_Key=key)
    assert (again.status, again.json) == (202, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    person = shown(stack, name)
    assert person is not None and person["properties"]["life"] == "new"
    other = stack.persons("/bulk_delete/", "POST", body | {"delete_recordings": True}, Idempotency_Key=key)
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")


def test_nothing_matched_is_no_error(stack: Stack) -> None:
    for body in ({"distinct_ids": ["nobody-ever"]}, {"ids": [123_456_789]}, {"ids": [str(uuid4())]}):
        answer = stack.persons("/bulk_delete/", "POST", body)
        assert (answer.status, answer.json["persons_found"], answer.json["deletion_request"]) == (202, 0, None)
        assert answer.headers["Position"]  # what it has looked at


@pytest.mark.parametrize(
    ("body", "attr"),
    [
        ({}, "ids"),
        ({"ids": [], "distinct_ids": []}, "ids"),
        ({"ids": []}, "ids"),
        ({"distinct_ids": []}, "distinct_ids"),
        ({"ids": [], "delete_events": True}, "ids"),
        ({"ids": "x"}, "ids"),
        ({"ids": [True]}, "ids"),
        ({"ids": [1.5]}, "ids"),
        ({"ids": ["no id"]}, "ids"),
        ({"ids": [""]}, "ids"),
        ({"ids": [str(uuid4())] * 1_001}, "ids"),
        ({"distinct_ids": [1]}, "distinct_ids"),
        ({"distinct_ids": ["x"] * 1_001}, "distinct_ids"),
        ({"ids": [1], "delete_events": "false"}, "delete_events"),
        ({"ids": [1], "delete_recordings": 1}, "delete_recordings"),
        ({"ids": [1], "keep_person": None}, "keep_person"),
    ],
)
def test_what_is_asked_wrongly_deletes_nobody(stack: Stack, name: str, body: dict[str, Any], attr: str) -> None:
    made(stack, name)
    answer = stack.persons("/bulk_delete/", "POST", body)
    assert (answer.status, answer.json["attr"]) == (400, attr)
    assert set(answer.json) == {"type", "code", "detail", "attr"}
    assert shown(stack, name) is not None


def test_a_thousand_ids_are_the_most(stack: Stack, name: str) -> None:
    made(stack, name)
    ids = [stack.uuid(f"stranger {number}") for number in range(998)]
    answer = stack.persons("/bulk_delete/", "POST", {"ids": [*ids, stack.uuid(name), 123_456_789]})
    assert (answer.status, answer.json["persons_found"], len(answer.json["unmatched"])) == (202, 1, 999)


def test_scripts_that_reset_an_id_or_post_a_person_get_a_clear_answer(stack: Stack, name: str) -> None:
    sent(stack, name)
    for distinct_id in (name, "never seen"):
        answer = stack.persons("/reset_person_distinct_id/", "POST", {"distinct_id": distinct_id})
        assert (answer.status, answer.body) == (202, b"")
        assert answer.headers["Position"]
    for body, code in (({}, "required"), ({"distinct_id": 1}, "invalid_input"), ({"distinct_id": ""}, "invalid_input")):
        bad = stack.persons("/reset_person_distinct_id/", "POST", body)
        assert (bad.status, bad.json["code"], bad.json["attr"]) == (400, code, "distinct_id")
    posted = stack.persons("/", "POST", {"distinct_id": "x"})
    assert (posted.status, posted.json["code"]) == (405, "method_not_allowed")
    assert "/capture/" in posted.json["detail"]
