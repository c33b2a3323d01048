"""/openapi.json and /docs: the API described by the very declarations that it is served and judged by.

Built from the route tables, their parameters and the structs of `bodies`. Needs no key, asks no other host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from services.api.capture.sdk_endpoints import STUBS
from services.api.http.docs_page import page_of
from services.api.http.parameters import Parameter
from services.api.http.rendering import JSON, json_body
from services.api.http.routing import KEY_CHARS_MAX, KEY_PATTERN, PREFIXES, Route
from services.api.writes import schemas as bodies
from services.api.writes.property_limits import NAME_CHARS_MAX

PREFIX = PREFIXES[0].replace("{project}", "{project_id}")

EXAMPLE_PERSON = "55379864-2afb-5e1c-adf7-decb022461c5"

ALWAYS = {
    400: "A field, parameter, header or id is wrong: `attr` names it.",
    401: "No key, or a wrong, revoked or expired one.",
    403: "The key lacks the scope, or has no access to the project.",
    404: "No such person, project or format.",
    406: "`Accept` allows none of the types.",
    429: "The key is above its rate limit, or the project has too many costly calls. Wait for `Retry-After`.",
    503: "The projection lags, log or store are away, or this process is full. Wait for `Retry-After`.",
}
WITH_BODY = {408: "The body did not arrive in time.", 413: "The body is too large.", 415: "Forms are not taken."}
QUOTA = "More than the project's quota: wait for `Retry-After`."
WRITING = {422: "The `Idempotency-Key` came before with another request."}
SOMETIMES = {
    409: "It is too late to cancel, or the person cannot be restored: `detail` says why.",
    412: "`If-Match` is stale.",
}

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "project_id": {
        "description": "The project: an integer, or `@current` for the key's own.",
        "schema": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 2**32 - 1}, {"const": "@current"}]},
        "example": "@current",
    },
    "id": {
        "description": "The person: an integer id or a uuid. Ids of absorbed persons keep resolving.",
        "schema": {
            "anyOf": [{"type": "string", "format": "uuid"}, {"type": "integer", "minimum": 0, "maximum": 2**53}]
        },
        "example": EXAMPLE_PERSON,
    },
    "key": {
        "description": "The property.",
        "schema": {"type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX},
        "example": "plan",
    },
    "session": {
        "description": "The recorded session.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9-]{1,70}$"},
        "example": "01a207ca-9815-7000-8000-000000000000",
    },
    "request": {"description": "The deletion request.", "schema": {"type": "string", "format": "uuid"}},
    "token": {
        "description": "The project's token. An unknown one gets the same answer; capture refuses it.",
        "schema": {"type": "string", "minLength": 1},
        "example": "phc_…",
    },
    "file": {
        "description": "A file of posthog-js, with or without its version before it.",
        "schema": {"type": "string", "minLength": 1},
        "example": "array.js",
    },
}  # fmt: skip

CAPTURE_PATHS = ("/batch/", "/capture/", "/e/", "/i/v0/e/", "/track/", "/engage/")
CAPTURE_V1_PATH = "/i/v1/analytics/events/"
PLAIN = {"/livez": "The process runs.", "/readyz": "Writes are accepted and reads answered.",
         "/metrics": "Prometheus; from this machine only.", "/version": "The version.",
         "/openapi.json": "This document.", "/docs": "The same for people."}  # fmt: skip


def register(app: web.Application, routes: Sequence[Route]) -> None:
    """Add /openapi.json and /docs for these routes."""
    described = document(routes)
    raw, page = json_body(described), page_of(described).encode()

    async def openapi(request: web.Request) -> web.Response:
        return web.Response(body=raw, content_type=JSON)

    async def docs(request: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=policy)

    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/docs", docs)


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes, under the documented prefix, and of what has no key."""
    named = {kind for route in routes for kind in (route.body, route.preview, *_answers(route)) if kind is not None}
    kinds = sorted(named, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(
        [*kinds, bodies.Error, bodies.PlainError], ref_template="#/components/schemas/{name}"
    )
    shown = dict(zip(kinds, schemas, strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(_path(route), {})
        for method in ("patch", "put") if route.method == "PATCH" else (route.method.lower(),):
            operations[method] = _operation(route, method, shown)
    for path in CAPTURE_PATHS:
        paths[path] = {"post": _capture(path), "options": _preflight(path), "get": _capture_by_query(path)}
    paths[CAPTURE_V1_PATH] = {"post": _capture_v1(), "options": _preflight(CAPTURE_V1_PATH)}
    for stub in STUBS:
        path = stub.path + "/"
        paths[path] = {method.lower(): _stub(path, method, stub.says) for method in stub.methods}
        paths[path]["options"] = _preflight(path)
    paths["/static/{file}"] = {"get": _static()}
    paths["/s/"] = {"post": _record(), "options": _preflight("/s/")}
    for path, says in PLAIN.items():
        paths[path] = {"get": {"operationId": f"get {path}", "summary": says, "security": [], "tags": ["operations"],
                               "responses": {"default": {"description": says}}}}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "personlog",
            "version": "1",
            "description": "Persons over REST, and capture. The prefixes /api/projects/{project_id}/persons and "
            "/api/person serve the same; a slash at the end is optional everywhere, and so is .json or .csv before it.",
        },
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A personal key, phx_… Scopes: person:read, "
                        "person:write (which includes it), activity_log:read, *."},
                "token": {"type": "http", "scheme": "bearer", "description": "A project's token, phc_…"},
            },
        },
    }  # fmt: skip


