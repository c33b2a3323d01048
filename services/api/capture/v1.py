"""Capture v1: what newer SDKs send, with an answer for each event. What an event means is v0's to
say, never said here.

While the log is away the whole request is 503 with `Retry-After`, above the project's quota 429,
and no single event `retry`: both make SDKs send it again, but who only reads the status must not
take a 200 for stored.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import orjson

from services.api.calls import CaptureCall
from services.api.capture import operations
from services.api.capture.events import object_of
from services.api.capture.payload import EVENTS_MAX, CaptureBatch, parse_lenient
from services.api.capture.v0 import (
    BODY_BYTES_MAX,
    EventOutcome,
    append_outcomes,
    capture_route,
    outcomes_of,
    preflight,
)
from services.api.context import position_header
from services.api.http import errors
from services.api.http.decompression import ENCODINGS, unpack
from services.api.http.messages import Deferred, Request, Response
from services.api.http.rendering import JSON
from services.api.http.routing import Route
from shared.domain.errors import BadInput
from shared.domain.ids import DISTINCT_ID_CHARS_MAX, Position
from shared.domain.legal_ids import is_legal
from shared.inputs.ids import id_text
from shared.inputs.repairs import Repairs
from shared.inputs.times import time_us_of

PATH = "/i/v1/analytics/events"

REQUIRED = (
    "PostHog-Sdk-Info",
    "PostHog-Attempt",
    "PostHog-Request-Id",
    "PostHog-Request-Timestamp",
)

SDK_INFO_CHARS_MAX = 200
"""Of `PostHog-Sdk-Info`, beyond which it names no SDK."""

ERROR_URI = "/docs"
"""Where errors are explained: this API's own page."""

NOBODYS_IDS = frozenset(
    "00000000-0000-0000-0000-000000000000 anonymous-user backend nan none null system user".split()
) | {"[object object]"}
"""Ids that many people share, in any case; beside those that `is_legal` knows."""

_TAGS = {
    "not_authenticated": "missing_authorization",
    "authentication_failed": "invalid_api_token",
    "invalid_input": "request_decoding_error",
    "parse_error": "request_parsing_error",
    "too_large": "payload_too_large",
    "timeout": "request_timeout",
    "unavailable": "service_unavailable",
    "error": "internal_error",
}
"""The original's words for our own codes."""

_DETAILS = {"too_large": "event_too_big"}
"""The same for what v0 refuses of an event that has passed here."""

_OPTIONS: dict[str, tuple[type, str]] = {
    "process_person_profile": (bool, "$process_person_profile"),
    "cookieless_mode": (bool, "$cookieless_mode"),
    "disable_skew_correction": (bool, "$ignore_sent_at"),
    "disable_skew_adjustment": (bool, "$ignore_sent_at"),
    "product_tour_id": (str, "$product_tour_id"),
}
"""Each option's type, and the property that it is for v0 and for analysts."""

_OPERATIONS = ("$set", "$set_once", "$unset")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:")
"""How RFC 3339 begins: v0's numbers and RFC 2822 are no times here."""

_ATTEMPT = re.compile(r"[1-9][0-9]{0,9}")


def events(call: CaptureCall) -> Response | Deferred[list[Position], Response]:
    """A batch of events, with an answer for each."""
    context, request = call.context, call.request
    body = request.body
    if not body:
        raise _wrong("empty_body", "The body is empty.")
    encoding = _encoding(request)
    body = unpack(body, encoding) if encoding else body
    batch, lenient = parse_lenient(body)
    uuids = _uuids(batch)
    context.quotas.take(call.project.id, len(uuids), len(body))
    sdk = _sdk(request.headers["PostHog-Sdk-Info"])
    v0_events, earlier = _v0_events(batch["batch"], uuids, sdk)
    capture_batch = CaptureBatch(
        events=v0_events,
        sent_at=request.headers["PostHog-Request-Timestamp"].strip(),
        historical=batch.get("historical_migration") is True,
        lenient=lenient,
    )
    outcomes, repairs_by_index = outcomes_of(
        context, capture_batch, call.project, request.arrived, earlier=earlier
    )
    results = {
        event["uuid"]: _result(event, outcome, repairs_by_index.get(index))
        for index, (event, outcome) in enumerate(
            zip(batch["batch"], outcomes, strict=True)
        )
    }

    def conclude(positions: list[Position]) -> Response:
        headers = position_header(positions) | {"Content-Type": JSON}
        return Response(headers=headers, body=orjson.dumps({"results": results}))

    return append_outcomes(context, outcomes, conclude)


