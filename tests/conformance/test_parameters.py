"""Every parameter of every route, and every field of every body: its wrong type, its limit, and one beyond.

Generated from what the routes declare; that they declare all of it, the assertion in `RestCall.parameter` holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import pytest

from services.api.app import ROUTES
from services.api.deletions import schemas as deletion_bodies
from services.api.http.parameters import Choice, Flag, Integer, Parameter, Text, Uuid
from services.api.http.property_limits import DEPTH_MAX, NAME_CHARS_MAX, PROPERTIES_MAX
from services.api.http.routing import BODY_BYTES_MAX, Route
from services.api.writes import schemas as bodies
from shared.inputs.ids import SENT_ID_CHARS_MAX
from shared.runtime.process.lifecycle import REQUEST_LINE_BYTES_MAX
from tests.conformance.test_access import BODIES
from tests.support.asking import sent
from tests.support.processes import Answer, Stack
from tests.support.stacks import Projects

NOBODY = "00000000-0000-4000-8000-000000000000"
"""Parameters are judged before existence: what is right is then 404 where a write names a person."""

SENSIBLE = {"GET /properties_at_time": {"distinct_id": "ada", "timestamp": "2026-01-01"}}
MAKES_SENSE_WITH = {"cursor /{id}/properties_timeline": {"source": "changes"}}
GARBAGE = {
    "cursor": "zzz", "step": "zzz", "moment": "soon", "day": "soon", "series": "[", "filters": "[",
    "breakdown": "[", "person-id": "a@b.c",
}  # fmt: skip
"""Texts that are none of their format."""

RIGHT = {"moment": "2026-01-01", "day": "-7d", "series": "[]", "filters": "[]", "person-id": NOBODY, "step": "1.1"}

Case = tuple[Route, Parameter[Any], str, str | None]


def named(case: Any) -> str:
    route, parameter, text, code = case
    return (
        f"{route.method} {route.path} {parameter.name}={text[:20]}{'' if len(text) <= 20 else len(text)} {code or 'ok'}"
    )


def cases() -> Iterator[Case]:
    for route in ROUTES:
        for parameter in route.query:
            for text, code in texts(parameter):
                if text is not None:
                    yield route, parameter, text, code


def texts(parameter: Parameter[Any]) -> list[tuple[str | None, str | None]]:
    """(text, the error's code or None for right)."""
    bad = "invalid_input"
    if isinstance(parameter, Integer):
        minimum, maximum = parameter.minimum, parameter.maximum
        wrong = ("x", "1.5", "-1", "1e2", "٣", str(2**70), str(minimum - 1), str(maximum + 1))
        return [*((text, bad) for text in wrong), ("", bad), (str(minimum), None), (str(maximum), None)]
    if isinstance(parameter, Flag):
        return [*((text, bad) for text in ("yes", "2", "True", "null", "")), *((text, None) for text in ("false", "0"))]
    if isinstance(parameter, Choice):
        return [("nonsense", "invalid_choice"), *((text, None) for text in (*parameter.choices, ""))]
    if isinstance(parameter, Uuid):
        return [("x", bad), ("1", bad), (NOBODY, None), ("", None)]
    assert isinstance(parameter, Text)
    if parameter.form:
        return [
            (GARBAGE.get(parameter.form), bad),
            ("9" * (parameter.chars_max + 1), bad),
            (RIGHT.get(parameter.form), None),
        ]
    return [("x" * (parameter.chars_max + 1), bad), ("x" * parameter.chars_max, None), ("", None)]


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    stack = projects.fresh()
    sent(stack, "ada", **{"$set": {"a": 1}})
    return stack


def ask(stack: Stack, route: Route, query: dict[str, str], body: Any) -> Answer:
    writes = route.scope.endswith(":write")
    filled = {"{id}": NOBODY if writes else stack.uuid("ada"), "{key}": "a", "{request}": NOBODY, "{session}": "s-1"}
    path = route.path
    for field, value in filled.items():
        path = path.replace(field, value)
    return stack.persons(f"{path}/?{urlencode(query, quote_via=quote)}", route.method, body)


@pytest.mark.parametrize("case", list(cases()), ids=named)
def test_a_parameter_is_judged_by_what_it_declares(stack: Stack, case: Case) -> None:
    route, parameter, text, code = case
    name = f"{route.method} {route.path}"
    query = SENSIBLE.get(name, {}) | MAKES_SENSE_WITH.get(f"{parameter.name} {route.path}", {})
    if parameter.name == "person_id":
        query.pop("distinct_id", None)
    answer = ask(stack, route, query | {parameter.name: text}, BODIES.get(name))
    if code is None:
        assert answer.status in (200, 202, 204, 404) or answer.json.get("attr") != parameter.name, answer.body
    elif route.plain_errors:
        assert answer.status == 400 and set(answer.json) == {"error"}, answer.body
    else:
        assert (answer.status, answer.json["code"], answer.json["attr"]) == (400, code, parameter.name), answer.body


LONG = "x" * (SENT_ID_CHARS_MAX + 1)
KNOWN_ROUTES = {f"{route.method} {route.path}": route for route in ROUTES}
MISSING, REQUIRED = "This field is required.", "required"
FIELDS: list[tuple[str, Any, str, str]] = [
    ("PATCH /{id}", {}, MISSING, "properties"),
    ("PATCH /{id}", {"properties": None}, "invalid_input", "properties"),
    ("PATCH /{id}", {"properties": {"x" * (NAME_CHARS_MAX + 1): 1}}, "invalid_input", "properties"),
    ("PATCH /{id}", {"properties": {"": 1}}, "invalid_input", "properties"),
    ("POST /{id}/update_property", {"key": "a"}, MISSING, "value"),
    ("POST /{id}/update_property", {"value": 1}, MISSING, "key"),
    ("POST /{id}/update_property", {"value": 1, "key": 5}, "invalid_input", "key"),
    ("POST /{id}/update_property", {"value": 1, "key": ""}, "invalid_input", "key"),
    ("POST /{id}/update_property", {"value": 1, "key": "x" * (NAME_CHARS_MAX + 1)}, "invalid_input", "key"),
    ("POST /{id}/update_property", b'{"value":18446744073709551616,"key":"a"}', "invalid_input", "value"),
    ("POST /{id}/delete_property", {}, REQUIRED, "$unset"),
    ("POST /{id}/delete_property", {"$unset": 7}, "invalid_input", "$unset"),
    ("POST /{id}/delete_property", {"$unset": []}, "invalid_input", "$unset"),
    ("POST /{id}/delete_property", {"$unset": ["a", 7]}, "invalid_input", "$unset"),
    ("POST /{id}/delete_property", {"$unset": ["a"] * (PROPERTIES_MAX + 1)}, "invalid_input", "$unset"),
    ("POST /{id}/split", {"main_distinct_id": 7}, "invalid_input", "main_distinct_id"),
    ("POST /{id}/split", {"main_distinct_id": LONG}, "invalid_input", "main_distinct_id"),
    ("POST /{id}/split", {"distinct_ids_to_split": "ada"}, "invalid_input", "distinct_ids_to_split"),
    ("POST /{id}/split", {"distinct_ids_to_split": [7]}, "invalid_input", "distinct_ids_to_split"),
    ("POST /{id}/split", {"distinct_ids_to_split": []}, "invalid_input", "distinct_ids_to_split"),
    ("POST /{id}/merge", {}, "invalid_input", "source"),
    ("POST /{id}/merge", {"source": 1, "distinct_id": "a"}, "invalid_input", "source"),
    ("POST /{id}/merge", {"source": True}, "invalid_input", "source"),
    ("POST /{id}/merge", {"source": "a@b.c"}, "invalid_input", "source"),
    ("POST /{id}/merge", {"source": -1}, "invalid_input", "source"),
    ("POST /{id}/merge", {"distinct_id": ""}, "invalid_input", "distinct_id"),
    ("POST /{id}/merge", {"distinct_id": LONG}, "invalid_input", "distinct_id"),
    ("POST /batch_by_distinct_ids", {}, REQUIRED, "distinct_ids"),
    ("POST /batch_by_distinct_ids", {"distinct_ids": "ada"}, "invalid_input", "distinct_ids"),
    ("POST /batch_by_distinct_ids", {"distinct_ids": [7]}, "invalid_input", "distinct_ids"),
    ("POST /batch_by_distinct_ids", {"distinct_ids": [LONG]}, "invalid_input", "distinct_ids"),
    ("POST /batch_by_distinct_ids", {"distinct_ids": ["a"] * (bodies.BATCH_MAX + 1)}, "invalid_input", "distinct_ids"),
    ("POST /batch_by_uuids", {}, REQUIRED, "uuids"),
    ("POST /batch_by_uuids", {"uuids": ["x"]}, "invalid_input", "uuids"),
    ("POST /batch_by_uuids", {"uuids": [NOBODY] * (bodies.BATCH_MAX + 1)}, "invalid_input", "uuids"),
    ("POST /bulk_delete", {}, "invalid_input", "ids"),
    ("POST /bulk_delete", {"ids": [1], "distinct_ids": ["a"]}, "invalid_input", "ids"),
    ("POST /bulk_delete", {"ids": [True]}, "invalid_input", "ids"),
    ("POST /bulk_delete", {"ids": ["a@b.c"]}, "invalid_input", "ids"),
    ("POST /bulk_delete", {"ids": [2**63]}, "invalid_input", "ids"),
    ("POST /bulk_delete", {"ids": [1] * (deletion_bodies.BULK_MAX + 1)}, "invalid_input", "ids"),
    ("POST /bulk_delete", {"distinct_ids": ["a"] * (deletion_bodies.BULK_MAX + 1)}, "invalid_input", "distinct_ids"),
    ("POST /bulk_delete", {"distinct_ids": ["a"], "delete_events": "false"}, "invalid_input", "delete_events"),
    ("POST /bulk_delete", {"distinct_ids": ["a"], "delete_recordings": 1}, "invalid_input", "delete_recordings"),
    ("POST /bulk_delete", {"distinct_ids": ["a"], "keep_person": None}, "invalid_input", "keep_person"),
    ("POST /reset_person_distinct_id", {}, REQUIRED, "distinct_id"),
    ("POST /reset_person_distinct_id", {"distinct_id": 5}, "invalid_input", "distinct_id"),
    ("POST /reset_person_distinct_id", {"distinct_id": ""}, "invalid_input", "distinct_id"),
    ("POST /{id}/purge_property", {"key": "x" * (NAME_CHARS_MAX + 1)}, "invalid_input", "key"),
    ("POST /{id}/purge_property", {"key": ["a"]}, "invalid_input", "key"),
    ("POST /purge_property", {}, "required", "key"),
    ("POST /purge_property", {"key": ""}, "invalid_input", "key"),
]
RIGHT_BODIES: list[tuple[str, Any]] = [
    ("PATCH /{id}", {"properties": {"x" * NAME_CHARS_MAX: 2**64 - 1, "y": -(2**63)}}),
    ("PATCH /{id}", {"properties": {f"n{number}": 1 for number in range(PROPERTIES_MAX)}}),
    ("POST /{id}/update_property", {"value": None, "key": "x" * NAME_CHARS_MAX}),
    ("POST /{id}/delete_property", {"$unset": [f"n{number}" for number in range(PROPERTIES_MAX)]}),
    ("POST /batch_by_distinct_ids", {"distinct_ids": [f"a{number}" for number in range(bodies.BATCH_MAX)]}),
    ("POST /batch_by_distinct_ids", {"distinct_ids": ["x" * SENT_ID_CHARS_MAX]}),
    ("POST /batch_by_distinct_ids", {"distinct_ids": []}),
    ("POST /batch_by_uuids", {"uuids": [NOBODY] * bodies.BATCH_MAX}),
    ("POST /bulk_delete", {"distinct_ids": [f"a{number}" for number in range(deletion_bodies.BULK_MAX)]}),
    ("POST /bulk_delete", {"ids": [NOBODY] * deletion_bodies.BULK_MAX}),
    ("POST /bulk_delete", {"ids": [2**63 - 1]}),
    ("POST /purge_property", {"key": "x" * NAME_CHARS_MAX}),
]


@pytest.mark.parametrize(("name", "body", "code", "attr"), FIELDS, ids=lambda value: str(value)[:40])
def test_a_field_is_judged_by_what_it_declares(stack: Stack, name: str, body: Any, code: str, attr: str) -> None:
    answer = ask(stack, KNOWN_ROUTES[name], {}, body)
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (400, code, attr), answer.body


@pytest.mark.parametrize(("name", "body"), RIGHT_BODIES, ids=lambda value: str(value)[:40])
def test_a_field_at_its_limit_is_taken(stack: Stack, name: str, body: Any) -> None:
    assert ask(stack, KNOWN_ROUTES[name], {}, body).status == (
        404 if "{id}" in name else 202 if "bulk" in name else 200
    )


def test_every_body_has_its_rows() -> None:
    with_body = {f"{route.method} {route.path}" for route in ROUTES if route.body is not None}
    assert {name for name, *_ in FIELDS} == with_body


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 413)])
def test_the_size_of_a_body(stack: Stack, over: int, status: int) -> None:
    empty = len(orjson.dumps({"properties": {"pad": ""}}))
    body = orjson.dumps({"properties": {"pad": "x" * (BODY_BYTES_MAX - empty + over)}})
    assert len(body) == BODY_BYTES_MAX + over
    answer = stack.persons(f"/{stack.uuid('ada')}/", "PATCH", body)
    if over:
        assert (answer.status, answer.json["code"]) == (status, "too_large")
    else:
        assert answer.status == 413 and "One change" in answer.json["detail"]  # a record of the log is a little smaller


