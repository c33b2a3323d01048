"""GET :id/export: one archive of everything held about a person, for the right of access. Reads only.

A ZIP of JSON and NDJSON: the person, its distinct ids with what was set through each, every change with its cause, the
captured events, the recordings with their snapshots, the deletion requests, and a manifest that counts them. Constant
memory: rows are written into the archive as they are read, the archive lies in a nameless file until it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.api.calls import Call
from services.api.history.property_history import OPERATIONS
from services.api.http.guards.costly import always
from services.api.http.parameters import AS_OF
from services.api.http.rendering import ZIP, Archive
from services.api.http.routing import Answer, Route
from services.api.reads.as_of import facts
from services.api.writes.size_warnings import told
from shared.domain.fragment import FragmentPurged
from shared.domain.ids import format_positions
from shared.domain.replay import ENDS, FOREVER
from shared.store.person import Person, iso

ROWS_AT_ONCE = 1_000
"""Captured events read at once; each may have a megabyte, most have one thousandth of it."""

PAGES_MAX = 100_000
"""Pages of captured events: a hundred million are more than any person has."""


class Holdings(NamedTuple):
    """Parts of an export that other rooms read: sessions and their snapshots until a stamp, and deletion requests."""

    sessions: Callable[[Call, Person, int], AsyncIterator[list[Any]]]
    snapshots: Callable[[Call, Person, int], AsyncIterator[list[Any]]]
    requests: Callable[[Call, list[UUID]], Awaitable[list[dict[str, Any]]]]


def routes(holdings: Holdings) -> tuple[Route, ...]:
    """The row of the route table."""

    async def export(call: Call) -> Answer:
        """Export everything held about a person, as a ZIP of JSON and NDJSON files."""
        return await _export(call, holdings)

    return (Route("GET", "/{id}/export", "person:read", export, (AS_OF,), produces=ZIP, costly=always),)


async def _export(call: Call, holdings: Holdings) -> Answer:
    person = await call.person_seen()
    cut = await call.as_of()
    until = FOREVER if cut is None else cut
    named = {member.fragment: member.distinct_id for member in person.members}
    about = {
        "project": call.project.id,
        "person": str(person.uuid),
        "exported_at": iso(call.context.clock.now_us()),
        "as_of": None if cut is None else iso(cut),
    }
    return Answer(
        body=Archive(
            f"person-{person.uuid}.zip",
            about,
            {
                "person": _one([person.shown()]),
                "distinct_ids": _distinct_ids(call, person),
                "changes": _changes(call, named, until),
                "events": _events(call, list(named), until),
                "recordings": holdings.sessions(call, person, until),
                "snapshots": holdings.snapshots(call, person, until),
                "deletion_requests": _one(await holdings.requests(call, list(named))),
            },
        )
    )


async def _one(rows: list[dict[str, Any]]) -> AsyncIterator[list[dict[str, Any]]]:
    yield rows


async def _distinct_ids(call: Call, person: Person) -> AsyncIterator[list[dict[str, Any]]]:
    """What was set through each, of those that the person has no room to show too."""
    for member in person.members:
        properties = member.properties
        if not properties:
            row = await call.context.reads.row_of(call.project.id, member.fragment)
            properties = row[10] if row is not None else "{}"
        yield [
            {
                "distinct_id": member.distinct_id,
                "id": member.number,
                "uuid": str(member.fragment),
                "created_at": iso(member.created_at),
                "last_seen_at": iso(member.seen_at) if member.seen_at else None,
                "is_identified": member.identified,
                "properties": orjson.loads(properties),
            }
        ]


async def _changes(call: Call, named: dict[UUID, str], until: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Every fact of the present life, by distinct id, in order."""
    async for rows in facts(call.context, call.project.id, named, until):
        yield [_change(call, named, row) for row in rows if row[5] <= until and row[3] not in ENDS]


def _change(call: Call, named: dict[UUID, str], row: tuple[Any, ...]) -> dict[str, Any]:
    generations = call.context.generations
    person = row[3].startswith("person.")
    position = generations.of_project(call.project.id, row[2]) if person else generations.of_fragment(*row[1:3])
    return {
        "distinct_id": named[row[1]],
        "fact": row[3],
        "timestamp": iso(row[5]),
        "received_at": iso(row[4]),
        "position": format_positions([position]),
        "command": str(row[6]),
        "actor": call.context.access.name_of(row[7]),
        "source": row[8],
        "changes": operations(row),
        "person": str(row[16]) if person else None,
        "members": [str(one) for one in row[17]],
        "peer": str(row[20]) if person else None,
        "reason": row[21],
        "left_out": told(row[24]),
    }


def operations(row: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What a row of the timeline did to each property. What a purge left is no change."""
    purge = row[3] == FragmentPurged.TOPIC
    return [
        {
            "key": key,
            "operation": "purge" if purge else OPERATIONS[kind],
            "before": orjson.loads(before) if before else None,
            "value": orjson.loads(after) if after and not purge else None,
        }
        for key, kind, before, after in zip(*row[12:16], strict=True)
    ]


async def _events(call: Call, fragments: list[UUID], until: int) -> AsyncIterator[list[dict[str, Any]]]:
    cursor: dict[str, Any] = {"after": UUID(int=0), "uuid": UUID(int=0)}
    for _ in range(PAGES_MAX):
        rows = await call.context.store.rows(
            call.context.reads.queries["exported_events"],
            project=call.project.id,
            fragments=fragments,
            until=until,
            limit=ROWS_AT_ONCE,
            **cursor,
        )
        yield [
            {
                "uuid": str(row[1]),
                "event": row[2],
                "distinct_id": row[3],
                "timestamp": iso(row[4]),
                "received_at": iso(row[5]),
                "properties": orjson.loads(row[6]),
            }
            for row in rows
        ]
        if len(rows) < ROWS_AT_ONCE:
            return
        cursor = {"after": rows[-1][0], "uuid": rows[-1][1]}
