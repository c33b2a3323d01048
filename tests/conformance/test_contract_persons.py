"""contract §1 and §2, row by row: every route under every prefix and in every format, and what a person looks like.

Shown elsewhere: the scope of each route (test_access: test_a_scope_opens_its_routes_and_no_others), 201 entries of a
batch (test_identities: test_batches_answer_for_up_to_200_and_refuse_more), more than 20 values of a property
(test_filters: test_at_most_twenty_values_are_told), a dry run of a merge (test_identities:
test_merge_by_rest_and_what_a_dry_run_says_of_it), the errors of properties_at_time (test_past:
test_properties_at_time_refuses_as_the_original_does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.support.asking import births, imported, sent
from tests.support.processes import Answer, Stack
from tests.support.stacks import Projects

PREFIXES = {
    "environments": "/api/environments/{project}/persons",
    "environments @current": "/api/environments/@current/persons",
    "projects": "/api/projects/{project}/persons",
    "projects @current": "/api/projects/@current/persons",
    "person": "/api/person",
}
PERSON = frozenset("id name distinct_ids properties created_at uuid last_seen_at is_identified".split())
PAGE = frozenset(("results", "next", "previous"))
REQUEST = frozenset(("id", "state", "phases", "window", "receipt"))
BULK = frozenset(
    "persons_found persons_deleted events_queued_for_deletion recordings_queued_for_deletion deletion_errors"
    " persons_queued_for_deletion unmatched deletion_request".split()
)
POINTS = frozenset(("points", "crucial_property_keys", "effective_date_from", "effective_date_to"))
MOMENT = "2026-01-01T00:00:00Z"


class Row(NamedTuple):
    """A row of the table: what is asked, and the status and body of the answer (keys, an exact body, None: empty)."""

    method: str
    path: str
    body: Any
    status: int
    answer: Any


ROUTES: dict[str, Row] = {
    "list": Row("GET", "", None, 200, PAGE),
    "retrieve": Row("GET", "/{id}", None, 200, PERSON),
    "PATCH": Row("PATCH", "/{id}", {"properties": {"b": 2}}, 200, PERSON),
    "PUT": Row("PUT", "/{id}", {"properties": {"b": 2}}, 200, PERSON),
    "DELETE": Row("DELETE", "/{id}", None, 204, None),
    "activity of a person": Row("GET", "/{id}/activity", None, 200, PAGE | {"total_count"}),
    "activity": Row("GET", "/activity", None, 200, PAGE | {"total_count"}),
    "delete_events": Row("POST", "/{id}/delete_events", {}, 200, REQUEST),
    "delete_recordings": Row("POST", "/{id}/delete_recordings", {}, 200, REQUEST),
    "delete_property": Row("POST", "/{id}/delete_property", {"$unset": "a"}, 200, {"success": True}),
    "update_property": Row("POST", "/{id}/update_property", {"key": "a", "value": 2}, 200, {"success": True}),
    "properties_timeline": Row("GET", "/{id}/properties_timeline", None, 200, POINTS),
    "split": Row("POST", "/{id}/split", {"main_distinct_id": "{name}"}, 200, {"success", "persons"}),
    "merge": Row("POST", "/{id}/merge", {"distinct_id": "{name}"}, 200, PERSON),
    "bulk_delete": Row("POST", "/bulk_delete", {"distinct_ids": ["nobody"]}, 202, BULK),
    "deletion_status": Row("GET", "/deletion_status", None, 200, PAGE | {"count"}),
    "deletion_requests": Row("GET", "/deletion_requests", None, 200, {"results"}),
    "a deletion request": Row("GET", "/deletion_requests/{request}", None, 200, REQUEST),
    "cancel": Row("DELETE", "/deletion_requests/{request}", None, 204, None),
    "reset": Row("POST", "/reset_person_distinct_id", {"distinct_id": "{name}"}, 202, None),
    "values": Row("GET", "/values?key=never", None, 200, {"results": [], "refreshing": False}),
    "batch_by_distinct_ids": Row("POST", "/batch_by_distinct_ids", {"distinct_ids": ["{name}"]}, 200, {"results"}),
    "batch_by_uuids": Row("POST", "/batch_by_uuids", {"uuids": ["{uuid}"]}, 200, {"results"}),
    "properties_at_time": Row(
        "GET", "/properties_at_time?person_id={id}&timestamp={moment}", None, 200, PERSON | {"point_in_time_metadata"}
    ),
}
ADDRESSED = [one for one, row in ROUTES.items() if "{id}" in row.path]


def born(stack: Stack, name: str, /, **properties: Any) -> dict[str, Any]:
    """A person made by one captured event."""
    sent(stack, name, **{"$set": properties})
    found: dict[str, Any] = stack.persons(f"/{stack.uuid(name)}/").json
    return found


@pytest.fixture(scope="module")
def names(stack: Stack) -> Iterator[str]:
    return births(stack, a=1)


@pytest.fixture
def person_name(names: Iterator[str]) -> str:
    """Whose property a is 1 and whom no other test asks about."""
    return next(names)


def ask(stack: Stack, row: Row, name: str, prefix: str, slash: str = "", form: str = "id") -> Answer:
    """Ask for a row of the table about the person of this name."""
    person = stack.persons(f"/{stack.uuid(name)}/").json
    filled = {"id": str(person[form]), "name": name, "uuid": person["uuid"], "moment": person["created_at"]}
    if "{request}" in row.path:
        filled["request"] = stack.persons(f"/{person['id']}/delete_recordings/", "POST").json["id"]
    path, _, query = row.path.partition("?")
    url, body = _at(stack, prefix) + path + slash + ("?" + query if query else ""), row.body
    for field, value in filled.items():
        url = url.replace(f"{{{field}}}", value)
        body = _filled(body, f"{{{field}}}", value)
    return stack.ask(row.method, url, body)


def _at(stack: Stack, prefix: str) -> str:
    return prefix.replace("{project}", str(stack.project))


def _filled(body: Any, field: str, value: str) -> Any:
    if isinstance(body, dict):
        return {key: _filled(item, field, value) for key, item in body.items()}
    if isinstance(body, list):
        return [_filled(item, field, value) for item in body]
    return value if body == field else body


def check(row: Row, answer: Answer) -> None:
    assert answer.status == row.status, answer.body
    if row.answer is None:
        assert answer.body == b""
    elif isinstance(row.answer, dict):
        assert answer.json == row.answer
    elif row.answer in (REQUEST, BULK):
        assert set(answer.json) >= row.answer
    else:
        assert set(answer.json) == row.answer
    if row.answer is not None:
        assert answer.headers["Content-Type"].partition(";")[0] == "application/json"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
def test_a_route_answers_as_documented(stack: Stack, person_name: str, route: str, prefix: str, slash: str) -> None:
    check(ROUTES[route], ask(stack, ROUTES[route], person_name, PREFIXES[prefix], slash))


@pytest.mark.parametrize("route", ADDRESSED)
def test_a_route_takes_a_uuid_as_well(stack: Stack, person_name: str, route: str) -> None:
    check(ROUTES[route], ask(stack, ROUTES[route], person_name, PREFIXES["projects"], form="uuid"))


@pytest.mark.parametrize("route", [one for one in ROUTES if one not in ("reset", "bulk_delete")])
def test_every_answer_carries_a_position(stack: Stack, person_name: str, route: str) -> None:
    answer = ask(stack, ROUTES[route], person_name, PREFIXES["projects"])
    assert re.fullmatch(r"[cid]\.\d+\.\d+(,[cid]\.\d+\.\d+)*", answer.headers["Position"])


def test_a_bulk_delete_of_somebody_carries_a_position(stack: Stack, person_name: str) -> None:
    row = ROUTES["bulk_delete"]._replace(body={"distinct_ids": ["{name}"]})
    assert ask(stack, row, person_name, PREFIXES["projects"]).headers["Position"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
def test_post_to_the_collection_is_405_and_points_at_capture(stack: Stack, prefix: str, slash: str) -> None:
    answer = stack.ask("POST", _at(stack, PREFIXES[prefix]) + slash, {"distinct_id": "x"})
    assert answer.status == 405
    fields = {"type": "invalid_request", "code": "method_not_allowed", "detail": "", "attr": None}
    assert answer.json | {"detail": ""} == fields
    assert "/capture/" in answer.json["detail"]


def test_the_person_prefix_takes_the_project_of_a_token(stack: Stack, name: str) -> None:
    born(stack, name)
    assert stack.ask("GET", f"/api/person/{stack.uuid(name)}/?token={stack.token}").json["uuid"] == stack.uuid(name)
    assert stack.ask("GET", "/api/person/?token=phc_nobody").status == 404


def test_patch_with_respond_async_is_202_and_empty(stack: Stack, name: str) -> None:
    born(stack, name, a=1)
    for method in ("PATCH", "PUT"):
        answer = stack.persons(f"/{stack.uuid(name)}/", method, {"properties": {"a": method}}, Prefer="respond-async")
        assert (answer.status, answer.body) == (202, b"")
        read = stack.persons(f"/{stack.uuid(name)}/", Min_Position=answer.headers["Position"])
        assert read.json["properties"] == {"a": method}


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_update_sets_and_never_replaces(stack: Stack, name: str, method: str) -> None:
    before = born(stack, name, a=1, b=1)
    answer = stack.persons(f"/{stack.uuid(name)}/", method, {"properties": {"b": 2, "c": None}})
    assert answer.json == before | {"properties": {"a": 1, "b": 2, "c": None}}
    assert stack.persons(f"/{stack.uuid(name)}/").json == answer.json


@pytest.mark.parametrize("body", [None, {}], ids=["no body", "an empty object"])
def test_delete_property_takes_the_name_from_the_query_when_the_body_has_none(
    stack: Stack, name: str, body: dict[str, Any] | None
) -> None:
    born(stack, name, a=1, b=2)
    assert stack.persons(f"/{stack.uuid(name)}/delete_property/?$unset=a", "POST", body).json == {"success": True}
    assert stack.persons(f"/{stack.uuid(name)}/").json["properties"] == {"b": 2}
    assert stack.persons(f"/{stack.uuid(name)}/delete_property/?$unset=b", "POST", {"$unset": "c"}).status == 200
    assert stack.persons(f"/{stack.uuid(name)}/").json["properties"] == {"b": 2}


def test_delete_names_the_deletion_request_in_location(stack: Stack, name: str) -> None:
    born(stack, name)
    answer = stack.persons(f"/{stack.uuid(name)}/", "DELETE")
    assert (answer.status, answer.body) == (204, b"")
    made = stack.ask("GET", answer.headers["Location"])
    assert (made.status, made.json["person_uuid"]) == (200, stack.uuid(name))


def test_split_answers_with_uuid_id_and_distinct_ids_of_every_person(stack: Stack, name: str) -> None:
    device = f"{name}-device"
    one, two = born(stack, name), born(stack, device)
    stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": device})
    answer = stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"main_distinct_id": name})
    assert answer.json == {
        "success": True,
        "persons": [
            {"uuid": stack.uuid(name), "id": one["id"], "distinct_ids": [name]},
            {"uuid": stack.uuid(device), "id": two["id"], "distinct_ids": [device]},
        ],
    }


@pytest.mark.parametrize("form", ["id", "uuid", "distinct_id"])
def test_merge_takes_a_source_by_id_uuid_or_distinct_id(stack: Stack, name: str, form: str) -> None:
    survivor, absorbed = born(stack, name, a=1), born(stack, f"{name}-2", b=2)
    body = {"distinct_id": f"{name}-2"} if form == "distinct_id" else {"source": absorbed[form]}
    answer = stack.persons(f"/{survivor['id']}/merge/", "POST", body)
    assert (answer.status, answer.json["id"], answer.json["uuid"]) == (200, survivor["id"], stack.uuid(name))
    assert answer.json["properties"] == {"a": 1, "b": 2}
    assert sorted(answer.json["distinct_ids"]) == [name, f"{name}-2"]
    assert answer.json == stack.persons(f"/{absorbed['id']}/").json


def test_values_are_told_by_count_and_filtered_by_a_part_whatever_the_case(stack: Stack, name: str) -> None:
    for number, value in enumerate(["Pro", "pro", "pro", "Basic"]):
        born(stack, f"{name}-{number}", **{name: value})
    told = [{"name": "pro", "count": 2}, {"name": "Basic", "count": 1}, {"name": "Pro", "count": 1}]
    assert stack.persons(f"/values/?key={name}").json == {"results": told, "refreshing": False}
    assert stack.persons(f"/values/?key={name}&value=RO").json["results"] == [told[0], told[2]]
    assert stack.persons("/values/").json == {"results": [], "refreshing": False}


def test_batches_answer_by_what_was_asked_and_leave_strangers_out(stack: Stack, name: str) -> None:
    person, stranger = born(stack, name, a=1), str(uuid4())
    by_ids = stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": [name, stranger]})
    assert by_ids.json == {"results": {name: person}}
    by_uuids = stack.persons("/batch_by_uuids/", "POST", {"uuids": [person["uuid"], stranger]})
    assert by_uuids.json == {"results": {person["uuid"]: person}}


def test_properties_at_time_is_a_person_with_metadata(stack: Stack, name: str) -> None:
    person = born(stack, name, a=1)
    answer = stack.persons(f"/properties_at_time/?distinct_id={name}&timestamp={person['created_at']}")
    assert (answer.status, answer.json["properties"], answer.json["id"]) == (200, {"a": 1}, person["id"])
    metadata = answer.json["point_in_time_metadata"]
    assert metadata["queried_timestamp"] == person["created_at"]
    assert (metadata["distinct_id_used"], metadata["query_mode"]) == (name, "distinct_id")


# Formats


@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
@pytest.mark.parametrize("path", ["", "/{id}", "/activity", "/{id}/activity", "/{id}/properties_timeline"])
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_suffix_parameter_and_accept_choose_the_format(
    stack: Stack, name: str, path: str, kind: str, slash: str
) -> None:
    path = path.replace("{id}", str(born(stack, name, a=1)["id"]))
    wanted = {"json": "application/json", "csv": "text/csv"}[kind]
    answers = [
        stack.persons(f"{path}.{kind}{slash}"),
        stack.persons(f"{path}{slash}?format={kind}"),
        stack.persons(path + slash, Accept=wanted),
    ]
    for answer in answers:
        assert answer.status == 200, answer.body
        assert answer.headers["Content-Type"].partition(";")[0] == wanted
    if kind == "csv":  # in JSON, next and previous repeat what was asked for
        assert len({answer.body for answer in answers}) == 1


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_suffix_works_under_every_prefix(stack: Stack, name: str, prefix: str) -> None:
    person = born(stack, name)
    path = _at(stack, PREFIXES[prefix])
    assert stack.ask("GET", f"{path}/{person['id']}.json").json == person
    assert stack.ask("GET", f"{path}.csv?limit=1").headers["Content-Type"].startswith("text/csv")


@pytest.mark.parametrize("accept", ["*/*", "application/*", "text/html,application/xhtml+xml,*/*;q=0.8"])
def test_what_browsers_and_clients_accept_is_json(stack: Stack, accept: str) -> None:
    answer = stack.persons("/?limit=1", Accept=accept)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "application/json")


@pytest.mark.parametrize("path", "/?format=xml /{id}/?format=xml /activity/?format=api .xml /activity.xml".split())
def test_any_other_format_is_404(stack: Stack, name: str, path: str) -> None:
    answer = stack.persons(path.replace("{id}", str(born(stack, name)["id"])))
    assert (answer.status, answer.json["type"], answer.json["code"]) == (404, "invalid_request", "not_found")


@pytest.mark.parametrize("accept", ["image/png", "text/html", "application/xml"])
def test_accept_of_another_type_is_406(stack: Stack, accept: str) -> None:
    answer = stack.persons("/", Accept=accept)
    assert answer.status == 406
    fields = {"type": "invalid_request", "code": "not_acceptable", "detail": "", "attr": None}
    assert answer.json | {"detail": ""} == fields


# §2 Person


def test_a_person_has_these_fields_and_no_others(stack: Stack, name: str) -> None:
    person = imported(stack, name, "2026-01-02T03:04:05Z", plan="pro")
    assert isinstance(person["id"], int)
    assert person == {
        "id": person["id"], "name": name, "distinct_ids": [name], "properties": {"plan": "pro"},
        "created_at": "2026-01-02T03:04:05Z", "uuid": stack.uuid(name), "last_seen_at": person["last_seen_at"],
        "is_identified": False,
    }  # fmt: skip


def test_a_list_row_adds_three_fields_and_has_the_integer_id(stack: Stack, name: str) -> None:
    person = born(stack, name)
    (row,) = stack.persons(f"/?distinct_id={name}").json["results"]
    assert row == person | {"type": "person", "matched_recordings": [], "value_at_data_point": None}
    (searched,) = stack.persons(f"/?search={name}").json["results"]
    assert searched == row


@pytest.mark.parametrize(
    ("properties", "shown"),
    [
        ({"email": "a@b.c", "name": "Ada", "username": "ada"}, "a@b.c"),
        ({"Email": "a@b.c", "name": "Ada"}, "a@b.c"), ({"$email": "a@b.c", "name": "Ada"}, "a@b.c"),
        ({"email": "", "Email": "A@b.c", "$email": "a@b.c"}, "A@b.c"),
        ({"name": "Ada", "username": "ada"}, "Ada"), ({"username": "ada"}, "ada"),
        ({"email": "", "name": None, "username": "ada"}, "ada"), ({"plan": "pro"}, None),
    ],
    ids=str,
)  # fmt: skip
def test_the_name_is_the_first_truthy_display_property(
    stack: Stack, name: str, properties: dict[str, Any], shown: str | None
) -> None:
    assert born(stack, name, **properties)["name"] == (shown or name)


@pytest.mark.parametrize(
    ("device", "anonymous"),
    [("{0}-{1}-{1}-{1}-{2}", True), ("a-b-c-d-{2}", True), ("{0}-{1}-{1}-X-{2}", False), ("{0}-{1}-{1}-{2}", False)],
    ids=["a uuid", "any five groups", "uppercase", "four groups"],
)
def test_anonymous_ids_come_last_and_never_name_a_person(stack: Stack, name: str, device: str, anonymous: bool) -> None:
    device = device.format(uuid4().hex[:8], uuid4().hex[:4], uuid4().hex[:12])
    born(stack, device)
    born(stack, name)
    merged = stack.persons(f"/{stack.uuid(device)}/merge/", "POST", {"distinct_id": name}).json
    assert merged["distinct_ids"] == ([name, device] if anonymous else [device, name])
    assert merged["name"] == merged["distinct_ids"][0]


@pytest.mark.parametrize(
    ("sent_at", "told"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05.250Z", "2026-01-02T03:04:05.250000Z"),
        ("2026-01-02T03:04:05.000001Z", "2026-01-02T03:04:05.000001Z"),
        ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"),
    ],
    ids=["whole second", "milliseconds", "a microsecond", "another offset"],
)
def test_created_at_is_utc_with_microseconds_when_not_zero(stack: Stack, name: str, sent_at: str, told: str) -> None:
    assert imported(stack, name, sent_at)["created_at"] == told


def test_last_seen_at_is_of_hour_precision(stack: Stack, name: str) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:00:00Z", born(stack, name)["last_seen_at"])


VECTORS = {
    (1, "a"): "84877a1c-03f2-5cfd-8633-cf112f0d565a",
    (1, "user@example.com"): "55379864-2afb-5e1c-adf7-decb022461c5",
    (2, "a"): "65f20a61-af17-51ba-b1d2-5bef0332a525",
    (1, "ünï"): "d9eac7e0-c905-5f92-990e-67e98866fcca",
}


def test_uuids_are_those_of_the_vectors(projects: Projects) -> None:
    for (project, distinct_id), wanted in VECTORS.items():
        stack = projects.first if project == projects.first.project else projects.second
        assert stack.project == project
        position = stack.capture(event="e", distinct_id=distinct_id).headers["Position"]
        assert stack.persons(f"/{wanted}/", Min_Position=position).json["distinct_ids"] == [distinct_id]
