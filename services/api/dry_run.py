"""dry_run=true on a deletion: what it would reach, counted by the deleter's own conditions. Deletes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.api.calls import Answer, Call
from shared.domain.commands import Scope
from shared.store.person import Person
from shared.store.targets import TARGETS, bytes_of, count, whole

FRAGMENTS_AT_ONCE = 10_000
"""Fragments named in one statement, as in the deleter's."""

EVERYTHING = "all"
"""The partition of a table that is not divided into months."""


async def preview(call: Call, persons: Sequence[Person], scope: Scope, unmatched: Sequence[Any] = ()) -> Answer:
    """Rows, months and bytes by target. `bytes` are those of the partitions that erasing rewrites."""
    found: dict[str, dict[str, Any]] = {}
    for target in TARGETS:
        if target.name in _targets(scope):
            rows, partitions = await _count(call, persons, target.name)
            size = await bytes_of(call.context.store, target.table, partitions)
            months = len(partitions - {EVERYTHING})
            found[target.name] = {"rows": rows, "months": months, "bytes": size, "objects": 0}
    return Answer(
        body={
            "dry_run": True,
            "persons_found": len(persons),
            "unmatched": list(unmatched),
            "rows": sum(one["rows"] for one in found.values()),
            "targets": found,
        }
    )


def _targets(scope: Scope) -> set[str]:
    """What a request of this scope reaches; names of events stay beside nothing once the profile goes."""
    names = {"fragments", "timeline", "search"} if scope.profile else set()
    names |= {"captured_events"} | (set() if scope.profile else {"causes"}) if scope.events else set()
    return names | ({"recordings"} if scope.recordings else set())


async def _count(call: Call, persons: Sequence[Person], target: str) -> tuple[int, set[str]]:
    """(rows, partitions) of these persons in a target."""
    fragments = [member.fragment for person in persons for member in person.members]
    roots = [person.uuid for person in persons]
    rows, partitions = 0, set()
    for start in range(0, len(fragments), FRAGMENTS_AT_ONCE):
        reach = whole(call.project.id, fragments[start : start + FRAGMENTS_AT_ONCE], roots if start == 0 else [])
        for one in await count(call.context.store, target, reach, hidden=False):
            rows += one.rows
            partitions.add(one.partition)
    return rows, partitions
