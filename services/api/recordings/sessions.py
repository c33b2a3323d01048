"""Recorded sessions of a person: their list, and the snapshots of one. Never shows a block of an
earlier life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.api.calls import RestCall
from services.api.http.guards.costly import always
from services.api.http.negotiation import NDJSON
from services.api.http.parameters import LIMIT, Text
from services.api.http.rendering import Lines
from services.api.http.routing import EndpointResult, Route
from services.api.reads.cursors import Cursor, format_cursor, parse_cursor
from services.api.reads.lookup import person_of
from services.api.reads.pagination import page_of
from services.api.writes.block_writer import Copy
from services.api.writes.schemas import RecordingPage
from shared.domain.errors import NotFound
from shared.domain.person.replay import FOREVER
from shared.store.person import Person, iso

CURSOR = Text(
    "cursor",
    "The place to continue from. Use the URL in `next`.",
    chars_max=140,
    form="cursor",
)

START: Cursor = (2**63 - 1, "")
"""Before the newest session."""

SESSIONS_AT_ONCE = 1_000
"""Sessions read at once for an archive."""

BLOCKS_AT_ONCE = 1_000
"""Places of blocks read at once: SDKs send one in two seconds, so half an hour."""

PAGES_MAX = 100_000
"""Pages of one read: years of recording without a pause."""


class SessionRow(NamedTuple):
    """A row of the query `sessions`. Times in microseconds."""

    session: str
    began: int
    ended: int
    fragments: Sequence[UUID]
    windows: Sequence[str]
    blocks: int
    bytes: int

    @property
    def cursor(self) -> Cursor:
        """Where the page behind it begins."""
        return self.began, self.session


class SessionBlock(NamedTuple):
    """A row of the query `session_blocks`: a block and its copies. `began` in microseconds."""

    began: int
    uuid: UUID
    copies: list[Copy]


async def recordings(call: RestCall) -> EndpointResult:
    """List the recorded sessions of a person, newest first."""
    limit = call.parameter(LIMIT)
    cursor, backwards = parse_cursor(call.parameter(CURSOR), START)
    person = await person_of(call)
    if backwards:
        rows = await _page(call, person, cursor, limit + 1, backwards=True)
        cursor = rows[limit].cursor if len(rows) > limit else START
    rows = await _page(call, person, cursor, limit + 1)
    url = call.request.url
    following = format_cursor(rows[limit - 1].cursor) if len(rows) > limit else None
    previous = format_cursor(cursor, backwards=True) if cursor != START else None
    return EndpointResult(
        body={
            "results": _items(person, rows[:limit]),
            "next": str(url.update_query(cursor=following)) if following else None,
            "previous": str(url.update_query(cursor=previous)) if previous else None,
        }
    )


async def recording(call: RestCall) -> EndpointResult:
    """Get the snapshots of a recorded session as NDJSON, in the order of time."""
    person = await person_of(call)
    pages = _places(call, person, call.request.parameters["session"])
    first = await anext(pages)
    if not first:
        raise NotFound("Not found.")
    return EndpointResult(body=Lines(_lines(call, first, pages)))


COLLECTION_ROUTES = ()
ROUTES = (
    Route(
        "GET",
        "/{id}/recordings",
        "person:read",
        recordings,
        (LIMIT, CURSOR),
        answers=RecordingPage,
        costly=always,
        name="list_recordings",
    ),
    Route(
        "GET",
        "/{id}/recordings/{session}",
        "person:read",
        recording,
        produces=NDJSON,
        costly=always,
        name="get_recording",
    ),
)


async def archived_sessions(
    call: RestCall, person: Person, until: int
) -> AsyncIterator[list[dict[str, Any]]]:
    """All sessions, for an archive."""
    cursor = START
    for _ in range(PAGES_MAX):
        rows = await _page(call, person, cursor, SESSIONS_AT_ONCE, until=until)
        yield _items(person, rows)
        if len(rows) < SESSIONS_AT_ONCE:
            return
        cursor = rows[-1].cursor


async def archived_snapshots(
    call: RestCall, person: Person, until: int
) -> AsyncIterator[list[orjson.Fragment]]:
    """The snapshots of all sessions, block by block, each with its session."""
    async for sessions in archived_sessions(call, person, until):
        for session in (item["session_id"] for item in sessions):
            beginning = b'{"session_id":"' + session.encode() + b'","snapshot":'
            async for places in _places(call, person, session, until):
                for copies in places:
                    lines = (await call.context.blocks.read(copies)).splitlines()
                    yield [orjson.Fragment(beginning + line + b"}") for line in lines]


async def _page(
    call: RestCall,
    person: Person,
    cursor: Cursor,
    limit: int,
    *,
    until: int = FOREVER,
    backwards: bool = False,
) -> list[SessionRow]:
    query = page_of(call.context.reads.queries["sessions"], backwards=backwards)
    began, session = cursor
    rows = await call.context.store.rows(
        query, **_reach(call, person, until), began=began, session=session, limit=limit
    )
    return [SessionRow._make(row) for row in rows]


async def _places(
    call: RestCall, person: Person, session: str, until: int = FOREVER
) -> AsyncIterator[list[list[Copy]]]:
    """Where the blocks of a session lie, in the order of their time, each with its copies; a page
    at least."""
    read = partial(
        call.context.store.rows, call.context.reads.queries["session_blocks"]
    )
    began, uuid = -FOREVER, UUID(int=0)
    for _ in range(PAGES_MAX):
        rows = await read(
            **_reach(call, person, until),
            session=session,
            began=began,
            uuid=uuid,
            limit=BLOCKS_AT_ONCE,
        )
        blocks = [SessionBlock._make(row) for row in rows]
        yield [block.copies for block in blocks]
        if len(blocks) < BLOCKS_AT_ONCE:
            return
        began, uuid = blocks[-1].began, blocks[-1].uuid


async def _lines(
    call: RestCall, first: list[list[Copy]], others: AsyncIterator[list[list[Copy]]]
) -> AsyncIterator[bytes]:
    for copies in first:
        yield await call.context.blocks.read(copies)
    async for places in others:
        for copies in places:
            yield await call.context.blocks.read(copies)


def _reach(call: RestCall, person: Person, until: int) -> dict[str, Any]:
    return {
        "project": call.project.id,
        "fragments": [member.fragment for member in person.members],
        "until": until,
    }


def _items(person: Person, rows: list[SessionRow]) -> list[dict[str, Any]]:
    names = {member.fragment: member.distinct_id for member in person.members}
    return [
        {
            "session_id": row.session,
            "started_at": iso(row.began),
            "ended_at": iso(row.ended),
            "distinct_ids": sorted(
                (names[fragment] for fragment in row.fragments),
                key=person.distinct_ids.index,
            ),
            "window_ids": sorted(row.windows),
            "blocks": row.blocks,
            "bytes": row.bytes,
        }
        for row in rows
    ]
