"""Keyset pagination: the persons of a list, page by page, each after the last row of the one
before.

The candidates' query and the filter decide who is on a list.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from uuid import UUID

from services.api.reads.cursors import Cursor
from shared.store.clickhouse.queries import Query
from shared.store.person import Person

CANDIDATES_MIN, CANDIDATES_MAX = 100, 10_000
"""Roots asked for at once: the query behind them costs the same for few and for many, and each
takes 24 bytes."""

ROWS_AT_ONCE = 100
"""Persons put together at once: what a list of any length holds in memory."""

ROUNDS_MAX = 100_000
"""Rounds of candidates for one list: a thousand million persons."""

Candidates = Callable[[Cursor, int], Awaitable[list[tuple[UUID, int]]]]
"""(root, created_at) of at most so many persons after a cursor, newest first."""

Build = Callable[[Sequence[UUID]], Awaitable[list[Person | None]]]
PersonFilter = Callable[[Sequence[Person]], Awaitable[Sequence[bool]]]


def page_of(query: Query, *, backwards: bool = False) -> Query:
    """A query of roots in the direction of a list, or from its cursor back to the beginning."""
    beyond, order = (">=", "ASC") if backwards else ("<", "DESC")
    return query.filled(beyond=beyond, order=order)


class Walk:
    """The persons after a cursor, newest first. While others write nothing comes twice and nothing
    is missed: each step goes on after the last row (created_at, uuid), not at a count. `after` is
    where the next walk goes on; None: nowhere."""

    def __init__(
        self,
        candidates: Candidates,
        build: Build,
        person_filter: PersonFilter | None = None,
    ) -> None:
        self._candidates = candidates
        self._build = build
        self._person_filter = person_filter
        self.after: Cursor | None = None

    async def batches(
        self, cursor: Cursor, limit: int | None
    ) -> AsyncIterator[list[Person]]:
        """At most `limit` persons (None: all), ROWS_AT_ONCE or fewer at a time."""
        remaining = limit
        for _ in range(ROUNDS_MAX):
            count = (
                CANDIDATES_MAX
                if remaining is None
                else min(remaining + 1, CANDIDATES_MAX)
            )
            count = (
                max(count, CANDIDATES_MIN) if self._person_filter is not None else count
            )
            rows = await self._candidates(cursor, count)
            for start in range(0, len(rows), ROWS_AT_ONCE):
                persons: list[Person] = []
                for (root, created_at), person in await self._persons(
                    rows[start : start + ROWS_AT_ONCE]
                ):
                    if person is not None:
                        if remaining is not None and len(persons) == remaining:
                            self.after = cursor
                            yield persons
                            return
                        persons.append(person)
                    cursor = created_at, str(root)
                remaining = None if remaining is None else remaining - len(persons)
                if persons:
                    yield persons
            if len(rows) < count:
                return

    async def _persons(
        self, rows: Sequence[tuple[UUID, int]]
    ) -> list[tuple[tuple[UUID, int], Person | None]]:
        """Each candidate, and its person if that is still its root and matches the filter."""
        persons = await self._build([root for root, _ in rows])
        pairs = [
            (
                (root, created_at),
                person if person is not None and person.uuid == root else None,
            )
            for (root, created_at), person in zip(rows, persons, strict=True)
        ]
        if self._person_filter is None:
            return pairs
        right = iter(
            await self._person_filter(
                [person for _, person in pairs if person is not None]
            )
        )
        return [
            (row, person if person is not None and next(right) else None)
            for row, person in pairs
        ]
