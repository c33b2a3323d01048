"""Which rows of `fragments` and `identity` change right now, told through memory that the processes of a machine share.

Whoever writes such rows marks their slots before the INSERT and again after it, each time with a value that was never
there before: odd while the INSERT may land at any moment, even when it has landed. A reader that looked at a slot
before it asked the store holds a row that is still the newest as long as the slot is the same, and even. A writer that
fails leaves its slots odd: what may still land is read from the store.

Writers announce the positions that their INSERT vouches for as well. A reader that sees a higher one in the store knows
that somebody writes who marks nothing, and keeps no row of that partition. When the INSERT has landed they confirm
them, so that who waits for a position need not ask the store. An engine that starts renews the whole, in place: its
tables may be an older copy.

Each generation of the log has a file of its own, for where a slot lies depends on the partition counts. When one has
ended, everything changes in its file for ever: who still looks there keeps nothing.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from shared.domain.ids import COMMANDS, GENERATION_FIRST, GENERATIONS_MAX, IDENTITY, partition_of_integer
from shared.runtime.settings import Settings, SettingsError

SLOTS = 4_096
"""Of a partition. Two rows of one slot change together: at 1,000 changes a second a row is read again each minute."""

BLOCK_BYTES = 512
"""What a file's `st_blocks` counts."""

_EVERYTHING, _PARTS, _FIRST = 0, 1, 2
"""Where there is: the slot of a change of whole tables, as a rebuild makes; how many partitions; the first of them."""


class Changes:
    """The slots of a store, in a file that is never replaced. One process writes those of a partition at a time."""

    def __init__(self, path: Path, partitions: Mapping[str, int]) -> None:
        self._partitions = {COMMANDS: partitions[COMMANDS], IDENTITY: partitions[IDENTITY]}
        parts = sum(self._partitions.values())
        self._firsts = {COMMANDS: 0, IDENTITY: self._partitions[COMMANDS]}
        self._announced, self._confirmed, self._stamps = (_FIRST + place * parts for place in range(3))
        self._slots = _FIRST + 3 * parts
        size = 8 * (self._slots + parts * SLOTS)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _allocate(file, size, path)
            self._values = memoryview(mmap.mmap(file, size)).cast("Q")  # each value is read and written in one piece
        finally:
            os.close(file)
        self._values[_PARTS] = parts

    def slot(self, topic: str, project: int, fragment: int) -> int:
        """Where a fragment's row in the topic's table is marked; `fragment` is its uuid's integer."""
        partition = self.partition(topic, project, fragment)
        return self._slots + (self._firsts[topic] + partition) * SLOTS + fragment % SLOTS

    def partition(self, topic: str, project: int, fragment: int) -> int:
        """The partition whose writer writes this row."""
        count = self._partitions[topic]
        return partition_of_integer(fragment, count) if topic == COMMANDS else project % count

    def seen(self, slot: int) -> int | None:
        """What to keep with a row that is read from now on; None while it changes."""
        value = self._values[slot]
        return None if value & 1 or self._values[_EVERYTHING] & 1 else value ^ self._values[_EVERYTHING] << 64

    def announced(self, topic: str, partition: int) -> int:
        """The highest version that an INSERT of this partition vouches for, be it on its way."""
        return self._values[self._announced + self._firsts[topic] + partition]

    def announce(self, topic: str, versions: Iterable[tuple[int, int]]) -> None:
        """(partition, version) of what the next INSERT vouches for."""
        for partition, version in versions:
            self._values[self._announced + self._firsts[topic] + partition] = version

    def confirm(self, topic: str, marks: Iterable[tuple[int, int, int]]) -> None:
        """(partition, version, highest stamp) of what the store holds for certain."""
        for partition, version, stamp in marks:
            at = self._firsts[topic] + partition
            self._values[self._stamps + at] = stamp
            self._values[self._confirmed + at] = version

    def confirmed(self) -> Iterator[tuple[str, int, int, int]]:
        """(topic, partition, version, highest stamp) of every partition, as last confirmed; 0 for never."""
        for topic, count in self._partitions.items():
            for partition in range(count):
                at = self._firsts[topic] + partition
                yield topic, partition, self._values[self._confirmed + at], self._values[self._stamps + at]

    def mark(self, slots: Sequence[int], value: int) -> None:
        values = self._values
        for slot in slots:
            values[slot] = value

    @contextmanager
    def everything(self, value: int) -> Iterator[None]:
        """Every row may change until the end, and has changed then; `value` was never used before, and is even."""
        self._values[_EVERYTHING] = value | 1
        yield  # left odd by an error: who knows what is in the tables
        self._values[_EVERYTHING] = value + 2 & (1 << 64) - 1


def changes_of(
    settings: Settings, partitions: Mapping[str, int], generation: int = GENERATION_FIRST
) -> Changes | None:
    """Those of a generation of the log. None when the engine is not ours: then who writes may run on any machine."""
    return Changes(path_of(settings, generation), partitions) if settings.embedded else None


def path_of(settings: Settings, generation: int = GENERATION_FIRST) -> Path:
    name = "changes" if generation == GENERATION_FIRST else f"changes.g{generation}"
    return settings.data / "run" / name


def newest(settings: Settings) -> Path:
    """The file of the last generation that has one."""
    there = (number for number in range(GENERATIONS_MAX, 0, -1) if path_of(settings, number).exists())
    return path_of(settings, next(there, GENERATION_FIRST))


def supersede(settings: Settings, partitions: Mapping[str, int], generation: int) -> None:
    """Begin the file of a generation: nobody keeps anything by those of earlier ones from now on."""
    if changes_of(settings, partitions, generation) is None:
        return
    for number in range(GENERATION_FIRST, generation):
        renew(path_of(settings, number), secrets.randbits(63) << 1, ended=True)


def renew(path: Path, value: int, *, ended: bool = False) -> None:
    """Nothing that was kept or confirmed holds any longer, and when it has `ended` nothing will; `value` was never used
    before, and is even."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        _allocate(file.fileno(), os.fstat(file.fileno()).st_size, path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory, memoryview(memory).cast("Q") as values:
        values[_EVERYTHING] = value | 1
        for at in range(_FIRST, _FIRST + 3 * values[_PARTS]):
            values[at] = 0
        values[_EVERYTHING] = value | ended


def _allocate(file: int, size: int, path: Path) -> None:
    """Have the disk's space for the whole of it: what is only promised ends the process when it is written to."""
    if os.fstat(file).st_blocks * BLOCK_BYTES >= size:
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise SettingsError(f"{path} needs {size:,} bytes: {error.strerror}") from None


@contextmanager
def all_changing(changes: Changes | None) -> Iterator[None]:
    """Every row may change until the end, and has changed then."""
    if changes is None:
        yield
        return
    with changes.everything(secrets.randbits(63) << 1):
        yield
