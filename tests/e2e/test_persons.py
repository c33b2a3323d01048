"""The nine documented endpoints and the list, over HTTP on real processes: under three prefixes, in JSON and CSV."""

from __future__ import annotations

import csv
import io
from typing import Any
from uuid import uuid4

import pytest

from tests.support.processes import Stack, wait_for


def born(stack: Stack, name: str, /, **properties: Any) -> dict[str, Any]:
    """A person made by one captured event, as the list shows it."""
    sent = stack.capture(event="signed up", distinct_id=name, properties={"$set": properties})
    assert sent.status == 200
    found = stack.persons(f"/?distinct_id={name}", Min_Position=sent.headers["Position"])
    row: dict[str, Any] = found.json["results"][0]
    return row


def merged(stack: Stack, name: str) -> dict[str, Any]:
    """A person of two ids, `name` and `name`-device, merged by $identify."""
    stack.capture(event="visit", distinct_id=f"{name}-device", properties={"$set": {"theme": "dark", "plan": "none"}})
    stack.capture(event="signed up", distinct_id=name, properties={"$set": {"plan": "free"}})
    sent = stack.capture(event="$identify", distinct_id=name, properties={"$anon_distinct_id": f"{name}-device"})
    found = stack.persons(f"/?distinct_id={name}-device", Min_Position=sent.headers["Position"])
    row: dict[str, Any] = found.json["results"][0]
    assert sorted(row["distinct_ids"]) == [name, f"{name}-device"]
    return row


