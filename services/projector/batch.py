"""Commands folded together, and what their flush writes. Never folds one."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from services.projector.tables.clickhouse import Facts
from shared.domain.commands import Command
from shared.domain.person.fragment import FoldOutcome, Fragment
from shared.domain.person.identity import Membership
from shared.log.dead import Dead
from shared.log.port import Record

STATE_BYTES_MAX = 64_000_000
"""Rows of one state INSERT: far below the 256 MB at which the engine would make a second part of
it."""

STATE_ROWS_MAX = 100_000
"""Rows of one state INSERT, for the same reason: a merge may rewrite 2,500."""

Foldable = tuple[Record, Command]


class LastRecord(NamedTuple):
    """The last record of a partition that has its outcome, and the highest stamp that one gave."""

    record: Record
    stamp: int


class Batch:
    """Commands folded together, and what their flush writes."""

    def __init__(self) -> None:
        self.facts = Facts([], [], [], [])
        self.touched: dict[
            int, Fragment | Membership
        ] = {}  # by the uuid's integer, which hashes ten times as fast
        self.followups: list[Command] = []
        self.dead: list[Dead] = []
        self.outcomes: Counter[FoldOutcome] = Counter()
        self.bytes = 0
        self.left_out = 0
        self.last: dict[int, LastRecord] = {}
        """By partition."""

    @property
    def full(self) -> bool:
        return self.bytes >= STATE_BYTES_MAX or len(self.touched) >= STATE_ROWS_MAX

    def conclude(self, record: Record, stamp: int) -> None:
        """This record has its outcome; `stamp` is the highest it gave. A redelivered one takes no
        position back."""
        before = self.last.get(record.partition)
        if before is not None:
            if record.offset <= before.record.offset:
                record = before.record
            if stamp < before.stamp:
                stamp = before.stamp
        self.last[record.partition] = LastRecord(record, stamp)
