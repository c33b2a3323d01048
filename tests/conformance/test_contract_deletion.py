"""docs/contract.md §7, row by row: bulk_delete, deletion_status, deletion_requests, DELETE.

Shown elsewhere: the physical erasure by `deletions run` (test_persons:
test_a_deleted_person_is_gone_at_once_erased_by_a_run_and_its_id_starts_empty_again), a thousand ids in one call
(test_bulk: test_a_thousand_ids_are_the_most). What §13 adds is in test_contract_decided.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.support.asking import sent, shown
from tests.support.processes import Answer, Stack
from tests.support.stacks import Projects

FLAGS = ("delete_events", "delete_recordings", "keep_person")
NOTHING = {
    "persons_found": 0, "persons_deleted": 0, "events_queued_for_deletion": False,
    "recordings_queued_for_deletion": False, "deletion_errors": [], "persons_queued_for_deletion": 0,
    "stays": ["events", "recordings"], "deletion_request": None, "deletion_requests": [],
}  # fmt: skip


def bulk(stack: Stack, **body: Any) -> Answer:
    return stack.persons("/bulk_delete/", "POST", body)


def status(stack: Stack, name: str, query: str = "") -> dict[str, Any]:
    answer = stack.persons(f"/deletion_status/?person_uuid={stack.uuid(name)}{query}")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.json
    return body


class Run(NamedTuple):
    """One run of the deleter: whom it was about, the path of each request, and how each was told of before."""

    stack: Stack
    names: dict[str, str]
    paths: dict[str, str]
    before: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def run(erasing_stack: Stack) -> Run:
    """For all who look at what a run leaves, since it takes seconds for one request as for many."""
    stack = erasing_stack
    made = Run(stack, {}, {}, {})
    for what in ("done", "counts", "partition", "cancelled"):
        made.names[what] = name = f"{what}-{uuid4().hex[:8]}"
        sent(stack, name)
        if what == "cancelled":
            request = stack.persons(f"/{stack.uuid(name)}/delete_events/", "POST").json["id"]
        else:
            request = bulk(stack, distinct_ids=[name], delete_events=True).json["deletion_request"]
        made.paths[what] = f"/deletion_requests/{request}/"
        made.before[what] = stack.persons(made.paths[what]).json
    answer = stack.persons(made.paths["cancelled"], "DELETE")
    assert (answer.status, answer.body) == (204, b"")
    made.before["cancelled"] = stack.persons(made.paths["cancelled"]).json
    swept = stack.call("deletions", "run")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    return made


# bulk_delete


def test_bulk_delete_takes_uuids_and_integers_and_tells_what_it_did(stack: Stack, name: str) -> None:
    for number in range(3):
        sent(stack, f"{name}-{number}")
    integer = stack.persons(f"/{stack.uuid(name + '-1')}/").json["id"]
    stranger = str(uuid4())
    answer = bulk(stack, ids=[stack.uuid(f"{name}-0"), integer, stranger])
    requests = answer.json["deletion_requests"]
    assert (answer.status, len(requests)) == (202, 2)
    assert answer.json == NOTHING | {
        "persons_found": 2, "persons_deleted": 2, "persons_queued_for_deletion": 0, "unmatched": [stranger],
        "deletion_request": requests[0], "deletion_requests": requests,
    }  # fmt: skip
    assert [shown(stack, f"{name}-{number}") is None for number in range(3)] == [True, True, False]


def test_bulk_delete_takes_distinct_ids(stack: Stack, name: str) -> None:
    sent(stack, name)
    answer = bulk(stack, distinct_ids=[name, "nobody"])
    assert (answer.status, answer.json["persons_found"], answer.json["unmatched"]) == (202, 1, ["nobody"])
    assert shown(stack, name) is None


@pytest.mark.parametrize("body", [{"ids": [123456789]}, {"distinct_ids": ["nobody"]}], ids=str)
def test_nothing_matched_is_202_with_zeros(stack: Stack, body: dict[str, Any]) -> None:
    answer = bulk(stack, **body)
    assert (answer.status, answer.json) == (202, NOTHING | {"unmatched": next(iter(body.values()))})


@pytest.mark.parametrize(
    ("body", "attr"),
    [
        ({}, "ids"), ({"ids": ["x"], "distinct_ids": ["x"]}, "ids"), ({"ids": [], "distinct_ids": []}, "ids"),
        ({"ids": []}, "ids"), ({"distinct_ids": []}, "distinct_ids"),
        ({"ids": [1] * 1_001}, "ids"), ({"distinct_ids": ["x"] * 1_001}, "distinct_ids"), ({"ids": "x"}, "ids"),
        ({"ids": ["no id"]}, "ids"), ({"ids": [None]}, "ids"), ({"distinct_ids": [5]}, "distinct_ids"),
    ],
    ids=[
        "neither", "both", "both and empty", "no ids", "no distinct ids",
        "1,001 ids", "1,001 distinct ids", "no list", "no id", "null",
        "a number as distinct id",
    ],
)  # fmt: skip
def test_a_bulk_delete_needs_ids_xor_distinct_ids_and_at_most_1000(
    stack: Stack, body: dict[str, Any], attr: str
) -> None:
    answer = bulk(stack, **body)
    assert answer.status == 400
    assert answer.json | {"detail": ""} == {
        "type": "validation_error", "code": "invalid_input", "detail": "", "attr": attr,
    }  # fmt: skip


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", ["false", "true", 0, 1, [], {}, ""], ids=repr)
def test_flags_are_real_booleans(stack: Stack, name: str, flag: str, value: Any) -> None:
    sent(stack, name)
    answer = bulk(stack, distinct_ids=[name], **{flag: value})
    assert answer.status == 400
    assert answer.json | {"detail": ""} == {
        "type": "validation_error", "code": "invalid_input", "detail": "", "attr": flag,
    }  # fmt: skip
    assert shown(stack, name) is not None


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize("recordings", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_flags_choose_what_is_queued(stack: Stack, name: str, events: bool, recordings: bool, keep: bool) -> None:
    sent(stack, name)
    flags = dict(zip(FLAGS, (events, recordings, keep), strict=True))
    body = bulk(stack, ids=[stack.uuid(name)], **flags).json
    count = 0 if keep else 1
    assert (body["persons_found"], body["persons_deleted"], body["persons_queued_for_deletion"]) == (1, count, 0)
    assert body["events_queued_for_deletion"] is events
    assert body["recordings_queued_for_deletion"] is recordings
    assert len(body["deletion_requests"]) == (0 if keep and not events and not recordings else 1)
    assert (shown(stack, name) is not None) is keep
    if body["deletion_requests"]:
        scope = stack.persons(f"/deletion_requests/{body['deletion_request']}/").json["scope"]
        assert scope == {"profile": not keep, "events": events, "recordings": recordings}


# deletion_status


def test_deletion_status_is_a_page_of_these_fields(stack: Stack, name: str) -> None:
    sent(stack, name)
    assert status(stack, name) == {"count": 0, "next": None, "previous": None, "results": []}
    bulk(stack, ids=[stack.uuid(name)], delete_events=True)
    body = status(stack, name)
    created_at = body["results"][0]["created_at"]
    assert body == {
        "count": 1, "next": None, "previous": None,
        "results": [
            {"person_uuid": stack.uuid(name), "created_at": created_at, "status": "pending", "delete_verified_at": None}
        ],
    }  # fmt: skip
    assert created_at.endswith("Z")


def test_deletion_status_pages_by_limit_and_offset_newest_first(stack: Stack, name: str) -> None:
    sent(stack, name)
    for _ in range(3):
        assert stack.persons(f"/{stack.uuid(name)}/delete_events/", "POST").status == 200
    everything = status(stack, name)["results"]
    times = [one["created_at"] for one in everything]
    assert times == sorted(times, reverse=True) and len(times) == 3
    first = status(stack, name, "&limit=2")
    assert (first["count"], first["results"], first["previous"]) == (3, everything[:2], None)
    second = stack.ask("GET", first["next"].removeprefix(stack.url)).json
    assert (second["count"], second["results"], second["next"]) == (3, everything[2:], None)
    assert stack.ask("GET", second["previous"].removeprefix(stack.url)).json["results"] == everything[:2]
    assert status(stack, name, "&offset=1")["results"] == everything[1:]


def test_deletion_status_knows_pending_completed_and_all(run: Run, name: str) -> None:
    stack, gone, location = run.stack, run.names["done"], run.paths["done"]
    assert stack.persons(location).json["state"] == "verified"
    (done,) = status(stack, gone, "&status=completed")["results"]
    assert done["status"] == "completed" and done["delete_verified_at"] >= done["created_at"]
    assert status(stack, gone, "&status=pending")["count"] == 0
    assert status(stack, gone, "&status=all") == status(stack, gone)
    verified = stack.persons(location, "DELETE")
    assert (verified.status, verified.json["type"], verified.json["code"]) == (
        409, "invalid_request", "conflict",
    )  # fmt: skip
    sent(stack, name)
    bulk(stack, distinct_ids=[name], delete_events=True)
    assert [status(stack, name, f"&status={one}")["count"] for one in ("pending", "completed", "all")] == [1, 0, 1]


@pytest.mark.parametrize(
    ("query", "code", "attr"),
    [
        ("status=done", "invalid_choice", "status"), ("person_uuid=x", "invalid_input", "person_uuid"),
        ("limit=0", "invalid_input", "limit"), ("offset=-1", "invalid_input", "offset"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_of_deletion_status_is_400(stack: Stack, query: str, code: str, attr: str) -> None:
    answer = stack.persons(f"/deletion_status/?{query}")
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (400, code, attr)


def test_deletion_status_and_requests_are_of_this_project_only(
    stack: Stack, projects: Projects, name: str
) -> None:
    second = projects.fresh()
    sent(stack, name)
    request = bulk(stack, distinct_ids=[name], delete_events=True).json["deletion_request"]
    assert second.persons("/deletion_status/").json["count"] == 0
    assert second.persons("/deletion_requests/").json["results"] == []
    for method in ("GET", "DELETE"):
        assert second.persons(f"/deletion_requests/{request}/", method).status == 404
    assert stack.persons(f"/deletion_requests/{request}/").json["state"] == "pending"


# deletion_requests


def test_a_deletion_request_shows_its_state_phases_window_and_receipt(stack: Stack, name: str) -> None:
    sent(stack, name)
    request = bulk(stack, distinct_ids=[name], delete_events=True).json["deletion_request"]
    body = stack.persons(f"/deletion_requests/{request}/").json
    assert (body["id"], body["state"], body["person_uuid"]) == (request, "pending", stack.uuid(name))
    assert set(body) >= {"id", "state", "phases", "window", "receipt", "stays"}
    listed = stack.persons("/deletion_requests/?limit=1").json
    assert listed["results"] == [body]


def test_a_request_tells_its_next_window_and_then_counts_per_store(run: Run) -> None:
    pending = run.before["counts"]
    assert datetime.fromisoformat(pending["window"]) >= datetime.fromisoformat(pending["created_at"])
    assert pending["phases"] == {}
    done = run.stack.persons(run.paths["counts"]).json
    assert (done["state"], done["window"]) == ("verified", None)
    assert done["phases"]["captured_events"] == {"hidden": 1, "remaining": 0}
    assert all(phase["remaining"] == 0 for phase in done["phases"].values())


def test_a_request_tells_partition_i_of_n(run: Run) -> None:
    assert run.before["partition"]["partition"] is None
    partition = run.stack.persons(run.paths["partition"]).json["partition"]
    assert partition["done"] == partition["of"] >= 1


@pytest.mark.parametrize("kind", ["delete_events", "delete_recordings"])
def test_these_routes_answer_with_the_request_and_keep_the_person(stack: Stack, name: str, kind: str) -> None:
    sent(stack, name, **{"$set": {"a": 1}})
    answer = stack.persons(f"/{stack.uuid(name)}/{kind}/", "POST", {})
    assert answer.status == 200
    assert answer.json == stack.persons(f"/deletion_requests/{answer.json['id']}/").json
    assert shown(stack, name)["properties"] == {"a": 1}  # type: ignore[index]  # it is there


def test_a_pending_request_can_be_cancelled_and_is_not_carried_out(run: Run) -> None:
    assert run.before["cancelled"]["state"] == "cancelled"
    assert run.stack.persons(run.paths["cancelled"]).json["state"] == "cancelled"
    count = f"SELECT count() FROM captured_events WHERE distinct_id = '{run.names['cancelled']}'"
    assert run.stack.query(count) == "1"


@pytest.mark.parametrize("request_id", ["x", "123", "00000000-0000-4000-8000-000000000001"])
def test_an_unknown_deletion_request_is_404(stack: Stack, request_id: str) -> None:
    for method in ("GET", "DELETE"):
        answer = stack.persons(f"/deletion_requests/{request_id}/", method)
        assert (answer.status, answer.json) == (
            404, {"type": "invalid_request", "code": "not_found", "detail": "Not found.", "attr": None},
        )  # fmt: skip


# DELETE :id


@pytest.mark.parametrize(
    ("query", "scope"),
    [
        ("", (True, False, False)),
        ("?delete_events=true", (True, True, False)),
        ("?delete_events=1&delete_recordings=1", (True, True, True)),
        ("?delete_events=false&delete_recordings=0&keep_person=false", (True, False, False)),
        ("?keep_person=true&delete_events=true", (False, True, False)),
        ("?keep_person=1&delete_recordings=true", (False, False, True)),
    ],
)
def test_delete_takes_the_three_flags(stack: Stack, name: str, query: str, scope: tuple[bool, ...]) -> None:
    sent(stack, name)
    answer = stack.persons(f"/{stack.uuid(name)}/{query}", "DELETE")
    assert (answer.status, answer.body) == (204, b"")
    made = stack.ask("GET", answer.headers["Location"])
    assert made.json["scope"] == dict(zip(("profile", "events", "recordings"), scope, strict=True))
    assert stack.persons(f"/{stack.uuid(name)}/").status == (404 if scope[0] else 200)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", ["yes", "2", "null", "TRUE", "on"])
def test_a_flag_of_delete_that_is_no_boolean_deletes_nobody(stack: Stack, name: str, flag: str, value: str) -> None:
    sent(stack, name)
    answer = stack.persons(f"/{stack.uuid(name)}/?{flag}={value}", "DELETE")
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (400, "invalid_input", flag)
    assert stack.persons(f"/{stack.uuid(name)}/").status == 200


def test_the_second_delete_is_404(stack: Stack, name: str) -> None:
    sent(stack, name)
    assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 204
    second = stack.persons(f"/{stack.uuid(name)}/", "DELETE")
    assert (second.status, second.json["detail"]) == (404, "Not found.")


@pytest.mark.parametrize("how", ["DELETE", "bulk_delete"])
def test_a_deleted_id_may_be_used_again_at_once_and_starts_empty(stack: Stack, name: str, how: str) -> None:
    sent(stack, name, "$identify", **{"$set": {"old": 1}, "$set_once": {"older": 1}, "$anon_distinct_id": f"{name}-2"})
    before = stack.persons(f"/{stack.uuid(name)}/").json
    if how == "DELETE":
        assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 204
    else:
        assert bulk(stack, distinct_ids=[name]).status == 202
    sent(stack, name, **{"$set_once": {"older": 2}})
    after = stack.persons(f"/{stack.uuid(name)}/").json
    assert (after["properties"], after["distinct_ids"], after["is_identified"]) == ({"older": 2}, [name], False)
    assert (after["id"], after["created_at"] > before["created_at"]) == (before["id"], True)
    assert shown(stack, f"{name}-2") is None
