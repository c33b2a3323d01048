"""docs/contract.md §4, every row of the table, with the exact body.

Shown elsewhere: throttled (test_access: test_limits_are_off_by_default_and_tell_themselves_when_set), 5xx for bad input
(test_bad_input, test_openapi), the same answer for another project's ids on every route (test_access:
test_ids_of_another_project_are_as_unknown_as_any).
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.support.asking import sent
from tests.support.processes import PERSONAL_KEY, TOKEN, Answer, Stack, wait_for
from tests.support.stacks import Projects, make_keys

DETAIL: dict[str, tuple[str, str, Any]] = {
    "retrieve": ("GET", "", None),
    "PATCH": ("PATCH", "", {"properties": {"a": 1}}),
    "PUT": ("PUT", "", {"properties": {"a": 1}}),
    "DELETE": ("DELETE", "", None),
    "DELETE of nothing": ("DELETE", "?keep_person=true", None),
    "activity": ("GET", "activity/", None),
    "delete_events": ("POST", "delete_events/", {}),
    "delete_recordings": ("POST", "delete_recordings/", {}),
    "delete_property": ("POST", "delete_property/", {"$unset": "a"}),
    "update_property": ("POST", "update_property/", {"key": "a", "value": 1}),
    "properties_timeline": ("GET", "properties_timeline/", None),
    "changes": ("GET", "properties_timeline/?source=changes", None),
    "split": ("POST", "split/", {}),
    "merge": ("POST", "merge/", {"distinct_id": "somebody"}),
    "history": ("GET", "properties/a/history/", None),
}
JSON_ROUTES: dict[str, tuple[str, str]] = {
    "PATCH": ("PATCH", "/{id}/"),
    "update_property": ("POST", "/{id}/update_property/"),
    "delete_property": ("POST", "/{id}/delete_property/"),
    "split": ("POST", "/{id}/split/"),
    "merge": ("POST", "/{id}/merge/"),
    "bulk_delete": ("POST", "/bulk_delete/"),
    "batch_by_distinct_ids": ("POST", "/batch_by_distinct_ids/"),
    "batch_by_uuids": ("POST", "/batch_by_uuids/"),
    "reset_person_distinct_id": ("POST", "/reset_person_distinct_id/"),
}


class Scene:
    """Two projects, a key of each kind, and one person of the first; asked with a key of all projects."""

    def __init__(self, stack: Stack, second: Stack) -> None:
        self.stack, self.second, self.stranger = stack, second.project, second.key
        (self.reader,) = make_keys(stack, ("person:read", [stack.project]))
        sent(stack, "ada", **{"$set": {"a": 1}})
        self.id = stack.persons(f"/{stack.uuid('ada')}/").json["id"]
        self.stack.persons(f"/{stack.uuid('ada')}/merge/", "POST", {"distinct_id": "ada-2"})

    def ask(
        self, path: str, method: str = "GET", body: Any = None, *, project: Any = None, key: str | None = PERSONAL_KEY,
        **headers: str,
    ) -> Answer:  # fmt: skip
        path = path.replace("{id}", str(self.id))
        number = self.stack.project if project is None else project
        return self.stack.ask(method, f"/api/projects/{number}/persons{path}", body, key=key, **headers)


@pytest.fixture(scope="module")
def scene(projects: Projects) -> Scene:
    return Scene(projects.fresh(), projects.fresh())


def check(answer: Answer, status: int, kind: str, code: str, attr: str | None = None, detail: str = "") -> None:
    """Exactly this error, and a text for people; `detail` when the text is fixed."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    said = answer.json["detail"]
    assert isinstance(said, str) and said
    assert answer.json == {"type": kind, "code": code, "detail": detail or said, "attr": attr}


# Credentials


def test_no_credentials_is_401_with_www_authenticate(scene: Scene) -> None:
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
        answer = scene.ask("/", key=None, **headers)
        check(answer, 401, "authentication_error", "not_authenticated")
        assert answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("key", ["phx_wrong", TOKEN, "wrong"], ids=["unknown", "a project token", "no prefix"])
def test_a_bad_key_is_401(scene: Scene, key: str) -> None:
    check(scene.ask("/", key=key), 401, "authentication_error", "authentication_failed")


