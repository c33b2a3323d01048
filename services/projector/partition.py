"""One partition that a worker holds: where the table is in it, what is on its way there, what is
set aside. Pure."""

from __future__ import annotations

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
        "flying",
        "holding",
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
        self.flying: Position | None = None
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
    def reached(self) -> Position:
        """Behind which position records are expected, when none have come since the last batch."""
        return self.flying or self.confirmed

    def take_over(self, table: Vouched) -> None:
        """The table is there."""
        self.holding = True
        self.confirmed = table.position
        self.stamp = table.stamp
        self.epoch = table.epoch

    def vouched(self, record: Record, stamp: int, digest: int) -> Vouched:
        """What a flush says whose last record this is, with the highest stamp of the batch."""
        self.stamp = max(stamp, self.stamp)
        return Vouched(record.position, self.stamp, self.epoch, digest)

    def land(self) -> None:
        """The flush on its way has ended well."""
        if self.flying is None:
            return
        self.confirmed = self.flying
        self.flying = None
        if self.set_aside:
            self.set_aside = {
                at: why for at, why in self.set_aside.items() if at > self.confirmed
            }

    def reset(self) -> None:
        self.holding = False
        self.flying = None
        self.waiting = False
