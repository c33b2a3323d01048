"""dry_run=true on a deletion: what it would reach, counted with the deleter's own conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from services.api.calls import RestCall
from services.api.deletions.remains import without_profile
from services.api.http.routing import EndpointResult
from shared.domain.commands import Scope
from shared.store.person import Person
from shared.store.targets import (
    FRAGMENTS_MAX,
    TARGETS,
    Target,
    bytes_of,
    count,
    objects,
    whole,
)

EVERYTHING = "all"
"""The partition of a table that is not divided into months."""


async def preview(
    call: RestCall,
    persons: Sequence[Person],
    scope: Scope,
    unmatched: Sequence[Any] = (),
    strays: Sequence[UUID] = (),
) -> EndpointResult:
    """Rows, months and bytes by target. `bytes` are those of the partitions that erasing rewrites;
    `strays` are fragments without a person, of which something remains."""
    targets: dict[str, dict[str, Any]] = {}
    members = [member.fragment for person in persons for member in person.members]
    roots = [person.uuid for person in persons]
    of_persons = _targets(scope)
    of_strays = _targets(without_profile(scope)) if strays else set()
    for target in TARGETS:
        if target.name in of_persons | of_strays:
            fragments = members if target.name in of_persons else []
            fragments = [*fragments, *strays] if target.name in of_strays else fragments
            rows, partitions, files = await _count(call, fragments, roots, target)
            size = await bytes_of(call.context.store, target.table, partitions)
            months = len(partitions - {EVERYTHING})
            targets[target.name] = {
                "rows": rows,
                "months": months,
                "bytes": size,
                "objects": files,
            }
    return EndpointResult(
        body={
            "dry_run": True,
            "persons_found": len(persons),
            "unmatched": list(unmatched),
            "rows": sum(reach["rows"] for reach in targets.values()),
            "targets": targets,
        }
    )


def _targets(scope: Scope) -> set[str]:
    """The targets of a request of this scope. Names of events go with the profile."""
    names = {"fragments", "timeline", "search"} if scope.profile else set()
    names |= (
        {"captured_events"} | (set() if scope.profile else {"causes"})
        if scope.events
        else set()
    )
    return names | ({"recordings"} if scope.recordings else set())


async def _count(
    call: RestCall, fragments: Sequence[UUID], roots: Sequence[UUID], target: Target
) -> tuple[int, set[str], int]:
    """(rows, partitions, objects) of these fragments, and of the persons with these roots, in a
    target."""
    rows, partitions, files = 0, set(), 0
    for start in range(0, len(fragments), FRAGMENTS_MAX):
        reach = whole(
            call.project.id,
            fragments[start : start + FRAGMENTS_MAX],
            roots if start == 0 else [],
        )
        for partition in await count(call.context.store, target, reach, hidden=False):
            rows += partition.rows
            partitions.add(partition.partition)
        files += (
            await objects(call.context.store, reach)
            if target.name == "recordings"
            else 0
        )
    return rows, partitions, files
