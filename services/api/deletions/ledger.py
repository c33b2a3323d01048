"""The ledger of deletion requests as the API reads it. The deleter writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.api.calls import RestCall
from shared.domain.commands import Scope
from shared.store.person import iso

ANY = UUID(int=0)
"""Of a purge of the whole project: no person."""


class LedgerRow(NamedTuple):
    """A row of the queries `deletion_requests` and `requests_of`; only the latter has members.
    Times in microseconds."""

    request: UUID
    state: str
    created_at: int
    updated_at: int
    person: UUID
    profile: int
    events: int
    recordings: int
    document_text: str
    purge: str
    members: Sequence[UUID] = ()

    @property
    def scope(self) -> Scope:
        """What the request covers."""
        return Scope(
            profile=bool(self.profile),
            events=bool(self.events),
            recordings=bool(self.recordings),
            purge=self.purge,
        )

    @property
    def document(self) -> dict[str, Any]:
        """Its history and phases; empty in a row without one."""
        return orjson.loads(self.document_text) if self.document_text else {}


async def requests_in(
    call: RestCall, *, request: UUID = ANY, limit: int = 1, offset: int = 0
) -> list[LedgerRow]:
    """The requests of the project, newest first; or one of them."""
    rows = await call.context.store.rows(
        call.context.reads.queries["deletion_requests"],
        project=call.project.id,
        request=request,
        limit=limit,
        offset=offset,
    )
    return [LedgerRow(*row) for row in rows]


async def requests_naming(
    call: RestCall, fragments: Sequence[UUID], *, former: bool
) -> list[LedgerRow]:
    """The requests that name any of these fragments, newest first: those of its present life, with
    `former` those of earlier lives too."""
    rows = await call.context.store.rows(
        call.context.reads.queries["requests_of"],
        project=call.project.id,
        fragments=list(fragments),
        every=int(former),
    )
    return [LedgerRow._make(row) for row in rows]


async def documents_of(call: RestCall, rows: list[LedgerRow]) -> list[dict[str, Any]]:
    """Requests as readers see them, each with its receipt once there is one."""
    query = call.context.reads.queries["receipts"]
    verified = [row.request for row in rows if row.state == "verified"]
    bodies: dict[UUID, str] = {}
    if verified:
        bodies = dict(
            await call.context.store.rows(
                query, project=call.project.id, requests=verified
            )
        )
    receipts = {request: orjson.loads(body) for request, body in bodies.items()}
    return [_row(row) | {"receipt": receipts.get(row.request)} for row in rows]


def location(call: RestCall, request: UUID) -> dict[str, str]:
    """The header with the URL of a request."""
    return {
        "Location": f"/api/environments/{call.project.id}/persons/deletion_requests/{request}/"
    }


def _row(row: LedgerRow) -> dict[str, Any]:
    document, scope = row.document, row.scope
    return {
        "id": str(row.request),
        "state": row.state,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
        "person_uuid": str(row.person) if row.person != ANY else None,
        "scope": {
            "profile": scope.profile,
            "events": scope.events,
            "recordings": scope.recordings,
        }
        | ({"purge": row.purge} if row.purge else {}),
        "stays": [] if row.purge else scope.stays,
        "phases": document.get("phases", {}),
        "partition": document.get("partition"),
        "window": document.get("window"),
        "cancel_refused": document.get("cancels", {}).get("refusal") or None,
    }