@pytest.mark.parametrize("project", ["1", "@current", "77", "x"])
def test_credentials_come_before_the_project(scene: Scene, project: str) -> None:
    check(scene.ask("/", key=None, project=project), 401, "authentication_error", "not_authenticated")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [("PATCH", "/{id}/", "person:write"), ("DELETE", "/{id}/", "person:write"),
     ("POST", "/bulk_delete/", "person:write"), ("GET", "/activity/", "activity_log:read")],
)  # fmt: skip
def test_a_missing_scope_is_403_and_names_the_scope(scene: Scene, method: str, path: str, scope: str) -> None:
    answer = scene.ask(path, method, {} if method != "GET" else None, key=scene.reader)
    check(answer, 403, "authentication_error", "permission_denied")
    assert scope in answer.json["detail"]


def test_a_key_that_is_not_for_this_project_is_403(scene: Scene) -> None:
    for path in ("/", "/{id}/", "/424242/", "/x/"):
        check(scene.ask(path, key=scene.stranger), 403, "authentication_error", "permission_denied")


# Addresses


@pytest.mark.parametrize("project", ["77", "x", "0", "-1", "1.5", "99999999999", "@other"])
def test_an_unknown_or_non_integer_project_is_404(scene: Scene, project: str) -> None:
    for path in ("/", "/{id}/"):
        check(scene.ask(path, project=project), 404, "invalid_request", "not_found")


@pytest.mark.parametrize("route", DETAIL)
def test_a_malformed_person_id_is_400_and_hints_at_the_list(scene: Scene, route: str) -> None:
    method, path, body = DETAIL[route]
    answer = scene.ask(f"/ada@example.com/{path}", method, body)
    check(answer, 400, "validation_error", "invalid_input")
    assert "/persons?distinct_id=ada@example.com" in answer.json["detail"]


@pytest.mark.parametrize("text", ["-5", "1.0", "0x10", "84877a1c-03f2-5cfd-8633", "%20", "ada", "1e3", "%D9%A3"])
def test_an_id_that_is_neither_integer_nor_uuid_is_malformed(scene: Scene, text: str) -> None:
    check(scene.ask(f"/{text}/"), 400, "validation_error", "invalid_input")


@pytest.mark.parametrize("route", DETAIL)
@pytest.mark.parametrize("form", ["id", "uuid"])
def test_a_missing_person_is_404(scene: Scene, route: str, form: str) -> None:
    method, path, body = DETAIL[route]
    answer = scene.ask(f"/{424242 if form == 'id' else uuid4()}/{path}", method, body)
    check(answer, 404, "invalid_request", "not_found", detail="Not found.")


@pytest.mark.parametrize("route", DETAIL)
def test_a_deleted_person_is_404(scene: Scene, route: str) -> None:
    name = f"gone-{uuid4().hex[:8]}"
    sent(scene.stack, name)
    number = scene.stack.persons(f"/{scene.stack.uuid(name)}/").json["id"]
    assert scene.stack.persons(f"/{number}/", "DELETE").status == 204
    method, path, body = DETAIL[route]
    for address in (number, scene.stack.uuid(name)):
        answer = scene.ask(f"/{address}/{path}", method, body)
        check(answer, 404, "invalid_request", "not_found", detail="Not found.")


@pytest.mark.parametrize("route", DETAIL)
def test_a_person_of_another_project_is_404(scene: Scene, route: str) -> None:
    method, path, body = DETAIL[route]
    for address in (scene.id, scene.stack.uuid("ada")):
        answer = scene.ask(f"/{address}/{path}", method, body, project=scene.second)
        check(answer, 404, "invalid_request", "not_found", detail="Not found.")


@pytest.mark.parametrize("path", ["/{id}/nothing/", "/{id}/properties/a/", "/{id}/split/more/"])
def test_an_unknown_path_is_404(scene: Scene, path: str) -> None:
    check(scene.ask(path), 404, "invalid_request", "not_found")


