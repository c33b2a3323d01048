"""Dead letters: records that could not be folded, set aside in a topic of their own with where they
come from and why.

A letter is one line of JSON and the original bytes. A note in the same topic says that one was
replayed; a log is only ever appended to. Never decides what becomes of a record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from shared.domain.commands import Command, decode
from shared.domain.errors import BadRecord, Transient
from shared.domain.ids import DEAD, GENERATION_FIRST, Position
from shared.log.port import Entry, Log, Reader, Record

REASON_CHARS_MAX = 1_000

CORRUPT = "Corrupt"
"""The kind of a record whose bytes are no longer those that were written: nobody knows what it
said."""

DEAD_IN_A_ROW_MAX = 100
"""More dead letters in a row than this mean that the reader is wrong, not the records: the
partition stops."""

TOO_MANY_DEAD = f"More than {DEAD_IN_A_ROW_MAX} dead letters in a row."

READ_RECORDS_MAX = 50
"""Of a megabyte each at most."""

READ_SECONDS_MAX = 20.0
"""Joining a group of Kafka's takes some seconds."""


Dead = tuple[Record, str]
"""A record that is set aside, and why."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a letter: the record's place, and why it is here. A note says of the same
    place that the letter was replayed."""

    topic: str = ""
    partition: int = 0
    offset: int = -1
    generation: int = GENERATION_FIRST
    reason: str = ""
    replayed: bool = False


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter, or a note. `at` is when it was written, microseconds since the epoch."""

    head: Head
    at: int
    key: bytes
    value: bytes

    @property
    def source(self) -> Position:
        """Where the record came from."""
        return Position(
            self.head.topic, self.head.partition, self.head.offset, self.head.generation
        )


class DeadRun:
    """The dead letters in a row of one partition. A record counts once, however often it is
    read."""

    __slots__ = ("_last", "length")

    def __init__(self) -> None:
        self.length = 0
        self._last = 0

    def add(self, record: Record) -> bool:
        """Whether a record may go to the dead letters; if not, the partition has to stop."""
        if record.version > self._last:
            self.length += 1
            self._last = record.version
        return self.length <= DEAD_IN_A_ROW_MAX

    def end(self, record: Record) -> None:
        """A record was no dead letter."""
        if record.version > self._last:
            self.length = 0


def command_of(record: Record, read: Callable[[bytes], Command] = decode) -> Command:
    """The command that a record holds. Raises BadRecord, with the reason for its dead letter, or as
    `read` does."""
    if record.fault:
        raise BadRecord(f"{CORRUPT}: {record.fault}")
    return read(record.value)


def kind_of(reason: str) -> str:
    return reason.partition(":")[0]


def dead_letter(record: Record, reason: str, partitions: int) -> Entry:
    """The original bytes behind one line of JSON that says where they come from and why they are
    here."""
    line = msgspec.json.encode(
        record.position._asdict() | {"reason": reason[:REASON_CHARS_MAX]}
    )
    return Entry(
        DEAD, record.partition % partitions, record.key, line + b"\n" + record.value
    )


def dead_letters(dead: Sequence[Dead], partitions: int) -> list[Entry]:
    return [dead_letter(record, reason, partitions) for record, reason in dead]


def note(letter: Letter, partitions: int) -> Entry:
    """Says that a letter was replayed."""
    line = msgspec.json.encode(letter.source._asdict() | {"replayed": True})
    return Entry(DEAD, letter.head.partition % partitions, letter.key, line + b"\n")


async def letters(log: Log, group: str) -> AsyncIterator[Letter]:
    """The letters and notes that the log still has, as they were written. Raises Transient while
    somebody else of this group reads them. A record that was redelivered may have several letters,
    of one source."""
    starts = [
        start._replace(offset=start.offset - 1) for start in await log.starts(DEAD)
    ]
    heads = {head.partition: head.offset for head in await log.heads(DEAD)}
    left = {
        start.partition for start in starts if start.offset < heads[start.partition]
    }
    if not left:
        return
    async with _reading(log, group) as reader:
        for start in starts:
            reader.seek(start)
        while left:
            records = await reader.fetch(
                records_max=READ_RECORDS_MAX, wait_seconds=READ_SECONDS_MAX
            )
            if not records:
                raise Transient("The dead letters cannot be read to their end now.")
            for record in records:
                yield _letter(record)
                if record.offset >= heads[record.partition]:
                    left.discard(record.partition)


@asynccontextmanager
async def _reading(log: Log, group: str) -> AsyncIterator[Reader]:
    """A reader that holds every partition of the topic."""
    reader = log.reader(DEAD, group)
    await reader.start()
    try:
        for _ in range(round(READ_SECONDS_MAX)):
            if len(reader.assigned()) == log.partitions()[DEAD]:
                break
            await reader.fetch(records_max=1, wait_seconds=1.0)
        else:
            raise Transient("Somebody else reads the dead letters.")
        yield reader
    finally:
        await reader.close()


def _letter(record: Record) -> Letter:
    line, _, value = record.value.partition(b"\n")
    try:
        head = msgspec.json.decode(line, type=Head)
    except msgspec.DecodeError:
        head, value = (
            Head(reason=f"{CORRUPT}: the letter itself cannot be read"),
            record.value,
        )
    if record.fault:
        head = msgspec.structs.replace(head, reason=f"{CORRUPT}: {record.fault}")
    return Letter(head=head, at=record.at, key=record.key, value=value)
