"""Rows of the route table, and which of them a request is for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from services.api.http.errors import ApiError, method_not_allowed, not_found
from services.api.http.guards.costly import Costly, never
from services.api.http.messages import Request
from services.api.http.parameters import Parameter
from shared.domain.ids import Position

PREFIXES = (
    "/api/environments/{project}/persons",
    "/api/projects/{project}/persons",
    "/api/person",
)
"""Of routes for persons, the documented one first."""

PROJECT_PREFIXES = ("/api/projects/{project}", "/api/environments/{project}")
"""Of routes for a project as a whole."""

BODY_BYTES_MAX = 1_048_576
"""A REST body: the largest person fits twice."""

_PARAMETER = re.compile(r"\{(\w+)\}")
_SLASHES = re.compile("//+")
_SEGMENT = r"[^/]+"
_ENDING = {"suffix": r"(?:\.json|\.csv)?", "slash": r"/?"}


class EndpointResult(msgspec.Struct, kw_only=True):
    """The outcome of a REST endpoint. `body` None: no body; bytes: JSON as it is sent.

    `positions` None: nothing was written, so the answer names what it reflects.
    """

    status: int = 200
    body: Any = None
    positions: Sequence[Position] | None = None
    headers: dict[str, str] = {}


Endpoint = Callable[[Any], Any]
"""From a call to an EndpointResult or a Response, at once or as an awaitable of one."""

Authentication = Literal["key", "token", "open"]
"""A personal key with the route's scope; a project's token as Bearer; nothing that the head must
have."""


class Route(msgspec.Struct, frozen=True):
    """One row of the route table. A REST path follows one of the prefixes, and `handler`'s
    docstring describes it.

    `query`, `body` and `answers` are what the OpenAPI document shows, and what requests are judged
    by. `errors` are the statuses beyond those that every route may answer; `produces` is the type
    of an answer that is neither JSON nor CSV; with `plain_errors` they are `{"error": text}`, as
    the original has them there; `preview` is what dry_run answers, with 200, where success has
    another status; `headers` are those of success beside the Position, and their meaning; `costly`
    says which calls pass the gate.
    """

    method: str
    path: str
    scope: str
    handler: Endpoint
    query: tuple[Parameter[Any], ...] = ()
    body: type | None = None
    answers: type | tuple[type, ...] = ()
    status: int = 200
    errors: tuple[int, ...] = ()
    produces: str = ""
    plain_errors: bool = False
    preview: type | None = None
    headers: tuple[tuple[str, str], ...] = ()
    costly: Costly = never
    access: Authentication = "key"
    gated: bool = True
    """Whether it takes or tells something of persons: then it waits until the log is known to be
    the tables' own."""

    streams: bool = False
    """Whether its answers may come in pieces."""

    cross_origin: bool = False
    body_bytes_max: int | None = None
    """Of the body as sent; None for routes that read none."""

    judge: Callable[[Request], None] | None = None
    """Judges the head before the body is read."""

    error_body: Callable[[ApiError], bytes] | None = None
    """The body of a refusal where it is not the standard one."""

    prefixes: tuple[str, ...] = PREFIXES
    """Of the paths of a REST route."""

    name: str = ""
    """The id of its operation: a method's name for those who generate clients."""

    operation: Mapping[str, Any] | None = None
    """The OpenAPI operation of a route outside REST; None for one that the document does not
    name."""

    @property
    def is_direct(self) -> bool:
        """Whether the front may answer it: all of an answer is there at once."""
        return not self.streams and not self.produces

    @property
    def writes(self) -> bool:
        return self.scope.endswith(":write")

    @property
    def bytes_max(self) -> int | None:
        """Of a body as sent; None where none is read."""
        if self.body_bytes_max is None and self.body is not None:
            return BODY_BYTES_MAX
        return self.body_bytes_max


class Resource:
    """All routes of one path."""

    def __init__(self, template: str, person: str) -> None:
        self.template = template
        self.routes: dict[str, Route] = {}
        self.is_fixed = "{" not in template
        self._pattern = re.compile(_expression(template, person))

    @property
    def cross_origin(self) -> bool:
        return any(route.cross_origin for route in self.routes.values())

    def match(self, path: str) -> dict[str, str] | None:
        """The values of the path's parameters; None for another path."""
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        if "%" not in path:
            return match.groupdict()
        return {name: _unquoted(value) for name, value in match.groupdict().items()}


