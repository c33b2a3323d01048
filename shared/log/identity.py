"""Whether a log is the one that the tables belong to: what both sides say of it, compared. Never
asks either side.

The tables know their log by its identity (`shared/store/generations.py`) and by the hash of the
last record that each position row vouches for, which an older copy of the same log does not
have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from shared.domain.errors import Corrupt, LogMismatch, Superseded
from shared.domain.ids import TOPIC_LETTERS, Position

TOPICS = tuple(TOPIC_LETTERS)
"""The topics whose positions the tables keep. Nothing reads dead letters, so theirs may be made
anew."""

REMEDY = (
    "put the right log back, or run `personlog log renew`"
    " (docs/operations.md, A log that is not the right one)"
)


class LogIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What a log is known by. Nothing in it is of a person."""

    id: str
    """Embedded: made with the file. Kafka: the cluster's. Empty where there is no log."""
    topics: dict[str, str] = {}
    """The id that Kafka gave each topic when it was made; those that are missing are missing here,
    and brokers of before 3.0 know none."""
    partitions: dict[str, int] = {}
    """The partition count of each topic."""


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A generation of the log, as the store knows it."""

    number: int
    identity: LogIdentity
    state: Literal["open", "closed"] = "open"

    @property
    def partitions(self) -> dict[str, int]:
        return self.identity.partitions


class Evidence(NamedTuple):
    """What both sides say of one partition.

    Of the tables, or of the process that asks, their position and the hash of its record (0: not
    known); of the log its first and last position, and the hash of the record at that position
    (None: forgotten, or not looked for).
    """

    position: Position
    record: int
    start: Position
    head: Position
    found: int | None = None
    process: bool = False
    """It is the process that asks, not the tables: what it appended, or has seen to be there."""

    @property
    def offset(self) -> int:
        """Where the tables, or the process, stand in this generation of the log."""
        return (
            self.position.offset
            if self.position.generation == self.head.generation
            else -1
        )


Kind = Literal["removed", "another", "partitions", "ended", "behind", "older", "passed"]


class Mismatch(NamedTuple):
    """Log and tables do not belong together: of what kind, and one line for the operator."""

    kind: Kind
    line: str

    @property
    def error(self) -> Corrupt:
        """What ends a process that meets it. A renewal ends by itself, or is run again: starting
        again helps."""
        return Superseded(self.line) if self.kind == "ended" else LogMismatch(self.line)


def compare(
    known: Generation | None, actual: LogIdentity | None, evidence: Sequence[Evidence]
) -> Mismatch | None:
    """The first thing in which the log is not the one of the tables; None when it is. What is
    None is not compared: a store that knows no log yet takes on one that has all that its tables
    hold."""
    mismatch = (
        _identities(known.identity, actual)
        if known is not None and actual is not None
        else None
    )
    for judge in (_generations, _older, _passed):
        for one in evidence:
            mismatch = mismatch or judge(one)
    return mismatch


def _identities(known: LogIdentity, actual: LogIdentity) -> Mismatch | None:
    if not actual.id:
        return Mismatch("removed", f"The log is gone: {REMEDY}.")
    if known.id != actual.id:
        return Mismatch(
            "another",
            f"This is another log ({actual.id}) than the tables' ({known.id}): {REMEDY}.",
        )
    for topic in [one for one in TOPICS if one in known.partitions]:
        made, old = actual.topics.get(topic), known.topics.get(topic)
        if topic not in actual.partitions:
            return Mismatch("removed", f"The topic {topic} is gone: {REMEDY}.")
        if made and old and made != old:
            return Mismatch("another", f"The topic {topic} was made anew: {REMEDY}.")
    for topic in [one for one in TOPICS if one in known.partitions]:
        if (count := actual.partitions[topic]) != known.partitions[topic]:
            what = f"The topic {topic} has {count} partitions instead of {known.partitions[topic]}"
            return Mismatch("partitions", f"{what}: {REMEDY}.")
    return None


def _generations(one: Evidence) -> Mismatch | None:
    """Every partition of a generation has a position row before its first record, or a later
    one."""
    tables, log = one.position.generation, one.head.generation
    if tables > log:
        line = (
            f"Generation {log} of the log has ended: it is being renewed,"
            " or `personlog log renew` must go on."
        )
        return Mismatch("ended", line)
    if tables < log:
        place = f"{one.head.topic}/{one.head.partition}"
        what = f"The tables are of generation {tables} in {place}, the log is of {log}"
        return Mismatch("behind", f"{what}: {REMEDY}.")
    return None


def _older(one: Evidence) -> Mismatch | None:
    place = f"{one.position.topic}/{one.position.partition}"
    holder = "this process has seen it" if one.process else "the tables hold it"
    if one.offset > one.head.offset:
        what = f"ends at {one.head.offset}, and {holder} up to {one.offset}"
    elif one.record and one.found is not None and one.found != one.record:
        holder = "this process appended" if one.process else "the tables hold"
        what = f"has another record at {one.offset} than {holder}"
    else:
        return None
    return Mismatch(
        "older",
        f"The log's {place} {what}; it is an older copy, or another log: {REMEDY}.",
    )


def _passed(one: Evidence) -> Mismatch | None:
    """Retention that took what was projected is none of it, nor what others appended since."""
    if one.process or one.offset + 1 >= one.start.offset:
        return None
    gone = f"{one.offset + 1} to {one.start.offset - 1} of {one.start.topic}/{one.start.partition}"
    what = (
        f"The log forgot records {gone} before they were projected:"
        " lengthen its retention, and run"
    )
    return Mismatch(
        "passed",
        f"{what} `personlog log renew` (docs/operations.md, A log that is not the right one).",
    )
