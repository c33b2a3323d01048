"""Errors as the wire has them: exactly {"type", "code", "detail", "attr"}. Never shows what went on
inside."""

from __future__ import annotations

import re

import orjson
import structlog
from msgspec import Struct

from services.api.http.messages import Response
from shared.domain.errors import (
    BadInput,
    Corrupt,
    LogMismatch,
    NewerVersion,
    NotFound,
    NotYet,
    PersonlogError,
    PreconditionFailed,
    Rejected,
    Superseded,
    Transient,
)
from shared.runtime.trouble import NO_SPACE
from shared.store.clickhouse.failures import StoreAway

RETRY_SECONDS = 1
"""What Retry-After says: a restart of any part takes about that."""

_PERSONS = re.compile(r"/api/(person|[^/]+/[^/]+/persons)(\.json|\.csv)?/?")


class Error(Struct):
    """Every error: `attr` names the field or parameter that is wrong."""

    type: str
    code: str
    detail: str
    attr: str | None


class PlainError(Struct):
    """An error of `properties_at_time`."""

    error: str


class ApiError(Exception):
    """An answer that is not a success."""

    def __init__(
        self,
        status: int,
        kind: str,
        code: str,
        detail: str,
        *,
        attr: str | None = None,
        **headers: str,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.code = code
        self.detail = detail
        self.attr = attr
        self.headers = {
            name.replace("_", "-"): value for name, value in headers.items()
        }

    def body(self) -> bytes:
        return orjson.dumps(
            {
                "type": self.kind,
                "code": self.code,
                "detail": self.detail,
                "attr": self.attr,
            }
        )

    def response(self) -> Response:
        headers = {"Content-Type": "application/json", **self.headers}
        return Response(status=self.status, headers=headers, body=self.body())


def parse_error(detail: str) -> ApiError:
    return ApiError(400, "invalid_request", "parse_error", detail)


def field_required(attr: str) -> ApiError:
    """Code and detail as clients of the original assert them."""
    return ApiError(
        400, "validation_error", "This field is required.", "required", attr=attr
    )


def not_authenticated() -> ApiError:
    detail = "Authentication credentials were not provided."
    return ApiError(
        401,
        "authentication_error",
        "not_authenticated",
        detail,
        WWW_Authenticate="Bearer",
    )


def authentication_failed(
    detail: str = "The key is wrong, revoked or expired.",
) -> ApiError:
    return ApiError(
        401,
        "authentication_error",
        "authentication_failed",
        detail,
        WWW_Authenticate="Bearer",
    )


def permission_denied(scope: str | None) -> ApiError:
    """The key lacks a scope, or covers other projects only."""
    detail = (
        f"The key lacks the scope {scope}."
        if scope
        else "The key has no access to this project."
    )
    return ApiError(403, "authentication_error", "permission_denied", detail)


def not_found(detail: str) -> ApiError:
    return ApiError(404, "invalid_request", "not_found", detail)


def method_not_allowed(method: str, path: str, allowed: str) -> ApiError:
    """Whoever would make a person by POST is told how persons are made."""
    detail = f'Method "{method}" not allowed.'
    if method == "POST" and _PERSONS.fullmatch(path):
        detail += (
            " Persons are made by capturing an event: "
            "POST /capture/ with the project's token."
        )
    return ApiError(405, "invalid_request", "method_not_allowed", detail, Allow=allowed)


def not_acceptable(kinds: str) -> ApiError:
    return ApiError(
        406, "invalid_request", "not_acceptable", f"Accept must allow {kinds}."
    )


def expectation_failed(expectation: str) -> ApiError:
    return ApiError(417, "invalid_request", "error", f"Unknown Expect: {expectation}")


def timeout() -> ApiError:
    return ApiError(
        408, "invalid_request", "timeout", "The body did not arrive in time."
    )


def conflict(detail: str) -> ApiError:
    return ApiError(409, "invalid_request", "conflict", detail)


def too_large(bytes_max: int) -> ApiError:
    return ApiError(413, "invalid_request", "too_large", f"At most {bytes_max} bytes.")


def key_reused() -> ApiError:
    detail = "This Idempotency-Key came before with another request."
    return ApiError(422, "invalid_request", "idempotency_key_reused", detail)


def unsupported_media_type(kind: str) -> ApiError:
    return ApiError(
        415,
        "invalid_request",
        "unsupported_media_type",
        f'Unsupported media type "{kind}".',
    )


def throttled(seconds: int, limits: dict[str, str]) -> ApiError:
    detail = f"Request was throttled. Expected available in {seconds} seconds."
    error = ApiError(
        429, "throttled_error", "throttled", detail, Retry_After=str(seconds)
    )
    error.headers |= limits
    return error


def rate_limits(limit: int, remaining: int, seconds: int) -> dict[str, str]:
    """The RateLimit headers: how much at once, how much of that is left, until when it is whole
    again."""
    return {
        "RateLimit-Limit": str(limit),
        "RateLimit-Remaining": str(remaining),
        "RateLimit-Reset": str(seconds),
    }


def of(error: PersonlogError) -> ApiError:
    """The one table from the tree of errors to the wire."""
    attr = error.attr if isinstance(error, BadInput) else None
    retry = {"Retry_After": str(RETRY_SECONDS)}
    if isinstance(error, BadInput) and error.slug == "too_large":
        return ApiError(413, "invalid_request", "too_large", error.detail)
    table: tuple[tuple[type[PersonlogError], int, str, str, dict[str, str]], ...] = (
        (NotFound, 404, "invalid_request", "not_found", {}),
        (PreconditionFailed, 412, "invalid_request", "precondition_failed", {}),
        (Rejected, 400, "validation_error", error.slug, {}),
        (NotYet, 503, "server_error", "projection_lag", retry),
        (Transient, 503, "server_error", "unavailable", retry),
        (LogMismatch, 503, "server_error", "unavailable", retry),
        (Superseded, 503, "server_error", "unavailable", retry),
        (NewerVersion, 503, "server_error", "unavailable", retry),
        (Corrupt, 500, "server_error", "error", {}),
    )
    for branch, status, kind, code, headers in table:
        if isinstance(error, branch):
            detail = error.detail if status != 500 else "Something went wrong here."
            if isinstance(error, StoreAway):
                detail = "The store did not answer; try again."
            return ApiError(status, kind, code, detail, attr=attr, **headers)
    return ApiError(500, "server_error", "error", "Something went wrong here.")


def refusal_of(error: BaseException, route: str) -> ApiError:
    """Any error as a client may know it; what the operator must know is logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UnicodeDecodeError):
        return parse_error(f"The body cannot be read: {type(error).__name__}")
    if (
        isinstance(error, OSError) and error.errno in NO_SPACE
    ):  # the watch of the disks reports it, once
        error = Transient("There is no space left for this answer.")
    if not isinstance(error, PersonlogError):  # the client learns nothing
        structlog.get_logger().error(
            "unexpected", route=route, error=type(error).__name__, exc_info=error
        )
        error = PersonlogError()
    elif isinstance(error, Corrupt) and not isinstance(
        error, LogMismatch | Superseded
    ):  # those are logged once
        structlog.get_logger().error("request failed", route=route, error=error.detail)
    return of(error)
