"""Reading persons: the addressed fragments and identities in one coalesced round, members in more where needed.

Never decides what a person is: that is the domain's merged view.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from services.api.coalesce import Coalesced
from shared.domain.ids import COMMANDS, IDENTITY, Position, offset_of, partition_of, position_key
from shared.store.client import Store
from shared.store.person import Person, person_of
from shared.store.queries import load as load_queries

PAGE_CANDIDATES_MIN = 100
"""Persons asked for at once while a filtered page is filled."""

PAGE_ROUNDS_MAX = 200
"""Rounds of candidates for one page: above it the filter's hint misses, and the page ends early with a next link."""

ATTEMPTS_MAX = 3
"""A merge may land between the rounds of a read, which is then done again; not for ever."""

CURSOR_START = (2**63 - 1, "g")
"""Before the newest person: the highest time, and a text above every uuid."""

Key = tuple[int, UUID]
Cursor = tuple[int, str]


Found = tuple[list[Person], Cursor | None]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A page that is asked for: at most `limit` persons after the cursor that `keep` accepts; `picky` when few may."""

    cursor: Cursor
    limit: int
    keep: Callable[[Person], bool]
    picky: bool


class Reads:
    """All reads of persons of one API process. `seen` is told the stamps of position rows."""

    def __init__(self, store: Store, partitions: Callable[[], dict[str, int]], seen: Callable[[int], None]) -> None:
        self._store, self._partitions, self._seen = store, partitions, seen
        self.queries = load_queries(Path(__file__).with_name("reads.sql"))
        self._fragments: Coalesced[Key, tuple[Any, ...]] = Coalesced(self._load_fragments)
        self._identities: Coalesced[Key, tuple[Any, ...]] = Coalesced(self._load_identities)
        self._numbers: Coalesced[tuple[int, int], UUID] = Coalesced(self._load_numbers)
        self.reached: dict[tuple[str, int], int] = {}

    async def fragment_of(self, project: int, number: int) -> UUID | None:
        """The fragment with this integer id."""
        return await self._numbers.get((project, number))

    async def by_fragment(self, project: int, fragment: UUID) -> Person | None:
        """The living person that holds a fragment; old uuids keep resolving."""
        return (await self.by_fragments(project, [fragment]))[0]

    async def by_fragments(
        self, project: int, fragments: Sequence[UUID], attempts: int = ATTEMPTS_MAX
    ) -> list[Person | None]:
        """The same for many, in their order."""
        rows, identities = await self._round(project, fragments)
        roots = {fragment: identities[fragment][3] if fragment in identities else fragment for fragment in fragments}
        others = {root for fragment, root in roots.items() if root != fragment} - identities.keys()
        if others:
            more_rows, more = await self._round(project, list(others))
            rows |= more_rows
            identities |= more
        members = {
            root: list(identities[root][4]) if root in identities and identities[root][4] else [root]
            for root in set(roots.values())
        }
        unread = {member for group in members.values() for member in group} - rows.keys() - set(fragments) - others
        if unread:
            more_rows, more = await self._round(project, list(unread))
            rows |= more_rows
            identities |= more
        if attempts > 1 and any(root in identities and identities[root][3] != root for root in members):
            return await self.by_fragments(project, fragments, attempts - 1)  # merged between two rounds
        built = {root: person_of(project, root, group, (rows, identities)) for root, group in members.items()}
        return [built[roots[fragment]] for fragment in fragments]

    async def page(self, project: int, wanted: Wanted) -> Found:
        """A page of the persons of now."""

        async def candidates(cursor: Cursor, limit: int) -> list[tuple[UUID, int]]:
            return await self._store.rows(
                self.queries["roots_page"], project=project, created=cursor[0], person=cursor[1], limit=limit
            )

        return await fill_page(candidates, lambda roots: self.by_fragments(project, roots), wanted)

    def position(self) -> list[Position]:
        """What the latest answers reflect."""
        return [
            Position(topic, partition, offset_of(version))
            for (topic, partition), version in self.reached.items()
            if version
        ]

    async def _round(
        self, project: int, fragments: Sequence[UUID]
    ) -> tuple[dict[UUID, tuple[Any, ...]], dict[UUID, tuple[Any, ...]]]:
        """Fragment rows and identity rows, asked for together."""
        keys = [(project, fragment) for fragment in fragments]
        rows, identities = await asyncio.gather(
            asyncio.gather(*(self._fragments.get(key) for key in keys)),
            asyncio.gather(*(self._identities.get(key) for key in keys)),
        )
        return (
            {fragment: row for fragment, row in zip(fragments, rows, strict=True) if row is not None},
            {fragment: row for fragment, row in zip(fragments, identities, strict=True) if row is not None},
        )

    async def _load_fragments(self, keys: Sequence[Key]) -> dict[Key, tuple[Any, ...]]:
        count = self._partitions()[COMMANDS]
        return await self._load("fragments", COMMANDS, keys, {partition_of(key[1], count) for key in keys})

    async def _load_identities(self, keys: Sequence[Key]) -> dict[Key, tuple[Any, ...]]:
        count = self._partitions()[IDENTITY]
        return await self._load("identities", IDENTITY, keys, {key[0] % count for key in keys})

    async def _load(
        self, query: str, topic: str, keys: Sequence[Key], partitions: Iterable[int]
    ) -> dict[Key, tuple[Any, ...]]:
        positions = {position_key(topic, partition): partition for partition in partitions}
        rows = await self._store.rows(
            self.queries[query],
            projects=sorted({0, *(project for project, _ in keys)}),
            fragments=[*positions, *(fragment for _, fragment in keys)],
        )
        for row in rows:
            if row[0] == 0 and row[1] in positions:
                self.reached[topic, positions[row[1]]] = row[2]
                self._seen(row[7])
        return {(row[0], row[1]): row for row in rows if row[0] != 0}

    async def _load_numbers(self, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], UUID]:
        rows = await self._store.rows(
            self.queries["numbers"],
            projects=sorted({project for project, _ in keys}),
            numbers=[number for _, number in keys],
        )
        return {(project, number): fragment for project, number, fragment in rows}


async def fill_page(
    candidates: Callable[[Cursor, int], Awaitable[list[tuple[UUID, int]]]],
    build: Callable[[Sequence[UUID]], Awaitable[list[Person | None]]],
    wanted: Wanted,
) -> Found:
    """Persons after the cursor that `keep` accepts, newest first, and the cursor of the next page, if there is one.

    `candidates(cursor, limit)` gives (root, created_at), `build` the persons of roots.
    """
    found: list[Person] = []
    cursor = wanted.cursor
    for _ in range(PAGE_ROUNDS_MAX):
        ask = max(wanted.limit + 1 - len(found), PAGE_CANDIDATES_MIN if wanted.picky else 1)
        rows = await candidates(cursor, ask)
        persons = await build([root for root, _ in rows]) if rows else []
        for (root, created), person in zip(rows, persons, strict=True):
            if person is not None and person.uuid == root and wanted.keep(person):
                if len(found) == wanted.limit:
                    return found, cursor
                found.append(person)
            cursor = (created, str(root))
        if len(rows) < ask:
            return found, None
    return found, cursor
