"""/openapi.json and /docs: the API described by the very declarations that it is served and judged
by.

Built from the route tables, their parameters and the structs of bodies. Needs no key, asks no other
host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.api.http.documents.docs_page import page_of
from services.api.http.errors import Error, PlainError
from services.api.http.messages import Response
from services.api.http.parameters import Parameter
from services.api.http.pipeline import KEY_CHARS_MAX, KEY_PATTERN
from services.api.http.property_limits import NAME_CHARS_MAX
from services.api.http.rendering import JSON, json_body
from services.api.http.routing import PREFIXES, Route

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
WITH_BODY = {
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "Forms are not taken.",
}
QUOTA = "More than the project's quota: wait for `Retry-After`."
WRITING = {422: "The `Idempotency-Key` came before with another request."}
SOMETIMES = {
    409: "It is too late to cancel, or the person cannot be restored: `detail` says why.",
    412: "`If-Match` is stale.",
}

_LINE_END = re.compile(r"(?:\\n *)+")
"""A line's end within a docstring, as JSON has it."""

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "project_id": {
        "description": "The project: an integer, or `@current` for the key's own.",
        "schema": {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 2**32 - 1},
                {"const": "@current"},
            ]
        },
        "example": "@current",
    },
    "id": {
        "description": "The person: an integer id or a uuid. Ids of absorbed persons keep resolving.",
        "schema": {
            "anyOf": [
                {"type": "string", "format": "uuid"},
                {"type": "integer", "minimum": 0, "maximum": 2**53},
            ]
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
    "request": {
        "description": "The deletion request.",
        "schema": {"type": "string", "format": "uuid"},
    },
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
}


def routes_of(described: dict[str, Any]) -> tuple[Route, ...]:
    """The rows of /openapi.json and /docs for this document."""
    raw, page = json_body(described), page_of(described).encode()
    policy = {
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"
    }

    def openapi(call: Any) -> Response:
        return Response(headers={"Content-Type": JSON}, body=raw)

    def docs(call: Any) -> Response:
        return Response(
            headers={"Content-Type": "text/html; charset=utf-8"} | policy, body=page
        )

    return (
        *plain("/openapi.json", DOCUMENTS["/openapi.json"], openapi),
        *plain("/docs", DOCUMENTS["/docs"], docs),
    )


DOCUMENTS = {"/openapi.json": "This document.", "/docs": "The same for people."}


def plain(path: str, summary: str, endpoint: Callable[[Any], Any]) -> tuple[Route, ...]:
    """The rows of something for operators or readers that needs no key."""
    return (
        Route(
            "GET",
            path,
            "",
            endpoint,
            access="open",
            gated=False,
            operation=plain_operation(path, summary),
        ),
        Route("HEAD", path, "", endpoint, access="open", gated=False),
    )


def plain_operation(path: str, summary: str) -> dict[str, Any]:
    return {
        "operationId": f"get {path}",
        "summary": summary,
        "security": [],
        "tags": ["operations"],
        "responses": {"default": {"description": summary}},
    }


def document(routes: Sequence[Route], others: Sequence[Route] = ()) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these REST routes, under the documented prefix, and of others."""
    named = {
        kind
        for route in routes
        for kind in (route.body, route.preview, *_answers(route))
        if kind is not None
    }
    kinds = sorted(named, key=lambda kind: kind.__name__)
    schemas, components = _schemas([*kinds, Error, PlainError])
    shown = dict(zip(kinds, schemas, strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(_path(route), {})
        for method in (
            ("patch", "put") if route.method == "PATCH" else (route.method.lower(),)
        ):
            operations[method] = _operation(route, method, shown)
    for route in others:
        if route.operation is not None:
            path = route.path.replace("{slash}", "/")
            paths.setdefault(path, {})[route.method.lower()] = dict(route.operation)
    for path, summary in DOCUMENTS.items():
        paths[path] = {"get": plain_operation(path, summary)}
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
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A personal key, phx_… Scopes: person:read, "
                    "person:write (which includes it), activity_log:read, *.",
                },
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A project's token, phc_…",
                },
            },
        },
    }


def _schemas(kinds: Sequence[type]) -> tuple[Any, Any]:
    """(the schema of each, their components by name), with docstrings in one line. A class that
    ends in Body, beside one of the domain, is shown without that ending: customers know no other.
    """
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    names = {name: name.removesuffix("Body") for name in components}
    text = msgspec.json.encode([schemas, components]).decode()
    text = _LINE_END.sub(" ", text)
    for name in names.keys() - names.values():
        for beginning in ('"', "#/components/schemas/"):
            text = text.replace(f'{beginning}{name}"', f'{beginning}{names[name]}"')
    schemas, components = msgspec.json.decode(text)
    return schemas, components


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
        "parameters": [
            *path_parameters(_path(route)),
            *map(_query, route.query),
            *_headers(route),
        ],
        "responses": _responses(route, shown),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": _required(route.body),
            "content": {JSON: {"schema": shown[route.body]}},
        }
    return operation


def _required(body: type) -> bool:
    """Whether a request must send a body: one without any is read as one with no field."""
    return any(field.required for field in msgspec.structs.fields(body))


def path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, **declared}
        for name, declared in PATH_PARAMETERS.items()
        if "{" + name + "}" in path
    ]


def _query(parameter: Parameter[Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.says,
        "schema": parameter.schema(),
    }
    shown |= {"required": True} if parameter.required else {}
    return (
        shown if parameter.example is None else {**shown, "example": parameter.example}
    )


def _headers(route: Route) -> list[dict[str, Any]]:
    headers: dict[str, tuple[str, dict[str, Any]]] = {
        "Min-Position": (
            "Wait until this is visible.",
            {"type": "string", "format": "position"},
        )
    }
    if route.scope.endswith(":write"):
        kept = {
            "type": "string",
            "minLength": 1,
            "maxLength": KEY_CHARS_MAX,
            "pattern": KEY_PATTERN,
        }
        headers["Idempotency-Key"] = (
            "A repeat has no second effect and answers with the first outcome.",
            kept,
        )
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
    position = {
        "Position": {
            "description": "What this reflects or wrote.",
            "schema": {"type": "string"},
        }
    }
    told = position | {
        name: {"description": says, "schema": {"type": "string"}}
        for name, says in route.headers
    }
    done: dict[str, Any] = {"description": "Done.", "headers": told}
    if answers := [shown[kind] for kind in _answers(route)]:
        schema = answers[0] if len(answers) == 1 else {"anyOf": answers}
        done["content"] = {
            JSON: {"schema": schema},
            "text/csv": {"schema": {"type": "string"}},
        }
    if route.produces:
        done["content"] = {
            route.produces: {"schema": {"type": "string", "format": "binary"}}
        }
    if (target := LINKS.get((route.method, route.path))) is not None:
        done["links"] = target
    responses: dict[str, Any] = {str(route.status): done}
    if route.preview is not None:
        content = {JSON: {"schema": shown[route.preview]}}
        responses["200"] = {
            "description": "dry_run: nothing was done.",
            "headers": position,
            "content": content,
        }
    if route.scope.endswith(":write") and route.status != 202:
        responses["202"] = {
            "description": "Durable, and not visible yet.",
            "headers": told,
        }
    errors = ALWAYS | (WITH_BODY if route.body is not None else {})
    errors |= WRITING if route.scope.endswith(":write") else {}
    errors |= {status: SOMETIMES[status] for status in route.errors}
    for status, says in errors.items():
        error: dict[str, Any] = {"$ref": "#/components/schemas/Error"}
        if route.plain_errors and status in (400, 404):
            error = {"anyOf": [error, {"$ref": "#/components/schemas/PlainError"}]}
        responses[str(status)] = {
            "description": says,
            "content": {JSON: {"schema": error}},
        }
    return responses


def _person_links(expression: str) -> dict[str, Any]:
    """From an answer that names a person to everything that can be asked of it."""
    targets = (
        "get /{id}",
        "patch /{id}",
        "post /{id}/split",
        "get /{id}/activity",
        "get /{id}/properties_timeline",
        "delete /{id}",
    )
    return {
        target: {
            "operationId": target,
            "parameters": {"path.id": expression, "path.project_id": "@current"},
        }
        for target in targets
    }


_REQUEST_LINKS = {
    target: {
        "operationId": target,
        "parameters": {
            "path.request": "$response.body#/id",
            "path.project_id": "@current",
        },
    }
    for target in (
        "get /deletion_requests/{request}",
        "delete /deletion_requests/{request}",
    )
}
LINKS: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", ""): _person_links("$response.body#/results/0/uuid"),
    ("GET", "/{id}"): _person_links("$response.body#/id"),
    ("POST", "/{id}/split"): _person_links("$response.body#/persons/0/uuid"),
    ("POST", "/{id}/delete_events"): _REQUEST_LINKS,
    ("POST", "/{id}/delete_recordings"): _REQUEST_LINKS,
}