# Fields


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "attr"),
    [
        ("POST", "/{id}/delete_property/", {}, "required", "$unset"),
        ("POST", "/{id}/delete_property/", {"$unset": 5}, "invalid_input", "$unset"),
        ("POST", "/{id}/delete_property/", {"$unset": ""}, "invalid_input", "$unset"),
        ("POST", "/{id}/update_property/", {"key": 5, "value": 1}, "invalid_input", "key"),
        ("POST", "/{id}/update_property/", {"key": "", "value": 1}, "invalid_input", "key"),
        ("PATCH", "/{id}/", {"properties": []}, "invalid_input", "properties"),
        ("PATCH", "/{id}/", {"properties": None}, "invalid_input", "properties"),
        ("POST", "/{id}/split/", {"main_distinct_id": 5}, "invalid_input", "main_distinct_id"),
        ("POST", "/batch_by_distinct_ids/", {}, "required", "distinct_ids"),
        ("POST", "/batch_by_distinct_ids/", {"distinct_ids": "x"}, "invalid_input", "distinct_ids"),
        ("POST", "/batch_by_uuids/", {}, "required", "uuids"),
        ("POST", "/batch_by_uuids/", {"uuids": ["x"]}, "invalid_input", "uuids"),
        ("POST", "/bulk_delete/", {"ids": [1], "delete_events": "false"}, "invalid_input", "delete_events"),
        ("POST", "/reset_person_distinct_id/", {}, "required", "distinct_id"),
        ("GET", "/?include_total=yes", None, "invalid_input", "include_total"),
        ("GET", "/deletion_status/?status=done", None, "invalid_choice", "status"),
        ("GET", "/deletion_status/?person_uuid=x", None, "invalid_input", "person_uuid"),
        ("GET", "/{id}/activity/?page=0", None, "invalid_input", "page"),
        ("GET", "/{id}/properties_timeline/?source=x", None, "invalid_choice", "source"),
    ],
)
def test_a_field_that_is_missing_or_wrong_is_400_and_named(
    scene: Scene, method: str, path: str, body: Any, code: str, attr: str
) -> None:
    check(scene.ask(path, method, body), 400, "validation_error", code, attr)


def test_patch_without_properties_keeps_code_and_detail_of_the_original(scene: Scene) -> None:
    for body in ({}, {"other": 1}, b""):
        answer = scene.ask("/{id}/", "PATCH", body)
        check(answer, 400, "validation_error", "This field is required.", "properties", detail="required")


@pytest.mark.parametrize(
    ("body", "attr"), [({}, "value"), ({"key": "a"}, "value"), ({"value": 1}, "key"), ({"value": None}, "key")]
)
def test_update_property_asks_for_value_before_key(scene: Scene, body: Any, attr: str) -> None:
    answer = scene.ask("/{id}/update_property/", "POST", body)
    check(answer, 400, "validation_error", "This field is required.", attr, detail="required")


def test_null_is_a_legal_value(scene: Scene) -> None:
    answer = scene.ask("/{id}/update_property/", "POST", {"key": "nothing", "value": None})
    assert (answer.status, answer.json) == (200, {"success": True})
    assert scene.ask("/{id}/").json["properties"]["nothing"] is None


# Bodies


@pytest.mark.parametrize("route", JSON_ROUTES)
@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"17", b"null", b"\xff"], ids=repr)
def test_malformed_json_and_a_body_that_is_no_object_are_400(scene: Scene, route: str, body: bytes) -> None:
    method, path = JSON_ROUTES[route]
    check(scene.ask(path, method, body), 400, "invalid_request", "parse_error")


@pytest.mark.parametrize("route", JSON_ROUTES)
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_on_a_json_route_is_415(scene: Scene, route: str, kind: str) -> None:
    method, path = JSON_ROUTES[route]
    check(scene.ask(path, method, b"a=b", Content_Type=kind), 415, "invalid_request", "unsupported_media_type")


