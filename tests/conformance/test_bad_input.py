"""Bad input on the real stack: the documented error, never a 5xx, never a record in the log."""

from __future__ import annotations

import base64
import gzip
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.asking import sent
from tests.support.processes import OWN_KEY, PERSONAL_KEY, TOKEN, Stack, wait_for
from tests.support.stacks import Projects

KNOWN = "known@example.com"
DEEP = b'{"a":' * 40 + b"1" + b"}" * 40


def event(**changed: Any) -> bytes:
    return orjson.dumps({"api_key": TOKEN, "event": "e", "distinct_id": "d", "properties": {}} | changed)


def raw(properties: bytes) -> bytes:
    return b'{"api_key":"%s","event":"e","distinct_id":"d","properties":%s}' % (TOKEN.encode(), properties)


CAPTURE = {
    "malformed JSON": (b'{"api_key":', 400, "parse_error", None),
    "an empty body": (b"", 400, "parse_error", None),
    "a bare number": (b"17", 400, "parse_error", None),
    "text": (b"hello there", 400, "parse_error", None),
    "depth beyond recursion": (b"[" * 100_000, 400, "parse_error", None),
    "no token": (orjson.dumps({"event": "e", "distinct_id": "d"}), 401, "not_authenticated", None),
    "an unknown token": (event(api_key="phc_nobody"), 401, "authentication_failed", None),
    "a personal key as token": (event(api_key=PERSONAL_KEY), 401, "authentication_failed", None),
    "no event name": (event(event=None), 400, "invalid_input", "event"),
    "an event name that is a number": (event(event=7), 400, "invalid_input", "event"),
    "no distinct id": (event(distinct_id=None), 400, "invalid_input", "distinct_id"),
    "a blank distinct id": (event(distinct_id="  "), 400, "invalid_input", "distinct_id"),
    "an object as distinct id": (event(distinct_id={"_h": 0}), 400, "invalid_input", "distinct_id"),
    "a list as distinct id": (event(distinct_id=["a"]), 400, "invalid_input", "distinct_id"),
    "an empty batch": (orjson.dumps({"api_key": TOKEN, "batch": []}), 400, "invalid_input", "batch"),
    "a batch of numbers": (orjson.dumps({"api_key": TOKEN, "batch": [1]}), 400, "invalid_input", "batch[0]"),
    "malformed gzip": (b"\x1f\x8b\x08garbage", 400, "invalid_input", None),
    "gzip cut off": (gzip.compress(event())[:-9], 400, "invalid_input", None),
    "a gzip bomb": (gzip.compress(b" " * 300_000_000), 413, "too_large", None),
    "a body over 20 MiB": (b" " * (20 * 1_048_576 + 1), 413, "too_large", None),
    "a record over 1 MB": (event(properties={"x": "y" * 1_100_000}), 413, "too_large", None),
    "base64 of nonsense": (base64.b64encode(b"nonsense"), 400, "parse_error", None),
}  # fmt: skip