def error_body(refusal: errors.ApiError) -> bytes:
    """A refusal of the whole batch in v1's own shape."""
    return orjson.dumps(
        {
            "error": _TAGS.get(refusal.code, refusal.code),
            "error_description": refusal.detail,
            "error_uri": ERROR_URI,
        }
    )


def judge_headers(request: Request) -> None:
    """Raise for headers that are missing or malformed, or say that the body cannot be read."""
    values = {name: request.headers.get(name, "").strip() for name in REQUIRED}
    absent = ", ".join(name for name, value in values.items() if not value)
    if absent:
        raise _wrong(
            "missing_required_headers",
            f"The request is missing required headers: {absent}.",
        )
    at = values["PostHog-Request-Timestamp"]
    if not _ATTEMPT.fullmatch(values["PostHog-Attempt"]):
        raise _wrong(
            "invalid_header_value", "PostHog-Attempt must be a positive integer."
        )
    if _uuid(values["PostHog-Request-Id"]) is None:
        raise _wrong("invalid_header_value", "PostHog-Request-Id must be a uuid.")
    if not _is_time(at):
        raise _wrong(
            "invalid_header_value",
            "PostHog-Request-Timestamp must be an RFC 3339 time.",
        )
    if request.content_type != "application/json":
        raise errors.ApiError(
            415,
            "",
            "unsupported_content_type",
            "The Content-Type must be application/json.",
        )
    if _encoding(request) not in ("", *ENCODINGS):
        encodings = ", ".join(ENCODINGS)
        raise errors.ApiError(
            415, "", "unsupported_encoding", f"The Content-Encoding may be {encodings}."
        )


def _encoding(request: Request) -> str:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _uuids(batch: Any) -> list[UUID]:
    """The uuid of each event. A batch whose events cannot be told apart cannot be answered, so it
    is refused."""
    events = batch.get("batch") if isinstance(batch, dict) else None
    if not isinstance(events, list) or len(events) > EVENTS_MAX:
        raise _wrong(
            "invalid_batch", f"batch must be a list of at most {EVENTS_MAX} events."
        )
    if batch.get("created_at") is not None and not _is_time(batch["created_at"]):
        raise _wrong("invalid_batch", "created_at must be an RFC 3339 time.")
    if not events:
        raise _wrong("empty_batch", "The batch is empty.")
    uuids: dict[UUID, None] = {}
    for index, event in enumerate(events):
        if not isinstance(event, dict):
            raise _wrong("invalid_batch", f"batch[{index}] must be an object.")
        if event.get("uuid") in (None, ""):
            raise _wrong("missing_event_uuid", f"batch[{index}] has no uuid.")
        uuid = _uuid(event["uuid"])
        if uuid is None:
            raise _wrong(
                "invalid_event_uuid", f"The uuid of batch[{index}] is malformed."
            )
        if uuid in uuids:
            raise _wrong(
                "duplicate_event_uuid", f"batch[{index}] repeats the uuid {uuid}."
            )
        uuids[uuid] = None
    return list(uuids)


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(text.strip())
    except (ValueError, AttributeError):
        return None


def _is_time(value: Any) -> bool:
    return (
        isinstance(value, str)
        and _TIME.match(value) is not None
        and time_us_of(value) is not None
    )


def _sdk(info: str) -> dict[str, str]:
    """`$lib` and `$lib_version`, which SDKs leave out because the header says them."""
    name, _, version = map(str.strip, info.rpartition("/"))
    is_complete = (
        name and version and len(info) <= SDK_INFO_CHARS_MAX and info.isascii()
    )
    return {"$lib": name, "$lib_version": version} if is_complete else {}


