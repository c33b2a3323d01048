"""GET :id/export: one archive of everything held about a person, for the right of access. Reads
only.

A ZIP of JSON and NDJSON: the person, its distinct ids with what was set through each, every change
with its cause, the captured events, the recordings with their snapshots, the deletion requests, and
a manifest that counts them. Constant memory: rows are written into the archive as they are read,
the archive lies in a nameless file until it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.api.calls import RestCall
from services.api.history.property_history import OPERATIONS
from services.api.http.guards.costly import always
from services.api.http.parameters import AS_OF
from services.api.http.rendering import ZIP, Archive
from services.api.http.routing import EndpointResult, Route
from services.api.reads.as_of import facts
from services.api.reads.lookup import person_until
from services.api.writes.size_warnings import left_out_of
from shared.domain.ids import format_positions
from shared.domain.person.fragment import FragmentPurged
from shared.domain.person.replay import ENDS, FOREVER
from shared.store.person import Person, iso
from shared.store.timeline import Fact

ROWS_AT_ONCE = 1_000
"""Captured events read at once; each may have a megabyte, most have one thousandth of it."""

PAGES_MAX = 100_000
"""Pages of captured events: a hundred million are more than any person has."""


class ExportedEvent(NamedTuple):
    """A captured event, whole: a row of the query `exported_events`. Times in microseconds."""

    fragment: UUID
    uuid: UUID
    name: str
    distinct_id: str
    timestamp: int
    received_at: int
    properties: str


class Holdings(NamedTuple):
    """Readers of what other rooms hold: sessions and their snapshots until a stamp, and deletion
    requests."""

    sessions: Callable[[RestCall, Person, int], AsyncIterator[list[Any]]]
    snapshots: Callable[[RestCall, Person, int], AsyncIterator[list[Any]]]
    requests: Callable[[RestCall, list[UUID]], Awaitable[list[dict[str, Any]]]]


def routes(holdings: Holdings) -> tuple[Route, ...]:
    """The row of the route table."""

    async def export(call: RestCall) -> EndpointResult:
        """Export everything held about a person, as a ZIP of JSON and NDJSON files."""
        return await _export(call, holdings)

    return (
        Route(
            "GET",
            "/{id}/export",
            "person:read",
            export,
            (AS_OF,),
            produces=ZIP,
            costly=always,
            name="export_person",
        ),
    )


async def _export(call: RestCall, holdings: Holdings) -> EndpointResult:
    person, cut = await person_until(call)
    until = FOREVER if cut is None else cut
    distinct_ids = {member.fragment: member.distinct_id for member in person.members}
    manifest = {
        "project": call.project.id,
        "person": str(person.uuid),
        "exported_at": iso(call.context.clock.now_us()),
        "as_of": None if cut is None else iso(cut),
    }
    return EndpointResult(
        body=Archive(
            f"person-{person.uuid}.zip",
            manifest,
            {
                "person": _page([person.shown()]),
                "distinct_ids": _distinct_ids(call, person),
                "changes": _changes(call, distinct_ids, until),
                "events": _events(call, list(distinct_ids), until),
                "recordings": holdings.sessions(call, person, until),
                "snapshots": holdings.snapshots(call, person, until),
                "deletion_requests": _page(
                    await holdings.requests(call, list(distinct_ids))
                ),
            },
        )
    )


async def _page(rows: list[dict[str, Any]]) -> AsyncIterator[list[dict[str, Any]]]:
    yield rows


async def _distinct_ids(
    call: RestCall, person: Person
) -> AsyncIterator[list[dict[str, Any]]]:
    """Each distinct id with the properties that were set through it, those included that the person
    has no room to show."""
    for member in person.members:
        properties = member.properties
        if not properties:
            row = await call.context.reads.row_of(call.project.id, member.fragment)
            properties = row.properties if row is not None else "{}"
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


async def _changes(
    call: RestCall, distinct_ids: dict[UUID, str], until: int
) -> AsyncIterator[list[dict[str, Any]]]:
    """Every fact of the present life, by distinct id, in order."""
    async for page in facts(call.context, call.project.id, distinct_ids, until):
        yield [
            _change(call, distinct_ids, fact)
            for fact in page
            if fact.stamp <= until and fact.topic not in ENDS
        ]


def _change(
    call: RestCall, distinct_ids: dict[UUID, str], fact: Fact
) -> dict[str, Any]:
    return {
        "distinct_id": distinct_ids[fact.fragment],
        "fact": fact.topic,
        "timestamp": iso(fact.stamp),
        "received_at": iso(fact.at),
        "position": format_positions([fact.position(call.context.generations)]),
        "command": str(fact.command),
        "actor": call.context.access.name_of(fact.actor),
        "source": fact.source,
        "changes": operations(fact),
        "person": str(fact.root) if fact.of_person else None,
        "members": [str(member) for member in fact.members],
        "peer": str(fact.peer) if fact.of_person else None,
        "reason": fact.reason,
        "left_out": left_out_of(fact.left_out),
    }


def operations(fact: Fact) -> list[dict[str, Any]]:
    """The operation of a fact on each property. What a purge left is no change."""
    purge = fact.topic == FragmentPurged.TOPIC
    return [
        {
            "key": key,
            "operation": "purge" if purge else OPERATIONS[kind],
            "before": orjson.loads(before) if before else None,
            "value": orjson.loads(after) if after and not purge else None,
        }
        for key, kind, before, after in zip(
            fact.keys, fact.kinds, fact.before, fact.after, strict=True
        )
    ]


async def _events(
    call: RestCall, fragments: list[UUID], until: int
) -> AsyncIterator[list[dict[str, Any]]]:
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
        events = [ExportedEvent._make(row) for row in rows]
        yield [
            {
                "uuid": str(event.uuid),
                "event": event.name,
                "distinct_id": event.distinct_id,
                "timestamp": iso(event.timestamp),
                "received_at": iso(event.received_at),
                "properties": orjson.loads(event.properties),
            }
            for event in events
        ]
        if len(events) < ROWS_AT_ONCE:
            return
        cursor = {"after": events[-1].fragment, "uuid": events[-1].uuid}
