"""The records of the next batch: those that were left over, and what the log has since. Never folds
one.
"""

from __future__ import annotations

from collections.abc import Collection

from services.projector.flush import FlushInFlight
from services.projector.lookout import Lookout
from services.projector.partition import OwnedPartitions
from services.projector.shares import Shares, divided
from services.projector.tables.marks import Vouched
from shared.domain.errors import Corrupt
from shared.domain.ids import Position
from shared.log.consumer import Consumer
from shared.log.port import Record

BATCH_RECORDS_MAX = 10_000
"""Records folded together: a batch costs 12-20 ms whatever its size, and more would not make it
cheaper."""

FETCH_SECONDS = 0.2
"""How long an idle fetch waits; a failed flush is noticed no later."""

FETCH_SECONDS_MIN = 0.005
"""While a flush runs."""


class Fetcher:
    """The records of one worker that wait, and those that come."""

    def __init__(
        self,
        consumer: Consumer[Vouched],
        partitions: OwnedPartitions,
        flight: FlushInFlight,
        lookout: Lookout,
    ) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._flight = flight
        self._lookout = lookout
        self._leftover: list[Record] = []
        self.behind = False
        """Whether the last batch was a full one: there is more in the log than one flush takes."""

    async def gather(self) -> list[Record]:
        """At once when idle; else what came while the last flush ran, and for at least the floor
        between two. Nothing more is fetched of a partition whose records wait for their share.

        Raises Fenced when records do not come that the log has, Transient, and Corrupt.
        """
        records, self._leftover = self._leftover, []
        waiting = self._partitions.waiting
        room = BATCH_RECORDS_MAX - sum(
            record.partition not in waiting for record in records
        )
        seconds, shares = 0.0 if records else FETCH_SECONDS, Shares(records)
        while room > 0:
            fetched = await self._fetch(room, seconds, waiting | shares.over)
            records += fetched
            room -= len(fetched)
            shares.take_all(fetched)
            if not records:
                break
            pause = self._flight.wait_seconds
            if pause <= 0 and not self._flight.running:
                break
            seconds = max(pause, FETCH_SECONDS_MIN)
        self.behind = room <= 0
        if shares.over or waiting:
            records, self._leftover = divided(records)
        if not self.behind:
            await self._lookout.look(self._expected(records))
        return records

    def put_back(self, deferred: list[Record], others: list[Record]) -> None:
        """Keep records for the next batch, each partition's in their order. Of partitions with
        `deferred` ones, which were too heavy for this batch, nothing more is fetched."""
        heavy = {record.partition for record in (*deferred, *self._leftover)}
        self._leftover = [*deferred, *others, *self._leftover]
        for partition in self._partitions:
            partition.waiting = partition.number in heavy

    def keep_only(self, partitions: Collection[int]) -> None:
        """Forget what waits of other partitions."""
        self._leftover = [
            record for record in self._leftover if record.partition in partitions
        ]

    def reset(self) -> None:
        self._leftover = []

    def _expected(self, records: list[Record]) -> dict[int, Position]:
        """Behind which position each partition's next record is expected, now that these have come:
        of those of which more is fetched."""
        newest = {record.partition: record.position for record in records}
        held_back = {record.partition for record in self._leftover}
        return {
            partition.number: newest.get(partition.number, partition.newest)
            for partition in self._partitions
            if partition.going
            and not partition.waiting
            and partition.number not in held_back
        }

    async def _fetch(
        self, records_max: int, seconds: float, without: Collection[int]
    ) -> list[Record]:
        try:
            records = await self._consumer.fetch(records_max, seconds, without)
        except Corrupt as error:
            await self._flight.land()
            await self._consumer.explain(error, self._partitions.positions)
        going = {partition.number for partition in self._partitions if partition.going}
        return [record for record in records if record.partition in going]
