"""OpenAPI operations of capture, recordings and what SDKs look for beside them."""

from __future__ import annotations

from typing import Any

from services.api.http.documents.openapi import (
    ALWAYS,
    QUOTA,
    WITH_BODY,
    path_parameters,
)
from services.api.http.rendering import JSON


def capture(path: str) -> dict[str, Any]:
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
        "operationId": f"capture {path}",
        "summary": "What SDKs send: one event, an array, or `{api_key, batch: […]}`; JSON, gzip, base64 or a form.",
        "security": [],
        "tags": ["capture"],
        "requestBody": {"required": True, "content": {JSON: {"schema": event}}},
        "responses": _capture_responses(),
    }


def capture_by_query(path: str) -> dict[str, Any]:
    data = {
        "name": "data",
        "in": "query",
        "required": True,
        "description": "The event: JSON or base64.",
        "schema": {"type": "string", "format": "event"},
    }
    return {
        "operationId": f"capture by query {path}",
        "summary": "The same in the query.",
        "security": [],
        "tags": ["capture"],
        "parameters": [data],
        "responses": _capture_responses(),
    }


def capture_v1() -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    event = {
        "type": "object",
        "required": ["event", "uuid", "distinct_id", "timestamp"],
        "properties": {
            "event": text,
            "uuid": text | {"format": "uuid"},
            "distinct_id": text,
            "timestamp": text | {"format": "date-time"},
            "session_id": text,
            "window_id": text,
            "options": {"type": "object"},
            "properties": {"type": "object"},
        },
    }
    batch = {
        "created_at": text | {"format": "date-time"},
        "historical_migration": {"type": "boolean"},
        "batch": {"type": "array", "minItems": 1, "items": event},
    }
    result = {
        "type": "object",
        "required": ["result"],
        "properties": {
            "result": {"enum": ["ok", "warning", "drop", "retry"]},
            "details": text,
        },
    }
    results = {"type": "object", "additionalProperties": result}
    named: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("PostHog-Sdk-Info", "Who sends: name/version.", {"minLength": 1}),
        ("PostHog-Attempt", "From 1 on.", {"pattern": "^[1-9][0-9]{0,9}$"}),
        ("PostHog-Request-Id", "The same for all attempts.", {"format": "uuid"}),
        (
            "PostHog-Request-Timestamp",
            "The sender's clock: its skew is taken off all times.",
            {"format": "date-time"},
        ),
    )
    said = dict.fromkeys(("error", "error_description", "error_uri"), text)
    error = {
        JSON: {"schema": {"type": "object", "properties": said, "required": list(said)}}
    }
    told = {
        400: "A header, the batch or a uuid is wrong: nothing is stored.",
        401: "No project has this token.",
        408: WITH_BODY[408],
        413: WITH_BODY[413],
        415: "Another Content-Type or Content-Encoding.",
        429: QUOTA,
        503: "The log is away: send it again.",
    }
    return {
        "operationId": "capture v1",
        "summary": "What newer SDKs send, with an answer for each event.",
        "security": [{"token": []}],
        "tags": ["capture"],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "description": says,
                "schema": text | kind,
            }
            for name, says, kind in named
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {
                        "type": "object",
                        "required": ["batch"],
                        "properties": batch,
                    }
                }
            },
        },
        "responses": {
            "200": {
                "description": "By uuid, what became of each event.",
                "content": {
                    JSON: {
                        "schema": {
                            "type": "object",
                            "properties": {"results": results},
                            "required": ["results"],
                        }
                    }
                },
            },
            **{
                str(status): {"description": says, "content": error}
                for status, says in told.items()
            },
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
        "operationId": "record /s/",
        "summary": "Session recordings as posthog-js sends them: `$snapshot` events, alone, in an array or a batch.",
        "security": [],
        "tags": ["capture"],
        "requestBody": {"required": True, "content": {JSON: {"schema": event}}},
        "responses": _capture_responses(),
    }


def _capture_responses() -> dict[str, Any]:
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    ok = {
        JSON: {
            "schema": {
                "type": "object",
                "properties": {"status": {"const": "Ok"}},
                "required": ["status"],
            }
        }
    }
    told = {
        400: ALWAYS[400],
        401: "No project has this token.",
        408: WITH_BODY[408],
        413: WITH_BODY[413],
        429: QUOTA,
        503: "The log or the object store is away: send it again.",
    }
    return {
        "200": {"description": "Every event is durable.", "content": ok},
        "204": {"description": "The same, to a beacon."},
        **{
            str(status): {"description": says, "content": error}
            for status, says in told.items()
        },
    }


def stub(path: str, method: str, says: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "text/javascript" if path.endswith(".js/") else JSON: {"schema": {}}
    }
    return {
        "operationId": f"{method.lower()} stub {path}",
        "summary": f"What SDKs ask. {says}",
        "security": [],
        "tags": ["capture"],
        "parameters": path_parameters(path),
        "responses": {"200": {"description": says, "content": content}},
    }


def static() -> dict[str, Any]:
    missing = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "operationId": "static",
        "summary": "posthog-js's own files, from the folder PERSONLOG_STATIC.",
        "security": [],
        "tags": ["capture"],
        "parameters": path_parameters("/static/{file}"),
        "responses": {
            "200": {
                "description": "The file.",
                "content": {"text/javascript": {"schema": {}}},
            },
            "404": {"description": "No such file, or no folder.", "content": missing},
        },
    }


def preflight(path: str) -> dict[str, Any]:
    return {
        "operationId": f"preflight {path}",
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
