"""The worker: one topic's partitions from log to tables. Never decides what a command does.

A crash anywhere is harmless: the position lies in the same INSERT block as the state, so a replay of the same
records writes the same rows with the same versions. Whoever finds another position in the table than the one it
wrote has lost the partition, throws everything away and starts again from the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

import structlog

from services.projector.fold import Batch, Folder
from services.projector.lookout import Lookout
from services.projector.progress import Progress, moved
from services.projector.rows import BEFORE_THE_FIRST, Vouched, failure_row
from services.projector.shares import Decoded, Key, Shares, affordable, divided, loaded
from services.projector.tables import LOAD_IDS_MAX, Closed, Loaded, Tables
from services.projector.takeover import Takeover
from shared.domain.commands import Command, Revive, decode, encode, route
from shared.domain.errors import BadRecord, Corrupt, Fenced, LogClosed, NewerVersion, Transient
from shared.domain.ids import DEAD, Position, hash64, position_of
from shared.log.dead import command_of, dead_letter, kind_of
from shared.log.port import EMPTY, Entry, Log, Reader, Record
from shared.store.changes import Changes
from shared.store.timeline import Row

BATCH_RECORDS_MAX = 10_000
"""Records folded together: a batch costs 12-20 ms whatever its size, and more would not make it cheaper."""

FLUSH_SECONDS_MIN = 0.05
"""Between two flushes under load: the same latency at 1,000/s for a third of the INSERTs and merges."""

FETCH_SECONDS = 0.2
"""How long an idle fetch waits; a failed flush is noticed no later."""

BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 0.05, 2.0
"""Between attempts while the store or the log is away; recovery may take that long after they are back."""

DEAD_IN_A_ROW_MAX = 100
"""More dead letters in a row than this mean that the projector is wrong, not the records: the partition stops."""

_EVEN = (1 << 64) - 2

LOAD_ROUNDS_MAX = 8
"""Rounds of loading before a fold: a fragment, its root, the root's members, and as much again after merges."""


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
        changes: Changes | None = None,
        nonce: int = 0,
    ) -> None:
        """`changes` is told what every flush writes, with values from `nonce` on, which must be new to this setup."""
        self._changes, self._nonce = changes, nonce & _EVEN
        self._log, self._reader, self._tables, self._folder = log, reader, tables, folder
        self._monotonic, self._observe = monotonic, observe
        self._confirmed: dict[int, Position] = {}
        self._flying: dict[int, Position] = {}
        self._stamps: dict[int, int] = {}
        self._epochs: dict[int, int] = {}
        self._flight: asyncio.Task[None] | None = None
        self._flushed_at = float("-inf")
        self._leftover: list[Record] = []
        self._waiting: set[int] = set()  # partitions of which some of that was too heavy for the last batch
        self._set_aside: dict[Position, str] = {}
        self._newer: set[Position] = set()
        self._dead_in_a_row: dict[int, int] = {}
        self._takeover = Takeover(log, tables, folder.topic)
        self._doubts = log.doubts  # as of when the first of the partitions held was taken over
        self._lookout = Lookout(log, folder.topic, monotonic)
        self.read = decode
        self.stopped: dict[int, str] = {}
        """Why nothing more is folded of a partition. It is tried again by whoever takes it over."""
        self.trouble = ""
        """What the log or the store said to the last attempt; nothing once all that was read is written."""
        self.behind = False
        """Whether the last batch was a full one: there is more in the log than one flush takes."""

    @property
    def topic(self) -> str:
        return self._folder.topic

    @property
    def positions(self) -> dict[int, Position]:
        """The confirmed position of every partition that this worker holds."""
        return dict(self._confirmed)

    async def run(self) -> None:
        """Project until cancelled. Raises Corrupt when going on would cost data."""
        backoff = BACKOFF_SECONDS_MIN
        await self._reader.start()
        try:
            while True:
                try:
                    await self.turn()
                    backoff = BACKOFF_SECONDS_MIN
                except Fenced:
                    await self._reset()
                except Transient as error:
                    self.trouble = error.detail
                    await self._reset()
                    await asyncio.sleep(backoff)
                    backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)
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
        self._flying = {partition: record.position for partition, (record, _) in batch.last.items()}
        self._flushed_at = self._monotonic()
        self._folder.trim(batch)
        state = self._folder.state(batch)  # built now: the next fold changes the same objects
        vouched = [
            Vouched(record.position, self._stamps[partition], self._epochs[partition], hash64(record.value))
            for partition, (record, _) in batch.last.items()
        ]
        self._flight = asyncio.create_task(self._flush(batch, state, vouched), name=f"flush {self._folder.topic}")

    async def _take_over(self) -> None:
        assigned = self._reader.assigned()
        for partition in self.stopped.keys() - assigned:
            del self.stopped[partition]
        if lost := self._confirmed.keys() - assigned:
            await self._land()
            for partition in lost:
                del self._confirmed[partition]
            self._observe(moved(self._folder.topic))
            self._leftover = [record for record in self._leftover if record.partition in assigned]
            self._waiting &= assigned
            self._folder.drop()
        gained = sorted(assigned - self._confirmed.keys())
        if not gained:
            return
        topic = self._folder.topic
        if not self._confirmed:
            self._doubts = self._log.doubts
        loaded = await self._takeover.load(gained)
        for partition in gained:
            version, stamp, epoch, _ = loaded.positions.get(partition, BEFORE_THE_FIRST)
            position = position_of(topic, partition, version)
            self._confirmed[partition], self._stamps[partition], self._epochs[partition] = position, stamp, epoch
            if self._changes is not None:
                self._changes.announce(topic, [(partition, version)])
            if partition not in self.stopped:
                self._reader.seek(position)
        self._observe(moved(topic))

    def _expected(self, records: list[Record]) -> dict[int, Position]:
        """Behind which position each partition's next record is expected, now that these have come: of those that are
        asked for more."""
        came = {record.partition: record.position for record in records}
        reached = self._confirmed | self._flying | came
        waiting = self._waiting | {record.partition for record in self._leftover}
        return {one: reached[one] for one in self._confirmed.keys() - self.stopped.keys() - waiting}

    async def _gather(self) -> list[Record]:
        """At once when idle; else what came while the last flush ran, and for at least the floor between two. Nothing
        more is fetched of a partition whose records wait for their share."""
        records, self._leftover, waiting = self._leftover, [], self._waiting
        most = BATCH_RECORDS_MAX - sum(record.partition not in waiting for record in records)
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

    async def _fetch(self, most: int, seconds: float, waiting: Collection[int]) -> list[Record]:
        try:
            records = await self._reader.fetch(records_max=most, wait_seconds=seconds, without=waiting)
        except Corrupt as error:
            await self._land()
            await self._takeover.explain(error, sorted(self._confirmed))
            raise
        self._takeover.fetched()
        wanted = self._confirmed.keys() - self.stopped.keys()
        return [record for record in records if record.partition in wanted]

    async def _fold(self, records: list[Record]) -> Batch:
        batch, shares = Batch(), Shares()
        self._newer = set()
        decoded = [(record, self._decode(record)) for record in records]
        end = self._folder.cut([command for _, command in decoded])
        decoded, unloaded = loaded(decoded[:end], await self._load(decoded[:end]))
        await self._open(decoded)
        deferred: list[Record] = []
        for index, (record, command) in enumerate(decoded):
            if batch.full:
                deferred += [one for one, _ in decoded[index:]]
                break
            if record.partition in self.stopped:
                continue
            if shares.over and record.partition in shares.over:
                deferred.append(record)
                continue
            if record.value == EMPTY:
                batch.passed(record, 0)
                continue
            if self._newer and record.position in self._newer:  # nearly never
                self._stop(record.partition, f"{NewerVersion().detail} Offset {record.offset}.")
                continue
            if command is None or (self._set_aside and record.position in self._set_aside):
                self._bury(record, batch)
                continue
            size = batch.bytes
            try:
                self._folder.fold(command, record, batch)
            except Exception as error:  # whatever it is, only this record may suffer: it goes to the dead letters
                self._set_aside[record.position] = f"{type(error).__name__}: {error}"
                raise Fenced("A record could not be folded; its batch is folded again without it.") from error
            if self._dead_in_a_row:
                self._dead_in_a_row.pop(record.partition, None)
            shares.take(record.partition, len(record.value) + batch.bytes - size)
        deferred += [record for record, _ in unloaded]
        self._waiting = {record.partition for record in (*deferred, *self._leftover)}
        self._leftover = [*deferred, *records[end:], *self._leftover]  # each partition in its order
        for partition, (_, stamp) in batch.last.items():
            self._stamps[partition] = max(stamp, self._stamps.get(partition, 0))
        return batch

    async def _open(self, decoded: list[tuple[Record, Command | None]]) -> None:
        """Load the closed lives that the fold needs, once everything that was folded before is visible."""
        wanted = self._folder.closed((command, record) for record, command in decoded)
        if not wanted:
            return
        await self._land()
        for record, command in decoded:
            if command is None:
                self._decode(record)  # landing forgets why redelivered records are set aside
        for closed in wanted:
            try:
                self._folder.open(closed, await self._tables.life(closed))
            except NewerVersion:
                self._newer |= {record.position for record, command in decoded if _revives(command, closed)}

    def _decode(self, record: Record) -> Command | None:
        if record.value == EMPTY:
            return None
        try:
            return command_of(record, self.read)
        except BadRecord as error:
            self._set_aside[record.position] = error.detail
        except NewerVersion:
            self._newer.add(record.position)
        return None

    def _stop(self, partition: int, why: str) -> None:
        """Fold nothing more of a partition: going on would lose what we do not understand."""
        self.stopped[partition] = why
        log = structlog.get_logger(service="projector")
        log.error("stopped", topic=self._folder.topic, partition=partition, reason=why)

    def _bury(self, record: Record, batch: Batch) -> None:
        in_a_row = self._dead_in_a_row[record.partition] = self._dead_in_a_row.get(record.partition, 0) + 1
        if in_a_row > DEAD_IN_A_ROW_MAX:
            self._stop(record.partition, f"More than {DEAD_IN_A_ROW_MAX} dead letters in a row.")
            return
        batch.dead.append((record, self._set_aside[record.position]))
        batch.passed(record, 0)

    async def _load(self, decoded: list[Decoded]) -> Collection[Key]:
        """Everything the fold needs, each answer checked to be of a time when the partitions were ours; but of large
        rows only what the partitions' shares allow. Which were not loaded."""
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
            raise Corrupt("Loading does not come to an end: the identity rows contradict each other.")
        for part in affordable(decoded, large) if large else ():
            await self._load_part(partitions, part, whole=True)
        return set(self._folder.missing(commands)) if large else ()

    async def _load_part(self, partitions: list[int], part: list[Key], *, whole: bool = False) -> dict[Key, int]:
        found = await self._tables.load(self._folder.topic, partitions, part, whole=whole)
        self._check(partitions, found)
        self._folder.admit([key for key in part if key not in found.large], found.rows)
        return found.large

    def _check(self, partitions: list[int], loaded: Loaded) -> None:
        """The tables must stand where we left them, or where the flush in flight will leave them, and be the same."""
        for partition in partitions:
            version, _, epoch, _ = loaded.positions.get(partition, BEFORE_THE_FIRST)
            ours = self._confirmed[partition]
            if version not in (ours.version, self._flying.get(partition, ours).version):
                raise Fenced(f"Partition {partition} of {self._folder.topic} was moved on by somebody else.")
            if epoch != self._epochs[partition]:
                raise Fenced(f"The table of {self._folder.topic} was rebuilt.")

    async def _flush(self, batch: Batch, state: list[Row], vouched: list[Vouched]) -> None:
        """Follow-ups, then facts, then state with positions: each step may be repeated, none may come earlier."""
        await self._log.assure(self._folder.topic, self._doubts)
        counts = self._log.partitions()
        entries = [Entry(*route(command, counts), encode(command)) for command in batch.followups]
        entries += [dead_letter(record, reason, counts[DEAD]) for record, reason in batch.dead]
        if entries:
            with suppress(LogClosed):  # a topic is closed when all that goes there is there: this was done before
                await self._log.append(entries)
        failures = [failure_row(record, reason) for record, reason in batch.dead]
        facts = batch.facts._replace(timeline=[*batch.facts.timeline, *failures])
        await self._tables.write_facts(facts)
        await self._write_state(state, vouched)
        await self._reader.commit([one.position for one in vouched])
        self._observe(
            Progress(
                topic=self._folder.topic,
                records=sum(batch.outcomes.values()) + len(batch.dead),
                outcomes={outcome.name.lower(): count for outcome, count in batch.outcomes.items()},
                dead=[(record.position, kind_of(reason)) for record, reason in batch.dead],
                rows=len(state),
                left_out=batch.left_out,
            )
        )

    async def _write_state(self, state: list[Row], vouched: list[Vouched]) -> None:
        topic, changes = self._folder.topic, self._changes
        if changes is None:
            await self._tables.write_state(topic, state, vouched)
            return
        slots = [changes.slot(topic, row[0], row[1].int) for row in state]
        changes.mark(slots, self._nonce | 1)
        changes.announce(topic, ((one.position.partition, one.position.version) for one in vouched))
        await self._tables.write_state(topic, state, vouched)
        self._nonce = self._nonce + 2 & _EVEN
        changes.mark(slots, self._nonce)
        changes.confirm(topic, ((one.position.partition, one.position.version, one.stamp) for one in vouched))

    async def _land(self) -> None:
        """Wait for the flush in flight; its positions are confirmed, or its error is ours."""
        if self._flight is None:
            return
        flight, self._flight = self._flight, None
        await flight
        for partition, position in self._flying.items():
            if partition in self._confirmed:
                self._confirmed[partition] = position
                for passed in [at for at in self._set_aside if at.partition == partition and at <= position]:
                    del self._set_aside[passed]
        self._flying, self.trouble = {}, ""

    async def _reset(self) -> None:
        """Forget everything but the tables; the flush in flight must end first, or it could land after we read."""
        await self._abandon()
        self._folder.drop()
        self._confirmed, self._flying, self._leftover, self._waiting = {}, {}, [], set()

    async def _abandon(self) -> None:
        if self._flight is not None:
            flight, self._flight = self._flight, None
            await asyncio.gather(flight, return_exceptions=True)


def _revives(command: Command | None, closed: Closed) -> bool:
    return isinstance(command, Revive) and command.fragment == closed.fragment