class RouteMatch(NamedTuple):
    """The resource of a path, its route for a method, if it has one, and the values of the path's
    parameters."""

    resource: Resource
    route: Route | None
    parameters: dict[str, str]


class Router:
    """Finds the route of a path and a method among the rows of the route table."""

    def __init__(
        self, rest_routes: Sequence[Route], other_routes: Sequence[Route] = ()
    ) -> None:
        self.resources: list[Resource] = []
        self._by_template: dict[str, Resource] = {}
        self._fixed: dict[str, Resource] = {}
        self._dynamic: dict[tuple[str, ...], list[Resource]] = {}
        literals = {
            first
            for route in rest_routes
            if route.prefixes == PREFIXES
            and (first := _first(route.path))
            and "{" not in first
        }
        # a name is no id, for any method
        person = rf"(?!(?:{'|'.join(sorted(literals)) or '$'})(?:\.\w+)?/?$)[^/]+?"
        for route in other_routes:
            self._add(route.path, route, person)
        for route in rest_routes:
            for prefix in route.prefixes:
                self._add(prefix + route.path + "{suffix}{slash}", route, person)
        for resources in (
            self._dynamic.values()
        ):  # the most frequent one first; no path fits two of one length
            resources.sort(key=lambda resource: "{id}" not in resource.template)

    def find(self, method: str, path: str) -> RouteMatch | None:
        """What a path and a method lead to; None for a path that is nobody's."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return RouteMatch(fixed, fixed.routes.get(method), {})
        for resource in self._dynamic.get(_shape(path), ()):
            parameters = resource.match(path)
            if parameters is not None:
                return RouteMatch(resource, resource.routes.get(method), parameters)
        if "//" not in path:
            return None
        # a host that was configured with a slash at its end
        match = self.find(method, _SLASHES.sub("/", path))
        return match if match is not None and match.resource.cross_origin else None

    def resolve(self, request: Request) -> Route:
        """The same, entered into the request. 404 for no such path, 405 for no such method
        there."""
        match = self.find(request.method, request.path)
        if match is None:
            raise not_found("Endpoint not found.")
        resource, route, parameters = match
        request.cross_origin = resource.cross_origin
        if route is None:
            raise method_not_allowed(
                request.method, request.path, ", ".join(sorted(resource.routes))
            )
        request.route = route
        request.template = resource.template
        request.parameters = parameters
        return route

    def _add(self, template: str, route: Route, person: str) -> None:
        resource = self._by_template.get(template)
        if resource is None:
            resource = self._by_template[template] = Resource(template, person)
            self.resources.append(resource)
            if resource.is_fixed:
                self._fixed[template] = resource
            else:
                self._index(resource)
        resource.routes[route.method] = route
        if route.method == "PATCH":
            resource.routes["PUT"] = route

    def _index(self, resource: Resource) -> None:
        path = _PARAMETER.sub(
            "x", resource.template.replace("{suffix}", "").replace("{slash}", "")
        )
        self._dynamic.setdefault(_shape(path), []).append(resource)
        if "{file}" in resource.template:  # with or without a folder
            self._dynamic.setdefault(_shape(path + "/x"), []).append(resource)


def _shape(path: str) -> tuple[str, ...]:
    """What all paths of a resource have in common: the fixed beginning, and how many segments there
    are."""
    parts = path.split("/")
    length = len(parts) - (not parts[-1])
    if length < 2:
        return ("",)
    second = parts[2].partition(".")[0] if parts[1] == "api" and length > 2 else ""
    return parts[1], second, str(length)


def _first(path: str) -> str:
    """The first segment of a path."""
    return path.split("/")[1] if path else ""


def _expression(template: str, person: str) -> str:
    """The regular expression of a template."""
    special = {"id": person, "file": r"(?:\d[\w.-]*/)?[\w.-]+\.js(?:\.map)?", **_ENDING}
    pieces = _PARAMETER.split(template)
    return "".join(
        f"(?P<{piece}>{special.get(piece, _SEGMENT)})"
        if index % 2
        else re.escape(piece)
        for index, piece in enumerate(pieces)
    )


def _unquoted(value: str) -> str:
    """Slashes and percent signs of a value, which a path keeps encoded until its segments are told
    apart."""
    return value.replace("%2F", "/").replace("%25", "%")
