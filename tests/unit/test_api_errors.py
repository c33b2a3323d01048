"""The one table from errors to the wire, which leaves nothing in another shape. Never a server."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from services.api.http import errors
from services.api.http.errors import ApiError
from services.api.http.messages import Response
from services.api.http.transports.wire import head_of
from shared.domain.errors import (
    BadInput,
    BadRecord,
    Corrupt,
    Fenced,
    LogClosed,
    LogMismatch,
    LogUnavailable,
    NewerVersion,
    NotFound,
    NotYet,
    PersonlogError,
    PreconditionFailed,
    Rejected,
    StoreUnavailable,
    Superseded,
    Transient,
)

WIRE: list[tuple[Exception, int, str, str]] = [
    (errors.not_authenticated(), 401, "authentication_error", "not_authenticated"),
    (errors.authentication_failed(), 401, "authentication_error", "authentication_failed"),
    (errors.permission_denied("person:write"), 403, "authentication_error", "permission_denied"),
    (errors.permission_denied(None), 403, "authentication_error", "permission_denied"),
    (errors.not_found("Not found."), 404, "invalid_request", "not_found"),
    (errors.field_required("properties"), 400, "validation_error", "This field is required."),
    (errors.parse_error("x"), 400, "invalid_request", "parse_error"),
    (errors.unsupported_media_type("a/b"), 415, "invalid_request", "unsupported_media_type"),
    (errors.method_not_allowed("POST", "/x", "GET"), 405, "invalid_request", "method_not_allowed"),
    (errors.not_acceptable("application/json"), 406, "invalid_request", "not_acceptable"),
    (errors.timeout(), 408, "invalid_request", "timeout"),
    (errors.too_large(7), 413, "invalid_request", "too_large"),
    (Rejected(), 400, "validation_error", "invalid_input"),
    (BadInput("no", attr="limit"), 400, "validation_error", "invalid_input"),
    (BadInput("no", slug="required"), 400, "validation_error", "required"),
    (BadInput("no", slug="too_large"), 413, "invalid_request", "too_large"),
    (NotFound(), 404, "invalid_request", "not_found"),
    (PreconditionFailed(), 412, "invalid_request", "precondition_failed"),
    (NotYet(), 503, "server_error", "projection_lag"),
    (Transient(), 503, "server_error", "unavailable"),
    (LogUnavailable(), 503, "server_error", "unavailable"),
    (LogClosed(), 503, "server_error", "unavailable"),
    (StoreUnavailable(), 503, "server_error", "unavailable"),
    (LogMismatch(), 503, "server_error", "unavailable"),
    (Superseded(), 503, "server_error", "unavailable"),
    (Corrupt("secret"), 500, "server_error", "error"),
    (NewerVersion(), 503, "server_error", "unavailable"),
    (BadRecord("secret"), 500, "server_error", "error"),
    (Fenced("secret"), 500, "server_error", "error"),
    (RuntimeError("secret"), 500, "server_error", "error"),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), 400, "invalid_request", "parse_error"),
    (errors.expectation_failed("x"), 417, "invalid_request", "error"),
]


def answer(raised: Exception) -> tuple[Response, Any]:
    with capture_logs():
        response = errors.refusal_of(raised, "/x").response()
    assert isinstance(response.body, bytes)
    return response, orjson.loads(response.body)


@pytest.mark.parametrize(("raised", "status", "kind", "code"), WIRE, ids=lambda value: repr(value)[:60])
def test_every_error_leaves_in_the_documented_shape(raised: Exception, status: int, kind: str, code: str) -> None:
    response, body = answer(raised)
    assert list(body) == ["type", "code", "detail", "attr"]
    assert (response.status, body["type"], body["code"]) == (status, kind, code)
    assert response.headers["Content-Type"] == "application/json" and isinstance(body["detail"], str) and body["detail"]
    assert "secret" not in body["detail"] and "Traceback" not in body["detail"]


@pytest.mark.parametrize(
    "raised",
    [one for one, *_ in WIRE if isinstance(one, PersonlogError | ApiError | RuntimeError)],
    ids=lambda value: repr(value)[:60],
)
def test_an_error_is_written_with_its_status_and_headers_and_told_to_the_operator_when_it_is_ours(
    raised: Exception,
) -> None:
    with capture_logs() as logs:
        response = errors.refusal_of(raised, "/x").response()
    lines = head_of(response).decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {response.status} ")
    assert {f"{name}: {value}" for name, value in response.headers.items()} <= set(lines)
    assert bool(logs) == (response.status == 500 or isinstance(raised, NewerVersion))


def test_every_class_of_the_tree_is_in_the_table() -> None:
    def below(branch: type[PersonlogError]) -> set[type[PersonlogError]]:
        return {branch}.union(*(below(one) for one in branch.__subclasses__()))

    tree = {one for one in below(PersonlogError) if one.__module__ == PersonlogError.__module__}
    assert tree - {PersonlogError} <= {type(raised) for raised, *_ in WIRE}


def test_headers_say_how_to_go_on() -> None:
    for raised, name, value in [
        (errors.not_authenticated(), "WWW-Authenticate", "Bearer"),
        (errors.authentication_failed(), "WWW-Authenticate", "Bearer"),
        (LogUnavailable(), "Retry-After", "1"),
        (NotYet(), "Retry-After", "1"),
        (errors.method_not_allowed("POST", "/x", "GET, PATCH"), "Allow", "GET, PATCH"),
    ]:
        response, _ = answer(raised)
        assert response.headers[name] == value


def test_the_field_and_the_scope_are_named() -> None:
    assert answer(BadInput("no", attr="limit"))[1]["attr"] == "limit"
    assert "person:write" in (answer(errors.permission_denied("person:write")))[1]["detail"]


def test_what_nobody_expected_is_told_to_the_operator() -> None:
    with capture_logs() as logs:
        errors.refusal_of(RuntimeError("inside"), "/x")
    assert [(line["event"], line["error"]) for line in logs] == [("unexpected", "RuntimeError")]


def test_an_error_raised_is_an_exception_with_its_detail() -> None:
    assert str(ApiError(400, "a", "b", "the detail")) == "the detail"
