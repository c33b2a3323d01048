"""The distinct ids that a merge or a split moved, for activity. Names only ids of present lives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from services.api.calls import RestCall
from shared.domain.person.identity_events import MergeRefused, PersonMerged, PersonSplit
from shared.domain.person.view import ordered_distinct_ids

MOVES = frozenset((PersonMerged.TOPIC, MergeRefused.TOPIC, PersonSplit.TOPIC))
"""Facts whose items name distinct ids."""

IDS_MAX = 100
"""Distinct ids that one item names; `members` has all."""

FRAGMENTS_MAX = 2_000
"""Fragments looked up at once."""


class Move(Protocol):
    """A fact of a merge or a split, as activity has it."""

    @property
    def fragment(self) -> UUID: ...
    @property
    def topic(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def command(self) -> UUID: ...
    @property
    def members(self) -> Sequence[UUID]: ...


MoveKey = tuple[UUID, UUID]
"""The command of a move and the fragment that its fact is on: a refusal is on both persons."""


class MovedIds(NamedTuple):
    """Distinct ids of the members after a merge or a split, and those that left in a split."""

    stayed: list[str]
    departed: list[str] | None


async def moved_ids(call: RestCall, moves: Sequence[Move]) -> dict[MoveKey, MovedIds]:
    """The distinct ids that each of these merges and splits moved."""
    splits = [move.command for move in moves if move.topic == PersonSplit.TOPIC]
    departures: dict[UUID, list[UUID]] = {command: [] for command in splits}
    if splits:
        rows = await call.context.store.rows(
            call.context.reads.queries["departures"],
            project=call.project.id,
            commands=splits,
            limit=IDS_MAX,
        )
        for command, fragment in rows:
            departures[command].append(fragment)
    fragments = dict.fromkeys(
        fragment
        for move in moves
        for fragment in (*move.members[:IDS_MAX], *departures.get(move.command, ()))
    )
    ids: dict[UUID, tuple[str, int]] = {}
    pending = list(fragments)
    for start in range(0, len(pending), FRAGMENTS_MAX):
        chunk = pending[start : start + FRAGMENTS_MAX]
        ids |= await call.context.reads.living_ids_of(call.project.id, chunk)

    def named(members: Iterable[UUID], version: int) -> list[str]:
        lives = (ids[member] for member in members if member in ids)
        return ordered_distinct_ids(name for name, erased in lives if erased < version)

    return {
        (move.command, move.fragment): MovedIds(
            named(move.members[:IDS_MAX], move.version),
            named(departures[move.command], move.version)
            if move.topic == PersonSplit.TOPIC
            else None,
        )
        for move in moves
    }
