"""Feeds the search table behind the hot path: whoever changed is read again and written as filters
see them.

Never decides what a person is, and never stands in a flush's way. Two feeders may overlap: a row's
version rises with all that it was made from, so the newest reading wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.tables.marks import BEFORE_THE_FIRST
from services.projector.tables.rows import StateKey
from shared.domain.errors import Transient
from shared.domain.ids import COMMANDS, IDENTITY, position_key
from shared.runtime.wakeup import Wakeup
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries
from shared.store.person import (
    PERSON_QUERIES,
    ROW_BYTES_ANY,
    ROW_BYTES_WHOLE,
    FragmentRow,
    IdentityRow,
    Person,
    group_of,
    person_of,
    root_of,
    unread_of,
)
from shared.store.search import document_of

CHUNK_FRAGMENTS_MAX = 2_000
"""Changed fragments read at once; with their persons' members a few thousand rows."""

WRITE_BYTES_MAX = 32_000_000
"""Rows written together."""

PAUSE_SECONDS = 0.2
"""Between two rounds: what changes meanwhile is fed once. A filtered list waits so long for writes
of just before."""

PAUSE_SECONDS_MAX = 1.5
"""A long round is followed by a pause of twice its time, so that catching up leaves the engine to
projection; but a filtered list waits 5 s at most."""

BEHIND_SECONDS_MAX = 10.0
"""While the projector catches up, the search table waits so long: lists lag anyway, and who changed
changes again. A round in between took a tenth of the time of both."""

RETRY_SECONDS = 1.0
"""After a round that failed while the store was away."""

LOOK_SECONDS, SHARED_LOOK_SECONDS = 2.0, 0.5
"""Between two looks when nothing was told: alone, and where other projectors flush too, whose
flushes nobody tells of. A look at which nothing has changed reads two sets of position rows."""


class Duty(Enum):
    """Who feeds: another projector; this one, for all that flush; this one, which is alone."""

    OTHERS, SHARED, ALONE = range(3)


