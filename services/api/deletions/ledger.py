"""The ledger of deletion requests as the API reads it. Never writes a row: the deleter does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.api.calls import Call
from shared.domain.commands import Scope

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
    call: Call, *, request: UUID = ANY, limit: int = 1, offset: int = 0
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
    call: Call, fragments: Sequence[UUID], *, former: bool
) -> list[LedgerRow]:
    """The requests that name any of these fragments, newest first: in its present life, or in
    former ones too."""
    rows = await call.context.store.rows(
        call.context.reads.queries["requests_of"],
        project=call.project.id,
        fragments=list(fragments),
        every=int(former),
    )
    return [LedgerRow._make(row) for row in rows]
