"""From the deletions topic to the ledger. Never decides when something is deleted.

Rows first, then the position: a crash between the two replays records, and the ledger takes them
twice for once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress

import structlog

from services.deleter.ledger import Ledger
from shared.domain.commands import Cancel, DeletionCommand, RequestDeletion, decode
from shared.domain.deletion import NEWER
from shared.domain.errors import (
    BadRecord,
    Corrupt,
    Fenced,
    LogClosed,
    NewerVersion,
    Transient,
)
from shared.domain.ids import DEAD, DELETIONS, Position, hash64
from shared.log.consumer import Consumer
from shared.log.dead import (
    TOO_MANY_DEAD,
    Dead,
    DeadRun,
    command_of,
    dead_letters,
    kind_of,
)
from shared.log.port import EMPTY, Log, Reader, Record
from shared.runtime import telemetry

BATCH_RECORDS_MAX = 500
"""A request may name 2,500 members: 100 KB each."""

FETCH_SECONDS = 0.5


class IntakePartition:
    """One partition that the intake holds. `position`: where the ledger is in it; None while that
    must be read."""

    __slots__ = ("dead", "position")

    def __init__(self) -> None:
        self.position: Position | None = None
        self.dead = DeadRun()


class Intake:
    """The one member of the deleter's group that holds the partition; others stand by."""

    def __init__(
        self,
        *,
        log: Log,
        reader: Reader,
        ledger: Ledger,
        lock: Callable[[], AbstractAsyncContextManager[None]],
        now_us: Callable[[], int],
        on_commands: Callable[[Sequence[DeletionCommand]], None] = lambda commands: (
            None
        ),
    ) -> None:
        """`on_commands` is called with what is in the ledger since; with nothing when the partition
        was taken over."""
        self._on_commands = on_commands
        self._log = log
        self._reader = reader
        self._ledger = ledger
        self._lock = lock
        self._now_us = now_us
        self._consumer = Consumer(log, reader, DELETIONS, ledger)
        self._partitions: dict[int, IntakePartition] = {}
        self.stopped = ""
        """Why nothing more is taken over, until somebody takes the partition over. Nothing is
        erased either: who knows what the rest would say of it."""

    def owns(self) -> bool:
        return bool(self._held_partitions()) and not self.stopped

    async def run(self) -> None:
        """Take requests over until cancelled."""
        await self._reader.start()
        try:
            while True:
                try:
                    await self.turn()
                    self._consumer.recover()
                except (Fenced, Transient) as error:
                    self._reset()
                    await self._consumer.back_off(error)
        finally:
            await self._reader.close()

    async def turn(self) -> None:
        """One fetch: partition by partition into the ledger."""
        await self._take_over()
        partitions = self._held_partitions()
        try:
            records = await self._consumer.fetch(BATCH_RECORDS_MAX, FETCH_SECONDS)
        except Corrupt as error:
            await self._consumer.explain(error, partitions)
        for partition in {record.partition for record in records} & partitions:
            if self.stopped:
                return
            try:
                await self._take(
                    [record for record in records if record.partition == partition]
                )
            except NewerVersion as error:  # of a request that the ledger holds
                self._stop(error.detail)

    async def _take_over(self) -> None:
        assigned = self._reader.assigned()
        for lost in self._partitions.keys() - assigned:
            del self._partitions[lost]
        partitions = self._held_partitions()
        gained = sorted(assigned - partitions)
        if not gained:
            return
        for partition, standing in (
            await self._consumer.take_over(gained, holding=bool(partitions))
        ).items():
            if partition not in self._partitions:
                self._partitions[partition] = IntakePartition()
                self.stopped = ""
            self._partitions[partition].position = standing.position
            self._reader.seek(standing.position)
        self._on_commands([])

    def _reset(self) -> None:
        """Forget where the ledger is. Records that are read again do not count again."""
        for partition in self._partitions.values():
            partition.position = None

    def _held_partitions(self) -> set[int]:
        return {
            number
            for number, partition in self._partitions.items()
            if partition.position is not None
        }

    async def _take(self, records: list[Record]) -> None:
        partition = self._partitions[records[0].partition]
        commands: list[DeletionCommand] = []
        dead: list[Dead] = []
        last: Record | None = None
        for record in records:
            try:
                if record.value != EMPTY:
                    commands.append(_command(record))
                    partition.dead.end(record)
            except NewerVersion:
                self._stop(f"{NEWER} Offset {record.offset}.")
                break
            except BadRecord as error:
                if not partition.dead.add(record):
                    self._stop(TOO_MANY_DEAD)
                    break
                dead.append((record, error.detail))
            last = record
        if last is None:
            return
        async with self._lock():
            await self._consumer.assure()
            if dead:
                with suppress(
                    LogClosed
                ):  # closed when all that goes there is there: this was done before
                    await self._log.append(
                        dead_letters(dead, self._log.partitions()[DEAD])
                    )
                telemetry.dead_letters(
                    (record.position, kind_of(reason)) for record, reason in dead
                )
            if await self._ledger.position(last.partition) != partition.position:
                raise Fenced(
                    "Somebody else has gone on; start again from where they are."
                )
            await self._ledger.take(commands, self._now_us())
            await self._ledger.advance(last.position, hash64(last.value))
        partition.position = last.position
        self._on_commands(commands)
        await self._reader.commit([last.position])

    def _stop(self, why: str) -> None:
        self.stopped = why
        structlog.get_logger(service="deleter").error(
            "stopped", topic=DELETIONS, reason=why
        )


def _command(record: Record) -> DeletionCommand:
    command = command_of(record, decode)
    if not isinstance(command, RequestDeletion | Cancel):
        raise BadRecord(f"A {type(command).__name__} does not belong into {DELETIONS}.")
    return command
