"""/openapi.json and /docs: the API described by the very declarations that it is served and judged
by.

Built from the route tables, their parameters and the structs of bodies. Needs no key, asks no other
host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.api.http.documents.docs_page import page_of
from services.api.http.errors import Error, PlainError
from services.api.http.guards.head import KEY_CHARS_MAX, KEY_PATTERN
from services.api.http.messages import Response
from services.api.http.parameters import Parameter
from services.api.http.property_limits import NAME_CHARS_MAX
from services.api.http.rendering import JSON, json_body
from services.api.http.routing import PREFIXES, Route

PREFIX = PREFIXES[0].replace("{project}", "{project_id}")

EXAMPLE_PERSON = "55379864-2afb-5e1c-adf7-decb022461c5"

INFO = {
    "title": "personlog",
    "version": "1",
    "description": "Persons over REST, and capture. The prefixes "
    "/api/projects/{project_id}/persons and /api/person serve the same; a slash at the end is "
    "optional everywhere, and so is .json or .csv before it.",
}

SECURITY_SCHEMES = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "A personal key, phx_… Scopes: person:read, person:write (which includes "
        "it), activity_log:read, *.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A project's token, phc_…",
    },
}

ALWAYS = {
    400: "A field, parameter, header or id is wrong: `attr` names it.",
    401: "No key, or a wrong, revoked or expired one.",
    403: "The key lacks the scope, or has no access to the project.",
    404: "No such person, project or format.",
    406: "`Accept` allows none of the types.",
    429: "The key is above its rate limit, or the project has too many costly calls. "
    "Wait for `Retry-After`.",
    503: "The projection lags, log or store are away, or this process is full. "
    "Wait for `Retry-After`.",
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

ERROR = {"$ref": "#/components/schemas/Error"}
"""The schema of every error."""

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
        "description": "The person: an integer id or a uuid. "
        "Ids of absorbed persons keep resolving.",
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
        "description": "The project's token. An unknown one gets the same answer; "
        "capture refuses it.",
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
        *(
            route
            for (noun, path, summary), endpoint in zip(
                DOCUMENTS, (openapi, docs), strict=True
            )
            for route in plain(noun, path, summary, endpoint)
        ),
    )


DOCUMENTS = (
    ("openapi_document", "/openapi.json", "This document."),
    ("docs_page", "/docs", "The same for people."),
)
"""Noun, path and summary of what is made of the document."""


def plain(
    noun: str, path: str, summary: str, endpoint: Callable[[Any], Any]
) -> tuple[Route, ...]:
    """The rows of something for operators or readers that needs no key."""
    return (
        Route(
            "GET",
            path,
            "",
            endpoint,
            access="open",
            gated=False,
            operation=plain_operation(summary),
            name=f"get_{noun}",
        ),
        Route(
            "HEAD",
            path,
            "",
            endpoint,
            access="open",
            gated=False,
            name=f"head_{noun}",
        ),
    )


def plain_operation(summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "security": [],
        "tags": ["operations"],
        "responses": {"default": {"description": summary}},
    }


def document(routes: Sequence[Route], others: Sequence[Route] = ()) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these REST routes, under the documented prefix, and of others."""
    structs = {
        kind
        for route in routes
        for kind in (route.body, route.preview, *_answers(route))
        if kind is not None
    }
    kinds = sorted(structs, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(
        [*kinds, Error, PlainError], ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(kinds, map(_public, schemas), strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(_path(route), {})
        for method in (
            ("patch", "put") if route.method == "PATCH" else (route.method.lower(),)
        ):
            operations[method] = _operation(route, method, schema_of)
    for route in others:
        if route.operation is not None:
            path = route.path.replace("{slash}", "/")
            operation = {"operationId": route.name, **route.operation}
            paths.setdefault(path, {})[route.method.lower()] = operation
    for noun, path, summary in DOCUMENTS:
        operation = {"operationId": f"get_{noun}", **plain_operation(summary)}
        paths[path] = {"get": operation}
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": {
                _public_name(name): _public(schema)
                for name, schema in components.items()
            },
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _public_name(name: str) -> str:
    """A struct's name as customers see it: `PersonBody`, beside the domain's person, is Person."""
    return name.removesuffix("Body")


def _public(schema: Any) -> Any:
    """A schema as customers see it: public names, and descriptions of one line."""
    if isinstance(schema, list):
        return [_public(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    public = {key: _public(value) for key, value in schema.items()}
    for key in ("title", "$ref"):
        if isinstance(schema.get(key), str):
            public[key] = _public_name(schema[key])
    if isinstance(schema.get("description"), str):
        public["description"] = _one_line(schema["description"])
    return public


def _one_line(text: str) -> str:
    """A docstring without its line breaks."""
    return " ".join(text.split())


def _answers(route: Route) -> tuple[type, ...]:
    return route.answers if isinstance(route.answers, tuple) else (route.answers,)


def _path(route: Route) -> str:
    return f"{PREFIX}{route.path}/"


def _operation(route: Route, method: str, schema_of: dict[type, Any]) -> dict[str, Any]:
    summary = _one_line(route.handler.__doc__ or "")
    operation: dict[str, Any] = {
        "operationId": f"{route.name}_put" if method == "put" else route.name,
        "summary": summary.partition(": ")[2] or summary,
        "description": f"Scope: `{route.scope}`.",
        "tags": ["persons"],
        "parameters": [
            *path_parameters(_path(route)),
            *map(_query, route.query),
            *_headers(route),
        ],
        "responses": _responses(route, schema_of),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": _required(route.body),
            "content": {JSON: {"schema": schema_of[route.body]}},
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
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.says,
        "schema": parameter.schema(),
    }
    described |= {"required": True} if parameter.required else {}
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _headers(route: Route) -> list[dict[str, Any]]:
    headers: dict[str, tuple[str, dict[str, Any]]] = {
        "Min-Position": (
            "Wait until this is visible.",
            {"type": "string", "format": "position"},
        )
    }
    if route.scope.endswith(":write"):
        key_schema = {
            "type": "string",
            "minLength": 1,
            "maxLength": KEY_CHARS_MAX,
            "pattern": KEY_PATTERN,
        }
        headers["Idempotency-Key"] = (
            "A repeat has no second effect and answers with the first outcome.",
            key_schema,
        )
        prefers = (
            "`respond-async`: 202 as soon as the write is durable; "
            "`wait=3`: 202 when it is not visible in 3 s."
        )
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


def _responses(route: Route, schema_of: dict[type, Any]) -> dict[str, Any]:
    position = {
        "Position": {
            "description": "What this reflects or wrote.",
            "schema": {"type": "string"},
        }
    }
    headers = position | {
        name: {"description": says, "schema": {"type": "string"}}
        for name, says in route.headers
    }
    done: dict[str, Any] = {"description": "Done.", "headers": headers}
    if answers := [schema_of[kind] for kind in _answers(route)]:
        schema = answers[0] if len(answers) == 1 else {"anyOf": answers}
        done["content"] = {
            JSON: {"schema": schema},
            "text/csv": {"schema": {"type": "string"}},
        }
    if route.produces:
        done["content"] = {
            route.produces: {"schema": {"type": "string", "format": "binary"}}
        }
    if (target := LINKS.get(route.name)) is not None:
        done["links"] = target
    responses: dict[str, Any] = {str(route.status): done}
    if route.preview is not None:
        content = {JSON: {"schema": schema_of[route.preview]}}
        responses["200"] = {
            "description": "dry_run: nothing was done.",
            "headers": position,
            "content": content,
        }
    if route.scope.endswith(":write") and route.status != 202:
        responses["202"] = {
            "description": "Durable, and not visible yet.",
            "headers": headers,
        }
    errors = ALWAYS | (WITH_BODY if route.body is not None else {})
    errors |= WRITING if route.scope.endswith(":write") else {}
    errors |= {status: SOMETIMES[status] for status in route.errors}
    for status, says in errors.items():
        error: dict[str, Any] = ERROR
        if route.plain_errors and status in (400, 404):
            error = {"anyOf": [ERROR, {"$ref": "#/components/schemas/PlainError"}]}
        responses[str(status)] = {
            "description": says,
            "content": {JSON: {"schema": error}},
        }
    return responses


def _person_links(expression: str) -> dict[str, Any]:
    """From an answer that names a person to everything that can be asked of it."""
    targets = (
        "get_person",
        "update_person",
        "split_person",
        "list_person_activity",
        "get_properties_timeline",
        "delete_person",
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
        "get_deletion_request",
        "cancel_deletion_request",
    )
}
LINKS: dict[str, dict[str, Any]] = {
    "list_persons": _person_links("$response.body#/results/0/uuid"),
    "get_person": _person_links("$response.body#/id"),
    "split_person": _person_links("$response.body#/persons/0/uuid"),
    "delete_person_events": _REQUEST_LINKS,
    "delete_person_recordings": _REQUEST_LINKS,
}
