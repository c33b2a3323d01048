"""The merged view: the person that a reader sees, as a join of its fragments. Pure; never reads anything.

Order-free and duplicate-free: any order of the members gives the same person.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from shared.domain.fragment import NULL, SET, UNSET, Cell
from shared.domain.ids import is_anonymous


class Member(msgspec.Struct, kw_only=True):
    """One fragment with its identity, as a reader loads them. Times in microseconds, 0 for never."""

    fragment: UUID
    distinct_id: str
    number: int
    created_at: int
    effect: int
    erased: int
    seen_at: int
    properties: Any  # dict, or the JSON text while nobody needs to look inside
    cells: Any
    root: UUID
    identified: bool
    erase: int

    @property
    def living(self) -> bool:
        """Born, and not covered by a delete whose erase record is still on its way."""
        return self.created_at != 0 and self.erased >= self.erase


def merged_properties(members: Iterable[tuple[UUID, dict[str, Cell], dict[str, Any]]]) -> dict[str, Any]:
    """The properties of a person from its living members' (fragment, cells, properties).

    Per name the newest hard cell decides; a non-null set shows; else the oldest once cell newer than it; else null
    if it was a set of null; else nothing. Ties go to the larger fragment uuid, for a set, and the smaller for a once.
    """
    hard: dict[str, tuple[int, UUID, int, Any]] = {}
    once: dict[str, list[tuple[int, UUID, Any]]] = {}
    for fragment, cells, properties in members:
        for name, (kind, stamp, once_stamp) in cells.items():
            if kind and (name not in hard or (stamp, fragment) > hard[name][:2]):
                hard[name] = (stamp, fragment, kind, properties.get(name) if kind == SET else None)
            if once_stamp:
                once.setdefault(name, []).append((once_stamp, fragment, properties.get(name)))
    return {
        name: shown[0]
        for name in sorted(hard.keys() | once.keys())
        if (shown := _shown(hard.get(name), once.get(name, []))) is not None
    }


def _shown(hard: tuple[int, UUID, int, Any] | None, once: list[tuple[int, UUID, Any]]) -> tuple[Any] | None:
    stamp, _, kind, value = hard or (0, None, UNSET, None)
    if kind == SET:
        return (value,)
    newer = [candidate for candidate in once if candidate[0] > stamp]
    if newer:
        return (min(newer, key=lambda candidate: candidate[:2])[2],)
    return (None,) if kind == NULL else None


def ordered_distinct_ids(distinct_ids: Iterable[str]) -> list[str]:
    """Non-anonymous ones first, otherwise in order of joining."""
    return sorted(distinct_ids, key=is_anonymous)
