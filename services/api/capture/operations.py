"""OpenAPI operations of capture, recordings and what SDKs look for beside them; their ids are the
names of the routes."""

from __future__ import annotations

from typing import Any

from services.api.http.documents.rest_operations import (
    ALWAYS,
    ERROR,
    QUOTA,
    WITH_BODY,
    path_parameters,
)
from services.api.http.rendering import JSON


def capture() -> dict[str, Any]:
    event = {
        "type": "object",
        "properties": {
            "api_key": {"type": "string"},
            "event": {"type": "string"},
            "distinct_id": {"type": "string"},
            "properties": {"type": "object"},
            "uuid": {"type": "string", "format": "uuid"},
            "timestamp": {"type": "string"},
            "batch": {"type": "array", "items": {"type": "object"}},
        },
        "examples": [
            {
                "api_key": "phc_…",
                "event": "sign up",
                "distinct_id": "ada@example.com",
                "properties": {"$set": {"email": "ada@example.com"}},
            }
        ],
    }
    return {
        "summary": "What SDKs send: one event, an array, or `{api_key, batch: […]}`; "
        "JSON, gzip, base64 or a form.",
        "security": [],
        "tags": ["capture"],
        "requestBody": {"required": True, "content": {JSON: {"schema": event}}},
        "responses": _capture_responses(),
    }


def capture_by_query() -> dict[str, Any]:
    data = {
        "name": "data",
        "in": "query",
        "required": True,
        "description": "The event: JSON or base64.",
        "schema": {"type": "string", "format": "event"},
    }
    return {
        "summary": "The same in the query.",
        "security": [],
        "tags": ["capture"],
        "parameters": [data],
        "responses": _capture_responses(),
    }


_TEXT: dict[str, Any] = {"type": "string"}

_V1_EVENT = {
    "type": "object",
    "required": ["event", "uuid", "distinct_id", "timestamp"],
    "properties": {
        "event": _TEXT,
        "uuid": _TEXT | {"format": "uuid"},
        "distinct_id": _TEXT,
        "timestamp": _TEXT | {"format": "date-time"},
        "session_id": _TEXT,
        "window_id": _TEXT,
        "options": {"type": "object"},
        "properties": {"type": "object"},
    },
}
_V1_BATCH = {
    "type": "object",
    "required": ["batch"],
    "properties": {
        "created_at": _TEXT | {"format": "date-time"},
        "historical_migration": {"type": "boolean"},
        "batch": {"type": "array", "minItems": 1, "items": _V1_EVENT},
    },
}
_V1_RESULT = {
    "type": "object",
    "required": ["result"],
    "properties": {
        "result": {"enum": ["ok", "warning", "drop", "retry"]},
        "details": _TEXT,
    },
}
_V1_RESULTS = {
    "type": "object",
    "properties": {
        "results": {"type": "object", "additionalProperties": _V1_RESULT},
    },
    "required": ["results"],
}
_V1_ERROR = {
    "type": "object",
    "properties": {"error": _TEXT, "error_description": _TEXT, "error_uri": _TEXT},
    "required": ["error", "error_description", "error_uri"],
}
_V1_HEADERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PostHog-Sdk-Info", "Who sends: name/version.", {"minLength": 1}),
    ("PostHog-Attempt", "From 1 on.", {"pattern": "^[1-9][0-9]{0,9}$"}),
    ("PostHog-Request-Id", "The same for all attempts.", {"format": "uuid"}),
    (
        "PostHog-Request-Timestamp",
        "The sender's clock: its skew is taken off all times.",
        {"format": "date-time"},
    ),
)
_V1_REFUSALS = {
    400: "A header, the batch or a uuid is wrong: nothing is stored.",
    401: "No project has this token.",
    408: WITH_BODY[408],
    413: WITH_BODY[413],
    415: "Another Content-Type or Content-Encoding.",
    429: QUOTA,
    503: "The log is away: send it again.",
}


def capture_v1() -> dict[str, Any]:
    parameters = [
        {
            "name": name,
            "in": "header",
            "required": True,
            "description": description,
            "schema": _TEXT | schema,
        }
        for name, description, schema in _V1_HEADERS
    ]
    return {
        "summary": "What newer SDKs send, with an answer for each event.",
        "security": [{"token": []}],
        "tags": ["capture"],
        "parameters": parameters,
        "requestBody": {"required": True, "content": {JSON: {"schema": _V1_BATCH}}},
        "responses": {
            "200": {
                "description": "By uuid, what became of each event.",
                "content": {JSON: {"schema": _V1_RESULTS}},
            },
            **_refusals(_V1_REFUSALS, _V1_ERROR),
        },
    }


def record() -> dict[str, Any]:
    event = {
        "type": "object",
        "properties": {
            "event": {"const": "$snapshot"},
            "uuid": {"type": "string", "format": "uuid"},
            "timestamp": {"type": "string"},
            "properties": {"type": "object"},
        },
        "examples": [
            {
                "event": "$snapshot",
                "properties": {
                    "token": "phc_…",
                    "distinct_id": "ada@example.com",
                    "$session_id": "01a207ca-9815-7000-8000-000000000000",
                    "$snapshot_data": [
                        {"type": 4, "timestamp": 1795427047489, "data": {}}
                    ],
                },
            }
        ],
    }
    return {
        "summary": "Session recordings as posthog-js sends them: "
        "`$snapshot` events, alone, in an array or a batch.",
        "security": [],
        "tags": ["capture"],
        "requestBody": {"required": True, "content": {JSON: {"schema": event}}},
        "responses": _capture_responses(),
    }


def _capture_responses() -> dict[str, Any]:
    body = {
        "type": "object",
        "properties": {"status": {"const": "Ok"}},
        "required": ["status"],
    }
    refusals = {
        400: ALWAYS[400],
        401: "No project has this token.",
        408: WITH_BODY[408],
        413: WITH_BODY[413],
        429: QUOTA,
        503: "The log or the object store is away: send it again.",
    }
    return {
        "200": {
            "description": "Every event is durable.",
            "content": {JSON: {"schema": body}},
        },
        "204": {"description": "The same, to a beacon."},
        **_refusals(refusals, ERROR),
    }


def _refusals(refusals: dict[int, str], error: dict[str, Any]) -> dict[str, Any]:
    """The responses of these statuses, with bodies of one schema."""
    content = {JSON: {"schema": error}}
    return {
        str(status): {"description": description, "content": content}
        for status, description in refusals.items()
    }


def stub(path: str, says: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "text/javascript" if path.endswith(".js/") else JSON: {"schema": {}}
    }
    return {
        "summary": f"What SDKs ask. {says}",
        "security": [],
        "tags": ["capture"],
        "parameters": path_parameters(path),
        "responses": {"200": {"description": says, "content": content}},
    }


def static() -> dict[str, Any]:
    return {
        "summary": "posthog-js's own files, from the folder PERSONLOG_STATIC.",
        "security": [],
        "tags": ["capture"],
        "parameters": path_parameters("/static/{file}"),
        "responses": {
            "200": {
                "description": "The file.",
                "content": {"text/javascript": {"schema": {}}},
            },
            **_refusals({404: "No such file, or no folder."}, ERROR),
        },
    }


def preflight(path: str) -> dict[str, Any]:
    return {
        "summary": "Any origin may send.",
        "security": [],
        "tags": ["capture"],
        "parameters": path_parameters(path),
        "responses": {
            "200": {
                "description": "Allowed.",
                "content": {JSON: {"schema": {"type": "object"}}},
            }
        },
    }
