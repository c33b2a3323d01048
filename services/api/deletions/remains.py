"""What is held of ids that nobody is: captured events and recordings without a person. Never
deletes anything.

An id has them whose person was deleted without them, or that never had one
(`$process_person_profile: false`).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from services.api.calls import RestCall
from shared.domain.commands import Scope

_TABLES = {"events": "captured_events", "recordings": "recording_blocks"}
"""By what a scope says, where it lies."""


def covering(call: RestCall, scope: Scope) -> Scope:
    """What a deletion covers: where the project says so, a person goes with all that is held of
    it."""
    everything = scope.profile and call.project.delete_everything
    return Scope(profile=True, events=True, recordings=True) if everything else scope


def without_profile(scope: Scope) -> Scope:
    """What a deletion of this scope covers of an id that nobody is."""
    return Scope(events=scope.events, recordings=scope.recordings)


async def remains(
    call: RestCall, fragments: Sequence[UUID], scope: Scope
) -> list[UUID]:
    """Those of the fragments of which there is something that the scope covers, and no delete yet,
    in their order."""
    matches: set[UUID] = set()
    for kind, table in _TABLES.items():
        if fragments and getattr(scope, kind):
            query = call.context.reads.queries["remains"].filled(table=table)
            rows = await call.context.store.rows(
                query, project=call.project.id, fragments=list(fragments), kind=kind
            )
            matches |= {fragment for (fragment,) in rows}
    return [fragment for fragment in dict.fromkeys(fragments) if fragment in matches]
