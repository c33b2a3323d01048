"""Reading persons: the addressed fragments and identities in one coalesced round, members in more
where needed.

Never decides what a person is: that is the domain's merged view.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from services.api.reads.query_batcher import Coalesced
from services.api.reads.row_cache import Key, Miss, RowCache
from shared.domain.errors import NotFound
from shared.domain.ids import COMMANDS, IDENTITY, partition_of_integer, position_key
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.lives import load_with_lives
from shared.store.person import (
    PERSON_QUERIES,
    ROW_BYTES_ANY,
    ROW_BYTES_WHOLE,
    FragmentRow,
    IdentityRow,
    MemberRows,
    Person,
    group_of,
    is_cut,
    person_of,
    root_of,
    unread_of,
)
from shared.store.shared_memory.segment import SharedMemory

CANDIDATES_MIN, CANDIDATES_MAX = 100, 10_000
"""Roots asked for at once: the query behind them costs the same for few and for many, and each
takes 24 bytes."""

ROWS_AT_ONCE = 100
"""Persons put together at once: what a list of any length holds in memory."""

ROUNDS_MAX = 100_000
"""Rounds of candidates for one list: a thousand million persons."""

ATTEMPTS_MAX = 3
"""A merge may land between the rounds of a read, which is then done again; not for ever."""

MEMBERS_KNOWN_MAX = 20
"""Fragments of a person that is put together without a turn of its own; more take too long to look
up one by one."""

CURSOR_START = (2**63 - 1, "g")
"""Before the newest person: the highest time, and a text above every uuid."""

Rows = tuple[FragmentRow | None, IdentityRow | None]
"""A fragment's row and that of its identity, as far as there are any."""

NO_ROWS: Rows = (None, None)

R = TypeVar("R", FragmentRow, IdentityRow)

Places = dict[int, tuple[str, int]]
"""(topic, partition) by the integer of its position row's key."""

KnownRows = tuple[UUID, list[MemberRows]]
Cursor = tuple[int, str]


Candidates = Callable[[Cursor, int], Awaitable[list[tuple[UUID, int]]]]
"""(root, created_at) of at most so many persons after a cursor, newest first."""

Build = Callable[[Sequence[UUID]], Awaitable[list[Person | None]]]
Judge = Callable[[Sequence[Person]], Awaitable[Sequence[bool]]]


