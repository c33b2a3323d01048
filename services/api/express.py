"""A person by uuid, answered without a task, when its rows are known to be the newest. Whatever else there is to say,
`persons.retrieve` says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from multidict import CIMultiDictProxy

from services.api.context import POSITION_HEADER, Context
from services.api.ready import answer_of
from services.api.render import json_body
from shared.runtime import telemetry
from shared.runtime.express import Head, Taken

PLAIN_HEADERS = frozenset(("host", "authorization", "accept", "accept-encoding", "user-agent", "connection"))
"""A request with any other header asks for more than the person."""

_UUID = rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LINE = re.compile(rb"GET (/api/(?:environments|projects))/([1-9][0-9]{0,9})/persons/(" + _UUID + rb")/? HTTP/1\.1")
_ROUTES = {
    prefix.encode(): f"{prefix}/{{project}}/persons/{{id}}{{suffix}}{{slash}}"
    for prefix in ("/api/environments", "/api/projects")
}
_BEARER = re.compile(r"[Bb]earer +([!-~]+)")


class _Asked(NamedTuple):
    route: str
    project: int
    fragment: UUID


class ExpressPerson:
    """GET of one person by one of its uuids."""

    def __init__(self, context: Context, observe: Callable[[str, str, int, float], None]) -> None:
        """`observe` takes method, route, status and seconds of each answer."""
        self._context, self._observe = context, observe

    def line(self, line: bytes) -> _Asked | None:
        found = _LINE.fullmatch(line)
        return _Asked(_ROUTES[found[1]], int(found[2]), UUID(found[3].decode())) if found is not None else None

    def headers(self, headers: CIMultiDictProxy[str]) -> str | None:
        """The key."""
        bearer = _BEARER.fullmatch(headers.get("Authorization", ""))
        plain = {name.lower() for name in headers} <= PLAIN_HEADERS
        if bearer is None or not plain or headers.get("Accept", "*/*") not in ("*/*", "application/json"):
            return None
        return bearer[1]

    def take(self, head: Head, body: bytes) -> bytes | None:
        began = time.perf_counter()
        context, asked = self._context, head.line
        key = context.access.key(head.headers)
        if (
            key is None
            or not key.may("person:read")
            or not key.covers(asked.project)
            or context.access.project(asked.project) is None
            or context.limits.counting
            or not context.load.spare()
        ):
            return None
        person = context.reads.person_known(asked.project, asked.fragment)
        if person is None:
            return None
        telemetry.KNOWN.inc()
        headers = {"ETag": person.etag, POSITION_HEADER: context.reflected()}
        answer = answer_of(200, json_body(person.shown()), headers)
        self._observe("GET", asked.route, 200, time.perf_counter() - began)
        return answer

    def answer(self, head: Head, taken: Taken, seconds: float) -> bytes:
        """Never called: everything is answered at once."""
        raise AssertionError
