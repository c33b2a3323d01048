"""The worker: one topic's partitions from log to tables. Never decides what a command does.

A crash anywhere is harmless: the position lies in the same INSERT block as the state, so a replay
of the same records writes the same rows with the same versions. Whoever finds another position in
the table than the one it wrote has lost the partition, throws everything away and starts again from
the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

import structlog

from services.projector.batch import Batch, Foldable
from services.projector.fold import Folder
from services.projector.lookout import Lookout
from services.projector.partition import Partition
from services.projector.progress import Progress, moved
from services.projector.shares import Decoded, Key, Shares, affordable, divided, loaded
from services.projector.tables.clickhouse import LOAD_IDS_MAX, Closed, Loaded, Tables
from services.projector.tables.marks import BEFORE_THE_FIRST, Vouched
from services.projector.tables.rows import State, failure_row
from shared.domain.commands import Command, Revive, decode, encode, route
from shared.domain.errors import (
    BadRecord,
    Corrupt,
    Fenced,
    LogClosed,
    NewerVersion,
    Transient,
)
from shared.domain.ids import DEAD, Position, hash64
from shared.log.consumer import Consumer
from shared.log.dead import TOO_MANY_DEAD, command_of, dead_letters, kind_of
from shared.log.port import EMPTY, Entry, Log, Reader, Record

BATCH_RECORDS_MAX = 10_000
"""Records folded together: a batch costs 12-20 ms whatever its size, and more would not make it
cheaper."""

FLUSH_SECONDS_MIN = 0.05
"""Between two flushes under load: the same latency at 1,000/s for a third of the INSERTs and
merges."""

FETCH_SECONDS = 0.2
"""How long an idle fetch waits; a failed flush is noticed no later."""

LOAD_ROUNDS_MAX = 8
"""Rounds of loading before a fold: a fragment, its root, the root's members, and as much again
after merges."""


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
        observe: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._log = log
        self._reader = reader
        self._tables = tables
        self._folder = folder
        self._monotonic = monotonic
        self._observe = observe
        self._consumer = Consumer(log, reader, folder.topic, tables)
        self._lookout = Lookout(log, folder.topic, monotonic)
        self._partitions: dict[int, Partition] = {}
        self._flight: asyncio.Task[None] | None = None
        self._flushed_at = float("-inf")
        self._leftover: list[Record] = []
        self._newer: set[Position] = set()
        self.read = decode
        self.trouble = ""
        """What the log or the store said to the last attempt; nothing once all that was read is
        written."""
        self.behind = False
        """Whether the last batch was a full one: there is more in the log than one flush takes."""

    @property
    def topic(self) -> str:
        return self._folder.topic

    @property
    def positions(self) -> dict[int, Position]:
        """The confirmed position of every partition that this worker holds."""
        return {
            one.number: one.confirmed
            for one in self._partitions.values()
            if one.holding
        }

    @property
    def stopped(self) -> dict[int, str]:
        """Why nothing more is folded of a partition. It is tried again by whoever takes it over."""
        return {
            one.number: one.stopped for one in self._partitions.values() if one.stopped
        }

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
            await self._abandon()
            await self._reader.close()

    async def turn(self) -> None:
        """One round: take over partitions, gather what came, fold it, hand it to a flush."""
        await self._take_over()
        records = await self._gather()
        if not self.behind:
            await self._lookout.look(self._expected(records))
        if not records:
            if self._flight is None:
                self.trouble = ""
            elif self._flight.done():
                await self._land()
            return
        batch = await self._fold(records)
        await self._land()
        if not batch.last:  # all of it was behind where a partition has stopped
            return
        vouched = [
            self._partitions[partition].vouched(
                reached.record, reached.stamp, hash64(reached.record.value)
            )
            for partition, reached in batch.last.items()
        ]
        for one in vouched:
            self._partitions[one.position.partition].flying = one.position
        self._flushed_at = self._monotonic()
        self._folder.trim(batch)
        state = self._folder.state(
            batch
        )  # built now: the next fold changes the same objects
        self._flight = asyncio.create_task(
            self._flush(batch, state, vouched), name=f"flush {self._folder.topic}"
        )

    async def _take_over(self) -> None:
        assigned = self._reader.assigned()
        if lost := self._partitions.keys() - assigned:
            if any(self._partitions[partition].holding for partition in lost):
                await self._land()
                self._leftover = [
                    record for record in self._leftover if record.partition in assigned
                ]
                self._folder.drop()
            for partition in lost:
                del self._partitions[partition]
            self._observe(moved(self._folder.topic))
        gained = sorted(assigned - self.positions.keys())
        if not gained:
            return
        holding = len(gained) < len(assigned)
        for partition, table in (
            await self._consumer.take_over(gained, holding=holding)
        ).items():
            if partition not in self._partitions:
                self._partitions[partition] = Partition(partition, table.position)
            one = self._partitions[partition]
            one.take_over(table)
            if not one.stopped:
                self._reader.seek(one.confirmed)
        self._observe(moved(self._folder.topic))

    def _expected(self, records: list[Record]) -> dict[int, Position]:
        """Behind which position each partition's next record is expected, now that these have come:
        of those that are asked for more."""
        came = {record.partition: record.position for record in records}
        left = {record.partition for record in self._leftover}
        asked = [
            one
            for one in self._partitions.values()
            if one.going and not one.waiting and one.number not in left
        ]
        return {one.number: came.get(one.number, one.reached) for one in asked}

    @property
    def _waiting(self) -> set[int]:
        return {one.number for one in self._partitions.values() if one.waiting}

    async def _gather(self) -> list[Record]:
        """At once when idle; else what came while the last flush ran, and for at least the floor
        between two. Nothing more is fetched of a partition whose records wait for their share."""
        records, self._leftover, waiting = self._leftover, [], self._waiting
        most = BATCH_RECORDS_MAX - sum(
            record.partition not in waiting for record in records
        )
        seconds, shares = 0.0 if records else FETCH_SECONDS, Shares(records)
        while most > 0:
            came = await self._fetch(most, seconds, waiting | shares.over)
            records += came
            most -= len(came)
            shares.take_all(came)
            if not records:
                break
            rest = self._flushed_at + FLUSH_SECONDS_MIN - self._monotonic()
            busy = self._flight is not None and not self._flight.done()
            if rest <= 0 and not busy:
                break
            seconds = max(rest, 0.005)
        self.behind = most <= 0
        if shares.over or waiting:
            records, self._leftover = divided(records)
        return records

    async def _fetch(
        self, most: int, seconds: float, waiting: Collection[int]
    ) -> list[Record]:
        try:
            records = await self._consumer.fetch(most, seconds, waiting)
        except Corrupt as error:
            await self._land()
            await self._consumer.explain(error, self.positions)
        going = {one.number for one in self._partitions.values() if one.going}
        return [record for record in records if record.partition in going]

    async def _fold(self, records: list[Record]) -> Batch:
        batch = Batch()
        self._newer = set()
        decoded = [(record, self._decode(record)) for record in records]
        end = self._folder.cut([command for _, command in decoded])
        decoded, unloaded = loaded(decoded[:end], await self._load(decoded[:end]))
        await self._open(decoded)
        deferred: list[Record] = []
        folding: list[Record] = []
        try:
            self._folder.fold(self._foldable(decoded, batch, deferred, folding), batch)
        except Exception as error:  # whatever it is, only this record may suffer: it goes to the dead letters
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
        heavy = {record.partition for record in (*deferred, *self._leftover)}
        self._leftover = [
            *deferred,
            *records[end:],
            *self._leftover,
        ]  # each partition in its order
        for one in self._partitions.values():
            one.waiting = one.number in heavy
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
        shares, partitions = Shares(), self._partitions
        for index, (record, command) in enumerate(decoded):
            if batch.full:
                deferred += [one for one, _ in decoded[index:]]
                return
            partition = partitions[record.partition]
            if partition.stopped:
                continue
            if shares.over and partition.number in shares.over:
                deferred.append(record)
                continue
            if record.value == EMPTY:
                batch.passed(record, 0)
                continue
            if self._newer and record.position in self._newer:  # nearly never
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

    async def _open(self, decoded: list[tuple[Record, Command | None]]) -> None:
        """Load the closed lives that the fold needs, once everything that was folded before is
        visible."""
        wanted = self._folder.closed((command, record) for record, command in decoded)
        if not wanted:
            return
        await self._land()
        for record, command in decoded:
            if command is None:
                self._decode(
                    record
                )  # landing forgets why redelivered records are set aside
        for closed in wanted:
            try:
                self._folder.open(closed, await self._tables.life(closed))
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
        batch.passed(record, 0)

    async def _load(self, decoded: list[Decoded]) -> Collection[Key]:
        """Everything the fold needs, each answer checked to be of a time when the partitions were
        ours; but of large rows only what the partitions' shares allow. Which were not loaded."""
        partitions = sorted({record.partition for record, _ in decoded})
        commands = [command for _, command in decoded if command is not None]
        large: dict[Key, int] = {}
        wanted = self._folder.missing(commands)
        for _ in range(LOAD_ROUNDS_MAX + len(decoded)):
            large |= await self._load_part(partitions, wanted[:LOAD_IDS_MAX])
            wanted = [key for key in self._folder.missing(commands) if key not in large]
            if not wanted:
                break
        else:
            raise Corrupt(
                "Loading does not come to an end: the identity rows contradict each other."
            )
        for part in affordable(decoded, large) if large else ():
            await self._load_part(partitions, part, whole=True)
        return set(self._folder.missing(commands)) if large else ()

    async def _load_part(
        self, partitions: list[int], part: list[Key], *, whole: bool = False
    ) -> dict[Key, int]:
        found = await self._tables.load(
            self._folder.topic, partitions, part, whole=whole
        )
        self._check(partitions, found)
        self._folder.admit([key for key in part if key not in found.large], found.rows)
        return found.large

    def _check(self, partitions: list[int], loaded: Loaded) -> None:
        """The tables must stand where we left them, or where the flush in flight will leave them,
        and be the same."""
        for partition in partitions:
            table, ours = (
                loaded.positions.get(partition, BEFORE_THE_FIRST),
                self._partitions[partition],
            )
            if table.version not in (ours.confirmed.version, ours.reached.version):
                raise Fenced(
                    f"Partition {partition} of {self._folder.topic} was moved on by somebody else."
                )
            if table.epoch != ours.epoch:
                raise Fenced(f"The table of {self._folder.topic} was rebuilt.")

    async def _flush(
        self, batch: Batch, state: list[State], vouched: list[Vouched]
    ) -> None:
        """Follow-ups, then facts, then state with positions: each step may be repeated, none may
        come earlier."""
        await self._consumer.assure()
        counts = self._log.partitions()
        entries = [
            Entry(*route(command, counts), encode(command))
            for command in batch.followups
        ]
        entries += dead_letters(batch.dead, counts[DEAD])
        if entries:
            with suppress(
                LogClosed
            ):  # a topic is closed when all that goes there is there: this was done before
                await self._log.append(entries)
        failures = [failure_row(record, reason) for record, reason in batch.dead]
        facts = batch.facts._replace(timeline=[*batch.facts.timeline, *failures])
        await self._tables.write_facts(facts)
        await self._tables.write_state(self._folder.topic, state, vouched)
        await self._reader.commit([one.position for one in vouched])
        self._observe(
            Progress(
                topic=self._folder.topic,
                records=sum(batch.outcomes.values()) + len(batch.dead),
                outcomes={
                    outcome.name.lower(): count
                    for outcome, count in batch.outcomes.items()
                },
                dead=[
                    (record.position, kind_of(reason)) for record, reason in batch.dead
                ],
                rows=len(state),
                left_out=batch.left_out,
            )
        )

    async def _land(self) -> None:
        """Wait for the flush in flight; its positions are confirmed, or its error is ours."""
        if self._flight is None:
            return
        flight, self._flight = self._flight, None
        await flight
        for one in self._partitions.values():
            one.land()
        self.trouble = ""

    async def _reset(self, error: Fenced | Transient) -> None:
        """Forget everything but the tables; the flush in flight must end first, or it could land
        after we read."""
        if isinstance(error, Transient):
            self.trouble = error.detail
        await self._abandon()
        self._folder.drop()
        self._leftover = []
        for one in self._partitions.values():
            one.reset()

    async def _abandon(self) -> None:
        if self._flight is not None:
            flight, self._flight = self._flight, None
            await asyncio.gather(flight, return_exceptions=True)


def _revives(command: Command | None, closed: Closed) -> bool:
    return isinstance(command, Revive) and command.fragment == closed.fragment
