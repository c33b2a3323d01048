"""Reading persons: the addressed fragments and identities in one coalesced round, members in more
where needed. The domain's merged view decides what a person is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from services.api.reads.query_batcher import Coalesced
from services.api.reads.row_cache import Miss, RowCache, RowKey
from shared.domain.errors import NotFound
from shared.domain.ids import COMMANDS, IDENTITY, partition_of_integer, position_key
from shared.store.clickhouse.client import Store
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

ATTEMPTS_MAX = 3
"""A merge may land between the rounds of a read, which is then done again; not for ever."""

MEMBERS_CACHED_MAX = 20
"""Fragments of a person that is put together without a turn of its own; more take too long to look
up one by one."""

RowPair = tuple[FragmentRow | None, IdentityRow | None]
"""A fragment's row and that of its identity, as far as there are any."""

NO_PAIR: RowPair = (None, None)

R = TypeVar("R", FragmentRow, IdentityRow)

Places = dict[int, tuple[str, int]]
"""(topic, partition) by the integer of its position row's key."""

CachedRows = tuple[UUID, list[MemberRows]]


class Reads:
    """All reads of persons of one API process. `observe_stamp` is called with the stamps of
    position rows."""

    def __init__(
        self,
        store: Store,
        partitions: Callable[[], dict[str, int]],
        observe_stamp: Callable[[int], None],
        memory: SharedMemory | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory` of a store whose writers all mark there the rows that they write: rows are
        cached."""
        self._fragments: RowCache[FragmentRow] = RowCache(COMMANDS, memory, monotonic)
        self._identities: RowCache[IdentityRow] = RowCache(IDENTITY, memory, monotonic)
        self._store = store
        self._partitions = partitions
        self._observe_stamp = observe_stamp
        self.queries = load_with_lives(Path(__file__).with_name("persons.sql"))
        self._rows: Coalesced[RowKey, RowPair] = Coalesced(self._load_rows)
        self._whole: Coalesced[RowKey, FragmentRow] = Coalesced(self._load_whole)
        self._numbers: Coalesced[tuple[int, int], UUID] = Coalesced(self._load_numbers)
        self.versions: dict[tuple[str, int], int] = {}
        """How far reads reach, by (topic, partition): of the position rows that came with rows."""

        self.loads = 0
        """How often the store was asked: `versions` are the same as long as this is."""

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
        """The living person that holds a fragment, or NotFound."""
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
            member.int: member
            for _, group in groups.values()
            for member in group
            if member.int not in rows
        }:
            rows |= await self._round(project, unread.values())
        if attempts > 1 and any(
            root_of(root, _identity(rows, root)) != root for root, _ in groups.values()
        ):
            return await self.by_fragments(
                project, fragments, attempts - 1
            )  # merged between two rounds
        members = {
            key: (root, [(member, *rows[member.int]) for member in group])
            for key, (root, group) in groups.items()
        }
        persons = {
            key: person_of(project, root, await self._with_texts(project, group))
            for key, (root, group) in members.items()
        }
        return [persons[root.int] for root in roots]

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
            rows = await self._whole.ask(
                [(project, fragment.int) for fragment in unread]
            )
            whole = dict(zip(unread, rows, strict=True))
            group = [
                (fragment, whole.get(fragment) or row, identity)
                for fragment, row, identity in group
            ]
        return group

    async def numbers_of(
        self, project: int, fragments: Sequence[UUID]
    ) -> list[int | None]:
        """The integer ids of fragments, of erased ones too; None for one that never lived."""
        by_fragment = await self._round(project, fragments)
        rows = (row for row, _ in (by_fragment[fragment.int] for fragment in fragments))
        return [row.number if row is not None else None for row in rows]

    async def living_ids_of(
        self, project: int, fragments: Sequence[UUID]
    ) -> dict[UUID, tuple[str, int]]:
        """The distinct id of each fragment that lives, and the identity version of the delete
        before its present life."""
        rows = await self._round(project, fragments)
        return {
            fragment: (row.distinct_id, row.erased)
            for fragment in fragments
            for row, identity in (rows[fragment.int],)
            if row is not None
            and row.created_at != 0
            and row.erased >= (0 if identity is None else identity.erase)
        }

    async def _round(
        self, project: int, fragments: Iterable[UUID]
    ) -> dict[int, RowPair]:
        """The rows of fragments by their integers: those proven to be the newest, and the others
        asked for together."""
        rows: dict[int, RowPair] = {}
        unread: list[RowKey] = []
        for fragment in fragments:
            pair = self._find(project, fragment)
            if pair is None:
                unread.append((project, fragment.int))
            else:
                rows[fragment.int] = pair
        if not unread:
            return rows
        pairs = await self._rows.ask(unread)
        rows |= {
            key[1]: pair or NO_PAIR for key, pair in zip(unread, pairs, strict=True)
        }
        return rows

    def _find(self, project: int, fragment: UUID) -> RowPair | None:
        """A fragment's rows, when both are proven to be the newest."""
        key = project, fragment.int
        row, identity = self._fragments.get(key), self._identities.get(key)
        return (
            None
            if isinstance(row, Miss) or isinstance(identity, Miss)
            else (row, identity)
        )

    def cached_rows(self, project: int, fragment: UUID) -> CachedRows | None:
        """The root of the person that holds a fragment, and (member, fragment row, identity row) of
        each member, when all are proven to be the newest."""
        addressed = self._find(project, fragment)
        if addressed is None:
            return None
        _, identity = addressed
        root = root_of(fragment, identity)
        head = addressed if root is fragment else self._find(project, root)
        if head is None:
            return None
        _, identity = head
        if root_of(root, identity) != root:
            return None
        fragments = group_of(root, identity)
        if len(fragments) > MEMBERS_CACHED_MAX:
            return None
        members: list[MemberRows] = []
        for member in fragments:
            rows = head if member is root else self._find(project, member)
            if rows is None:
                return None
            members.append((member, *rows))
        return root, members

    async def _load_rows(self, keys: Sequence[RowKey]) -> dict[RowKey, RowPair]:
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

    async def _load_whole(self, keys: Sequence[RowKey]) -> dict[RowKey, FragmentRow]:
        return await self._load_fragments(keys, ROW_BYTES_ANY)

    async def _load_fragments(
        self, keys: Sequence[RowKey], row_bytes_max: int
    ) -> dict[RowKey, FragmentRow]:
        snapshot = self._fragments.version_snapshot(keys)
        count = self._partitions()[COMMANDS]
        places = _places(
            COMMANDS, {partition_of_integer(fragment, count) for _, fragment in keys}
        )
        rows = await self._newest(
            "fragments", places, keys, row_bytes_max=row_bytes_max
        )
        by_key = self._by_key(map(FragmentRow._make, rows), places)
        # a row without its texts is of no use to the next reader
        snapshot = {
            key: at
            for key, at in snapshot.items()
            if key not in by_key or not is_cut(by_key[key])
        }
        self._fragments.put(snapshot, by_key, self.versions)
        return by_key

    async def _load_identities(
        self, keys: Sequence[RowKey]
    ) -> dict[RowKey, IdentityRow]:
        snapshot = self._identities.version_snapshot(keys)
        count = self._partitions()[IDENTITY]
        places = _places(IDENTITY, {project % count for project, _ in keys})
        rows = await self._newest("identities", places, keys)
        by_key = self._by_key(map(IdentityRow._make, rows), places)
        self._identities.put(snapshot, by_key, self.versions)
        return by_key

    async def _newest(
        self, query: str, places: Places, keys: Sequence[RowKey], **bounds: int
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

    def _by_key(self, rows: Iterable[R], places: Places) -> dict[RowKey, R]:
        """The rows by project and fragment; of the position rows, how far reads reach."""
        by_key: dict[RowKey, R] = {}
        for row in rows:
            if row.project != 0:
                by_key[row.project, row.fragment.int] = row
            elif (place := places.get(row.fragment.int)) is not None:
                self.versions[place] = row.version
                self._observe_stamp(row.stamp)
        return by_key

    async def _load_numbers(
        self, keys: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], UUID]:
        rows = await self._store.rows(
            self.queries["numbers"],
            projects=sorted({project for project, _ in keys}),
            numbers=[number for _, number in keys],
        )
        return {(project, number): fragment for project, number, fragment in rows}


def _identity(rows: dict[int, RowPair], fragment: UUID) -> IdentityRow | None:
    _, identity = rows[fragment.int]
    return identity


def _places(topic: str, partitions: Iterable[int]) -> Places:
    return {
        position_key(topic, partition).int: (topic, partition)
        for partition in partitions
    }
