"""One person by uuid: read, without asking the store when its rows are known to be the newest, and then patched too.
Whatever else there is to say, `persons.retrieve` and `persons.update` say."""

from __future__ import annotations

import asyncio
import re
import time
from operator import is_
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from multidict import CIMultiDictProxy

from services.api.context import POSITION_HEADER, Context
from services.api.http.guards.access import Key
from services.api.http.raw_response import Observe, answer_of, refused
from services.api.http.rendering import json_body
from services.api.persons.endpoints import member_named, update_of
from services.api.reads.persons import KnownRows
from services.api.reads.row_cache import LruCache
from services.api.writes.idempotency import Keyed
from services.api.writes.property_limits import check_properties
from services.api.writes.schemas import Update
from shared.domain.errors import PersonlogError
from shared.domain.ids import format_positions
from shared.runtime import telemetry
from shared.runtime.express import Head, Taken
from shared.store.person import living_of, person_of

PLAIN_HEADERS = frozenset(
    ("host", "authorization", "accept", "accept-encoding", "user-agent", "connection", "content-type", "content-length")
)
"""Beside `Prefer`. A request with any other header asks for more."""

SHOWN_BYTES_MAX, SHOWN_BYTES = 24 * 1_048_576, 400
"""Of all bodies that are kept beside the rows that they were made of, and of one besides the body itself."""

_UUID = rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PROJECT = rb"(/api/(?:environments|projects))/([1-9][0-9]{0,9})"
_LINE = re.compile(rb"(GET|PATCH) " + _PROJECT + rb"/persons/(" + _UUID + rb")/? HTTP/1\.1")
_ROUTES = {
    prefix.encode(): f"{prefix}/{{project}}/persons/{{id}}{{suffix}}{{slash}}"
    for prefix in ("/api/environments", "/api/projects")
}
_BEARER = re.compile(r"[Bb]earer +([!-~]+)")


class _Line(NamedTuple):
    method: str
    route: str
    project: int
    fragment: UUID


class _Headers(NamedTuple):
    key: str
    asynchronous: bool


class ExpressPerson:
    """GET, and PATCH that does not wait, of one person by one of its uuids."""

    def __init__(self, context: Context, observe: Observe) -> None:
        self._context, self._observe = context, observe
        self._shown: LruCache[int, tuple[list[Any], bytes, str]] = LruCache(SHOWN_BYTES_MAX)
        self._generation = 0

    def line(self, line: bytes) -> _Line | None:
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        return _Line(found[1].decode(), _ROUTES[found[2]], int(found[3]), UUID(found[4].decode()))

    def headers(self, headers: CIMultiDictProxy[str]) -> _Headers | None:
        bearer = _BEARER.fullmatch(headers.get("Authorization", ""))
        more = {name.lower() for name in headers} - PLAIN_HEADERS
        if (
            bearer is None
            or not more <= {"prefer"}
            or headers.get("Prefer", "respond-async") != "respond-async"
            or headers.get("Accept", "*/*") not in ("*/*", "application/json")
            or headers.get("Content-Type", "application/json") != "application/json"
        ):
            return None
        return _Headers(bearer[1], "prefer" in more)

    def take(self, head: Head, body: bytes) -> Taken | bytes | None:
        began = time.perf_counter()
        context, line = self._context, head.line
        reads, asynchronous = line.method == "GET", head.headers.asynchronous
        key = context.access.key(head.headers.key)
        if (
            reads == asynchronous
            or reads == bool(body)
            or key is None
            or not key.may("person:read" if reads else "person:write")
            or not key.covers(line.project)
            or context.access.project(line.project) is None
            or context.limits.counting
            or context.watch.mismatch is not None
            or not context.load.spare(len(body))
        ):
            return None
        known = context.reads.rows_known(line.project, line.fragment)
        if known is None:
            if not reads:
                return None
            return Taken(asyncio.ensure_future(context.reads.holder(line.project, line.fragment)), None)
        if not reads:
            return self._patch(head, key, body, known)
        shown = self._body(line, known)
        if shown is None:
            return None
        telemetry.KNOWN.inc()
        answer = answer_of(200, shown[0], {"ETag": shown[1], POSITION_HEADER: context.reflected()})
        self._observe("GET", line.route, 200, time.perf_counter() - began)
        return answer

    def answer(self, head: Head, taken: Taken, seconds: float) -> bytes:
        """Of a GET, the person; of a PATCH: accepted, for it waited for the log alone."""
        method, route = head.line.method, head.line.route
        error = taken.future.exception()
        if error is not None:
            status, answer = refused(error, route)
        elif method == "GET":
            person, status = taken.future.result(), 200
            headers = {"ETag": person.etag, POSITION_HEADER: self._context.reflected()}
            answer = answer_of(200, json_body(person.shown()), headers)
        else:
            status = 202
            answer = answer_of(202, b"", {POSITION_HEADER: format_positions(taken.future.result())})
        self._observe(method, route, status, seconds)
        return answer

    def _patch(self, head: Head, key: Key, body: bytes, known: KnownRows) -> Taken | None:
        context, line = self._context, head.line
        members = living_of(known[1])
        if not members:
            return None
        try:
            properties = msgspec.json.decode(body, type=Update).properties
            check_properties(properties, "properties")
            sent = Keyed(fragment=line.fragment)
            member = member_named(members, line.fragment)
            command = update_of(context, line.project, key.actor, member, sent, properties)
            return Taken(context.log.submit(context.entries([command])), None)
        except (PersonlogError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _body(self, line: _Line, known: KnownRows) -> tuple[bytes, str] | None:
        """The body and its entity tag; made anew when any row is another one than it was made of."""
        rows = [part for member in known[1] for part in member[1:]]
        if self._generation != self._context.reads.generation:  # its rows are forgotten, so they are too
            self._generation = self._context.reads.generation
            self._shown.clear()
        shown = self._shown.get(line.fragment.int)
        if shown is not None and len(shown[0]) == len(rows) and all(map(is_, shown[0], rows)):
            return shown[1:]
        person = person_of(line.project, *known)
        if person is None:
            return None
        body = json_body(person.shown())
        self._shown.put(line.fragment.int, (rows, body, person.etag), len(body) + SHOWN_BYTES)
        return body, person.etag
