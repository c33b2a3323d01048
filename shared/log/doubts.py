"""What a process has seen of its log, and whether that fits together. Never asks the log.

An offset that does not rise is of another log: one made anew under the same name, or an older copy.
From then on nothing is acknowledged until somebody has compared the log with the tables
(`shared/store/generations.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from shared.domain.errors import LogUnavailable
from shared.domain.ids import Position, hash64

REFUSAL = "The log is being compared with the tables."

Known = TypeVar("Known")
"""What a log is known by: a file, a cluster with its topics."""


class Witness(NamedTuple):
    """The last record of a partition that this process knows of; `value` when it appended it."""

    position: Position
    value: bytes | None

    @property
    def record(self) -> int:
        """The hash of the record; 0 when it is not known."""
        return 0 if self.value is None else hash64(self.value)


class Doubts:
    """The highest offset seen in each partition, and how often something was odd."""

    def __init__(self) -> None:
        self.count = 0
        self._trusted = 0
        self._highest: dict[tuple[str, int], int] = {}
        self._witnesses: dict[tuple[str, int], Witness] = {}

    @property
    def pending(self) -> bool:
        return self.count > self._trusted

    def add(self) -> None:
        self.count += 1

    def trust(self, count: int) -> bool:
        """Whatever was odd up to then is explained; whether nothing was since."""
        if count < self.count:
            return False
        if self.pending:
            # offsets count from what is seen next: dead letters, which nobody compares, may be
            # made anew
            self._highest.clear()
            self._trusted = count
        return True

    def check(self, since: int | None = None) -> None:
        """Raise LogUnavailable while there are doubts, or when there were any since there had been
        `since`."""
        if self.pending or (since is not None and since != self.count):
            raise LogUnavailable(REFUSAL)

    def seen(self) -> Mapping[tuple[str, int], int]:
        """The highest offsets as of now: to be asked for before the log is, for others append
        meanwhile."""
        return self._highest.copy()

    def floor(self, topic: str, partition: int) -> int:
        """The offset above which an append that begins now must land."""
        return self._highest.get((topic, partition), -1)

    def rises(self, first: Position, floor: int) -> None:
        """An append lands there. Raises LogUnavailable when that may be in another log."""
        if first.offset <= floor:
            self.add()
        self.check()

    def heads(
        self, heads: Iterable[Position], seen: Mapping[tuple[str, int], int]
    ) -> None:
        """The log ends there. One that is shorter than what was seen before that is odd."""
        for head in heads:
            if head.offset < seen.get(head[:2], -1):
                self.add()
        for head in heads if not self.pending else ():
            self.raised(head)

    def raised(self, position: Position, value: bytes | None = None) -> None:
        """There is a record at this position; of this value, when this process appended it."""
        key = position[:2]
        self._highest[key] = max(position.offset, self._highest.get(key, -1))
        witness = self._witnesses.get(key)
        if witness is None or position.offset > witness.position.offset:
            self._witnesses[key] = Witness(position, value)

    def witnesses(self, topic: str) -> dict[int, Witness]:
        """What this process knows to be in the log, by partition: whatever is trusted has it."""
        return {
            key[1]: witness
            for key, witness in self._witnesses.copy().items()
            if key[0] == topic and witness.position.offset >= 0
        }


class Doubtful(Generic[Known]):
    """What a log tells of its doubts.

    `_trusted` is what it was known by when a comparison ended well, `_compared` at the last look.
    """

    def __init__(self, known: Known) -> None:
        self._doubts = Doubts()
        self._trusted = self._compared = known

    @property
    def doubts(self) -> int:
        return self._doubts.count

    def witnesses(self, topic: str) -> dict[int, Witness]:
        return self._doubts.witnesses(topic)

    def doubt(self) -> None:
        self._doubts.add()

    def trust(self, doubts: int) -> None:
        if self._doubts.trust(doubts):
            self._trusted = self._compared
