"""OpenAPI operations of REST routes: parameters, headers, responses and links, from the rows of the
route table."""

from __future__ import annotations

from typing import Any

import msgspec

from services.api.http.guards.head import KEY_CHARS_MAX, KEY_PATTERN
from services.api.http.negotiation import NDJSON
from services.api.http.parameters import Parameter
from services.api.http.rendering import JSON
from services.api.http.routing import Route
from shared.inputs.names import NAME_CHARS_MAX

EXAMPLE_PERSON = "55379864-2afb-5e1c-adf7-decb022461c5"

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


def answers_of(route: Route) -> tuple[type, ...]:
    """The structs that a success may answer with."""
    return route.answers if isinstance(route.answers, tuple) else (route.answers,)


def path_of(route: Route) -> str:
    """The path under the documented prefix."""
    prefix = route.prefixes[0].replace("{project}", "{project_id}")
    return f"{prefix}{route.path}/"


def operation_of(
    route: Route, method: str, schema_of: dict[type, Any]
) -> dict[str, Any]:
    """The operation of a REST route for one method, with the schemas of its structs."""
    summary = one_line(route.handler.__doc__ or "")
    operation: dict[str, Any] = {
        "operationId": f"{route.name}_put" if method == "put" else route.name,
        "summary": summary.partition(": ")[2] or summary,
        "description": f"Scope: `{route.scope}`.",
        "tags": ["persons"],
        "parameters": [
            *path_parameters(path_of(route)),
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
    """The parameters of a path's template."""
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
    if answers := [schema_of[kind] for kind in answers_of(route)]:
        schema = answers[0] if len(answers) == 1 else {"anyOf": answers}
        texts = ("text/csv", NDJSON) if route.streams else ("text/csv",)
        done["content"] = {JSON: {"schema": schema}} | {
            name: {"schema": {"type": "string"}} for name in texts
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


def one_line(text: str) -> str:
    """A docstring without its line breaks."""
    return " ".join(text.split())
