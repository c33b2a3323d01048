"""Captured events and recordings of ids without a person.

Their person was deleted without them, or there never was one (`$process_person_profile: false`).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from services.api.calls import RestCall
from shared.domain.commands import Scope

_TABLES = {"events": "captured_events", "recordings": "recording_blocks"}
"""By what a scope says, where it lies."""


def covering(call: RestCall, scope: Scope) -> Scope:
    """The scope of a deletion: with `delete_everything` of the project, events and recordings go
    with the person."""
    everything = scope.profile and call.project.delete_everything
    return Scope(profile=True, events=True, recordings=True) if everything else scope


def without_profile(scope: Scope) -> Scope:
    """The scope of the same deletion for an id without a person."""
    return Scope(events=scope.events, recordings=scope.recordings)


async def remains(
    call: RestCall, fragments: Sequence[UUID], scope: Scope
) -> list[UUID]:
    """The fragments, in their order, that have rows within the scope and no delete yet."""
    matches: set[UUID] = set()
    for kind, table in _TABLES.items():
        if fragments and getattr(scope, kind):
            query = call.context.reads.queries["remains"].filled(table=table)
            rows = await call.context.store.rows(
                query, project=call.project.id, fragments=list(fragments), kind=kind
            )
            matches |= {fragment for (fragment,) in rows}
    return [fragment for fragment in dict.fromkeys(fragments) if fragment in matches]
