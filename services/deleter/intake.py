"""From the deletions topic to the ledger. Never decides when something is deleted.

Rows first, then the position: a crash between the two replays records, and the ledger takes them twice for once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress

import structlog

from services.deleter.ledger import Ledger
from shared.domain.commands import Cancel, DeletionCommand, Request, decode
from shared.domain.deletion import NEWER
from shared.domain.errors import BadRecord, Corrupt, LogClosed, NewerVersion, Transient
from shared.domain.ids import DEAD, DELETIONS, Position, hash64
from shared.log.dead import command_of, dead_letter, kind_of
from shared.log.evidence import Riddle, Standing, check
from shared.log.port import EMPTY, Log, Reader, Record
from shared.runtime import telemetry

BATCH_RECORDS_MAX = 500
"""A request may name 2,500 members: 100 KB each."""

FETCH_SECONDS = 0.5

BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 0.1, 5.0
"""Between attempts while the log or the store is away."""


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
        taken: Callable[[Sequence[DeletionCommand]], None] = lambda commands: None,
    ) -> None:
        """`taken` hears of what is in the ledger since; of nothing when the partition was taken over."""
        self._taken = taken
        self._log, self._reader, self._ledger = log, reader, ledger
        self._lock, self._now_us = lock, now_us
        self._positions: dict[int, Position] = {}
        self._doubts = log.doubts  # as of when the first of the partitions held was taken over
        self._riddle = Riddle()
        self.stopped = ""
        """Why nothing more is taken over. Nothing is erased either: who knows what the rest would say of it."""

    def owns(self) -> bool:
        return bool(self._positions) and not self.stopped

    async def run(self) -> None:
        """Take requests over until cancelled."""
        backoff = BACKOFF_SECONDS_MIN
        await self._reader.start()
        try:
            while True:
                try:
                    await self.turn()
                    backoff = BACKOFF_SECONDS_MIN
                except Transient:
                    self._positions.clear()
                    await asyncio.sleep(backoff)
                    backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)
        finally:
            await self._reader.close()

    async def turn(self) -> None:
        """One fetch: partition by partition into the ledger."""
        await self._take_over()
        records = await self._fetch()
        for partition in {record.partition for record in records} & self._positions.keys():
            if self.stopped:
                return
            try:
                await self._take([record for record in records if record.partition == partition])
            except NewerVersion as error:  # of a request that the ledger holds
                self._stop(error.detail)

    async def _take_over(self) -> None:
        assigned = self._reader.assigned()
        for lost in self._positions.keys() - assigned:
            del self._positions[lost]
        gained = sorted(assigned - self._positions.keys())
        if not self._positions:
            self._doubts = self._log.doubts
        for partition, (position, _) in (await self._vouched(gained)).items():
            self._reader.seek(position)
            self._positions[partition] = position
        if gained:
            self.stopped = ""
            self._taken([])

    async def _vouched(self, partitions: Sequence[int]) -> dict[int, Standing]:
        """Where the ledger stands, which must be in this log. Raises LogMismatch."""
        if not partitions:
            return {}
        doubts = self._log.doubts
        starts = await self._log.starts(DELETIONS)
        found = {partition: await self._ledger.vouched(partition) for partition in partitions}
        await check(self._log, DELETIONS, found, starts)
        await self._log.assure(DELETIONS, doubts)
        return found

    async def _fetch(self) -> list[Record]:
        try:
            records = await self._reader.fetch(records_max=BATCH_RECORDS_MAX, wait_seconds=FETCH_SECONDS)
        except Corrupt as error:
            await self._vouched(sorted(self._positions))  # says what is wrong with the log, if that is it
            self._riddle.pose(error)
        self._riddle.solved()
        return records

    async def _take(self, records: list[Record]) -> None:
        commands: list[DeletionCommand] = []
        dead: list[tuple[Record, str]] = []
        last, value = None, b""
        for record in records:
            try:
                if record.value != EMPTY:
                    commands.append(_command(record))
            except NewerVersion:
                self._stop(f"{NEWER} Offset {record.offset}.")
                break
            except BadRecord as error:
                dead.append((record, error.detail))
            last, value = record.position, record.value
        if last is None:
            return
        async with self._lock():
            await self._log.assure(DELETIONS, self._doubts)
            if dead:
                count = self._log.partitions()[DEAD]
                with suppress(LogClosed):  # closed when all that goes there is there: this was done before
                    await self._log.append([dead_letter(record, reason, count) for record, reason in dead])
                telemetry.dead_letters((record.position, kind_of(reason)) for record, reason in dead)
            if await self._ledger.position(last.partition) != self._positions[last.partition]:
                self._positions.clear()  # somebody else has gone on; start again from where they are
                return
            await self._ledger.take(commands, self._now_us())
            await self._ledger.advance(last, hash64(value))
        self._positions[last.partition] = last
        self._taken(commands)
        await self._reader.commit([last])

    def _stop(self, why: str) -> None:
        self.stopped = why
        structlog.get_logger(service="deleter").error("stopped", topic=DELETIONS, reason=why)


def _command(record: Record) -> DeletionCommand:
    command = command_of(record, decode)
    if not isinstance(command, Request | Cancel):
        raise BadRecord(f"A {type(command).__name__} does not belong into {DELETIONS}.")
    return command
