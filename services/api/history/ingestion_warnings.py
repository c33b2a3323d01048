"""Warnings for senders: what was repaired of their events. Never holds a value."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from msgspec import Struct

from services.api.calls import RestCall
from services.api.http.guards.costly import always
from services.api.http.routing import PROJECT_PREFIXES, EndpointResult, Route
from shared.inputs.repairs import REASONS
from shared.store.person import iso

WARNINGS_MAX = 1_000
"""Warnings of one answer, the newest."""

REACH_US = 30 * 86_400 * 1_000_000
"""How far back an answer looks: what was wrong before is mended, or still sent."""


class IngestionWarning(Struct):
    """One repair of one event."""

    event_uuid: UUID
    kind: str
    field: str
    why: str
    time: str


class IngestionWarnings(Struct):
    results: list[IngestionWarning]


class RepairedRow(NamedTuple):
    """A row of the query `ingestion_warnings`. Time in microseconds."""

    uuid: UUID
    repairs: list[str]
    received_at: int


async def ingestion_warnings(call: RestCall) -> EndpointResult:
    """List repairs of captured events, newest first, by kind and field."""
    context = call.context
    rows = await context.store.rows(
        context.reads.queries["ingestion_warnings"],
        project=call.project.id,
        since=context.clock.now_us() - REACH_US,
        limit=WARNINGS_MAX,
    )
    warnings = [
        warning for row in rows for warning in warnings_of(RepairedRow._make(row))
    ]
    return EndpointResult(body={"results": warnings[:WARNINGS_MAX]})


def warnings_of(row: RepairedRow) -> list[dict[str, Any]]:
    """A warning for each repair of an event. Kinds that a newer version wrote have no reason
    here."""
    return [
        {
            "event_uuid": str(row.uuid),
            "kind": kind,
            "field": field,
            "why": REASONS.get(kind, ""),
            "time": iso(row.received_at),
        }
        for kind, _, field in (repair.partition(" ") for repair in row.repairs)
    ]


COLLECTION_ROUTES = (
    Route(
        "GET",
        "/ingestion_warnings",
        "person:read",
        ingestion_warnings,
        answers=IngestionWarnings,
        costly=always,
        prefixes=PROJECT_PREFIXES,
        name="list_ingestion_warnings",
    ),
)
ROUTES = ()
