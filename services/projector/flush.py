"""The flush of a batch: what it writes and in which order, and the one that is in flight. Never
folds anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from services.projector.batch import Batch
from services.projector.fold import Folder
from services.projector.partition import OwnedPartitions
from services.projector.progress import WorkerProgress
from services.projector.tables.clickhouse import Tables
from services.projector.tables.marks import Vouched
from services.projector.tables.rows import StateRow, failure_row
from shared.domain.commands import encode, route
from shared.domain.errors import LogClosed
from shared.domain.ids import DEAD
from shared.log.consumer import Consumer
from shared.log.dead import dead_letters, kind_of
from shared.log.port import Entry, Log, Reader

FLUSH_SECONDS_MIN = 0.05
"""Between two flushes under load: the same latency at 1,000/s for a third of the INSERTs and
merges."""


class FlushWriter:
    """Writes batches of one topic to the log and the tables."""

    def __init__(
        self,
        *,
        topic: str,
        log: Log,
        reader: Reader,
        tables: Tables,
        consumer: Consumer[Vouched],
        observe: Callable[[WorkerProgress], None],
    ) -> None:
        self._topic = topic
        self._log = log
        self._reader = reader
        self._tables = tables
        self._consumer = consumer
        self._observe = observe

    async def write(
        self, batch: Batch, state: list[StateRow], vouched: Sequence[Vouched]
    ) -> None:
        """Follow-ups, then facts, then state with positions: each step may be repeated, none may
        come earlier. Raises Transient, and Fenced."""
        await self._consumer.assure()
        counts = self._log.partitions()
        entries = [
            Entry(*route(command, counts), encode(command))
            for command in batch.followups
        ]
        entries += dead_letters(batch.dead, counts[DEAD])
        if entries:
            # a topic is closed when all that goes there is there: this was done before
            with suppress(LogClosed):
                await self._log.append(entries)
        failures = [failure_row(record, reason) for record, reason in batch.dead]
        facts = batch.facts._replace(timeline=[*batch.facts.timeline, *failures])
        await self._tables.write_facts(facts)
        await self._tables.write_state(self._topic, state, vouched)
        await self._reader.commit([mark.position for mark in vouched])
        self._observe(_progress(self._topic, batch, len(state)))


class FlushInFlight:
    """The flush that runs beside the fold of the next batch: there is one at most."""

    def __init__(
        self,
        writer: FlushWriter,
        partitions: OwnedPartitions,
        monotonic: Callable[[], float],
    ) -> None:
        self._writer = writer
        self._partitions = partitions
        self._monotonic = monotonic
        self._started_at = float("-inf")
        self.task: asyncio.Task[None] | None = None
        self.trouble = ""
        """What the log or the store said to the last attempt; nothing once all that was read is
        written."""

    @property
    def running(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def wait_seconds(self) -> float:
        """Until the next flush may start."""
        return self._started_at + FLUSH_SECONDS_MIN - self._monotonic()

    def start(self, batch: Batch, folder: Folder, vouched: Sequence[Vouched]) -> None:
        """Start a flush. The one before it must have landed."""
        for mark in vouched:
            self._partitions[mark.position.partition].in_flight = mark.position
        self._started_at = self._monotonic()
        folder.trim(batch)
        # built now: the next fold changes the same objects
        state = folder.state(batch)
        self.task = asyncio.create_task(
            self._writer.write(batch, state, vouched), name=f"flush {folder.topic}"
        )

    async def land_if_done(self) -> None:
        """Without waiting: take the end of a flush in; without one all that was read is written."""
        if self.task is None:
            self.trouble = ""
        elif self.task.done():
            await self.land()

    async def land(self) -> None:
        """Wait for the flush; its positions are confirmed, or its error is raised."""
        if self.task is None:
            return
        task, self.task = self.task, None
        await task
        self._partitions.land()
        self.trouble = ""

    async def abandon(self) -> None:
        """Wait for the flush, however it ends: it could land after the tables were read again."""
        if self.task is not None:
            task, self.task = self.task, None
            await asyncio.gather(task, return_exceptions=True)


def _progress(topic: str, batch: Batch, rows: int) -> WorkerProgress:
    return WorkerProgress(
        topic=topic,
        records=sum(batch.outcomes.values()) + len(batch.dead),
        outcomes={
            outcome.name.lower(): count for outcome, count in batch.outcomes.items()
        },
        dead=[(record.position, kind_of(reason)) for record, reason in batch.dead],
        rows=rows,
        left_out=batch.left_out,
    )
