"""Which rows of `fragments` and `identity` change right now, told through memory that the processes of a machine share.

Whoever writes such rows marks their slots before the INSERT and again after it, each time with a value that was never
there before: odd while the INSERT may land at any moment, even when it has landed. A reader that looked at a slot
before it asked the store holds a row that is still the newest as long as the slot is the same, and even. A writer that
fails leaves its slots odd: what may still land is read from the store.

Writers announce the positions that their INSERT vouches for as well. A reader that sees a higher one in the store knows
that somebody writes who marks nothing, and keeps no row of that partition.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from shared.domain.ids import COMMANDS, IDENTITY, partition_of
from shared.runtime.settings import Settings

SLOTS = 4_096
"""Of a partition. Two rows of one slot change together: at 1,000 changes a second a row is read again each minute."""

_EVERYTHING = 0
"""The slot of a change of whole tables, as a rebuild makes."""


class Changes:
    """The slots of a store, in a file as old as the setup. One process writes those of a partition at a time."""

    def __init__(self, path: Path, partitions: Mapping[str, int]) -> None:
        self._partitions = {COMMANDS: partitions[COMMANDS], IDENTITY: partitions[IDENTITY]}
        parts = sum(self._partitions.values())
        self._firsts = {COMMANDS: 0, IDENTITY: self._partitions[COMMANDS]}
        self._positions, self._slots = 1, 1 + parts
        size = 8 * (1 + parts + parts * SLOTS)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_size < size:
                os.ftruncate(file, size)
            self._values = memoryview(mmap.mmap(file, size)).cast("Q")  # each value is read and written in one piece
        finally:
            os.close(file)

    def slot(self, topic: str, project: int, fragment: UUID) -> int:
        """Where a fragment's row in the topic's table is marked."""
        partition = self.partition(topic, project, fragment)
        return self._slots + (self._firsts[topic] + partition) * SLOTS + fragment.int % SLOTS

    def partition(self, topic: str, project: int, fragment: UUID) -> int:
        """The partition whose writer writes this row."""
        count = self._partitions[topic]
        return partition_of(fragment, count) if topic == COMMANDS else project % count

    def seen(self, slot: int) -> int | None:
        """What to keep with a row that is read from now on; None while it changes."""
        value = self._values[slot]
        return None if value & 1 or self._values[_EVERYTHING] & 1 else value ^ self._values[_EVERYTHING] << 64

    def announced(self, topic: str, partition: int) -> int:
        """The highest version that an INSERT of this partition vouches for, be it on its way."""
        return self._values[self._positions + self._firsts[topic] + partition]

    def announce(self, topic: str, versions: Iterable[tuple[int, int]]) -> None:
        """(partition, version) of what the next INSERT vouches for."""
        for partition, version in versions:
            self._values[self._positions + self._firsts[topic] + partition] = version

    def mark(self, slots: Sequence[int], value: int) -> None:
        values = self._values
        for slot in slots:
            values[slot] = value

    @contextmanager
    def everything(self, value: int) -> Iterator[None]:
        """Every row may change until the end, and has changed then; `value` was never used before, and is even."""
        self._values[_EVERYTHING] = value | 1
        yield  # left odd by an error: who knows what is in the tables
        self._values[_EVERYTHING] = value + 2


def path_of(data: Path) -> Path:
    """The file of the setup in this data folder."""
    return data / "run" / "changes"


def changes_of(settings: Settings, partitions: Mapping[str, int]) -> Changes | None:
    """None when the engine is not ours: then who writes may run on any machine."""
    return Changes(path_of(settings.data), partitions) if settings.embedded else None


@contextmanager
def all_changing(changes: Changes | None) -> Iterator[None]:
    """Every row may change until the end, and has changed then."""
    if changes is None:
        yield
        return
    with changes.everything(secrets.randbits(63) << 1):
        yield
