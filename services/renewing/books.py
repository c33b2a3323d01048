"""Reads and writes of a renewal in the store.

Every table with position rows gets a row "before the first" of a generation, for each partition of
any generation: a rebuild takes a missing row for a partition of which nothing was ever projected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from services.projector.search import Feeder, position_lines
from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.tables.marks import BEFORE_THE_FIRST, Mark, Vouched
from shared.domain.ids import (
    COMMANDS,
    DELETIONS,
    IDENTITY,
    PARTITIONS_MAX,
    Position,
    position_of,
)
from shared.log.identity import Generation
from shared.log.renewal import Counts
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries
from shared.store.generations import write

FOLDED = (COMMANDS, IDENTITY)
"""Topics whose position rows lie beside their state."""


class StoreBooks:
    """The port `Books` of shared/log/renewal.py; `counts` are those of the ending generation."""

    def __init__(self, store: Store, counts: Counts, now_us: Callable[[], int]) -> None:
        self._store = store
        self._counts = counts
        self._now_us = now_us
        self._tables = ClickHouseTables(store)
        self._queries = load_queries(Path(__file__).with_name("books.sql"))

    async def positions(self, topic: str) -> dict[int, Position]:
        if topic == DELETIONS:
            rows = await self._store.rows(self._queries["deletion_positions"])
            return {
                partition: position_of(DELETIONS, partition, version)
                for partition, version in rows
            }
        marks = (
            await self._tables.load(topic, range(self._counts[topic]), [])
        ).positions
        return {
            partition: position_of(topic, partition, mark.version)
            for partition, mark in marks.items()
        }

    async def move(self, positions: Sequence[Position]) -> None:
        for topic in FOLDED:
            marks = await self._marks(topic)
            own = [position for position in positions if position.topic == topic]
            await self._vouch(topic, own, marks)
        deletions = [position for position in positions if position.topic == DELETIONS]
        await self._take_over(deletions)

    async def feed(self) -> None:
        await Feeder(self._store, dict(self._counts)).feed()

    async def begin(self, generation: int, counts: Counts) -> None:
        first = {
            topic: before_the_first(topic, counts[topic], generation)
            for topic in counts
        }
        for topic in FOLDED:
            await self._vouch(topic, first[topic], await self._marks(topic))
        versions = {
            topic: [position.version for position in first[topic]] for topic in FOLDED
        }
        await self._store.insert_json("search", position_lines(versions))
        await self._take_over(first[DELETIONS])

    async def write(self, generation: Generation) -> None:
        await write(self._store, generation, self._now_us())

    async def _marks(self, topic: str) -> dict[int, Mark]:
        return (await self._tables.load(topic, range(PARTITIONS_MAX), [])).positions

    async def _vouch(
        self, topic: str, positions: Sequence[Position], marks: dict[int, Mark]
    ) -> None:
        """Move marks ahead, each with the highest stamp and epoch of all.

        A fragment may move to another partition, and a table has one epoch.
        """
        stamp = max((mark.stamp for mark in marks.values()), default=0)
        epoch = max((mark.epoch for mark in marks.values()), default=0)
        ahead = [
            position
            for position in positions
            if position.version
            > marks.get(position.partition, BEFORE_THE_FIRST).version
        ]
        if ahead:
            vouched = [Vouched(position, stamp, epoch) for position in ahead]
            await self._tables.write_state(topic, [], vouched)

    async def _take_over(self, positions: Sequence[Position]) -> None:
        columns = {
            "partition": [position.partition for position in positions],
            "version": [position.version for position in positions],
        }
        await self._store.insert("deletion_positions", columns)


def before_the_first(topic: str, partitions: int, generation: int) -> list[Position]:
    """Build a generation's positions before the first command, one a partition."""
    return [
        Position(topic, partition, -1, generation) for partition in range(partitions)
    ]
