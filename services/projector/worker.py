"""The worker: one topic's partitions from log to tables. Never decides what a command does.

A crash anywhere is harmless: the position lies in the same INSERT block as the state, so a replay
of the same records writes the same rows with the same versions. Whoever finds another position in
the table than the one it wrote has lost the partition, throws everything away and starts again from
the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog

from services.projector.batch import Batch, Foldable
from services.projector.fetcher import Fetcher
from services.projector.flush import FlushInFlight, FlushWriter
from services.projector.fold import Folder
from services.projector.loader import Loader
from services.projector.lookout import Lookout
from services.projector.partition import OwnedPartitions, Partition
from services.projector.progress import WorkerProgress, moved
from services.projector.shares import Decoded, Shares, loaded
from services.projector.tables.clickhouse import Closed, Tables
from shared.domain.commands import Command, Revive, decode
from shared.domain.errors import BadRecord, Fenced, NewerVersion, Transient
from shared.domain.ids import Position, hash64
from shared.log.consumer import Consumer
from shared.log.dead import TOO_MANY_DEAD, command_of
from shared.log.port import EMPTY, Log, Reader, Record


class Worker:
    """One member of the group that projects one topic."""

    def __init__(
        self,
        *,
        log: Log,
        reader: Reader,
        tables: Tables,
        folder: Folder,
        monotonic: Callable[[], float],
        observe: Callable[[WorkerProgress], None] = lambda progress: None,
    ) -> None:
        self._reader = reader
        self._folder = folder
        self._observe = observe
        self._consumer = Consumer(log, reader, folder.topic, tables)
        self._partitions = OwnedPartitions()
        writer = FlushWriter(
            topic=folder.topic,
            log=log,
            reader=reader,
            tables=tables,
            consumer=self._consumer,
            observe=observe,
        )
        self._flight = FlushInFlight(writer, self._partitions, monotonic)
        lookout = Lookout(log, folder.topic, monotonic)
        self._fetcher = Fetcher(self._consumer, self._partitions, self._flight, lookout)
        self._loader = Loader(tables, folder, self._partitions)
        self._newer: set[Position] = set()
        """Records of this batch that a newer version wrote."""
        self.read = decode

    @property
    def topic(self) -> str:
        return self._folder.topic

    @property
    def positions(self) -> dict[int, Position]:
        """The confirmed position of every partition that this worker holds."""
        return self._partitions.positions

    @property
    def stopped(self) -> dict[int, str]:
        """Why nothing more is folded of a partition. It is tried again by whoever takes it over."""
        return self._partitions.stopped

    @property
    def trouble(self) -> str:
        """What the log or the store said to the last attempt; nothing once all that was read is
        written."""
        return self._flight.trouble

    @property
    def behind(self) -> bool:
        """Whether there is more in the log than one flush takes."""
        return self._fetcher.behind

    async def run(self) -> None:
        """Project until cancelled. Raises Corrupt when going on would cost data."""
        await self._reader.start()
        try:
            while True:
                try:
                    await self.turn()
                    self._consumer.recover()
                except (Fenced, Transient) as error:
                    await self._reset(error)
                    await self._consumer.back_off(error)
        finally:
            await self._flight.abandon()
            await self._reader.close()

    async def turn(self) -> None:
        """One round: take over partitions, gather what came, fold it, hand it to a flush."""
        await self._take_over()
        records = await self._fetcher.gather()
        if not records:
            await self._flight.land_if_done()
            return
        batch = await self._fold(records)
        await self._flight.land()
        if not batch.last:  # all of it was behind where a partition has stopped
            return
        vouched = [
            self._partitions[partition].vouch(
                last.record, last.stamp, hash64(last.record.value)
            )
            for partition, last in batch.last.items()
        ]
        self._flight.start(batch, self._folder, vouched)

    async def _take_over(self) -> None:
        assigned = self._reader.assigned()
        if lost := self._partitions.by_number.keys() - assigned:
            if any(self._partitions[partition].holding for partition in lost):
                await self._flight.land()
                self._fetcher.keep_only(assigned)
                self._folder.drop()
            self._partitions.drop(lost)
            self._observe(moved(self._folder.topic))
        gained = sorted(assigned - self.positions.keys())
        if not gained:
            return
        tables = await self._consumer.take_over(
            gained, holding=len(gained) < len(assigned)
        )
        for number, table in tables.items():
            partition = self._partitions.take_over(number, table)
            if not partition.stopped:
                self._reader.seek(partition.confirmed)
        self._observe(moved(self._folder.topic))

    async def _fold(self, records: list[Record]) -> Batch:
        batch = Batch()
        self._newer = set()
        decoded = [(record, self._decode(record)) for record in records]
        end = self._folder.cut([command for _, command in decoded])
        decoded, unloaded = loaded(
            decoded[:end], await self._loader.load(decoded[:end])
        )
        await self._open(decoded)
        deferred: list[Record] = []
        folding: list[Record] = []
        try:
            self._folder.fold(self._foldable(decoded, batch, deferred, folding), batch)
        except Exception as error:
            # whatever it is, only this record may suffer: it goes to the dead letters
            if not folding:
                raise
            record = folding[0]
            self._partitions[record.partition].set_aside[record.position] = (
                f"{type(error).__name__}: {error}"
            )
            raise Fenced(
                "A record could not be folded; its batch is folded again without it."
            ) from error
        deferred += [record for record, _ in unloaded]
        self._fetcher.put_back(deferred, records[end:])
        return batch

    def _foldable(
        self,
        decoded: list[Decoded],
        batch: Batch,
        deferred: list[Record],
        folding: list[Record],
    ) -> Iterator[Foldable]:
        """The records that can be folded now. What waits goes to `deferred`; `folding` has the one
        that is folded."""
        shares, newer = Shares(), self._newer
        partitions = self._partitions.by_number
        for index, (record, command) in enumerate(decoded):
            if batch.full:
                deferred += [later for later, _ in decoded[index:]]
                return
            partition = partitions[record.partition]
            if partition.stopped:
                continue
            if shares.over and partition.number in shares.over:
                deferred.append(record)
                continue
            if record.value == EMPTY:
                batch.conclude(record, 0)
                continue
            if newer and record.position in newer:  # nearly never
                self._stop(
                    partition, f"{NewerVersion().detail} Offset {record.offset}."
                )
                continue
            if command is None or (
                partition.set_aside and record.position in partition.set_aside
            ):
                self._bury(record, partition, batch)
                continue
            size = batch.bytes
            folding[:] = (record,)
            yield record, command
            if partition.dead.length:
                partition.dead.end(record)
            shares.take(partition.number, len(record.value) + batch.bytes - size)

    async def _open(self, decoded: list[Decoded]) -> None:
        """Load the closed lives that the fold needs, once everything that was folded before is
        visible."""
        lives = self._folder.closed((command, record) for record, command in decoded)
        if not lives:
            return
        await self._flight.land()
        for record, command in decoded:
            if command is None:
                # landing forgets why redelivered records are set aside
                self._decode(record)
        for closed in lives:
            try:
                await self._loader.open(closed)
            except NewerVersion:
                self._newer |= {
                    record.position
                    for record, command in decoded
                    if _revives(command, closed)
                }

    def _decode(self, record: Record) -> Command | None:
        if record.value == EMPTY:
            return None
        try:
            return command_of(record, self.read)
        except BadRecord as error:
            self._partitions[record.partition].set_aside[record.position] = error.detail
        except NewerVersion:
            self._newer.add(record.position)
        return None

    def _stop(self, partition: Partition, why: str) -> None:
        """Fold nothing more of a partition: going on would lose what we do not understand."""
        partition.stopped = why
        log = structlog.get_logger(service="projector")
        log.error(
            "stopped", topic=self._folder.topic, partition=partition.number, reason=why
        )

    def _bury(self, record: Record, partition: Partition, batch: Batch) -> None:
        if not partition.dead.add(record):
            self._stop(partition, TOO_MANY_DEAD)
            return
        batch.dead.append((record, partition.set_aside[record.position]))
        batch.conclude(record, 0)

    async def _reset(self, error: Fenced | Transient) -> None:
        """Forget everything but the tables; the flush in flight must end first, or it could land
        after we read."""
        if isinstance(error, Transient):
            self._flight.trouble = error.detail
        await self._flight.abandon()
        self._folder.drop()
        self._fetcher.reset()
        self._partitions.reset()


def _revives(command: Command | None, closed: Closed) -> bool:
    return isinstance(command, Revive) and command.fragment == closed.fragment
