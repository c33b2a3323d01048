"""What an endpoint is called with: the request, whose it is, and the parts of the process."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from services.api.context import Context
from services.api.http.decoding import object_of, struct_of
from services.api.http.guards.access import PersonalKey, Project
from services.api.http.messages import Request
from services.api.http.parameters import Parameter
from services.api.http.routing import Route

B = TypeVar("B")
V = TypeVar("V")


class CaptureCall(msgspec.Struct, kw_only=True):
    """A call of an endpoint that needs no personal key."""

    request: Request
    context: Context

    @property
    def project(self) -> Project:
        """The project whose token is in the head, of a route that requires one there."""
        assert self.request.caller is not None
        return self.request.caller.project


class RestCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a REST endpoint: an authorised request for one project."""

    request: Request
    context: Context
    project: Project
    key: PersonalKey

    @property
    def route(self) -> Route:
        assert self.request.route is not None
        return self.request.route

    @property
    def actor(self) -> str:
        return self.key.actor

    def body(self) -> dict[str, Any]:
        """The JSON object that was sent."""
        return object_of(self.request)

    def read(self, kind: type[B]) -> B:
        """The body as this struct. BadInput names the field that is missing or wrong."""
        return struct_of(self.body(), kind)

    def parameter(self, parameter: Parameter[V]) -> V:
        """A parameter of the query, or its default. BadInput names it when it is wrong."""
        assert parameter in self.route.query, parameter.name
        return parameter.of(self.request.query)


def call_of(context: Context, request: Request) -> RestCall | CaptureCall:
    """The call that a request makes, by how its route lets callers in."""
    if request.route is None or request.route.access != "key":
        return CaptureCall(request=request, context=context)
    caller = request.caller
    assert caller is not None and caller.key is not None
    return RestCall(
        request=request, context=context, project=caller.project, key=caller.key
    )