def _answers(route: Route) -> tuple[type, ...]:
    return route.answers if isinstance(route.answers, tuple) else (route.answers,)


def _path(route: Route) -> str:
    return f"{PREFIX}{route.path}/"


def _operation(route: Route, method: str, shown: dict[type, Any]) -> dict[str, Any]:
    said = (route.handler.__doc__ or "").strip()
    operation: dict[str, Any] = {
        "operationId": f"{method} {route.path or '/'}",
        "summary": said.partition(": ")[2] or said,
        "description": f"Scope: `{route.scope}`.",
        "tags": ["persons"],
        "parameters": [*_path_parameters(_path(route)), *map(_query, route.query), *_headers(route)],
        "responses": _responses(route, shown),
    }
    if route.body is not None:
        operation["requestBody"] = {"required": _required(route.body), "content": {JSON: {"schema": shown[route.body]}}}
    return operation


def _required(body: type) -> bool:
    """Whether a request must send a body: one without any is read as one with no field."""
    return any(field.required for field in msgspec.structs.fields(body))


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, **declared}
        for name, declared in PATH_PARAMETERS.items()
        if "{" + name + "}" in path
    ]


def _query(parameter: Parameter[Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": parameter.name, "in": "query", "description": parameter.says, "schema": parameter.schema(),
    }  # fmt: skip
    shown |= {"required": True} if parameter.required else {}
    return shown if parameter.example is None else {**shown, "example": parameter.example}


def _headers(route: Route) -> list[dict[str, Any]]:
    headers: dict[str, tuple[str, dict[str, Any]]] = {
        "Min-Position": ("Wait until this is visible.", {"type": "string", "format": "position"})
    }
    if route.scope.endswith(":write"):
        kept = {"type": "string", "minLength": 1, "maxLength": KEY_CHARS_MAX, "pattern": KEY_PATTERN}
        headers["Idempotency-Key"] = ("A repeat has no second effect and answers with the first outcome.", kept)
        prefers = "`respond-async`: 202 as soon as the write is durable; `wait=3`: 202 when it is not visible in 3 s."
        headers["Prefer"] = (prefers, {"type": "string"})
    if 412 in route.errors:
        headers["If-Match"] = (
            "The `ETag` that was read.",
            {"type": "string", "format": "entity-tag"},
        )
    return [
        {"name": name, "in": "header", "description": says, "schema": schema}
        for name, (says, schema) in headers.items()
    ]


def _responses(route: Route, shown: dict[type, Any]) -> dict[str, Any]:
    position = {"Position": {"description": "What this reflects or wrote.", "schema": {"type": "string"}}}
    told = position | {name: {"description": says, "schema": {"type": "string"}} for name, says in route.headers}
    done: dict[str, Any] = {"description": "Done.", "headers": told}
    if answers := [shown[kind] for kind in _answers(route)]:
        schema = answers[0] if len(answers) == 1 else {"anyOf": answers}
        done["content"] = {JSON: {"schema": schema}, "text/csv": {"schema": {"type": "string"}}}
    if route.produces:
        done["content"] = {route.produces: {"schema": {"type": "string", "format": "binary"}}}
    if (target := LINKS.get((route.method, route.path))) is not None:
        done["links"] = target
    responses: dict[str, Any] = {str(route.status): done}
    if route.preview is not None:
        content = {JSON: {"schema": shown[route.preview]}}
        responses["200"] = {"description": "dry_run: nothing was done.", "headers": position, "content": content}
    if route.scope.endswith(":write") and route.status != 202:
        responses["202"] = {"description": "Durable, and not visible yet.", "headers": told}
    errors = ALWAYS | (WITH_BODY if route.body is not None else {})
    errors |= WRITING if route.scope.endswith(":write") else {}
    errors |= {status: SOMETIMES[status] for status in route.errors}
    for status, says in errors.items():
        error: dict[str, Any] = {"$ref": "#/components/schemas/Error"}
        if route.plain_errors and status in (400, 404):
            error = {"anyOf": [error, {"$ref": "#/components/schemas/PlainError"}]}
        responses[str(status)] = {"description": says, "content": {JSON: {"schema": error}}}
    return responses


def _person_links(expression: str) -> dict[str, Any]:
    """From an answer that names a person to everything that can be asked of it."""
    targets = ("get /{id}", "patch /{id}", "post /{id}/split", "get /{id}/activity", "get /{id}/properties_timeline",
               "delete /{id}")  # fmt: skip
    return {
        target: {"operationId": target, "parameters": {"path.id": expression, "path.project_id": "@current"}}
        for target in targets
    }


_REQUEST_LINKS = {
    target: {
        "operationId": target,
        "parameters": {"path.request": "$response.body#/id", "path.project_id": "@current"},
    }
    for target in ("get /deletion_requests/{request}", "delete /deletion_requests/{request}")
}
LINKS: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", ""): _person_links("$response.body#/results/0/uuid"),
    ("GET", "/{id}"): _person_links("$response.body#/id"),
    ("POST", "/{id}/split"): _person_links("$response.body#/persons/0/uuid"),
    ("POST", "/{id}/delete_events"): _REQUEST_LINKS,
    ("POST", "/{id}/delete_recordings"): _REQUEST_LINKS,
}


