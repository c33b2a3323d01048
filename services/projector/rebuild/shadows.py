"""Shadow tables: filled beside the live ones, then swapped with them. Never derives a row.

A shadow is of a new epoch, and refuses every batch that was folded on the table before it: so a
swap is to a projector as if an older copy of the database had been restored, which it is made for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.projector.search import Feeder
from services.projector.tables import rows as r
from services.projector.tables.marks import BEFORE_THE_FIRST, Mark, Vouched
from shared.domain.errors import Corrupt
from shared.domain.ids import COMMANDS, IDENTITY, position_of
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries

WRITE_BYTES_MAX = 32_000_000
"""Rows of a shadow that are written together."""

HOLD_SECONDS = 20.0
"""A hold ends by itself: a rebuild that is killed must not stop projection for good. Writers wait,
nothing is lost."""

TABLES = {COMMANDS: "fragments", IDENTITY: "identity"}

Marks = dict[str, dict[int, Mark]]


class Shadows:
    """The shadows of one epoch. `partitions` are the log's counts by topic."""

    def __init__(self, store: Store, partitions: Mapping[str, int]) -> None:
        self._store = store
        self._partitions = partitions
        self.queries = load_queries(Path(__file__).with_name("rebuild.sql"))
        self.epoch = 0
        self._unswapped = dict(TABLES)

    async def open(self, *, resumed: bool, marks: Marks) -> None:
        """Create what is not there yet. What an interrupted rebuild had swapped stays as it is: its
        shadow is the old table now."""
        if resumed:
            self._unswapped = {
                topic: table
                for topic, table in TABLES.items()
                if all(mark.epoch != self.epoch for mark in marks[topic].values())
            }
        for table in self._unswapped.values():
            await self.command(f"shadow_{table}")
            await self.command("release", table=f"{table}_rebuild")
            if not resumed:
                await self.command("forget_epoch", table=f"{table}_rebuild")
            await self.command(f"epoch_of_{table}", epoch=self.epoch)
        await self._store.learn_columns()

    async def write(self, topic: str, state: Sequence[r.StateRow]) -> int:
        """Write rows, unless the table was swapped already; how many were written."""
        if topic not in self._unswapped:
            return 0
        names = r.FRAGMENTS if topic == COMMANDS else r.IDENTITY
        table = f"{TABLES[topic]}_rebuild"
        batch: list[r.StateRow] = []
        size = 0
        for row in state:
            batch.append(row)
            if isinstance(row, r.FragmentState):
                size += 300 + row.characters
            else:
                size += 300 + 16 * len(row.members)
            if size > WRITE_BYTES_MAX:
                await self._store.insert(table, r.columns(names, batch))
                batch, size = [], 0
        if batch:
            await self._store.insert(table, r.columns(names, batch))
        return len(state)

    async def hold(self, deadline: float) -> bool:
        """Hold projection; False when inserts before it have not ended by the deadline."""
        # the engine's clock ends the hold, not ours
        ((now_ms,),) = await self._store.rows(self.queries["now"])
        until = now_ms + int(HOLD_SECONDS * 1_000)
        for table in self._unswapped.values():
            await self.command("release", table=table)
            await self.command("hold", table=table, until=until)
        while (await self._store.rows(self.queries["inserting"]))[0][0]:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def release(self) -> None:
        """End the hold."""
        for table in TABLES.values():
            await self.command("release", table=table)

    async def assure_complete(self, invented: int) -> None:
        """The last guard before a swap: no key may be missing, but those `invented` that no fact
        explains. Raises Corrupt."""
        for table in self._unswapped.values():
            live = await self._count(table)
            shadow = await self._count(f"{table}_rebuild")
            if shadow + invented < live:
                raise Corrupt(
                    f"{table}_rebuild has {shadow} keys, {table} {live}: nothing is swapped."
                )

    async def swap(self, marks: Marks) -> None:
        """Make the shadows the live tables, in one EXCHANGE each."""
        for topic, table in self._unswapped.items():
            await self._vouch(topic, table, marks[topic])
            await self.command("swap", table=table, shadow=f"{table}_rebuild")

    async def refill_search(self) -> tuple[int, int]:
        """The search table anew from the swapped tables; who changes meanwhile is fed from its
        positions on. The rows that were compared, and those that differ."""
        await self.command("drop", table="search_rebuild")
        await self.command("shadow_search")
        await self._store.learn_columns()
        await Feeder(self._store, dict(self._partitions), "search_rebuild").feed()
        ((compared, differences),) = await self._store.rows(
            self.queries["compare_search"]
        )
        await self.command("swap", table="search", shadow="search_rebuild")
        return compared, differences

    async def drop(self) -> None:
        """Drop every shadow, and with it whatever of persons it held."""
        for table in (*TABLES.values(), "search"):
            await self.command("drop", table=f"{table}_rebuild")

    async def command(self, name: str, **parameters: Any) -> None:
        """Run a statement of rebuild.sql."""
        await self._store.command(self.queries[name], **parameters)

    async def _count(self, table: str) -> int:
        ((count,),) = await self._store.rows(self.queries[f"count_{table}"])
        return int(count)

    async def _vouch(self, topic: str, table: str, marks: dict[int, Mark]) -> None:
        """Position rows for every partition, of this epoch: what no worker of the table before it
        can write. Those that a former generation had more stay too, for the generation after this
        one may have them again."""
        vouched = []
        for partition in sorted({*range(self._partitions[topic]), *marks}):
            mark = marks.get(partition, BEFORE_THE_FIRST)
            position = position_of(topic, partition, mark.version)
            vouched.append(Vouched(position, mark.stamp, self.epoch, mark.record))
        await self._store.insert(
            f"{table}_rebuild", r.state_columns(topic, [], vouched)
        )
