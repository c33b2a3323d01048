"""The log as the services see it: append, read, positions. Never knows what a record means.

Three implementations keep this contract, and one suite (`tests/contracts`) holds them to it:
`memory` (for tests and simulation), `embedded` (SQLite, shared by the processes of one machine) and
`kafka`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from shared.domain.ids import GENERATION_FIRST, Position, version_of
from shared.log.doubts import Witness
from shared.log.identity import LogIdentity

APPEND_SECONDS_MAX = 7.0
"""An append that is not acknowledged by then answers LogUnavailable: a client must never hang past
10 s."""

HEADS_SECONDS_MAX = 3.0
"""Looking at the heads: a client or a probe waits for it."""

PENDING_BYTES_MAX = 64_000_000
"""Records that wait in one process to be durable; above it clients are told, before memory
grows."""

RECORD_BYTES_MAX = 1_000_000
"""One record's value, as Kafka's default message limit has it; the API keeps a command below."""

EMPTY = b""
"""The value of a record that changes nothing: a renewal tries with it whether a topic still takes
any."""

RETENTION_SECONDS = 14 * 86_400
"""The log forgets by retention: with one day of segment it stays inside the month of GDPR Art.
12(3)."""


class Entry(NamedTuple):
    """What is appended."""

    topic: str
    partition: int
    key: bytes
    value: bytes


class Record(NamedTuple):
    """What is read. `at` is the append time in microseconds since the epoch, set by the log.
    `fault` says what is wrong with a record whose bytes are no longer those that were appended."""

    topic: str
    partition: int
    offset: int
    at: int
    key: bytes
    value: bytes
    generation: int = GENERATION_FIRST
    fault: str = ""

    @property
    def position(self) -> Position:
        return Position(self.topic, self.partition, self.offset, self.generation)

    @property
    def version(self) -> int:
        """As rows have it."""
        return version_of(self.offset, self.generation)


class Reader(Protocol):
    """One member of a group that reads a topic; the group's members share its partitions.

    Correctness never depends on two members not holding one partition at the same time.
    """

    async def start(self) -> None: ...

    async def close(self) -> None:
        """Leave the group."""

    def assigned(self) -> frozenset[int]:
        """The partitions this member holds now; it may change at every await."""

    def seek(self, position: Position) -> None:
        """Fetch from `position.next` on. A partition that was never sought since it was assigned is
        not fetched."""

    async def fetch(
        self, *, records_max: int, wait_seconds: float, without: Collection[int] = ()
    ) -> list[Record]:
        """Up to `records_max` records, in offset order within a partition, without gaps; none of
        the partitions `without`, which go on where they were when they are asked for again.

        Returns at once when there are any, else after `wait_seconds` with none, or earlier when the
        assignment changed. Raises Corrupt when records at a sought position are gone, Transient
        when the log is away.
        """

    async def commit(self, positions: Sequence[Position]) -> None:
        """Tell lag tools how far we are: a hint that nothing reads back."""


class Log(Protocol):
    """Where commands are appended: one generation of it, which all its positions name."""

    generation: int

    refused: bool
    """Whether an append of this object was refused because its topic is closed."""

    async def start(self) -> None:
        """Connect; create the topics that are missing, unless the log was made for a store that
        knows it already. Raises Transient when the log is away."""

    async def close(self) -> None: ...

    def partitions(self) -> dict[str, int]:
        """The partition count by topic."""

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Position]]:
        """`append` for who has no task to wait in; called on the event loop. Cancelling the future
        drops nothing."""

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        """Append; return each entry's position, in order, once all are durable.

        Entries of one call for one partition keep their order. Raises LogUnavailable when not
        acknowledged within APPEND_SECONDS_MAX, or at once above PENDING_BYTES_MAX: each entry's
        outcome is then unknown, and what was already on its way may still arrive. What was not is
        dropped. Not acknowledged either: an offset that does not lie above all that were seen in
        its partition.
        """

    async def trouble(self) -> str:
        """What kept the last append from being written, once that was tried again now; nothing when
        it can be."""

    async def heads(self, topic: str) -> list[Position]:
        """The position of the last record of every partition; offset -1 for an empty one."""

    async def starts(self, topic: str) -> list[Position]:
        """The position of the first record of every partition that is still there; one behind the
        head without any."""

    async def read(self, position: Position) -> Record | None:
        """The record at a position; None for one that retention took, or that is beyond the end."""

    async def identity(self) -> LogIdentity:
        """What this log is known by, as it is now; with an empty id where there is none. Raises
        Transient."""

    async def assure(self, topic: str, since: int) -> None:
        """Raise LogUnavailable when this may not be the log any more that was compared with the
        tables, or when there were doubts since `since`, explained or not: a record that was read
        meanwhile may be of another log. Cheap: whoever writes tables asks before each write, for
        what is folded from another log cannot be taken back."""

    @property
    def doubts(self) -> int:
        """How often something was odd so far: an offset that did not rise, another file under the
        path. Nothing is acknowledged from then on until `trust`: what was appended meanwhile may be
        in another log."""

    def witnesses(self, topic: str) -> Mapping[int, Witness]:
        """The last record of each partition that this process knows of, for a log that lacks it is
        not the one that acknowledged it. To be asked for before `heads`."""

    def doubt(self) -> None:
        """Acknowledge nothing until `trust`."""

    def trust(self, doubts: int) -> None:
        """Go on acknowledging: this is the right log, as was found since there were so many
        doubts."""

    async def seal(self, topics: Sequence[str]) -> None:
        """Have these topics take nothing more, for ever: from the return on their heads are final,
        and appends raise LogClosed. What a renewal needs; harmless when done twice. Raises
        LogUnavailable."""

    async def sealed(self, topic: str) -> bool:
        """Whether a topic is closed. Raises LogUnavailable."""

    def reader(self, topic: str, group: str) -> Reader:
        """A new member of `group`, not started."""
