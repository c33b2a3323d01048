"""Positions that writers of this machine publish before their INSERT and confirm after it, in
shared memory.

A reader that finds a higher version in the store than the published one knows that a writer marks
no rows, and caches none of that partition. A confirmed position is visible in the store, so a
reader waiting for it need not ask the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from shared.domain.ids import COMMANDS, IDENTITY


class PositionBoard:
    """Of every partition: the published version, the confirmed one, and its highest stamp; 0 for
    never."""

    def __init__(
        self, values: memoryview, first: int, partitions: Mapping[str, int]
    ) -> None:
        """`first` is where the board begins in `values`; `partitions` counts commands and identity,
        in their order."""
        count = sum(partitions.values())
        self._values = values
        self._partitions = partitions
        self._firsts = {COMMANDS: first, IDENTITY: first + partitions[COMMANDS]}
        self._confirmed = count
        self._stamps = 2 * count

    def publish(self, topic: str, versions: Iterable[tuple[int, int]]) -> None:
        """Set the (partition, version) pairs that the next INSERT brings."""
        for partition, version in versions:
            self._values[self._firsts[topic] + partition] = version

    def published(self, topic: str, partition: int) -> int:
        """The highest version of this partition that an INSERT brings, landed or on its way."""
        return self._values[self._firsts[topic] + partition]

    def confirm(self, topic: str, marks: Iterable[tuple[int, int, int]]) -> None:
        """Set the (partition, version, highest stamp) that the store holds for certain."""
        for partition, version, stamp in marks:
            at = self._firsts[topic] + partition
            self._values[at + self._stamps] = stamp
            self._values[at + self._confirmed] = version

    def read(self) -> Iterator[tuple[str, int, int, int]]:
        """(topic, partition, version, highest stamp) of every partition, as last confirmed; 0 for
        never."""
        for topic, count in self._partitions.items():
            for partition in range(count):
                at = self._firsts[topic] + partition
                yield (
                    topic,
                    partition,
                    self._values[at + self._confirmed],
                    self._values[at + self._stamps],
                )


def board_size(partitions: int) -> int:
    """The number of values of a board of this number of partitions."""
    return 3 * partitions
