"""`personlog rebuild`: derive fragments, identity and search again from the timeline. Never decides
an outcome.

Shadow tables are filled in the order of keys, page by page, while projection goes on; then whoever
changed meanwhile is derived again, round by round, the last one while projection is held. The swap
is one EXCHANGE a table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from services.projector.rebuild.derive import END, START, Derived, RebuildReport
from services.projector.rebuild.shadows import HOLD_SECONDS, Marks, Shadows
from services.projector.tables import rows as r
from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.tables.facts import FactReader
from services.projector.tables.marks import BEFORE_THE_FIRST
from services.projector.tables.rows import StateKey
from shared.domain.errors import Corrupt, Rejected, Transient
from shared.domain.ids import (
    COMMANDS,
    IDENTITY,
    PARTITIONS_MAX,
    partition_of,
    position_of,
)
from shared.domain.person.replay import Replay
from shared.runtime.files import file_lock
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import clock_of
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.connect import connect_store
from shared.store.logwatch import right_log
from shared.store.shared_memory.segment import all_rewritten, memory_of

CHUNK_FRAGMENTS_MAX = 2_000
"""Fragments of one step of a later round; as parameters of a query they take 80 KB."""

LIVE_ROWS_MAX = 500_000
"""Live rows between the keys of one page: far more than facts means that the tables are not of one
store."""

ROUNDS_MAX = 8
"""Rounds beside running projection before it is held: each takes what came during the one before
it."""

ROUND_FRAGMENTS_MAX = 20_000
"""A round of at most so many fragments lasts a second or two: then projection is held for the last
one."""

HOLDS_MAX = 5
"""Attempts to finish within a hold."""


async def rebuild(
    settings: Settings, *, verify: bool, tell: Callable[[RebuildReport], None]
) -> RebuildReport:
    """One rebuild on the configured log and store; `tell` is called after every page. Raises
    Rejected when another one runs on this machine, and LogMismatch."""
    store = await connect_store(settings, "migrator")
    try:
        async with right_log(settings, store) as (log, _):
            memory = memory_of(settings, log.partitions(), log.generation)
            with only_rebuild(settings.data / "run"), all_rewritten(memory):
                return await Rebuild(
                    store, log.partitions(), clock_of(settings).now_us, tell
                ).run(verify=verify)
    finally:
        await store.close()


class Rebuild:
    """One rebuild. `tell` is called after every page; `partitions` are the log's counts by
    topic."""

    def __init__(
        self,
        store: Store,
        partitions: dict[str, int],
        now_us: Callable[[], int],
        tell: Callable[[RebuildReport], None],
    ) -> None:
        self._store = store
        self._partitions = partitions
        self._now_us = now_us
        self._tell = tell
        self._tables = ClickHouseTables(store)
        self._shadows = Shadows(store, partitions)
        self._queries = self._shadows.queries
        self._saved = 0
        self._since: dict[str, list[int]] = {}
        self._erased_again = False
        self.report = RebuildReport()

    async def run(self, *, verify: bool) -> RebuildReport:
        """Derive, compare, and swap when nothing forbids it: a corrupt row, or a difference that
        `verify` looks for.

        The report's state is then `swapped`, else `failed` and the live tables are as they were.
        """
        await self._open()
        await self._derive(None)
        for _ in range(ROUNDS_MAX):
            if (
                self._forbidden(verify)
                or await self._round(await self._marks()) <= ROUND_FRAGMENTS_MAX
            ):
                break
        for _ in range(HOLDS_MAX):
            if self._forbidden(verify):
                break
            if self._erased_again:
                self._erased_again = False
                await self._shadows.command("compact", table="fragments_rebuild")
                # compacting took its time, and the hold should be short
                await self._round(await self._marks())
            if await self._finish(verify):
                await self._refill_search()
                await self._end("swapped")
                return self.report
        if not self._forbidden(verify):
            raise Transient(
                "Projection could not be held long enough; run the rebuild again, it goes on from"
                " here."
            )
        await self._end("failed")
        return self.report

    def _forbidden(self, verify: bool) -> bool:
        return bool(self.report.corrupt or (verify and self.report.differences))

    async def _open(self) -> None:
        """Go on with a rebuild that was cut off, or begin a new one."""
        newest = await self._store.rows(self._queries["epochs"])
        if newest:
            ((self._shadows.epoch, self._saved, document),) = newest
            self.report = msgspec.json.decode(document, type=RebuildReport)
        begun = self.report.state == "deriving" and self.report.cursor != START
        marks = await self._marks()
        generation = _generation(marks)
        # else its positions are of other partitions
        same = generation == self.report.generation
        resumed = begun and same and self._store.has_table("fragments_rebuild")
        if not resumed:
            await self._begin(marks, generation)
        await self._shadows.open(resumed=resumed, marks=marks)

    async def _begin(self, marks: Marks, generation: int) -> None:
        epochs = [
            mark.epoch for partitions in marks.values() for mark in partitions.values()
        ]
        self._shadows.epoch = max(self._shadows.epoch, *epochs, 0) + 1
        self._saved = 0
        self.report = RebuildReport(generation=generation)
        self.report.positions = _versions(marks, self._partitions)
        self.report.total = (await self._store.rows(self._queries["facts"]))[0][0]
        # before the shadows: nobody may take empty ones for those of an older rebuild
        await self._save()
        await self._shadows.drop()

    async def _round(self, marks: Marks) -> int:
        """Derive again who has changed since the last positions; how many that were."""
        since, self.report.positions = (
            self.report.positions,
            _versions(marks, self._partitions),
        )
        self._since = since
        count, cursor = 0, START
        while True:
            keys: list[StateKey] = await self._store.rows(
                self._queries["changed"],
                commands=since[COMMANDS],
                identity=since[IDENTITY],
                partitions=self._partitions[COMMANDS],
                identities=self._partitions[IDENTITY],
                project=cursor[0],
                fragment=cursor[1],
                limit=CHUNK_FRAGMENTS_MAX,
            )
            if keys:
                await self._derive([fragment for _, fragment in keys])
                cursor = keys[-1]
            count += len(keys)
            if len(keys) < CHUNK_FRAGMENTS_MAX:
                await self._save()
                return count

    async def _derive(self, fragments: Sequence[UUID] | None) -> None:
        """Fill the shadows with everybody behind the cursor, or with these fragments, page by
        page."""
        after = self.report.cursor if fragments is None else START
        current: tuple[StateKey, Derived] | None = None
        finished: list[tuple[StateKey, Derived]] = []
        reader = FactReader(self._store, self._queries, self.report.positions[COMMANDS])
        async for page in reader.pages(fragments, after):
            for row in page.rows:
                project, fragment, *_ = row
                key = (project, fragment)
                if current is None or current[0] != key:
                    finished += [current] if current else []
                    current = (key, self._blank(key))
                    current[1].cuts = page.cuts.get(key, ())
                current[1].fold(row, self.report)
            if page.last:
                finished += [current] if current else []
            if finished or page.last:
                upto = END if page.last else finished[-1][0]
                await self._settle(finished, (after, upto), fragments)
                after, finished = upto, []
            if fragments is None:
                self.report.cursor = after
                await self._save()
            self._tell(self.report)

    def _blank(self, key: StateKey) -> Derived:
        project, fragment = key
        partition = partition_of(fragment, self._partitions[COMMANDS])
        return Derived(
            Replay(project, fragment),
            (
                self.report.positions[COMMANDS][partition],
                self.report.positions[IDENTITY][project % self._partitions[IDENTITY]],
            ),
        )

    async def _settle(
        self,
        finished: list[tuple[StateKey, Derived]],
        span: tuple[StateKey, StateKey],
        fragments: Sequence[UUID] | None,
    ) -> None:
        """Compare what was derived with the live rows of the same keys, and write it to the
        shadows."""
        (after, upto), derived_by_key = span, dict(finished)
        scope: dict[str, Any] = {
            "project": after[0],
            "fragment": after[1],
            "last_project": upto[0],
            "last_fragment": upto[1],
            "everybody": int(fragments is None),
            "fragments": list(fragments or ()),
            "limit": LIVE_ROWS_MAX,
        }
        rows = self._store.rows
        lives = await asyncio.gather(
            rows(self._queries["live_fragments"], **scope),
            rows(self._queries["live_identity"], **scope),
        )
        for topic, live in zip((COMMANDS, IDENTITY), lives, strict=True):
            if len(live) == LIVE_ROWS_MAX:
                raise Corrupt(
                    f"Between {after} and {upto} the live table has far more rows than the timeline"
                    " has facts."
                )
            live_rows = {
                (row.project, row.fragment): row
                for row in (r.state_of(topic, row) for row in live)
            }
            await self._write(topic, derived_by_key, live_rows)
        if fragments is not None:
            since = self._since[COMMANDS]
            self._erased_again |= any(
                derived.erased_by > since[partition_of(key[1], len(since))]
                for key, derived in derived_by_key.items()
            )

    async def _write(
        self,
        topic: str,
        derived_by_key: Mapping[StateKey, Derived],
        live_rows: Mapping[StateKey, r.StateRow],
    ) -> None:
        state: list[r.StateRow] = []
        for key in dict.fromkeys((*derived_by_key, *live_rows)):
            derived = derived_by_key.get(key) or self._blank(key)
            if derived.corrupt:
                continue
            row = derived.settled(topic, live_rows.get(key), self.report)
            if row is not None:
                state.append(row)
        count = await self._shadows.write(topic, state)
        if topic == COMMANDS:
            self.report.fragments += count
        else:
            self.report.identities += count

    async def _finish(self, verify: bool) -> bool:
        """Hold projection, derive the last changes, swap. False when it has to be tried again."""
        deadline = time.monotonic() + HOLD_SECONDS / 2
        try:
            if not await self._shadows.hold(deadline):
                return False
            marks = await self._marks()
            await self._round(marks)
            await self._shadows.assure_complete(self.report.invented)
            late = time.monotonic() > deadline
            wrong = self._erased_again or self._forbidden(verify)
            if late or wrong or await self._marks() != marks:
                return False
            await self._shadows.swap(marks)
            return True
        finally:
            await self._shadows.release()

    async def _refill_search(self) -> None:
        compared, differences = await self._shadows.refill_search()
        self.report.compared += compared
        self.report.differences += differences
        if differences:
            self.report.name(
                f"difference: search, {differences} rows of the same version differ"
            )

    async def _marks(self) -> Marks:
        return {
            topic: (await self._tables.load(topic, range(PARTITIONS_MAX), [])).positions
            for topic in (COMMANDS, IDENTITY)
        }

    async def _end(self, state: str) -> None:
        """What is not live any more goes, and with it whatever of persons it held."""
        await self._shadows.drop()
        self.report.state = state
        await self._save()

    async def _save(self) -> None:
        self._saved += 1
        self.report.updated_at = self._now_us()
        document = msgspec.json.encode(self.report).decode()
        await self._store.insert(
            "rebuilds",
            {
                "epoch": [self._shadows.epoch],
                "version": [self._saved],
                "document": [document],
            },
        )


def _generation(marks: Marks) -> int:
    """That of the log which the tables were projected from; 0 without any row."""
    rows = [
        (topic, partition, mark)
        for topic, partitions in marks.items()
        for partition, mark in partitions.items()
    ]
    return max(
        (
            position_of(topic, partition, mark.version).generation
            for topic, partition, mark in rows
        ),
        default=0,
    )


def _versions(marks: Marks, partitions: dict[str, int]) -> dict[str, list[int]]:
    return {
        topic: [
            marks[topic].get(partition, BEFORE_THE_FIRST).version
            for partition in range(partitions[topic])
        ]
        for topic in (COMMANDS, IDENTITY)
    }


def only_rebuild(folder: Path) -> AbstractContextManager[None]:
    """The lock of rebuilds on this machine: two would fill one shadow, and none lasts longer than
    its generation."""
    return file_lock(
        folder / "rebuild.lock", Rejected("Another rebuild is running here.")
    )