def _capture(path: str) -> dict[str, Any]:
    event = {
        "type": "object",
        "properties": {
            "api_key": {"type": "string"}, "event": {"type": "string"}, "distinct_id": {"type": "string"},
            "properties": {"type": "object"}, "uuid": {"type": "string", "format": "uuid"},
            "timestamp": {"type": "string"}, "batch": {"type": "array", "items": {"type": "object"}},
        },
        "examples": [{"api_key": "phc_…", "event": "sign up", "distinct_id": "ada@example.com",
                      "properties": {"$set": {"email": "ada@example.com"}}}],
    }  # fmt: skip
    return {
        "operationId": f"capture {path}",
        "summary": "What SDKs send: one event, an array, or `{api_key, batch: […]}`; JSON, gzip, base64 or a form.",
        "security": [],
        "tags": ["capture"],
        "requestBody": {"required": True, "content": {JSON: {"schema": event}}},
        "responses": _capture_responses(),
    }


def _capture_by_query(path: str) -> dict[str, Any]:
    data = {"name": "data", "in": "query", "required": True, "description": "The event: JSON or base64.",
            "schema": {"type": "string", "format": "event"}}  # fmt: skip
    return {
        "operationId": f"capture by query {path}", "summary": "The same in the query.", "security": [],
        "tags": ["capture"], "parameters": [data], "responses": _capture_responses(),
    }  # fmt: skip