REST: dict[str, tuple[str, str, bytes | None, dict[str, str], int, str, str | None]] = {
    "no key": ("GET", "/api/projects/1/persons/", None, {"key": ""}, 401, "not_authenticated", None),
    "a wrong key": ("GET", "/api/projects/1/persons/", None, {"key": "phx_x"}, 401, "authentication_failed", None),
    "the project token as key": ("GET", "/api/person/", None, {"key": TOKEN}, 401, "authentication_failed", None),
    "an unknown project": ("GET", "/api/projects/77/persons/", None, {}, 404, "not_found", None),
    "a project that is a text": ("GET", "/api/projects/x/persons/", None, {}, 404, "not_found", None),
    "a huge project": ("GET", f"/api/projects/{2**70}/persons/", None, {}, 404, "not_found", None),
    "a malformed person id": ("GET", "/api/projects/1/persons/a@b.c/", None, {}, 400, "invalid_input", None),
    "an unknown person": ("GET", "/api/projects/1/persons/424242/", None, {}, 404, "not_found", None),
    "a person number of 70 bits": ("GET", f"/api/projects/1/persons/{2**70}/", None, {}, 404, "not_found", None),
    "limit 0": ("GET", "/api/projects/1/persons/?limit=0", None, {}, 400, "invalid_input", "limit"),
    "limit 1,001": ("GET", "/api/projects/1/persons/?limit=1001", None, {}, 400, "invalid_input", "limit"),
    "limit as a text": ("GET", "/api/projects/1/persons/?limit=x", None, {}, 400, "invalid_input", "limit"),
    "a negative offset": ("GET", "/api/projects/1/persons/?offset=-1", None, {}, 400, "invalid_input", "offset"),
    "a broken cursor": ("GET", "/api/projects/1/persons/?cursor=zzz", None, {}, 400, "invalid_input", "cursor"),
    "an unknown format": ("GET", "/api/projects/1/persons/?format=xml", None, {}, 404, "not_found", None),
    "an unacceptable type": (
        "GET", "/api/projects/1/persons/", None, {"Accept": "image/png"}, 406, "not_acceptable", None,
    ),
    "a broken Min-Position": (
        "GET", "/api/projects/1/persons/", None, {"Min_Position": "x.1"}, 400, "invalid_input", None,
    ),
    "a method that is not": ("POST", "/api/projects/1/persons/", b"{}", {}, 405, "method_not_allowed", None),
    "PATCH with malformed JSON": ("PATCH", "{id}", b"{", {}, 400, "parse_error", None),
    "PATCH with a list": ("PATCH", "{id}", b"[]", {}, 400, "parse_error", None),
    "PATCH without properties": ("PATCH", "{id}", b"{}", {}, 400, "This field is required.", "properties"),
    "PATCH with properties as text": ("PATCH", "{id}", b'{"properties":"x"}', {}, 400, "invalid_input", "properties"),
    "PATCH with 70 bits": ("PATCH", "{id}", b'{"properties":{"x":%d}}' % 2**70, {}, 400, "invalid_input", "properties"),
    "PATCH with NaN": ("PATCH", "{id}", b'{"properties":{"x":NaN}}', {}, 400, "parse_error", None),
    "PATCH with a lone surrogate": ("PATCH", "{id}", b'{"properties":{"x":"\\ud800"}}', {}, 400, "parse_error", None),
    "PATCH with depth 41": ("PATCH", "{id}", b'{"properties":%s}' % DEEP, {}, 400, "invalid_input", "properties"),
    "PATCH with 5 MB": ("PATCH", "{id}", b" " * 5_000_000, {}, 413, "too_large", None),
    "PATCH as a form": (
        "PATCH", "{id}", b"a=b", {"Content_Type": "application/x-www-form-urlencoded"}, 415,
        "unsupported_media_type", None,
    ),
    "PATCH of nobody judges the body first": (
        "PATCH", "/api/projects/1/persons/424242/", b"{}", {}, 400, "This field is required.", "properties",
    ),
    "PATCH with a stale If-Match": (
        "PATCH", "{id}", b'{"properties":{"x":1}}', {"If_Match": '"stale"'}, 412, "precondition_failed", None,
    ),
    "delete_property without a name": ("POST", "{id}delete_property/", b"{}", {}, 400, "required", "$unset"),
    "update_property without value": (
        "POST", "{id}update_property/", b"{}", {}, 400, "This field is required.", "value",
    ),
    "split with both fields": (
        "POST", "{id}split/", b'{"main_distinct_id":"a","distinct_ids_to_split":["b"]}', {}, 400, "invalid_input",
        "distinct_ids_to_split",
    ),
    "split with an empty list": (
        "POST", "{id}split/", b'{"distinct_ids_to_split":[]}', {}, 400, "invalid_input", "distinct_ids_to_split",
    ),
    "split of all": (
        "POST", "{id}split/", b'{"distinct_ids_to_split":["%s"]}' % KNOWN.encode(), {}, 400, "invalid_input",
        "distinct_ids_to_split",
    ),
    "split with an unknown main": (
        "POST", "{id}split/", b'{"main_distinct_id":"nobody"}', {}, 400, "invalid_input", "main_distinct_id",
    ),
    "DELETE with a flag that is no boolean": (
        "DELETE", "{id}?delete_events=yes", None, {}, 400, "invalid_input", "delete_events",
    ),
    "a timeline with malformed events": (
        "GET", "{id}properties_timeline/?events=[", None, {}, 400, "invalid_input", "events",
    ),
    "a timeline with a malformed date": (
        "GET", "{id}properties_timeline/?date_from=soon", None, {}, 400, "invalid_input", "date_from",
    ),
    "activity page 0": ("GET", "{id}activity/?page=0", None, {}, 400, "invalid_input", "page"),
    "an unknown deletion request": (
        "GET", "/api/projects/1/persons/deletion_requests/x/", None, {}, 404, "not_found", None,
    ),
    "an unknown deletion status": (
        "GET", "/api/projects/1/persons/deletion_status/?status=x", None, {}, 400, "invalid_choice", "status",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    stack = projects.fresh()
    sent(stack, KNOWN)
    return stack


@pytest.fixture(scope="module")
def known(stack: Stack) -> str:
    """The path of the person that is there."""
    return f"/api/projects/{stack.project}/persons/{stack.persons(f'/{stack.uuid(KNOWN)}/').json['id']}/"


def records(stack: Stack) -> int:
    """Records in the log, of all topics."""
    log = sqlite3.connect(Path(stack.data) / "log" / "log.sqlite")
    try:
        return int(log.execute("SELECT coalesce(sum(count), 0) FROM frames").fetchone()[0])
    finally:
        log.close()


@pytest.mark.parametrize("name", CAPTURE)
@pytest.mark.parametrize("path", ["/batch/", "/e"])
def test_bad_captures_get_the_documented_error_and_never_reach_the_log(stack: Stack, name: str, path: str) -> None:
    body, status, code, attr = CAPTURE[name]
    before = records(stack)
    answer = stack.ask("POST", path, body, key=None)
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (status, code, attr), answer.body
    assert set(answer.json) == {"type", "code", "detail", "attr"}
    assert records(stack) == before


@pytest.mark.parametrize("name", REST)
def test_bad_rest_calls_get_the_documented_error_and_never_reach_the_log(stack: Stack, known: str, name: str) -> None:
    method, path, body, headers, status, code, attr = REST[name]
    path = path.replace("{id}", known).replace("/projects/1/", f"/projects/{stack.project}/")
    more = dict(headers)
    key = more.pop("key", OWN_KEY) or None
    before = records(stack)
    answer = stack.ask(method, path, body, key=key, **more)
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (status, code, attr), answer.body
    assert set(answer.json) == {"type", "code", "detail", "attr"}
    assert records(stack) == before


def test_a_foreign_key_is_refused_and_a_scope_is_named(stack: Stack) -> None:
    created = stack.call("projects", "create", "other")
    assert created.returncode == 0
    number = created.stdout.split()[0]
    other = f"/api/projects/{number}/persons/"
    made = stack.call("keys", "create", "--name", "reader", "--scopes", "person:read", "--projects", number)
    key = made.stdout.strip()
    assert key.startswith("phx_")

    def answers() -> int:
        return stack.ask("GET", other, key=key).status

    wait_for(lambda: answers() == 200, 60, "the new key to be known")
    foreign = stack.persons("/", key=key)
    assert (foreign.status, foreign.json["code"]) == (403, "permission_denied")
    write = stack.ask("PATCH", f"{other}1/", b'{"properties":{"a":1}}', key=key)
    assert (write.status, write.json["code"]) == (403, "permission_denied")
    assert "person:write" in write.json["detail"]
    assert stack.call("keys", "revoke", key).returncode == 0
    wait_for(lambda: answers() == 401, 60, "the revocation")


def test_the_good_events_of_a_batch_are_stored_and_the_bad_ones_are_told(stack: Stack) -> None:
    batch = [
        {"event": "e", "distinct_id": "good-1"},
        {"event": "e"},
        {"event": "e", "distinct_id": "good-2"},
        {"event": 3, "distinct_id": "x"},
    ]
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None)
    assert (answer.status, answer.json["status"]) == (200, "Ok")
    assert [(one["index"], one["field"]) for one in answer.json["warnings"]] == [(1, "distinct_id"), (3, "event")]
    for name in ("good-1", "good-2"):
        wait_for(lambda: stack.persons(f"/?distinct_id={name}").json["results"], 60, name)  # noqa: B023


def test_a_batch_of_which_nothing_can_be_stored_is_400_and_names_the_first(stack: Stack) -> None:
    before = records(stack)
    batch = [{"event": "e"}, {"event": 3, "distinct_id": "x"}]
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None)
    assert (answer.status, answer.json["attr"]) == (400, "batch[0].distinct_id")
    assert "0 stored, 2 refused" in answer.json["detail"]
    assert records(stack) == before
