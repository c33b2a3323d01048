"""The partitions that a worker holds: where the table is in each, what is on its way there, what is
set aside. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from services.projector.tables.marks import Vouched
from shared.domain.ids import Position
from shared.log.dead import DeadRun
from shared.log.port import Record


class Partition:
    """From the take-over of a partition until it is lost.

    A reset forgets where the table is, which is read again; not why the partition is stopped, and
    which records are set aside, for the same records come again.
    """

    __slots__ = (
        "confirmed",
        "dead",
        "epoch",
        "holding",
        "in_flight",
        "number",
        "set_aside",
        "stamp",
        "stopped",
        "waiting",
    )

    def __init__(self, number: int, before_the_first: Position) -> None:
        self.number = number
        self.holding = False
        """Whether it is known where the table is."""
        self.confirmed = before_the_first
        self.in_flight: Position | None = None
        """Where the table will be once the flush on its way has landed."""
        self.stamp = 0
        """The highest that a fact here was given."""
        self.epoch = 0
        """That of the table."""
        self.waiting = False
        """Whether some of its records were too heavy for the last batch."""
        self.set_aside: dict[Position, str] = {}
        """Records that cannot be folded, and why."""
        self.dead = DeadRun()
        self.stopped = ""
        """Why nothing more is folded. It is tried again by whoever takes the partition over."""

    @property
    def going(self) -> bool:
        return self.holding and not self.stopped

    @property
    def newest(self) -> Position:
        """Behind which position records are expected, when none have come since the last batch."""
        return self.in_flight or self.confirmed

    def take_over(self, table: Vouched) -> None:
        """The table is there."""
        self.holding = True
        self.confirmed = table.position
        self.stamp = table.stamp
        self.epoch = table.epoch

    def vouch(self, record: Record, stamp: int, digest: int) -> Vouched:
        """What a flush says whose last record this is, with the highest stamp of the batch."""
        self.stamp = max(stamp, self.stamp)
        return Vouched(record.position, self.stamp, self.epoch, digest)

    def land(self) -> None:
        """The flush on its way has ended well."""
        if self.in_flight is None:
            return
        self.confirmed = self.in_flight
        self.in_flight = None
        if self.set_aside:
            self.set_aside = {
                at: why for at, why in self.set_aside.items() if at > self.confirmed
            }

    def reset(self) -> None:
        self.holding = False
        self.in_flight = None
        self.waiting = False


class OwnedPartitions:
    """The partitions of one worker."""

    def __init__(self) -> None:
        self.by_number: dict[int, Partition] = {}

    def __getitem__(self, number: int) -> Partition:
        return self.by_number[number]

    def __iter__(self) -> Iterator[Partition]:
        return iter(self.by_number.values())

    @property
    def positions(self) -> dict[int, Position]:
        """The confirmed position of every partition of which it is known."""
        return {
            partition.number: partition.confirmed
            for partition in self
            if partition.holding
        }

    @property
    def stopped(self) -> dict[int, str]:
        """Why nothing more is folded, of partitions of which that is so."""
        return {
            partition.number: partition.stopped
            for partition in self
            if partition.stopped
        }

    @property
    def waiting(self) -> set[int]:
        return {partition.number for partition in self if partition.waiting}

    def take_over(self, number: int, table: Vouched) -> Partition:
        """The table of this partition is there."""
        if number not in self.by_number:
            self.by_number[number] = Partition(number, table.position)
        partition = self.by_number[number]
        partition.take_over(table)
        return partition

    def drop(self, numbers: Collection[int]) -> None:
        for number in numbers:
            del self.by_number[number]

    def land(self) -> None:
        """The flush on its way has ended well."""
        for partition in self:
            partition.land()

    def reset(self) -> None:
        for partition in self:
            partition.reset()
