"""A deletion that is cancelled over HTTP: the person is back, whole, or the answer says why not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.asking import sent_in_a_row, shown
from tests.support.processes import Answer, Stack, running, wait_for
from tests.support.stacks import NEVER


def merged(stack: Stack, name: str) -> dict[str, Any]:
    """A person of three ids, each of which was sent something."""
    sent_in_a_row(
        stack,
        (name, "sign up", {"$set": {"plan": "pro", "email": f"{name}@example.com"}, "$set_once": {"first": "web"}}),
        (f"{name}-phone", "open", {"$set": {"device": "phone"}, "$unset": ["plan"]}),
        (f"{name}-tablet", "open", {"$set": {"device": "tablet"}}),
        (name, "$identify", {"$anon_distinct_id": f"{name}-phone"}),
        (name, "$identify", {"$anon_distinct_id": f"{name}-tablet"}),
    )
    person = shown(stack, name)
    assert person is not None and len(person["distinct_ids"]) == 3 and person["is_identified"]
    return person


def deleted(stack: Stack, person: dict[str, Any], query: str = "") -> str:
    """Delete it; where its request is shown."""
    answer = stack.persons(f"/{person['id']}/{query}", "DELETE")
    assert answer.status == 204, answer.body
    assert stack.persons(f"/{person['id']}/").status == 404
    return answer.headers["Location"]


def cancelled(stack: Stack, location: str, **headers: str) -> Answer:
    return stack.ask("DELETE", location, **headers)


def refused(answer: Answer, says: str) -> None:
    assert (answer.status, answer.json["type"], answer.json["code"]) == (409, "invalid_request", "conflict")
    assert says in answer.json["detail"]
    assert answer.json["attr"] is None


def test_a_merged_person_of_three_ids_comes_back_whole(stack: Stack, name: str) -> None:
    before = merged(stack, name)
    location = deleted(stack, before)
    assert [shown(stack, one) for one in before["distinct_ids"]] == [None, None, None]
    answer = cancelled(stack, location)
    assert (answer.status, answer.body) == (204, b"")
    assert stack.ask("GET", location).json["state"] == "cancelled"
    for one in before["distinct_ids"]:
        assert shown(stack, one) == before
    for uuid in (before["uuid"], stack.uuid(f"{name}-phone"), str(before["id"])):
        assert stack.persons(f"/{uuid}/").json == {key: before[key] for key in stack.persons(f"/{uuid}/").json}
    again = stack.persons("/bulk_delete/?dry_run=true", "POST", {"distinct_ids": before["distinct_ids"]})
    assert (again.json["persons_found"], again.json["unmatched"]) == (1, [])


def test_a_restored_person_is_split_merged_and_written_as_if_nothing_had_been(stack: Stack, name: str) -> None:
    before = merged(stack, name)
    assert cancelled(stack, deleted(stack, before)).status == 204
    changed = stack.persons(f"/{before['id']}/", "PATCH", {"properties": {"plan": "new"}})
    assert changed.status == 200
    split = stack.persons(f"/{before['id']}/split/", "POST", {"distinct_ids_to_split": [f"{name}-phone"]})
    assert split.status == 200, split.body
    phone = shown(stack, f"{name}-phone")
    assert phone is not None and phone["properties"] == {"device": "phone"}
    location = deleted(stack, before)  # and again
    assert cancelled(stack, location).status == 204
    rest = shown(stack, name)
    assert rest is not None and rest["properties"]["plan"] == "new" and len(rest["distinct_ids"]) == 2


def test_a_cancel_twice_is_409_and_with_its_key_what_the_first_was_told(stack: Stack, name: str) -> None:
    location = deleted(stack, merged(stack, name))
    assert cancelled(stack, location, Idempotency_Key="one").status == 204
    assert cancelled(stack, location, Idempotency_Key="one").status == 204
    refused(cancelled(stack, location), "cancelled already")


def test_a_cancel_of_somebody_elses_or_of_nothing_is_404(stack: Stack, name: str, projects: Any) -> None:
    before = merged(stack, name)
    location = deleted(stack, before)
    other = projects.fresh()
    for path in (location.rsplit("/", 2)[1], str(uuid4()), "nothing"):
        assert other.persons(f"/deletion_requests/{path}/", "DELETE").status == 404
    assert stack.ask("GET", location).json["state"] == "pending"
    assert cancelled(stack, location).status == 204


def test_an_id_that_lives_again_refuses_the_cancel_and_the_request_goes_on(stack: Stack, name: str) -> None:
    before = merged(stack, name)
    location = deleted(stack, before)
    sent_in_a_row(stack, (f"{name}-phone", "back", {"$set": {"life": 2}}))
    refused(cancelled(stack, location), "begun a new life")
    assert stack.ask("GET", location).json["state"] == "pending"
    assert shown(stack, name) is None
    phone = shown(stack, f"{name}-phone")
    assert phone is not None and phone["properties"] == {"life": 2}


def test_an_id_that_was_deleted_again_refuses_the_older_cancel_until_the_newer_is_taken_back(
    stack: Stack, name: str
) -> None:
    before = merged(stack, name)
    first = deleted(stack, before)
    sent_in_a_row(stack, (f"{name}-phone", "back", {"$set": {"life": 2}}))
    phone = shown(stack, f"{name}-phone")
    assert phone is not None
    second = deleted(stack, phone)
    answer = cancelled(stack, first)
    refused(answer, "deleted again")
    told = stack.ask("GET", first).json
    assert (told["state"], told["cancel_refused"]) == ("pending", "deleted_again")
    assert cancelled(stack, second).status == 204
    assert shown(stack, f"{name}-phone") == phone


def test_who_does_not_wait_is_told_where_to_look(stack: Stack, name: str) -> None:
    before = merged(stack, name)
    location = deleted(stack, before)
    wait_for(lambda: stack.ask("GET", location).status == 200, 60, "the request to be in the ledger")
    answer = cancelled(stack, location, Prefer="respond-async")
    assert (answer.status, answer.headers["Location"]) == (202, location)
    wait_for(lambda: stack.ask("GET", location).json["state"] == "cancelled", 60, "the request to be cancelled")
    assert shown(stack, name) == before


def test_a_request_that_a_run_has_begun_is_not_cancelled(erasing_stack: Stack, name: str) -> None:
    stack = erasing_stack
    location = deleted(stack, merged(stack, name), "?delete_events=true")
    wait_for(lambda: stack.ask("GET", location).status == 200, 60, "the request to be in the ledger")
    kept = merged(stack, f"{name}-kept")
    assert cancelled(stack, deleted(stack, kept, "?delete_events=true")).status == 204
    swept = stack.call("deletions", "run")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    refused(cancelled(stack, location), "Hiding has begun")
    assert stack.ask("GET", location).json["state"] == "verified"
    assert shown(stack, f"{name}-kept") == kept
    events = "SELECT count() FROM captured_events WHERE distinct_id LIKE '{}%'"
    assert stack.query(events.format(f"{name}-kept")) == "5"


@pytest.mark.alone
def test_a_deleter_killed_while_cancelling_goes_on(tmp_path: Path, name: str) -> None:
    with running(tmp_path / "data", **NEVER) as stack:
        before = merged(stack, name)
        location = deleted(stack, before)
        wait_for(lambda: stack.ask("GET", location).status == 200, 60, "the request to be in the ledger")
        projector = stack.pid("projector")
        os.kill(projector, signal.SIGSTOP)  # the restore is asked for, and nobody folds it
        try:
            assert cancelled(stack, location, Prefer="wait=1").status == 202
            state = "SELECT argMax(state, version) FROM deletion_requests"
            wait_for(lambda: stack.query(state) == "cancelling", 60, "the request to be closed for runs")
            swept = stack.run("deletions", "run", log="run.log")
            stack.wait_restarted("deleter", stack.kill("deleter"))
            swept.wait(timeout=180)
            assert stack.query(state) == "cancelling"
        finally:
            os.kill(projector, signal.SIGCONT)
        wait_for(lambda: stack.ask("GET", location).json["state"] == "cancelled", 120, "the request to be cancelled")
        assert shown(stack, name) == before
        facts = "SELECT topic, count() FROM timeline WHERE topic LIKE '%.restore%' GROUP BY topic ORDER BY topic"
        assert stack.query(facts) == "fragment.restored\t3\nperson.restored\t3"
