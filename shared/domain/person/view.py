"""The merged view: the person that a reader sees, as a join of its fragments. Pure; never reads
anything.

Order-free and duplicate-free: any order of the members gives the same person.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from shared.domain.ids import is_anonymous
from shared.domain.person.cells import ONCE, SET, UNSET, Cell

MERGED_BYTES_MAX = 4 * 1_048_576
"""Of properties and cells, as the members' rows have them, that make one person's properties: three
of the largest fragments. A person may have thousands of members, and whoever reads it must hold
what it is made of."""


class Member(msgspec.Struct, kw_only=True):
    """One fragment with its identity, as a reader loads them. Times in microseconds, 0 for never.

    `size` is how many bytes properties and cells have; `left_out`: the person shows none of it, for
    it holds too much.
    """

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
    size: int
    left_out: bool = False

    @property
    def living(self) -> bool:
        """Born, and not covered by a delete whose erase record is still on its way."""
        return self.created_at != 0 and self.erased >= self.erase


class Decisive(NamedTuple):
    """The cell that decides what a person shows for a name; `kind` is one of the fragment's kinds
    of operation."""

    stamp: int
    fragment: UUID
    kind: int
    value: Any


def counted(sizes: Iterable[tuple[int, UUID]]) -> set[UUID]:
    """Whose properties a person shows, of its living members' (size, fragment): the smallest first,
    as long as all of them together have at most MERGED_BYTES_MAX. So nobody is left out for
    somebody larger, and a split gives all back.
    """
    fragments: set[UUID] = set()
    total = 0
    for size, fragment in sorted(sizes):
        total += size
        if total > MERGED_BYTES_MAX:
            break
        fragments.add(fragment)
    return fragments


def merged_properties(
    members: Iterable[tuple[UUID, dict[str, Cell], dict[str, Any]]],
) -> dict[str, Any]:
    """The properties of a person from its living members' (fragment, cells, properties)."""
    return {
        name: cell.value
        for name, cell in decisive(members).items()
        if cell.kind != UNSET
    }


def decisive(
    members: Iterable[tuple[UUID, dict[str, Cell], dict[str, Any]]],
) -> dict[str, Decisive]:
    """Why each property of a person shows what it shows, or nothing.

    Per name the newest hard cell decides; a non-null set shows; else the oldest once cell newer
    than it; else null if it was a set of null; else nothing. Ties go to the larger fragment uuid,
    for a set, and the smaller for a once.
    """
    hard: dict[str, Decisive] = {}
    once: dict[str, list[Decisive]] = {}
    for fragment, cells, properties in members:
        for name, (kind, stamp, once_stamp) in cells.items():
            if kind and (name not in hard or (stamp, fragment) > hard[name][:2]):
                hard[name] = Decisive(
                    stamp, fragment, kind, properties.get(name) if kind == SET else None
                )
            if once_stamp:
                once.setdefault(name, []).append(
                    Decisive(once_stamp, fragment, ONCE, properties.get(name))
                )
    return {
        name: _winner(hard.get(name), once.get(name, []))
        for name in sorted(hard.keys() | once.keys())
    }


def _winner(hard: Decisive | None, once: list[Decisive]) -> Decisive:
    if hard is not None and hard.kind == SET:
        return hard
    newer = [
        candidate for candidate in once if hard is None or candidate.stamp > hard.stamp
    ]
    if newer:
        return min(newer, key=lambda candidate: candidate[:2])
    assert hard is not None  # a once cell is newer than nothing
    return hard


def ordered_distinct_ids(distinct_ids: Iterable[str]) -> list[str]:
    """Non-anonymous ones first, otherwise in order of joining."""
    return sorted(distinct_ids, key=is_anonymous)
