"""Who may do what: every route times every scope times another project's ids, generated from the route tables."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from services.api.app import ROUTES
from services.api.http.guards.access import POLL_SECONDS
from services.api.http.routing import Route
from shared.domain.ids import fragment_id
from tests.support.asking import sent
from tests.support.processes import PERSONAL_KEY, Answer, Stack, free_port, wait_for
from tests.support.stacks import Projects, make_keys

SCOPES = ("person:read", "person:write", "activity_log:read")
BODIES: dict[str, Any] = {
    "PATCH /{id}": {"properties": {"a": 1}},
    "POST /{id}/update_property": {"key": "a", "value": 1},
    "POST /{id}/delete_property": {"$unset": "a"},
    "POST /{id}/merge": {"distinct_id": "nobody"},
    "POST /{id}/purge_property": {"key": "a"},
    "POST /batch_by_distinct_ids": {"distinct_ids": ["ada"]},
    "POST /bulk_delete": {"distinct_ids": ["nobody"]},
    "POST /reset_person_distinct_id": {"distinct_id": "ada"},
    "POST /batch_by_uuids": {"uuids": [str(fragment_id(1, "ada"))]},
}
QUERIES = {"GET /values": "?key=a", "GET /properties_at_time": "?distinct_id=ada&timestamp=2026-01-01"}
ADDRESSED = [route for route in ROUTES if "{id}" in route.path or "{request}" in route.path]


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


class Doors:
    """Two projects, one person in the first, and a key for each way of asking."""

    def __init__(self, stack: Stack, second: Stack) -> None:
        self.stack, self.first, self.second = stack, stack.project, second.project
        self.keys = dict(zip(SCOPES, make_keys(stack, *((scope, [stack.project]) for scope in SCOPES)), strict=True))
        self.stranger = second.key
        sent(stack, "ada", **{"$set": {"a": "canary"}})
        self.person = stack.persons("/?distinct_id=ada").json["results"][0]
        request = stack.persons(f"/{self.person['id']}/delete_recordings/", "POST")
        self.request = request.json["id"]

    def ask(self, route: Route, key: str | None, project: int, person: str = "") -> Answer:
        path = route.path.replace("{id}", person or str(self.person["uuid"])).replace("{key}", "a")
        path = path.replace("{session}", "s-1").replace("{request}", str(self.request)) + "/"
        path += QUERIES.get(named(route), "")
        if route.method == "DELETE" and "{id}" in route.path:
            path += "?keep_person=true"  # asks for nothing, so that the person stays for the next row of the matrix
        body = BODIES.get(named(route))
        if named(route) == "POST /batch_by_uuids":
            body = {"uuids": [self.person["uuid"]]}
        return self.stack.ask(route.method, f"/api/projects/{project}/persons{path}", body, key=key)


@pytest.fixture(scope="module")
def doors(projects: Projects) -> Doors:
    return Doors(projects.fresh(), projects.fresh())


def includes(given: str, wanted: str) -> bool:
    return given == wanted or (given.endswith(":write") and wanted == given.replace("write", "read"))


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_without_a_key_or_with_a_wrong_one_nobody_gets_in(doors: Doors, route: Route) -> None:
    for key, code in ((None, "not_authenticated"), ("phx_wrong", "authentication_failed")):
        answer = doors.ask(route, key, doors.first)
        assert (answer.status, answer.json["code"]) == (401, code)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("route", ROUTES, ids=named)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_its_routes_and_no_others(doors: Doors, route: Route, scope: str) -> None:
    answer = doors.ask(route, doors.keys[scope], doors.first)
    if includes(scope, route.scope):
        assert answer.status not in (401, 403), answer.body
        assert answer.status < 500
    else:
        assert (answer.status, answer.json["code"]) == (403, "permission_denied")
        assert route.scope in answer.json["detail"]


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_a_key_of_another_project_is_refused_by_name(doors: Doors, route: Route) -> None:
    answer = doors.ask(route, doors.stranger, doors.first)
    assert (answer.status, answer.json["code"]) == (403, "permission_denied")
    assert b"canary" not in answer.body


@pytest.mark.parametrize("route", ADDRESSED, ids=named)
@pytest.mark.parametrize("form", ["uuid", "id"])
def test_ids_of_another_project_are_as_unknown_as_any(doors: Doors, route: Route, form: str) -> None:
    """Same answer for another project's person, a person that never was, and another project's request."""
    theirs = doors.ask(route, doors.stranger, doors.second, str(doors.person[form]))
    nobody = doors.ask(route, doors.stranger, doors.second, str(uuid4()) if form == "uuid" else "123456789")
    assert theirs.status == 404, theirs.body
    if "{id}" in route.path:
        assert (theirs.status, theirs.body) == (nobody.status, nobody.body)


@pytest.mark.parametrize("route", [one for one in ROUTES if one not in ADDRESSED], ids=named)
def test_collections_hold_nothing_of_another_project(doors: Doors, route: Route) -> None:
    answer = doors.ask(route, doors.stranger, doors.second)
    assert b"canary" not in answer.body and str(doors.person["uuid"]).encode() not in answer.body.replace(
        b'"results":{}', b""
    )


def test_a_revoked_key_stops_working_by_the_next_poll_and_a_second_one_goes_on(doors: Doors) -> None:
    assert POLL_SECONDS < 10, "what is promised"
    first, second = make_keys(doors.stack, *[("person:read", [doors.first])] * 2)
    assert doors.stack.call("keys", "revoke", first).returncode == 0
    wait_for(lambda: doors.ask(ROUTES[0], first, doors.first).status == 401, 60, "the revocation")
    assert doors.ask(ROUTES[0], second, doors.first).status == 200


def test_limits_are_off_by_default_and_tell_themselves_when_set(doors: Doors) -> None:
    assert "RateLimit-Limit" not in doors.stack.persons("/").headers
    port = str(free_port())
    limited = doors.stack.spawn(
        "api", log="limited.log", PERSONLOG_PORT=port, PERSONLOG_KEY_RATE="0.0001", PERSONLOG_KEY_BURST="3"
    )
    ours = doors.stack.url
    try:
        doors.stack.url = f"http://127.0.0.1:{port}"
        wait_for(doors.stack.ready, 60, "the second API")
        answers = [doors.stack.persons("/?limit=1") for _ in range(4)]
        assert [one.status for one in answers] == [200, 200, 200, 429]
        assert [one.headers["RateLimit-Remaining"] for one in answers] == ["2", "1", "0", "0"]
        assert 9_000 <= int(answers[3].headers["Retry-After"]) <= 10_000
        assert answers[3].json | {"detail": ""} == {
            "type": "throttled_error", "code": "throttled", "detail": "", "attr": None,
        }  # fmt: skip
        missing = doors.stack.persons("/123456789/", key=doors.keys["person:read"])
        assert (missing.status, missing.headers["RateLimit-Remaining"]) == (404, "2")
    finally:
        doors.stack.url = ours
        limited.terminate()
        limited.wait(timeout=60)


def test_the_matrix_has_every_route(doors: Doors) -> None:
    assert PERSONAL_KEY and len({named(route) for route in ROUTES}) == len(ROUTES) > 20