@pytest.mark.parametrize(
    "prefix", ["/api/environments/{project}/persons", "/api/projects/@current/persons", "/api/person"]
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_person_is_retrieved_by_integer_and_uuid_under_every_prefix(
    stack: Stack, name: str, prefix: str, slash: str
) -> None:
    row, prefix = born(stack, name, email="a@b.c"), prefix.replace("{project}", str(stack.project))
    by_number = stack.ask("GET", f"{prefix}/{row['id']}{slash}")
    by_uuid = stack.ask("GET", f"{prefix}/{row['uuid']}{slash}")
    assert by_number.status == by_uuid.status == 200
    assert by_number.json == by_uuid.json
    assert row["uuid"] == stack.uuid(name)
    assert by_number.json["name"] == "a@b.c"
    assert by_number.json["distinct_ids"] == [name]
    assert by_number.json["created_at"].endswith("Z")
    assert set(by_number.json) == {
        "id", "name", "distinct_ids", "properties", "created_at", "uuid", "last_seen_at", "is_identified",
    }  # fmt: skip


@pytest.mark.parametrize("how", ["/{id}.csv", "/{id}/?format=csv", "/{id}.csv/"])
def test_a_person_renders_as_csv(stack: Stack, name: str, how: str) -> None:
    row = born(stack, name, formula="=1+1", number=-1, flag=True, nothing=None, deep={"a": [1, 2]})
    answer = stack.persons(how.replace("{id}", str(row["id"])))
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert b"\r\n" in answer.body
    cells = next(csv.DictReader(io.StringIO(answer.body.decode())))
    assert cells["properties.formula"] == "'=1+1"
    assert cells["properties.number"] == "-1"
    assert cells["properties.flag"] == "true"
    assert cells["properties.nothing"] == ""
    assert cells["properties.deep.a.1"] == "2"
    assert cells["distinct_ids.0"] == name


def test_an_update_is_visible_to_the_next_read_and_guarded_by_its_etag(stack: Stack, name: str) -> None:
    row = born(stack, name, plan="free")
    seen = stack.persons(f"/{row['id']}/").headers["ETag"]
    answer = stack.persons(f"/{row['id']}/", "PATCH", {"properties": {"plan": "pro", "seats": 3}}, If_Match=seen)
    assert answer.status == 200
    assert answer.json["properties"] == {"plan": "pro", "seats": 3}
    assert stack.persons(f"/{row['id']}/").json == answer.json
    stale = stack.persons(f"/{row['id']}/", "PATCH", {"properties": {"plan": "x"}}, If_Match=seen)
    assert (stale.status, stale.json["code"]) == (412, "precondition_failed")


def test_respond_async_answers_202_with_a_position_that_a_read_can_wait_for(stack: Stack, name: str) -> None:
    row = born(stack, name)
    answer = stack.persons(f"/{row['id']}/", "PATCH", {"properties": {"a": 1}}, Prefer="respond-async")
    assert (answer.status, answer.body) == (202, b"")
    read = stack.persons(f"/{row['id']}/", Min_Position=answer.headers["Position"])
    assert read.json["properties"] == {"a": 1}


def test_a_position_that_was_never_written_answers_503_and_never_stale_data(stack: Stack) -> None:
    answer = stack.persons("/?limit=1", Min_Position="c.0.999999999")
    assert (answer.status, answer.json["code"]) == (503, "projection_lag")
    assert answer.headers["Retry-After"] == "1"


def test_update_property_sets_one_and_null_is_a_value(stack: Stack, name: str) -> None:
    row = born(stack, name)
    assert stack.persons(f"/{row['id']}/update_property/", "POST", {"key": "a", "value": None}).json == {
        "success": True
    }
    assert stack.persons(f"/{row['id']}/").json["properties"] == {"a": None}


def test_delete_property_reaches_every_id_so_that_no_split_brings_it_back(stack: Stack, name: str) -> None:
    row = merged(stack, name)
    answer = stack.persons(f"/{row['id']}/delete_property/", "POST", {"$unset": "plan"})
    assert (answer.status, answer.json) == (200, {"success": True})
    assert "plan" not in stack.persons(f"/{row['id']}/").json["properties"]
    split = stack.persons(f"/{row['id']}/split/", "POST", {"main_distinct_id": name})
    for person in split.json["persons"]:
        assert "plan" not in stack.persons(f"/{person['id']}/").json["properties"]


def test_a_split_gives_every_id_back_what_was_set_through_it(stack: Stack, name: str) -> None:
    row = merged(stack, name)
    assert row["properties"] == {"plan": "free", "theme": "dark"}
    assert row["is_identified"] is True
    answer = stack.persons(f"/{row['id']}/split/", "POST", {"distinct_ids_to_split": [name]})
    assert answer.status == 200
    stayed, left = answer.json["persons"]
    assert (stayed["distinct_ids"], left["distinct_ids"]) == ([f"{name}-device"], [name])
    assert stack.persons(f"/{stayed['id']}/").json["properties"] == {"plan": "none", "theme": "dark"}
    assert stack.persons(f"/{left['uuid']}/").json["properties"] == {"plan": "free"}


def test_activity_tells_who_changed_what_and_captured_events_make_no_items(stack: Stack, name: str) -> None:
    row = merged(stack, name)
    stack.persons(f"/{row['id']}/", "PATCH", {"properties": {"plan": "pro"}})
    page = stack.persons(f"/{row['id']}/activity/").json
    assert [item["activity"] for item in page["results"]] == ["updated", "merged"]
    assert page["total_count"] == 2
    item = page["results"][0]
    assert (item["scope"], item["item_id"], item["user"]["first_name"]) == ("Person", str(row["id"]), "bootstrap")
    assert item["detail"]["changes"][0]["before"] == {"plan": "free"}
    assert item["detail"]["changes"][0]["after"] == {"plan": "pro"}
    first = stack.persons(f"/{row['id']}/activity/?limit=1").json
    second = stack.persons(f"/{row['id']}/activity/?limit=1&page=2").json
    assert [first["results"][0], second["results"][0]] == page["results"]
    assert (second["next"], first["previous"]) == (None, None)


def test_the_timeline_has_a_point_for_every_change_of_a_crucial_property(stack: Stack, name: str) -> None:
    for value in ("a", "a", "b", "a"):
        sent = stack.capture(event="step", distinct_id=name, properties={"$set": {"step": value}})
    row = stack.persons(f"/?distinct_id={name}", Min_Position=sent.headers["Position"]).json["results"][0]
    query = '?properties=[{"key":"step","type":"person","value":"a"}]'
    body = stack.persons(f"/{row['id']}/properties_timeline/{query}").json
    assert [(point["properties"]["step"], point["relevant_event_count"]) for point in body["points"]] == [
        ("a", 2), ("b", 1), ("a", 1),
    ]  # fmt: skip
    assert body["crucial_property_keys"] == ["step"]
    assert body["effective_date_to"].endswith("T23:59:59.999999+00:00")
    alone = stack.persons(f"/{row['id']}/properties_timeline/").json["points"]
    assert [point["relevant_event_count"] for point in alone] == [4]
    none = stack.persons(f'/{row["id"]}/properties_timeline/?events=[{{"id":"other"}}]').json["points"]
    assert none == []


def test_pages_are_full_and_nothing_comes_twice_or_is_missed_while_writes_go_on(stack: Stack, name: str) -> None:
    batch = [{"event": "e", "distinct_id": f"{name}-{number}"} for number in range(25)]
    sent = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None)
    path, pages = f"/?search={name}-&limit=10", []
    for _ in range(3):
        page = stack.persons(path, Min_Position=sent.headers["Position"]).json
        pages.append([row["distinct_ids"][0] for row in page["results"]])
        stack.capture(event="e", distinct_id=f"{name}-late-{len(pages)}")
        path = "/?" + (page["next"] or "").partition("?")[2]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert page["next"] is None
    assert sorted(one for page in pages for one in page) == sorted(f"{name}-{number}" for number in range(25))