class Feeder:
    """One feeder. `table` is another one while a rebuild fills it."""

    def __init__(
        self, store: Store, partitions: dict[str, int], table: str = "search"
    ) -> None:
        self._store, self._partitions, self._table = store, partitions, table
        self._tables = ClickHouseTables(store)
        self._queries = load_queries(Path(__file__).with_name("search.sql"))
        self._watermarks: dict[str, list[int]] | None = None

    async def run(
        self, woken: Wakeup, duty: Callable[[], Duty], behind: Callable[[], bool]
    ) -> None:
        """Feed when woken, which is after a flush and a change of duty, and now and then unasked;
        seldom while projection is behind; for ever."""
        time = asyncio.get_running_loop().time
        began = time()
        while True:
            await woken.wait(
                SHARED_LOOK_SECONDS if duty() is Duty.SHARED else LOOK_SECONDS
            )
            if behind() and time() - began < BEHIND_SECONDS_MAX:
                woken.set()
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            began = time()
            try:
                if duty() is Duty.OTHERS:
                    self._watermarks = None
                else:
                    await self.feed()
                await asyncio.sleep(
                    min(max(PAUSE_SECONDS, 2 * (time() - began)), PAUSE_SECONDS_MAX)
                )
            except Transient:
                self._watermarks = None
                woken.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def feed(self) -> int:
        """One round: everybody who changed since the last one; how many rows were written. Raises
        Transient."""
        if self._watermarks is None:
            self._watermarks = await self._read_watermarks()
        versions = {
            topic: await self._versions(topic) for topic in (COMMANDS, IDENTITY)
        }
        if versions == self._watermarks:
            return 0
        cursor, written = (0, UUID(int=0)), 0
        while True:
            keys: list[Any] = await self._store.rows(
                self._queries["changed"],
                commands=self._watermarks[COMMANDS],
                identity=self._watermarks[IDENTITY],
                partitions=self._partitions[COMMANDS],
                identities=self._partitions[IDENTITY],
                project=cursor[0],
                fragment=cursor[1],
                limit=CHUNK_FRAGMENTS_MAX,
            )
            if keys:
                written += await self._write(self._lines(keys))
                cursor = keys[-1]
            if len(keys) < CHUNK_FRAGMENTS_MAX:
                break
        await self._store.insert_json(self._table, position_lines(versions))
        self._watermarks = versions
        return written

    async def _versions(self, topic: str) -> list[int]:
        count = self._partitions[topic]
        marks = (await self._tables.load(topic, range(count), [])).positions
        return [
            marks.get(partition, BEFORE_THE_FIRST).version for partition in range(count)
        ]

    async def _read_watermarks(self) -> dict[str, list[int]]:
        sql = self._queries["fed"]
        versions = dict(await self._store.rows(sql)) if self._table == "search" else {}
        return {
            topic: [
                int(versions.get(position_key(topic, partition), 0))
                for partition in range(self._partitions[topic])
            ]
            for topic in (COMMANDS, IDENTITY)
        }

    async def _lines(self, keys: Sequence[StateKey]) -> AsyncIterator[bytes]:
        """The rows of the persons that hold these fragments now, and of those of the fragments that
        are no root."""
        groups, identities = await self._groups(keys)
        members = [
            (project, member)
            for (project, _), group in groups.items()
            for member in group
        ]
        rows = await self._fragments(dict.fromkeys(members), ROW_BYTES_WHOLE)
        for (project, root), group in groups.items():
            fragments = [
                (member, rows.get((project, member)), identities.get((project, member)))
                for member in group
            ]
            if unread := unread_of(fragments):
                # one person's at a time: it may have megabytes
                whole = await self._fragments(
                    [(project, member) for member in unread], ROW_BYTES_ANY
                )
                fragments = [
                    (member, whole.get((project, member), row), identity)
                    for member, row, identity in fragments
                ]
            identity = identities.get((project, root))
            version = (identity.version if identity else 0) << 64 | sum(
                row.version for _, row, _ in fragments if row
            )
            yield _line(project, root, version, person_of(project, root, fragments))
        roots = [
            (project, root_of(fragment, identities.get((project, fragment))))
            for project, fragment in keys
        ]
        for key in dict.fromkeys((*keys, *roots)):
            if key not in groups:  # as a root it is no more
                yield _line(*key, identities[key].version << 64, None)

    async def _groups(
        self, keys: Sequence[StateKey]
    ) -> tuple[dict[StateKey, Sequence[UUID]], dict[StateKey, IdentityRow]]:
        """The members of the persons that hold these fragments, by their roots; and the identity
        rows of all of them."""
        identities = await self._identities(keys)
        # who had no row then has none in this round: a merge that came since would lend its version
        read_keys = set(keys)
        roots = dict.fromkeys(
            (project, root_of(fragment, identities.get((project, fragment))))
            for project, fragment in keys
        )
        identities |= await self._identities(
            [root for root in roots if root not in read_keys]
        )
        read_keys |= roots.keys()
        groups = {}
        for root in roots:
            identity = identities.get(root)
            # else it was absorbed between two readings: the next round has its root
            if root_of(root[1], identity) == root[1]:
                groups[root] = group_of(root[1], identity)
        members = dict.fromkeys(
            (project, member)
            for (project, _), group in groups.items()
            for member in group
        )
        identities |= await self._identities(
            [member for member in members if member not in read_keys]
        )
        return groups, identities

    async def _fragments(
        self, keys: Iterable[StateKey], row_bytes_max: int
    ) -> dict[StateKey, FragmentRow]:
        rows = map(
            FragmentRow._make,
            await self._newest("fragments", keys, row_bytes_max=row_bytes_max),
        )
        return {(row.project, row.fragment): row for row in rows}

    async def _identities(
        self, keys: Iterable[StateKey]
    ) -> dict[StateKey, IdentityRow]:
        rows = map(IdentityRow._make, await self._newest("identities", keys))
        return {(row.project, row.fragment): row for row in rows}

    async def _newest(
        self, query: str, keys: Iterable[StateKey], **bounds: int
    ) -> list[tuple[Any, ...]]:
        pairs = list(keys)
        if not pairs:
            return []
        return await self._store.rows(
            PERSON_QUERIES[query],
            projects=sorted({project for project, _ in pairs}),
            fragments=[fragment for _, fragment in pairs],
            **bounds,
        )

    async def _write(self, lines: AsyncIterator[bytes]) -> int:
        batch: list[bytes] = []
        size = written = 0
        async for line in lines:
            batch.append(line)
            size += len(line)
            written += 1
            if size > WRITE_BYTES_MAX:
                await self._store.insert_json(self._table, batch)
                batch, size = [], 0
        await self._store.insert_json(self._table, batch)
        return written


def _line(project: int, fragment: UUID, version: int, person: Person | None) -> bytes:
    row: dict[str, Any] = {
        "project": project,
        "fragment": str(fragment),
        "version": str(version),
    }
    if person is not None:
        row |= {
            "living": 1,
            "created_at": person.created_at,
            "distinct_ids": person.distinct_ids,
        }
        row["properties"] = document_of(person.document())
    return orjson.dumps(row)


def position_lines(versions: dict[str, list[int]]) -> list[bytes]:
    """Rows that say how far the table is fed: the versions reached, by topic and partition."""
    return [
        _line(0, position_key(topic, partition), version, None)
        for topic, row_versions in versions.items()
        for partition, version in enumerate(row_versions)
        if version
    ]