@pytest.mark.parametrize("route", JSON_ROUTES)
def test_a_body_that_is_too_large_is_413(scene: Scene, route: str) -> None:
    method, path = JSON_ROUTES[route]
    check(scene.ask(path, method, b" " * 1_048_577), 413, "invalid_request", "too_large")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"), ("DELETE", "/"), ("PATCH", "/"), ("PUT", "/"), ("POST", "/{id}/"), ("GET", "/{id}/split/"),
        ("GET", "/{id}/merge/"), ("POST", "/{id}/activity/"), ("POST", "/activity/"), ("GET", "/bulk_delete/"),
        ("POST", "/{id}/properties_timeline/"), ("DELETE", "/{id}/update_property/"), ("POST", "/deletion_status/"),
        ("GET", "/batch_by_uuids/"), ("POST", "/values/"), ("POST", "/properties_at_time/"),
        ("GET", "/reset_person_distinct_id/"), ("PATCH", "/deletion_requests/"),
    ],
)  # fmt: skip
def test_a_method_that_is_not_allowed_is_405(scene: Scene, method: str, path: str) -> None:
    answer = scene.ask(path, method, {} if method != "GET" else None)
    check(answer, 405, "invalid_request", "method_not_allowed")
    assert answer.headers["Allow"]


# Preconditions and delays


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_stale_if_match_is_412(scene: Scene, method: str) -> None:
    seen = scene.ask("/{id}/").headers["ETag"]
    assert scene.ask("/{id}/", method, {"properties": {"a": method}}, If_Match=seen).status == 200
    stale = scene.ask("/{id}/", method, {"properties": {"a": "lost"}}, If_Match=seen)
    check(stale, 412, "invalid_request", "precondition_failed")
    assert scene.ask("/{id}/").json["properties"]["a"] == method


WRITES = ["PUT", "DELETE", "delete_property", "update_property", "split", "merge"]


@pytest.mark.parametrize("route", WRITES)
def test_a_stale_if_match_is_412_on_every_write_of_a_person(scene: Scene, route: str) -> None:
    name, (method, path, body) = f"stale-{uuid4().hex[:8]}", DETAIL[route]
    sent(scene.stack, "somebody")
    sent(scene.stack, name, "$identify", **{"$anon_distinct_id": f"{name}-2", "$set": {"a": 0}})
    seen = scene.stack.persons(f"/{scene.stack.uuid(name)}/").headers["ETag"]
    sent(scene.stack, name, **{"$set": {"a": "newer"}})
    before = scene.stack.persons(f"/{scene.stack.uuid(name)}/").json
    answer = scene.ask(f"/{scene.stack.uuid(name)}/{path}", method, body, If_Match=seen)
    check(answer, 412, "invalid_request", "precondition_failed")
    assert scene.stack.persons(f"/{scene.stack.uuid(name)}/").json == before


def test_projection_lag_is_503_with_retry_after(scene: Scene) -> None:
    for method, body in (("GET", None), ("PATCH", {"properties": {"a": "never"}})):
        answer = scene.ask("/{id}/", method, body, Min_Position="c.0.999999999")
        check(answer, 503, "server_error", "projection_lag")
        assert int(answer.headers["Retry-After"]) >= 1


# The order of checks on PATCH: the body, then the id's form, then existence


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "attr"),
    [
        ("/x/", b"{", 400, "parse_error", None), ("/424242/", b"{", 400, "parse_error", None),
        ("/x/", {}, 400, "This field is required.", "properties"),
        ("/424242/", {}, 400, "This field is required.", "properties"),
        ("/x/", {"properties": []}, 400, "invalid_input", "properties"),
        ("/x/", {"properties": {}}, 400, "invalid_input", None),
        ("/424242/", {"properties": []}, 400, "invalid_input", "properties"),
        ("/424242/", {"properties": {}}, 404, "not_found", None),
    ],
)  # fmt: skip
def test_patch_judges_body_then_form_then_existence(
    scene: Scene, path: str, body: Any, status: int, code: str, attr: str | None
) -> None:
    answer = scene.ask(path, "PATCH", body)
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (status, code, attr)


def test_a_database_that_is_down_is_503_and_comes_back(own_stack: Stack) -> None:
    """The engine is killed, and supervised back."""
    sent(own_stack, "ada")
    path = f"/{own_stack.uuid('ada')}/"
    old = own_stack.kill("engine")
    answer = wait_for(lambda: _unless_ok(own_stack, path), 60, "an answer while the engine is away")
    check(answer, 503, "server_error", "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    own_stack.wait_restarted("engine", old, 60)
    wait_for(lambda: own_stack.persons(path).status == 200, 60, "the engine to answer again")


def _unless_ok(stack: Stack, path: str) -> Answer | None:
    answer = stack.persons(path)
    return answer if answer.status != 200 else None