def test_the_list_finds_by_distinct_id_email_and_any_part_of_a_name(stack: Stack, name: str) -> None:
    row = born(stack, name, email=f"{name}@example.com", name="Ada Lovelace")
    for query in (f"distinct_id={name}", f"email={name}@example.com", f"search={name[5:].upper()}"):
        assert [one["uuid"] for one in stack.persons(f"/?{query}").json["results"]] == [row["uuid"]]
    assert stack.persons(f"/?email={name}@example").json["results"] == []
    assert stack.persons(f"/?email={name}@example.com&search=nobody").json["results"] == []


@pytest.mark.parametrize("kind", ["delete_events", "delete_recordings"])
def test_deleting_events_or_recordings_makes_a_request_and_keeps_the_person(stack: Stack, name: str, kind: str) -> None:
    row = born(stack, name)
    answer = stack.persons(f"/{row['id']}/{kind}/", "POST", {})
    assert answer.status == 200
    assert answer.json["state"] == "pending"
    assert answer.json["scope"] == {
        "profile": False, "events": kind == "delete_events", "recordings": kind == "delete_recordings",
    }  # fmt: skip
    assert stack.persons(f"/{row['id']}/").status == 200
    cancelled = stack.persons(f"/deletion_requests/{answer.json['id']}/", "DELETE")
    assert cancelled.status == 204
    assert stack.persons(f"/deletion_requests/{answer.json['id']}/").json["state"] == "cancelled"


def test_a_deleted_person_is_gone_at_once_erased_by_a_run_and_its_id_starts_empty_again(
    erasing_stack: Stack, name: str
) -> None:
    stack = erasing_stack
    row = born(stack, name, secret="canary")  # a property of that name
    other = born(stack, f"{name}-other", kept="yes")
    answer = stack.persons(f"/{row['id']}/?delete_events=true", "DELETE")
    assert answer.status == 204
    assert stack.persons(f"/{row['id']}/").status == 404
    assert stack.persons(f"/{row['id']}/", "DELETE").status == 404
    again = stack.capture(event="back", distinct_id=name, properties={"$set": {"life": 2}})
    location = answer.headers["Location"]
    wait_for(lambda: stack.ask("GET", location).status == 200, 10, "the request to be in the ledger")
    swept = stack.call("deletions", "run")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert stack.ask("GET", location).json["state"] == "verified"
    status = stack.persons(f"/deletion_status/?person_uuid={row['uuid']}").json
    assert [one["status"] for one in status["results"]] == ["completed"]
    back = stack.persons(f"/{row['id']}/", Min_Position=again.headers["Position"])
    assert back.json["properties"] == {"life": 2}
    assert back.json["id"] == row["id"]
    assert stack.persons(f"/{other['id']}/").json["properties"] == {"kept": "yes"}


def test_a_resent_event_without_a_person_is_one_row_though_its_corrected_time_moved(stack: Stack, name: str) -> None:
    event = {"event": "e", "distinct_id": name, "uuid": str(uuid4()), "timestamp": "2026-11-01T10:00:00Z"}
    event["properties"] = {"$process_person_profile": False}
    for sent_at in ("2026-11-01T10:00:01Z", "2026-11-01T10:00:02Z"):
        sent = stack.capture(**event, sent_at=sent_at)
        stack.persons("/?limit=1", Min_Position=sent.headers["Position"])
    rows = stack.query(f"SELECT count() FROM captured_events FINAL WHERE distinct_id = '{name}'")
    assert rows == "1"


def test_an_event_resent_after_a_newer_write_does_not_bring_the_old_value_back(stack: Stack, name: str) -> None:
    first = {"event": "e", "distinct_id": name, "uuid": str(uuid4()), "properties": {"$set": {"plan": "old"}}}
    stack.capture(**first)
    stack.capture(event="e", distinct_id=name, properties={"$set": {"plan": "new"}})
    sent = stack.capture(**first)
    row = stack.persons(f"/?distinct_id={name}", Min_Position=sent.headers["Position"]).json["results"][0]
    assert row["properties"] == {"plan": "new"}