class Reads:
    """All reads of persons of one API process. `seen` is told the stamps of position rows."""

    def __init__(
        self,
        store: Store,
        partitions: Callable[[], dict[str, int]],
        seen: Callable[[int], None],
        memory: SharedMemory | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory` of a store whose writers all mark there the rows that they write: rows are
        cached."""
        self._fragments: RowCache[FragmentRow] = RowCache(COMMANDS, memory, monotonic)
        self._identities: RowCache[IdentityRow] = RowCache(IDENTITY, memory, monotonic)
        self._store, self._partitions, self._seen = store, partitions, seen
        self.queries = load_with_lives(Path(__file__).with_name("persons.sql"))
        self._rows: Coalesced[Key, Rows] = Coalesced(self._load_rows)
        self._whole: Coalesced[Key, FragmentRow] = Coalesced(self._load_whole)
        self._numbers: Coalesced[tuple[int, int], UUID] = Coalesced(self._load_numbers)
        self.reached: dict[tuple[str, int], int] = {}
        self.loads = 0
        """How often the store was asked: `reached` is the same as long as this is."""

    @property
    def generation(self) -> int:
        """How often the cached rows were all cleared."""
        return self._fragments.generation + self._identities.generation

    async def fragment_of(self, project: int, number: int) -> UUID | None:
        """The fragment with this integer id."""
        return await self._numbers.get((project, number))

    async def by_fragment(self, project: int, fragment: UUID) -> Person | None:
        """The living person that holds a fragment; old uuids keep resolving."""
        return (await self.by_fragments(project, [fragment]))[0]

    async def holder(self, project: int, fragment: UUID) -> Person:
        """The same, or NotFound."""
        person = await self.by_fragment(project, fragment)
        if person is None:
            raise NotFound("Not found.")
        return person

    async def by_fragments(
        self, project: int, fragments: Sequence[UUID], attempts: int = ATTEMPTS_MAX
    ) -> list[Person | None]:
        """The living persons that hold these fragments, in their order; None for nobody."""
        rows = await self._round(project, fragments)
        roots = [root_of(fragment, _identity(rows, fragment)) for fragment in fragments]
        if others := {root.int: root for root in roots if root.int not in rows}:
            rows |= await self._round(project, others.values())
        groups = {
            root.int: (root, group_of(root, _identity(rows, root))) for root in roots
        }
        if unread := {
            one.int: one
            for _, group in groups.values()
            for one in group
            if one.int not in rows
        }:
            rows |= await self._round(project, unread.values())
        if attempts > 1 and any(
            root_of(root, _identity(rows, root)) != root for root, _ in groups.values()
        ):
            return await self.by_fragments(
                project, fragments, attempts - 1
            )  # merged between two rounds
        loaded = {
            key: (root, [(one, *rows[one.int]) for one in group])
            for key, (root, group) in groups.items()
        }
        built = {
            key: person_of(project, root, await self._with_texts(project, group))
            for key, (root, group) in loaded.items()
        }
        return [built[root.int] for root in roots]

    async def row_of(self, project: int, fragment: UUID) -> FragmentRow | None:
        """The row of a fragment, whole, however large it is."""
        return await self._whole.get((project, fragment.int))

    async def _with_texts(
        self, project: int, group: list[MemberRows]
    ) -> list[MemberRows]:
        """The members of a person, with the texts of all that it shows."""
        for _ in range(ATTEMPTS_MAX):  # they may have grown meanwhile
            unread = unread_of(group)
            if not unread:
                break
            read = await self._whole.ask(
                [(project, fragment.int) for fragment in unread]
            )
            whole = dict(zip(unread, read, strict=True))
            group = [
                (fragment, whole.get(fragment) or row, identity)
                for fragment, row, identity in group
            ]
        return group

    async def numbers_of(
        self, project: int, fragments: Sequence[UUID]
    ) -> list[int | None]:
        """The integer ids of fragments, of erased ones too; None for one that never lived."""
        rows = await self._round(project, fragments)
        found = (row for row, _ in (rows[fragment.int] for fragment in fragments))
        return [row.number if row is not None else None for row in found]

    async def _round(self, project: int, fragments: Iterable[UUID]) -> dict[int, Rows]:
        """The rows of fragments by their integers: those proven to be the newest, and the others
        asked for together."""
        rows: dict[int, Rows] = {}
        unread: list[Key] = []
        for fragment in fragments:
            found = self._find(project, fragment)
            if found is None:
                unread.append((project, fragment.int))
            else:
                rows[fragment.int] = found
        if not unread:
            return rows
        read = await self._rows.ask(unread)
        rows |= {
            key[1]: pair or NO_ROWS for key, pair in zip(unread, read, strict=True)
        }
        return rows

    def _find(self, project: int, fragment: UUID) -> Rows | None:
        """A fragment's rows, when both are proven to be the newest."""
        key = project, fragment.int
        row, identity = self._fragments.get(key), self._identities.get(key)
        return (
            None
            if isinstance(row, Miss) or isinstance(identity, Miss)
            else (row, identity)
        )

    def rows_known(self, project: int, fragment: UUID) -> KnownRows | None:
        """The root of the person that holds a fragment, and (member, fragment row, identity row) of
        each member, when all are known to be the newest."""
        named = self._find(project, fragment)
        if named is None:
            return None
        _, identity = named
        root = root_of(fragment, identity)
        head = named if root is fragment else self._find(project, root)
        if head is None:
            return None
        _, identity = head
        if root_of(root, identity) != root:
            return None
        group = group_of(root, identity)
        if len(group) > MEMBERS_KNOWN_MAX:
            return None
        found: list[MemberRows] = []
        for member in group:
            rows = head if member is root else self._find(project, member)
            if rows is None:
                return None
            found.append((member, *rows))
        return root, found

    async def _load_rows(self, keys: Sequence[Key]) -> dict[Key, Rows]:
        results = await asyncio.gather(
            self._load_fragments(keys, ROW_BYTES_WHOLE),
            self._load_identities(keys),
            # both have ended when one has failed: no query runs beside the next
            return_exceptions=True,
        )
        fragments, identities = results
        if isinstance(fragments, BaseException):
            raise fragments
        if isinstance(identities, BaseException):
            raise identities
        return {
            key: (fragments.get(key), identities.get(key))
            for key in fragments.keys() | identities.keys()
        }

    async def _load_whole(self, keys: Sequence[Key]) -> dict[Key, FragmentRow]:
        return await self._load_fragments(keys, ROW_BYTES_ANY)

    async def _load_fragments(
        self, keys: Sequence[Key], row_bytes_max: int
    ) -> dict[Key, FragmentRow]:
        snapshot = self._fragments.version_snapshot(keys)
        count = self._partitions()[COMMANDS]
        places = _places(
            COMMANDS, {partition_of_integer(fragment, count) for _, fragment in keys}
        )
        rows = await self._newest(
            "fragments", places, keys, row_bytes_max=row_bytes_max
        )
        found = self._by_key(map(FragmentRow._make, rows), places)
        # a row without its texts is of no use to the next reader
        snapshot = {
            key: at
            for key, at in snapshot.items()
            if key not in found or not is_cut(found[key])
        }
        self._fragments.put(snapshot, found, self.reached)
        return found

    async def _load_identities(self, keys: Sequence[Key]) -> dict[Key, IdentityRow]:
        snapshot = self._identities.version_snapshot(keys)
        count = self._partitions()[IDENTITY]
        places = _places(IDENTITY, {project % count for project, _ in keys})
        rows = await self._newest("identities", places, keys)
        found = self._by_key(map(IdentityRow._make, rows), places)
        self._identities.put(snapshot, found, self.reached)
        return found

    async def _newest(
        self, query: str, places: Places, keys: Sequence[Key], **bounds: int
    ) -> list[tuple[Any, ...]]:
        """The newest rows of these keys, and the position rows of these places."""
        rows = await self._store.rows(
            PERSON_QUERIES[query],
            projects=sorted({0, *(project for project, _ in keys)}),
            fragments=[
                f"{fragment:032x}"
                for fragment in (*places, *(fragment for _, fragment in keys))
            ],
            **bounds,
        )
        self.loads += 1
        return rows

    def _by_key(self, rows: Iterable[R], places: Places) -> dict[Key, R]:
        """The rows by project and fragment; of the position rows, how far reads reach."""
        found: dict[Key, R] = {}
        for row in rows:
            if row.project != 0:
                found[row.project, row.fragment.int] = row
            elif (place := places.get(row.fragment.int)) is not None:
                self.reached[place] = row.version
                self._seen(row.stamp)
        return found

    async def _load_numbers(
        self, keys: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], UUID]:
        rows = await self._store.rows(
            self.queries["numbers"],
            projects=sorted({project for project, _ in keys}),
            numbers=[number for _, number in keys],
        )
        return {(project, number): fragment for project, number, fragment in rows}


def _identity(rows: dict[int, Rows], fragment: UUID) -> IdentityRow | None:
    _, identity = rows[fragment.int]
    return identity


def _places(topic: str, partitions: Iterable[int]) -> Places:
    return {
        position_key(topic, partition).int: (topic, partition)
        for partition in partitions
    }


def page_of(query: Query, *, backwards: bool = False) -> Query:
    """A query of roots in the direction of a list, or from its cursor back to the beginning."""
    beyond, order = (">=", "ASC") if backwards else ("<", "DESC")
    return query.filled(beyond=beyond, order=order)


class Walk:
    """The persons after a cursor, newest first, nothing twice and nothing missed while others
    write: each step goes on after the last row (created_at, uuid), not at a count. `after` is where
    the next walk goes on; None: nowhere."""

    def __init__(
        self, candidates: Candidates, build: Build, judge: Judge | None = None
    ) -> None:
        self._candidates, self._build, self._judge = candidates, build, judge
        self.after: Cursor | None = None

    async def batches(
        self, cursor: Cursor, limit: int | None
    ) -> AsyncIterator[list[Person]]:
        """At most `limit` persons (None: all), ROWS_AT_ONCE or fewer at a time."""
        left = limit
        for _ in range(ROUNDS_MAX):
            ask = CANDIDATES_MAX if left is None else min(left + 1, CANDIDATES_MAX)
            ask = max(ask, CANDIDATES_MIN) if self._judge is not None else ask
            rows = await self._candidates(cursor, ask)
            for start in range(0, len(rows), ROWS_AT_ONCE):
                found: list[Person] = []
                for (root, created), person in await self._persons(
                    rows[start : start + ROWS_AT_ONCE]
                ):
                    if person is not None:
                        if left is not None and len(found) == left:
                            self.after = cursor
                            yield found
                            return
                        found.append(person)
                    cursor = created, str(root)
                left = None if left is None else left - len(found)
                if found:
                    yield found
            if len(rows) < ask:
                return

    async def _persons(
        self, rows: Sequence[tuple[UUID, int]]
    ) -> list[tuple[tuple[UUID, int], Person | None]]:
        """Each candidate, and its person if that is still its root and was judged right."""
        built = await self._build([root for root, _ in rows])
        pairs = [
            (
                (root, created),
                person if person is not None and person.uuid == root else None,
            )
            for (root, created), person in zip(rows, built, strict=True)
        ]
        if self._judge is None:
            return pairs
        right = iter(
            await self._judge([person for _, person in pairs if person is not None])
        )
        return [
            (row, person if person is not None and next(right) else None)
            for row, person in pairs
        ]
