"""One consumer of a topic: takes partitions over, fetches, and waits after trouble.

The projector's workers and the deleter's intake are built on it. Never knows what a record means,
nor where the tables are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Generic, NoReturn, Protocol, TypeVar

from shared.domain.errors import Corrupt, Fenced, Transient
from shared.log.evidence import MissingRecords, Stand, check
from shared.log.port import Log, Reader, Record

BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 0.05, 2.0
"""Between attempts while the store or the log is away; recovery may take that long after they are
back."""

S = TypeVar("S", bound=Stand, covariant=True)


class ReadModel(Protocol[S]):
    """The tables that a topic is read into."""

    async def stand(self, topic: str, partitions: Sequence[int]) -> Mapping[int, S]:
        """Where they are in each of these partitions. Raises Transient."""


class Consumer(Generic[S]):
    """One member of a group that reads a topic into tables, which must be of this log, or nothing
    may be written."""

    def __init__(
        self, log: Log, reader: Reader, topic: str, read_model: ReadModel[S]
    ) -> None:
        self._log = log
        self._reader = reader
        self._topic = topic
        self._read_model = read_model
        self._missing_records = MissingRecords()
        self._backoff = BACKOFF_SECONDS_MIN
        self._doubts = log.doubts
        """Those of the log as of when the first of the partitions held was taken over."""

    async def take_over(
        self, partitions: Sequence[int], *, holding: bool
    ) -> Mapping[int, S]:
        """Where the tables are in these partitions; `holding` others already. Raises LogMismatch,
        and Transient."""
        if not holding:
            self._doubts = self._log.doubts
        return await self._compared(partitions)

    async def fetch(
        self, records_max: int, wait_seconds: float, without: Collection[int] = ()
    ) -> list[Record]:
        """What the reader fetches. Raises Corrupt where records are gone, which `explain` has to
        hear of."""
        records = await self._reader.fetch(
            records_max=records_max, wait_seconds=wait_seconds, without=without
        )
        self._missing_records.solved()
        return records

    async def explain(self, error: Corrupt, held: Collection[int]) -> NoReturn:
        """Records are gone. Raises LogMismatch when the log is not the one that the tables of the
        partitions held are of. Else Transient, for the right one may have come back just now; and
        the error itself when that was so the last time as well."""
        await self._compared(sorted(held))
        self._missing_records.pose(error)

    async def back_off(self, error: Fenced | Transient) -> None:
        """Wait before the next turn, longer each time; not at all when somebody else has only gone
        on."""
        if isinstance(error, Fenced):
            return
        await asyncio.sleep(self._backoff)
        self._backoff = min(2 * self._backoff, BACKOFF_SECONDS_MAX)

    def recover(self) -> None:
        """A turn has ended well."""
        self._backoff = BACKOFF_SECONDS_MIN

    async def assure(self) -> None:
        """Raise LogUnavailable when this may not be the log any more that was compared with the
        tables."""
        await self._log.assure(self._topic, self._doubts)

    async def _compared(self, partitions: Sequence[int]) -> Mapping[int, S]:
        if not partitions:
            return {}
        doubts = self._log.doubts
        starts = await self._log.starts(self._topic)
        found = await self._read_model.stand(self._topic, partitions)
        await check(self._log, self._topic, found, starts, doubts)
        return found
