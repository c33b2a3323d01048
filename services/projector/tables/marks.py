"""Position rows, which say in a table how far it is in each partition of a log. Pure.

They lie among the rows that they vouch for, as rows of project 0, so that one INSERT block writes
both.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.domain.ids import COMMANDS, Position, position_key, position_of
from shared.store.timeline import NOBODY, Row

POSITION = ("kind", "epoch", "generation", "record")
"""Columns of position rows alone."""

POSITION_KIND = "position"


class Mark(NamedTuple):
    """A position row: how far the table is in a partition, the highest stamp given there, the
    table's epoch, and the hash of the last record's bytes (0: not known)."""

    version: int
    stamp: int
    epoch: int
    record: int = 0

    def vouched(self, topic: str, partition: int) -> Vouched:
        """What it says, with the partition's name."""
        return Vouched(
            position_of(topic, partition, self.version),
            self.stamp,
            self.epoch,
            self.record,
        )


BEFORE_THE_FIRST = Mark(0, 0, 0)


class Vouched(NamedTuple):
    """What a flush vouches for in a partition: the last record whose outcome is visible, the
    highest stamp given there, the epoch of the table that it was folded on, and the hash of that
    record's bytes."""

    position: Position
    stamp: int
    epoch: int
    record: int = 0


def position_row(position: Position, stamp: int, epoch: int, record: int = 0) -> Row:
    """The row that vouches for a partition: project 0, in the table that its topic is folded into;
    with POSITION.

    `epoch` counts the rebuilds of the table: a table refuses what was folded on another one.
    """
    head = (0, position_key(position.topic, position.partition), position.version)
    tail = (POSITION_KIND, epoch, position.generation, record)
    if position.topic == COMMANDS:
        return (
            *head,
            "",
            0,
            0,
            0,
            stamp,
            0,
            0,
            0,
            "",
            "",
            [],
            [],
            [],
            [],
            0,
            "",
            *tail,
        )
    return (*head, NOBODY, [], 0, 0, stamp, [], [], [], 0, *tail)


def mark_of(topic: str, row: Row) -> Mark:
    """What a position row says. One of before POSITION was there has its epoch in `number` or
    `erase`."""
    _, _, version, _, number, _, erase, stamp, *_ = row
    *_, epoch, _, record = row
    return Mark(
        version, stamp, epoch or (number if topic == COMMANDS else erase), record
    )