def _capture_v1() -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    event = {
        "type": "object", "required": ["event", "uuid", "distinct_id", "timestamp"],
        "properties": {
            "event": text, "uuid": text | {"format": "uuid"}, "distinct_id": text,
            "timestamp": text | {"format": "date-time"}, "session_id": text, "window_id": text,
            "options": {"type": "object"}, "properties": {"type": "object"},
        },
    }  # fmt: skip
    batch = {"created_at": text | {"format": "date-time"}, "historical_migration": {"type": "boolean"},
             "batch": {"type": "array", "minItems": 1, "items": event}}  # fmt: skip
    result = {"type": "object", "required": ["result"], "properties": {
        "result": {"enum": ["ok", "warning", "drop", "retry"]}, "details": text}}  # fmt: skip
    results = {"type": "object", "additionalProperties": result}
    named: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("PostHog-Sdk-Info", "Who sends: name/version.", {"minLength": 1}),
        ("PostHog-Attempt", "From 1 on.", {"pattern": "^[1-9][0-9]{0,9}$"}),
        ("PostHog-Request-Id", "The same for all attempts.", {"format": "uuid"}),
        ("PostHog-Request-Timestamp", "The sender's clock: its skew is taken off all times.", {"format": "date-time"}),
    )
    said = dict.fromkeys(("error", "error_description", "error_uri"), text)
    error = {JSON: {"schema": {"type": "object", "properties": said, "required": list(said)}}}
    told = {400: "A header, the batch or a uuid is wrong: nothing is stored.", 401: "No project has this token.",
            408: WITH_BODY[408], 413: WITH_BODY[413], 415: "Another Content-Type or Content-Encoding.",
            429: QUOTA, 503: "The log is away: send it again."}  # fmt: skip
    return {
        "operationId": "capture v1", "summary": "What newer SDKs send, with an answer for each event.",
        "security": [{"token": []}], "tags": ["capture"],
        "parameters": [{"name": name, "in": "header", "required": True, "description": says, "schema": text | kind}
                       for name, says, kind in named],
        "requestBody": {"required": True, "content": {JSON: {"schema": {
            "type": "object", "required": ["batch"], "properties": batch}}}},
        "responses": {
            "200": {"description": "By uuid, what became of each event.", "content": {JSON: {"schema": {
                "type": "object", "properties": {"results": results}, "required": ["results"]}}}},
            **{str(status): {"description": says, "content": error} for status, says in told.items()},
        },
    }  # fmt: skip


def _record() -> dict[str, Any]:
    event = {
        "type": "object",
        "properties": {
            "event": {"const": "$snapshot"}, "uuid": {"type": "string", "format": "uuid"},
            "timestamp": {"type": "string"}, "properties": {"type": "object"},
        },
        "examples": [{"event": "$snapshot", "properties": {
            "token": "phc_…", "distinct_id": "ada@example.com", "$session_id": "01a207ca-9815-7000-8000-000000000000",
            "$snapshot_data": [{"type": 4, "timestamp": 1795427047489, "data": {}}]}}],
    }  # fmt: skip
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
    ok = {JSON: {"schema": {"type": "object", "properties": {"status": {"const": "Ok"}}, "required": ["status"]}}}
    told = {400: ALWAYS[400], 401: "No project has this token.", 408: WITH_BODY[408], 413: WITH_BODY[413],
            429: QUOTA, 503: "The log or the object store is away: send it again."}  # fmt: skip
    return {
        "200": {"description": "Every event is durable.", "content": ok},
        "204": {"description": "The same, to a beacon."},
        **{str(status): {"description": says, "content": error} for status, says in told.items()},
    }


def _stub(path: str, method: str, says: str) -> dict[str, Any]:
    content: dict[str, Any] = {"text/javascript" if path.endswith(".js/") else JSON: {"schema": {}}}
    return {
        "operationId": f"{method.lower()} stub {path}", "summary": f"What SDKs ask. {says}", "security": [],
        "tags": ["capture"], "parameters": _path_parameters(path),
        "responses": {"200": {"description": says, "content": content}},
    }  # fmt: skip


def _static() -> dict[str, Any]:
    missing = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "operationId": "static", "summary": "posthog-js's own files, from the folder PERSONLOG_STATIC.", "security": [],
        "tags": ["capture"], "parameters": _path_parameters("/static/{file}"),
        "responses": {
            "200": {"description": "The file.", "content": {"text/javascript": {"schema": {}}}},
            "404": {"description": "No such file, or no folder.", "content": missing},
        },
    }  # fmt: skip


def _preflight(path: str) -> dict[str, Any]:
    return {
        "operationId": f"preflight {path}", "summary": "Any origin may send.", "security": [], "tags": ["capture"],
        "parameters": _path_parameters(path),
        "responses": {"200": {"description": "Allowed.", "content": {JSON: {"schema": {"type": "object"}}}}},
    }  # fmt: skip
