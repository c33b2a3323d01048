"""A renewal: what is left of one generation of the log is projected, then the next one begins.
Never folds anything.

Topics are closed one after the other, for what identity decides is told to fragments and to the
deleter by the same log: identity first, commands and deletions when that is projected, dead letters
last. Only then does the next generation's log come to be, then the position rows that stand before
its first records, and last the row that opens it. Each step may be done twice, so a renewal that
was cut off is gone on with by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from shared.domain.errors import Rejected
from shared.domain.ids import (
    COMMANDS,
    DEAD,
    DELETIONS,
    GENERATIONS_MAX,
    IDENTITY,
    Position,
)
from shared.log.identity import Generation, LogIdentity
from shared.log.port import Log

POLL_SECONDS = 0.05
"""Between two looks at how far the projection is."""

STALLED_SECONDS_MAX = 120.0
"""Without any progress for so long, something else is wrong than being late: a stopped partition, a
frozen process."""

PROJECTED = (COMMANDS, IDENTITY, DELETIONS)
"""Topics with position rows."""

Counts = Mapping[str, int]


class Lost(NamedTuple):
    """Records of one partition that no table has seen, and none will. `until` is None where nobody
    can know."""

    topic: str
    partition: int
    after: int
    until: int | None

    def __str__(self) -> str:
        where = f"{self.topic}/{self.partition}"
        if self.until is None:
            return f"{where}: projected up to {self.after}; what was written after it is lost"
        count = self.until - self.after
        lost = f"{self.after + 1} to {self.until}"
        return f"{where}: {count} records are lost, {lost}: the log has forgotten them"


class Books(Protocol):
    """What a renewal asks of the store, and writes there."""

    async def positions(self, topic: str) -> dict[int, Position]:
        """Every position row of a topic, whatever the partition counts. Raises Transient, as all of
        these."""

    async def move(self, positions: Sequence[Position]) -> None:
        """Put position rows ahead, to where nothing more of what lies before them will come."""

    async def feed(self) -> None:
        """Bring the search table to where the other tables are, with the partition counts of the
        ending generation."""

    async def begin(self, generation: int, counts: Counts) -> None:
        """Put the position rows of every table before the first records of a generation, for so
        many partitions."""

    async def write(self, generation: Generation) -> None:
        """Write the row of a generation."""


class Renewal:
    """One renewal. `make` opens the log of the next generation, which it creates with the wanted
    partition counts if it is not there; `check` raises when whoever projects has given up; `tell`
    hears what is being done."""

    def __init__(
        self,
        *,
        books: Books,
        make: Callable[[int, Counts], Awaitable[Log]],
        check: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._books, self._make, self._check, self._tell = books, make, check, tell

    async def end(self, log: Log) -> list[Lost]:
        """Close a generation when all that can be projected of it is; what cannot. Somebody must be
        projecting."""
        lost = await self._pass_gaps(log)
        await self._projected(log, PROJECTED)  # most of it, while it still takes writes
        self._tell(
            "closing the log: writes answer 503 until the next generation is open"
        )
        await log.seal((IDENTITY,))
        await self._projected(log, (IDENTITY,))
        await log.seal((COMMANDS, DELETIONS))
        await self._projected(log, (COMMANDS, DELETIONS))
        await log.seal((DEAD,))
        return lost

    async def abandon(self, counts: Counts) -> list[Lost]:
        """Give up a generation whose log is not there any more; what was projected of each
        partition."""
        lost = []
        for topic in PROJECTED:
            positions = await self._books.positions(topic)
            for partition in range(counts[topic]):
                held = positions.get(partition)
                lost.append(
                    Lost(
                        topic, partition, held.offset if held is not None else -1, None
                    )
                )
        return lost

    async def begin(
        self, known: Sequence[Generation], ending: Generation, wanted: Counts
    ) -> Generation:
        """Open the generation after `ending`, which is closed. One that exists is taken as it
        is."""
        number = next_number(ending)
        await self._books.feed()
        log = await self._make(number, wanted)
        try:
            identity: LogIdentity = await log.identity()
            counts = log.partitions()
        finally:
            await log.close()
        widest = {
            topic: max(
                [
                    counts[topic],
                    *(one.partitions.get(topic, 0) for one in (*known, ending)),
                ]
            )
            for topic in PROJECTED
        }
        await self._books.begin(number, widest)
        opened = Generation(number=number, identity=identity)
        await self._books.write(
            opened
        )  # the newest open one is the log's, so the other may come later
        await self._books.write(
            Generation(number=ending.number, identity=ending.identity, state="closed")
        )
        return opened

    async def _pass_gaps(self, log: Log) -> list[Lost]:
        """Put positions behind what the log has forgotten before it was projected."""
        lost, moved = [], []
        for topic in PROJECTED:
            positions = await self._books.positions(topic)
            for start in await log.starts(topic):
                held = positions.get(
                    start.partition,
                    Position(topic, start.partition, -1, log.generation),
                )
                if held.generation == log.generation and held.next < start.offset:
                    lost.append(
                        Lost(topic, start.partition, held.offset, start.offset - 1)
                    )
                    moved.append(start._replace(offset=start.offset - 1))
        await self._books.move(moved)
        return lost

    async def _projected(self, log: Log, topics: Sequence[str]) -> None:
        """Wait until the tables are where the log ends now. Raises Rejected when nothing moves any
        more."""
        heads = {topic: await log.heads(topic) for topic in topics}
        loop = asyncio.get_running_loop()
        moved_at, last = loop.time(), -1
        while True:
            self._check()
            missing = await self._missing(heads)
            if missing == 0:
                return
            if missing != last:
                self._tell(f"{missing} records are to be projected")
                moved_at, last = loop.time(), missing
            if loop.time() - moved_at > STALLED_SECONDS_MAX:
                raise Rejected(
                    f"{missing} records of the log are not projected, and nothing moves:"
                    " see `doctor`."
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _missing(self, heads: Mapping[str, Sequence[Position]]) -> int:
        """How many records up to these the tables have not seen."""
        missing = 0
        for topic, ends in heads.items():
            positions = await self._books.positions(topic)
            for head in ends:
                held = positions.get(head.partition)
                missing += max(
                    0, head.offset - (held.offset if held is not None else -1)
                )
        return missing


def next_number(ending: Generation) -> int:
    """The number of the generation after this one. Raises Rejected after the last."""
    if ending.number >= GENERATIONS_MAX:
        raise Rejected(
            f"The log was renewed {GENERATIONS_MAX - 1} times: there are no more generations."
        )
    return ending.number + 1
