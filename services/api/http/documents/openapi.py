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
from services.api.http.documents.rest_operations import (
    answers_of,
    one_line,
    operation_of,
    path_of,
)
from services.api.http.errors import Error, PlainError
from services.api.http.messages import Response
from services.api.http.rendering import JSON, json_body
from services.api.http.routing import Route

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
        for kind in (route.body, route.preview, *answers_of(route))
        if kind is not None
    }
    kinds = sorted(structs, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(
        [*kinds, Error, PlainError], ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(kinds, map(_public, schemas), strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(path_of(route), {})
        for method in (
            ("patch", "put") if route.method == "PATCH" else (route.method.lower(),)
        ):
            operations[method] = operation_of(route, method, schema_of)
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
        public["description"] = one_line(schema["description"])
    return public