def _v0_events(
    events: list[dict[str, Any]], uuids: list[UUID], sdk: dict[str, str]
) -> tuple[list[dict[str, Any] | BadInput], dict[int, Repairs]]:
    """The events as v0 knows them, or why one is left out; and repairs, by their place."""
    v0_events: list[dict[str, Any] | BadInput] = []
    repairs_by_index: dict[int, Repairs] = {}
    for index, (event, uuid) in enumerate(zip(events, uuids, strict=True)):
        try:
            v0_event, repairs = _v0_event(event, uuid, sdk)
        except BadInput as error:
            v0_events.append(error)
        else:
            v0_events.append(v0_event)
            if repairs:
                repairs_by_index[index] = repairs
    return v0_events, repairs_by_index


def _v0_event(
    event: dict[str, Any], uuid: UUID, sdk: dict[str, str]
) -> tuple[dict[str, Any], Repairs]:
    """The event as v0 knows it, and what had to be repaired for that; BadInput, with v1's word for
    it as slug, for one without a name or a distinct id."""
    name, distinct_id = event.get("event"), event.get("distinct_id")
    if not isinstance(name, str) or not name.strip():
        raise _dropped("missing_event_name")
    if id_text(distinct_id) is None:
        raise _dropped("missing_distinct_id")
    session = {
        f"${name}": event[name]
        for name in ("session_id", "window_id")
        if event.get(name) is not None
    }
    repairs = Repairs()
    properties = object_of(event.get("properties"), "properties", repairs)
    v0_properties = properties | session | _options(event.get("options")) | sdk
    if _is_nobodys(distinct_id):
        v0_properties["$process_person_profile"] = False
    operations_on_person = {name: event[name] for name in _OPERATIONS if name in event}
    v0_event = {
        "event": name,
        "distinct_id": distinct_id,
        "uuid": str(uuid),
        "timestamp": event.get("timestamp"),
        "properties": v0_properties,
        **operations_on_person,
    }
    return v0_event, repairs


def _options(options: Any) -> dict[str, Any]:
    """The properties that the known options stand for; those of another type are left out."""
    return {
        _OPTIONS[name][1]: value
        for name, value in (options if isinstance(options, dict) else {}).items()
        if name in _OPTIONS and isinstance(value, _OPTIONS[name][0])
    }


def _is_nobodys(distinct_id: Any) -> bool:
    text = id_text(distinct_id) or ""
    return text.strip().lower() in NOBODYS_IDS or not is_legal(
        text[:DISTINCT_ID_CHARS_MAX]
    )


def _result(
    event: dict[str, Any], outcome: EventOutcome, repairs: Repairs | None
) -> dict[str, str]:
    """What became of an event; of several repairs the first is told."""
    if isinstance(outcome, BadInput):
        return {"result": "drop", "details": _DETAILS.get(outcome.slug, outcome.slug)}
    if not outcome:  # a merge without person processing
        return {"result": "drop", "details": "person_processing_disabled"}
    if _is_nobodys(event["distinct_id"]):
        return {"result": "warning", "details": "person_processing_disabled"}
    for repair in repairs or ():
        return {"result": "warning", "details": repair.kind}
    return {"result": "ok"}


def _dropped(details: str) -> BadInput:
    return BadInput(slug=details)


def _wrong(tag: str, detail: str) -> errors.ApiError:
    return errors.ApiError(400, "", tag, detail)


ROUTES: tuple[Route, ...] = (
    capture_route(
        "POST",
        PATH + "{slash}",
        events,
        access="token",
        body_bytes_max=BODY_BYTES_MAX,
        judge=judge_headers,
        error_body=error_body,
        operation=operations.capture_v1(),
        name="capture_events_v1",
    ),
    capture_route(
        "OPTIONS",
        PATH + "{slash}",
        preflight,
        gated=False,
        operation=operations.preflight(f"{PATH}/"),
        name="preflight_capture_events_v1",
    ),
)
