"""A seqlock per 1/4096th of a partition, in a file mapped by every process of the machine.

It says which rows of `fragments` and `identity` change right now. A writer of such rows changes the
version of their slots before its INSERT and again after it, each time to a value that was never
there before: odd while the INSERT may land at any moment, even when it has landed. A reader that
read a slot's version before it read the table holds a row that is still the newest as long as the
version is the same, and even. A writer that fails leaves its slots odd: what may still land is read
from the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from shared.domain.ids import COMMANDS, IDENTITY, partition_of_integer

SLOTS = 4_096
"""Of a partition. Two rows of one slot change together: at 1,000 changes a second a row is read
again each minute."""

WHOLE = 0
"""The slot of a change of whole tables, such as a rebuild makes: its version counts for every
row."""


class RowVersions:
    """The slots of all partitions. One process writes those of a partition at a time."""

    def __init__(
        self, values: memoryview, first: int, partitions: Mapping[str, int]
    ) -> None:
        """`first` is where the slots begin in `values`; `partitions` counts commands and identity,
        in their order."""
        self._values = values
        self._partitions = partitions
        self._firsts = {COMMANDS: first, IDENTITY: first + partitions[COMMANDS] * SLOTS}

    def slot(self, topic: str, project: int, fragment: int) -> int:
        """The slot of a fragment's row in the topic's table; `fragment` is its uuid's integer."""
        return (
            self._firsts[topic]
            + self.partition(topic, project, fragment) * SLOTS
            + fragment % SLOTS
        )

    def partition(self, topic: str, project: int, fragment: int) -> int:
        """The partition whose writer writes this row."""
        count = self._partitions[topic]
        return (
            partition_of_integer(fragment, count)
            if topic == COMMANDS
            else project % count
        )

    def read_version(self, slot: int) -> int | None:
        """The version of a row that is read from now on; None during a write."""
        version, whole = self._values[slot], self._values[WHOLE]
        return None if version & 1 or whole & 1 else version ^ whole << 64

    def begin_write(self, slots: Sequence[int], version: int) -> None:
        """Mark a write in progress; `version` was never used before, and is even."""
        self._set(slots, version | 1)

    def end_write(self, slots: Sequence[int], version: int) -> None:
        """Mark the write as landed; `version` was never used before, and is even."""
        self._set(slots, version)

    @contextmanager
    def rewrite(self, version: int) -> Iterator[None]:
        """A write of every row; `version` was never used before, and is even."""
        self._values[WHOLE] = version | 1
        yield  # left odd by an error: nobody knows what is in the tables
        self._values[WHOLE] = version + 2 & (1 << 64) - 1

    def _set(self, slots: Sequence[int], version: int) -> None:
        values = self._values
        for slot in slots:
            values[slot] = version
