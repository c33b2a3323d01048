"""What is held of ids that nobody is, what a deletion leaves, and projects where a DELETE means everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import orjson
import pytest

from tests.support.asking import sent, shown
from tests.support.processes import Answer, Stack, wait_for
from tests.support.snapshots import body, event
from tests.support.stacks import Projects

SWITCH_SECONDS_MAX = 30.0
NOTHING_STAYS: list[str] = []


@pytest.fixture(scope="module")
def stack(erasing_stack: Stack) -> Stack:
    return erasing_stack


@pytest.fixture(scope="module")
def thorough(erasing_projects: Projects) -> Iterator[Stack]:
    """A project where a DELETE means everything."""
    stack = erasing_projects.fresh()
    said = stack.call("projects", "delete-everything", str(stack.project), "on")
    assert (said.returncode, said.stdout) == (0, f"delete-everything of project {stack.project}: on\n"), said.stderr

    def known() -> bool:
        name = f"probe-{uuid4().hex}"
        sent(stack, name)
        return delete(stack, name).headers.get("Deletion-Stays") is None

    wait_for(known, SWITCH_SECONDS_MAX, "the API to know of the switch")
    yield stack


def delete(stack: Stack, name: str, query: str = "") -> Answer:
    answer = stack.persons(f"/{stack.uuid(name)}/{query}", "DELETE")
    assert answer.status == 204, answer.body
    return answer


def bulk(stack: Stack, query: str = "", /, key: str = "", **asked: Any) -> Any:
    headers = {"Idempotency_Key": key} if key else {}
    answer = stack.persons(f"/bulk_delete/{query}", "POST", asked, **headers)
    assert answer.status in (200, 202), answer.body
    return answer.json


def request_of(stack: Stack, request: str) -> Any:
    return stack.persons(f"/deletion_requests/{request}/").json


def recorded(stack: Stack, name: str) -> None:
    """One block of a recording; it gives birth to nobody."""
    block = body(event(name, str(uuid4()), stack.token))
    answer = stack.ask("POST", "/s/?compression=gzip-js", block, key=None, Content_Type="text/plain")
    assert stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200


def held(stack: Stack, table: str, name: str) -> int:
    where = f"project = {stack.project} AND fragment = '{stack.uuid(name)}'"
    return int(stack.query(f"SELECT count() FROM {table} WHERE {where}"))


def gone(stack: Stack, name: str) -> None:
    """A person that was deleted without its captured event."""
    sent(stack, name, "paid", secret="of the former life")
    delete(stack, name)


def test_bulk_delete_reaches_events_whose_person_is_gone_or_never_was(stack: Stack, name: str) -> None:
    living, never = f"{name}-living", f"{name}-never"
    gone(stack, name)
    sent(stack, never, "seen", **{"$process_person_profile": False})
    sent(stack, living)
    assert (held(stack, "captured_events", name), shown(stack, never)) == (1, None)
    asked = [name, living, "nobody-ever", never]
    answer = bulk(stack, distinct_ids=asked, delete_events=True)
    assert answer["unmatched"] == ["nobody-ever"]
    assert (answer["persons_found"], answer["persons_deleted"], answer["persons_queued_for_deletion"]) == (1, 1, 0)
    assert (answer["events_queued_for_deletion"], answer["recordings_queued_for_deletion"]) == (True, False)
    requests = {one["person_uuid"]: one for one in (request_of(stack, one) for one in answer["deletion_requests"])}
    assert set(requests) == {stack.uuid(one) for one in (name, living, never)}
    for one in (name, never):
        request = requests[stack.uuid(one)]
        assert request["scope"] == {"profile": False, "events": True, "recordings": False}
        assert request["stays"] == ["profile", "recordings"]
    sent(stack, name, "again")  # later than the request: of the next life
    ran = stack.call("deletions", "run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [held(stack, "captured_events", one) for one in (name, living, never)] == [1, 0, 0]
    assert b"of the former life" not in stack.query("SELECT groupArray(properties) FROM captured_events").encode()
    done = request_of(stack, requests[stack.uuid(name)]["id"])
    assert (done["state"], done["phases"]["captured_events"]) == ("verified", {"hidden": 1, "remaining": 0})
    assert done["receipt"]["said"]["members"] == [stack.uuid(name)]
    assert done["receipt"]["said"]["stays"] == ["profile", "recordings"]


def test_what_a_delete_covers_already_is_nothing_that_remains(stack: Stack, name: str) -> None:
    sent(stack, name)
    delete(stack, name, "?delete_events=true")
    assert held(stack, "captured_events", name) == 1  # until the window
    answer = bulk(stack, distinct_ids=[name], delete_events=True)
    assert (answer["unmatched"], answer["deletion_requests"]) == ([name], [])
    sent(stack, name, "later", **{"$process_person_profile": False})
    assert bulk(stack, distinct_ids=[name], delete_events=True)["unmatched"] == []
    recorded(stack, name)
    assert bulk(stack, distinct_ids=[name], delete_recordings=True)["unmatched"] == []


def test_recordings_whose_person_is_gone_go_as_well(stack: Stack, name: str) -> None:
    requests = {}
    for one, keep in ((name, False), (f"{name}-kept", True)):
        recorded(stack, one)
        assert bulk(stack, distinct_ids=[one], keep_person=keep)["unmatched"] == [one]  # they were not asked for
        answer = bulk(stack, distinct_ids=[one], delete_recordings=True, keep_person=keep)
        assert (answer["unmatched"], answer["persons_found"]) == ([], 0)
        assert answer["recordings_queued_for_deletion"] is True
        requests[one] = answer["deletion_request"]
    assert stack.call("deletions", "run").returncode == 0  # one, which waits for what may be on its way to both
    for one, request in requests.items():
        assert held(stack, "recording_blocks", one) == 0
        assert request_of(stack, request)["phases"]["objects"] == {"hidden": 1, "remaining": 0}


def test_ids_that_are_uuids_or_integers_of_gone_persons_do_the_same(stack: Stack, name: str) -> None:
    sent(stack, name)
    number = shown(stack, name)["id"]  # type: ignore[index]  # it is there
    delete(stack, name)
    stranger = str(uuid4())
    for one in (number, stack.uuid(name)):
        answer = bulk(stack, ids=[one, stranger], delete_events=True)
        assert (answer["unmatched"], answer["persons_found"], len(answer["deletion_requests"])) == ([stranger], 0, 1)
        assert request_of(stack, answer["deletion_request"])["person_uuid"] == stack.uuid(name)
    twice = bulk(stack, distinct_ids=[name, name], delete_events=True)
    assert (twice["unmatched"], len(twice["deletion_requests"])) == ([], 1)


def test_another_projects_events_are_not_reached(stack: Stack, name: str, thorough: Stack) -> None:
    sent(thorough, name, **{"$process_person_profile": False})
    for asked in ({"distinct_ids": [name]}, {"ids": [thorough.uuid(name)]}):
        assert bulk(stack, **asked, delete_events=True)["unmatched"] == next(iter(asked.values()))


def test_a_dry_run_counts_them_and_asks_for_nothing(stack: Stack, name: str) -> None:
    gone(stack, name)
    sent(stack, f"{name}-living", "a")
    sent(stack, f"{name}-living", "b")
    before = stack.persons("/deletion_requests/?limit=1000").json
    asked = {"distinct_ids": [name, f"{name}-living", "nobody-ever"], "delete_events": True, "keep_person": True}
    answer = bulk(stack, "?dry_run=true", **asked)
    assert (answer["dry_run"], answer["persons_found"], answer["unmatched"]) == (True, 1, ["nobody-ever"])
    assert answer["targets"]["captured_events"]["rows"] == 3
    assert answer["rows"] == sum(one["rows"] for one in answer["targets"].values())
    alone = bulk(stack, "?dry_run=true", distinct_ids=[name], delete_events=True)
    assert (alone["persons_found"], alone["targets"]["captured_events"]["rows"]) == (0, 1)
    assert alone["targets"]["fragments"]["rows"] == 0
    assert stack.persons("/deletion_requests/?limit=1000").json == before


@pytest.mark.parametrize("keep", [False, True])
def test_a_repeat_with_its_key_tells_the_first_outcome_of_them_too(stack: Stack, name: str, keep: bool) -> None:
    gone(stack, name)
    sent(stack, f"{name}-living")
    asked = {"distinct_ids": [name, f"{name}-living", "nobody-ever"], "delete_events": True, "keep_person": keep}
    first = bulk(stack, key=f"bulk {name}", **asked)
    assert (first["persons_found"], len(first["deletion_requests"])) == (1, 2)
    sent(stack, name, **{"$set": {"life": "new"}})
    assert bulk(stack, key=f"bulk {name}", **asked) == first
    assert shown(stack, name) is not None
    other = {**asked, "delete_recordings": True}
    refused = stack.persons("/bulk_delete/", "POST", other, Idempotency_Key=f"bulk {name}")
    assert (refused.status, refused.json["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("query", "stays"),
    [
        ("", ["events", "recordings"]), ("?delete_events=true", ["recordings"]),
        ("?delete_recordings=true", ["events"]), ("?delete_events=1&delete_recordings=1", NOTHING_STAYS),
        ("?keep_person=1&delete_events=true", ["profile", "recordings"]),
    ],
)  # fmt: skip
def test_a_delete_says_what_stays(stack: Stack, name: str, query: str, stays: list[str]) -> None:
    sent(stack, name)
    for headers in ({"Idempotency_Key": name}, {"Idempotency_Key": name}):  # and again
        answer = stack.persons(f"/{stack.uuid(name)}/{query}", "DELETE", **headers)
        assert answer.status == 204
        assert answer.headers.get("Deletion-Stays") == (", ".join(stays) or None)
        assert stack.ask("GET", answer.headers["Location"]).json["stays"] == stays


def test_the_signed_receipt_says_what_stays(stack: Stack, name: str) -> None:
    sent(stack, name)
    location = delete(stack, name).headers["Location"]
    said = bulk(stack, distinct_ids=[name])["stays"]
    assert said == ["events", "recordings"]
    assert stack.call("deletions", "run").returncode == 0
    request = stack.ask("GET", location).json
    assert request["receipt"]["said"]["stays"] == request["stays"] == ["events", "recordings"]
    path = stack.data / "receipts" / f"{request['id']}.json"
    assert orjson.loads(path.read_bytes()) == request["receipt"]
    checked = stack.call("receipts", "verify", str(path))
    assert (checked.returncode, checked.stdout.count(": ok")) == (0, 1), checked.stdout + checked.stderr


EVERYTHING = {"profile": True, "events": True, "recordings": True}


@pytest.mark.parametrize("query", ["", "?delete_events=false&delete_recordings=false"])
def test_where_a_delete_means_everything_no_flag_leaves_anything(thorough: Stack, name: str, query: str) -> None:
    sent(thorough, name)
    counted = thorough.persons(f"/{thorough.uuid(name)}/{query}{'&' if query else '?'}dry_run=true", "DELETE").json
    assert counted["targets"]["captured_events"]["rows"] == 1 and "recordings" in counted["targets"]
    answer = delete(thorough, name, query)
    request = thorough.ask("GET", answer.headers["Location"]).json
    assert (request["scope"], request["stays"]) == (EVERYTHING, [])
    assert "Deletion-Stays" not in answer.headers


def test_where_a_delete_means_everything_bulk_delete_does_too(thorough: Stack, name: str) -> None:
    sent(thorough, name)
    sent(thorough, f"{name}-never", **{"$process_person_profile": False})
    asked = {"distinct_ids": [name, f"{name}-never", "nobody-ever"], "delete_events": False}
    assert bulk(thorough, "?dry_run=true", **asked)["targets"]["captured_events"]["rows"] == 2
    answer = bulk(thorough, key=name, **asked)
    assert bulk(thorough, key=name, **asked) == answer
    assert (answer["stays"], answer["unmatched"], answer["persons_found"]) == ([], ["nobody-ever"], 1)
    assert answer["events_queued_for_deletion"] is answer["recordings_queued_for_deletion"] is True
    scopes = {one["person_uuid"]: one["scope"] for one in thorough.persons("/deletion_requests/").json["results"]}
    assert scopes[thorough.uuid(name)] == EVERYTHING
    assert scopes[thorough.uuid(f"{name}-never")] == EVERYTHING | {"profile": False}


def test_where_a_delete_means_everything_who_keeps_the_person_gets_what_it_asks_for(
    thorough: Stack, name: str
) -> None:
    sent(thorough, name)
    answer = delete(thorough, name, "?keep_person=true&delete_recordings=true")
    scope = thorough.ask("GET", answer.headers["Location"]).json["scope"]
    assert scope == {"profile": False, "events": False, "recordings": True}
    kept = bulk(thorough, distinct_ids=[name], keep_person=True)
    assert (kept["persons_found"], kept["deletion_requests"]) == (1, [])
    assert thorough.persons(f"/{thorough.uuid(name)}/delete_events/", "POST").json["scope"]["recordings"] is False


def test_the_switch_is_listed_and_turned_off_again(stack: Stack) -> None:
    made = stack.call("projects", "create", "thorough", "--delete-everything")
    project, token = made.stdout.split()
    rest = "zone UTC  dangerous on  server-only -  thorough\n"
    assert f"{project}  {token}  recordings off  delete-everything on  {rest}" in stack.call(
        "projects", "list"
    ).stdout  # fmt: skip
    assert stack.call("projects", "delete-everything", project, "off").returncode == 0
    assert f"{project}  {token}  recordings off  delete-everything off  {rest}" in stack.call(
        "projects", "list"
    ).stdout  # fmt: skip
    nobody = stack.call("projects", "delete-everything", "99999", "on")
    assert (nobody.returncode, nobody.stderr) == (1, "personlog: No such project.\n")
