"""One consumer of a topic: takes partitions over, fetches, and starts again from the tables after trouble.

The projector's workers and the deleter's intake are built on it. Never knows what a record means, nor where the tables
are kept: `stand` asks them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Generic, TypeVar

from shared.domain.errors import Corrupt, Fenced, Transient
from shared.log.evidence import Riddle, Stand, check
from shared.log.port import Log, Reader, Record

BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 0.05, 2.0
"""Between attempts while the store or the log is away; recovery may take that long after they are back."""

S = TypeVar("S", bound=Stand)


class Consumer(Generic[S]):
    """One member of a group that reads a topic into tables.

    `stand` says where the tables are in some partitions. That must be in this log, or nothing of it may be written.
    """

    def __init__(
        self, log: Log, reader: Reader, topic: str, stand: Callable[[Sequence[int]], Awaitable[Mapping[int, S]]]
    ) -> None:
        self._log = log
        self._reader = reader
        self._topic = topic
        self._stand = stand
        self._riddle = Riddle()
        self._doubts = log.doubts
        """Those of the log as of when the first of the partitions held was taken over."""

    async def run(self, turn: Callable[[], Awaitable[None]], reset: Callable[[str], Awaitable[None]]) -> None:
        """Do turn after turn until cancelled. Raises Corrupt when going on would cost data.

        After an error that passes, `reset` has to forget everything but the tables; it is told what was wrong, or
        nothing when somebody else has only gone on.
        """
        backoff = BACKOFF_SECONDS_MIN
        while True:
            try:
                await turn()
                backoff = BACKOFF_SECONDS_MIN
            except Fenced:
                await reset("")
            except Transient as error:
                await reset(error.detail)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)

    async def take_over(self, partitions: Sequence[int], *, holding: bool) -> Mapping[int, S]:
        """Where the tables are in these partitions; `holding` others already. Raises LogMismatch, and Transient."""
        if not holding:
            self._doubts = self._log.doubts
        return await self._compared(partitions)

    async def fetch(
        self, held: Collection[int], records_max: int, wait_seconds: float, without: Collection[int] = ()
    ) -> list[Record]:
        """What the reader fetches. Where records are gone: raises LogMismatch when the log is not the one that the
        tables of the partitions held are of. Else Transient, for the right one may have come back just now; and Corrupt
        when that was so the last time as well."""
        try:
            records = await self._reader.fetch(records_max=records_max, wait_seconds=wait_seconds, without=without)
        except Corrupt as error:
            await self._compared(sorted(held))
            self._riddle.pose(error)
        self._riddle.solved()
        return records

    async def assure(self) -> None:
        """Raise LogUnavailable when this may not be the log any more that was compared with the tables."""
        await self._log.assure(self._topic, self._doubts)

    async def _compared(self, partitions: Sequence[int]) -> Mapping[int, S]:
        if not partitions:
            return {}
        doubts = self._log.doubts
        starts = await self._log.starts(self._topic)
        found = await self._stand(partitions)
        await check(self._log, self._topic, found, starts)
        await self._log.assure(self._topic, doubts)
        return found
