"""Where the records of facts lie, whatever generation of the log they came in: pure arithmetic.

The partition of a fragment, or of a project, is another one in a generation with another partition
count.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from shared.domain.ids import (
    COMMANDS,
    GENERATION_FIRST,
    IDENTITY,
    Position,
    generation_of,
    partition_of,
    position_of,
)

PartitionCounts = Mapping[str, int]
"""Partitions by topic."""


class Generations:
    """The generations of a log up to the one that is written to, and the partition counts of
    each."""

    def __init__(self, counts: Mapping[int, PartitionCounts]) -> None:
        self._counts = {number: dict(counts[number]) for number in sorted(counts)}
        self.newest = max(self._counts)

    @classmethod
    def first(cls, counts: PartitionCounts) -> Generations:
        """Of a log that was never renewed."""
        return cls({GENERATION_FIRST: counts})

    def counts(self, generation: int) -> PartitionCounts:
        """A generation that nobody knows counts as the newest."""
        return self._counts.get(generation, self._counts[self.newest])

    def of_fragment(self, fragment: UUID, version: int) -> Position:
        """The position of a record of this version that changed a fragment."""
        counts = self.counts(generation_of(version))
        return position_of(COMMANDS, partition_of(fragment, counts[COMMANDS]), version)

    def of_project(self, project: int, version: int) -> Position:
        """The position of a record of this version that changed the identity of a project's
        persons."""
        counts = self.counts(generation_of(version))
        return position_of(IDENTITY, project % counts[IDENTITY], version)

    def widest(self, topic: str) -> int:
        """The highest partition count that the topic had."""
        return max(counts[topic] for counts in self._counts.values())