@pytest.mark.parametrize(("depth", "status"), [(DEPTH_MAX, 200), (DEPTH_MAX + 1, 400)])
def test_the_depth_of_properties_which_count_as_one(stack: Stack, depth: int, status: int) -> None:
    body = b'{"properties":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    assert stack.persons(f"/{stack.uuid('ada')}/", "PATCH", body).status == status


@pytest.mark.parametrize(("over", "status"), [(0, 200), (200, 400)])
def test_the_length_of_a_request_line(stack: Stack, over: int, status: int) -> None:
    """The HTTP library's own limit, and its own answer beyond: the one error that has another shape."""
    length = REQUEST_LINE_BYTES_MAX + over - len(f"/api/projects/{stack.project}/persons/?limit=1&token=")
    assert stack.persons(f"/?limit=1&token={'y' * length}").status == status


@pytest.mark.parametrize("key", ["k" * 255, "k" * 256, "", "ключ", "a b"])
def test_the_length_of_an_idempotency_key(stack: Stack, key: str) -> None:
    answer = stack.persons(
        f"/{stack.uuid('ada')}/", "PATCH", {"properties": {"b": 1}}, Idempotency_Key=key.encode().decode("latin-1")
    )
    assert answer.status == (200 if key in ("k" * 255, "a b") else 400)


@pytest.mark.parametrize(
    "route", [one for one in ROUTES if one.scope.endswith(":write")], ids=lambda route: f"{route.method} {route.path}"
)
def test_a_broken_idempotency_key_is_400_on_every_write(stack: Stack, route: Route) -> None:
    path = route.path.replace("{id}", NOBODY).replace("{request}", NOBODY)
    answer = stack.persons(path, route.method, BODIES.get(f"{route.method} {route.path}"), Idempotency_Key="")
    assert (answer.status, answer.json["code"]) == (400, "invalid_input")


@pytest.mark.parametrize(("length", "status"), [(NAME_CHARS_MAX, 200), (NAME_CHARS_MAX + 1, 400)])
def test_the_length_of_a_property_in_the_path(stack: Stack, length: int, status: int) -> None:
    assert stack.persons(f"/{stack.uuid('ada')}/properties/{'k' * length}/history/").status == status
