"""The log in memory: the twin that tests and simulation run on. Never durable, never with a task of
its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from shared.domain.errors import Corrupt, LogClosed, LogUnavailable
from shared.domain.ids import (
    COMMANDS,
    DEAD,
    DELETIONS,
    GENERATION_FIRST,
    IDENTITY,
    Position,
)
from shared.log.doubts import Doubtful
from shared.log.identity import LogIdentity
from shared.log.port import Entry, Record

PARTITIONS = {COMMANDS: 4, IDENTITY: 2, DELETIONS: 1, DEAD: 1}


class MemoryLog(Doubtful[tuple[Any, ...]]):
    """One log for everybody who holds the object."""

    def __init__(
        self,
        partitions: Mapping[str, int] | None = None,
        now_us: Callable[[], int] = lambda: 0,
        generation: int = GENERATION_FIRST,
        name: str = "memory",
    ) -> None:
        """`name` is the id by which the log is known."""
        super().__init__((name, 0))
        self.generation = generation
        self._sealed: set[str] = set()
        self.refused = False
        self._lies: list[Any] = [name, 0]
        """Shared by all who hold the log: its id, and how often another one came to lie in its
        place."""
        self._partitions = dict(partitions or PARTITIONS)
        self._now_us = now_us
        self._records: dict[tuple[str, int], list[Record]] = {
            (topic, partition): []
            for topic, count in self._partitions.items()
            for partition in range(count)
        }
        self._forgotten: dict[tuple[str, int], int] = {}
        self._groups: dict[tuple[str, str], list[MemoryReader]] = {}
        self._changed = asyncio.Event()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def partitions(self) -> dict[str, int]:
        return dict(self._partitions)

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Position]]:
        future: asyncio.Future[list[Position]] = (
            asyncio.get_running_loop().create_future()
        )
        future.set_result(self._append(entries))
        return future

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        return self._append(entries)

    async def assure(self, topic: str, since: int) -> None:
        if self._trusted[0] != self._lies[0]:
            self._doubts.add()
        self._check()
        self._doubts.check(since)

    def _check(self) -> None:
        """What lies there must be what was compared with the tables. Raises LogUnavailable."""
        if not self._doubts.pending and self._trusted[1] != self._lies[1]:
            self._doubts.add()
        self._doubts.check()

    def _append(self, entries: Sequence[Entry]) -> list[Position]:
        self._check()
        if not self._sealed.isdisjoint(entry.topic for entry in entries):
            self.refused = True
            raise LogClosed
        positions = []
        for topic, partition, key, value in entries:
            records = self._records[topic, partition]
            records.append(
                Record(
                    topic,
                    partition,
                    len(records),
                    self._now_us(),
                    key,
                    value,
                    self.generation,
                )
            )
            positions.append(records[-1].position)
            if (
                self._doubts.floor(topic, partition) < 0
                and self._trusted[0] != self._lies[0]
            ):
                self._doubts.add()
            self._doubts.rises(positions[-1], self._doubts.floor(topic, partition))
            self._doubts.raised(positions[-1], value)
        self._wake()
        return positions

    async def trouble(self) -> str:
        return ""

    async def heads(self, topic: str) -> list[Position]:
        heads = self._heads(topic)
        self._doubts.heads(heads, self._doubts.seen())
        return heads

    async def starts(self, topic: str) -> list[Position]:
        return [
            head._replace(offset=min(self._forgotten.get(head[:2], 0), head.next))
            for head in self._heads(topic)
        ]

    async def read(self, position: Position) -> Record | None:
        topic, partition, offset, _ = position
        records = self._records[topic, partition]
        there = self._forgotten.get((topic, partition), 0) <= offset < len(records)
        return records[offset] if there else None

    async def identity(self) -> LogIdentity:
        self._compared = tuple(self._lies)
        return LogIdentity(id=str(self._lies[0]), partitions=dict(self._partitions))

    async def seal(self, topics: Sequence[str]) -> None:
        self._sealed.update(topics)

    async def sealed(self, topic: str) -> bool:
        return topic in self._sealed

    def _heads(self, topic: str) -> list[Position]:
        return [
            Position(
                topic,
                partition,
                len(self._records[topic, partition]) - 1,
                self.generation,
            )
            for partition in range(self._partitions[topic])
        ]

    def reader(self, topic: str, group: str) -> MemoryReader:
        return MemoryReader(self, topic, group)

    def records(self, topic: str) -> list[Record]:
        """Everything ever appended to a topic, partition by partition."""
        return [
            record
            for partition in range(self._partitions[topic])
            for record in self._records[topic, partition]
        ]

    def forget(self, topic: str, partition: int, before: int) -> None:
        """Retention: the records below offset `before` can no longer be fetched."""
        self._forgotten[topic, partition] = before

    def copy(self) -> dict[tuple[str, int], list[Record]]:
        """All records as they are now."""
        return {key: list(records) for key, records in self._records.items()}

    def put(
        self,
        records: Mapping[tuple[str, int], Sequence[Record]],
        name: str = "memory",
        *,
        seen: bool = True,
    ) -> None:
        """Another log lies where this one was, under the feet of whoever uses it: an older copy, or
        one made anew. That of a file is seen; that of topics is not."""
        self._lies[:] = [name, self._lies[1] + seen]
        for key, mine in self._records.items():
            mine[:] = records.get(key, ())
        self._wake()

    def _join(self, reader: MemoryReader) -> None:
        self._groups.setdefault((reader.topic, reader.group), []).append(reader)
        self._rebalance(reader.topic, reader.group)

    def _leave(self, reader: MemoryReader) -> None:
        self._groups[reader.topic, reader.group].remove(reader)
        self._rebalance(reader.topic, reader.group)

    def _rebalance(self, topic: str, group: str) -> None:
        members = self._groups[topic, group]
        for index, member in enumerate(members):
            member.assign(
                frozenset(range(index, self._partitions[topic], len(members)))
            )
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _read(self, topic: str, partition: int, offset: int, most: int) -> list[Record]:
        if offset < self._forgotten.get((topic, partition), 0):
            raise Corrupt(
                f"The records of {topic}/{partition} from {offset} on are gone."
            )
        if offset > len(self._records[topic, partition]):
            raise Corrupt(f"{topic}/{partition} ends before {offset}.")
        return self._records[topic, partition][offset : offset + most]


class MemoryReader:
    """One member; partitions are dealt out by the order of joining."""

    def __init__(self, log: MemoryLog, topic: str, group: str) -> None:
        self._log, self.topic, self.group = log, topic, group
        self._assigned: frozenset[int] = frozenset()
        self._next: dict[int, int] = {}
        self._lies = log._lies[1]  # noqa: SLF001

    async def start(self) -> None:
        self._log._join(self)  # noqa: SLF001  # one module, one implementation

    async def close(self) -> None:
        self._log._leave(self)  # noqa: SLF001
        self.assign(frozenset())

    def assign(self, partitions: frozenset[int]) -> None:
        """Set what this member holds; tests make two members overlap with it."""
        self._assigned = partitions
        self._next = {
            partition: offset
            for partition, offset in self._next.items()
            if partition in partitions
        }

    def assigned(self) -> frozenset[int]:
        return self._assigned

    def seek(self, position: Position) -> None:
        if position.partition in self._assigned:
            self._next[position.partition] = position.next

    async def fetch(
        self, *, records_max: int, wait_seconds: float, without: Collection[int] = ()
    ) -> list[Record]:
        before, changed = self._assigned, self._log._changed  # noqa: SLF001
        found = self._take(records_max, without)
        if found or self._assigned != before:
            return found
        try:
            async with asyncio.timeout(
                wait_seconds
            ):  # wait_for of 3.11 may swallow a cancellation
                await changed.wait()
        except TimeoutError:
            return []
        return self._take(records_max, without)

    async def commit(self, positions: Sequence[Position]) -> None: ...

    def _take(self, most: int, without: Collection[int]) -> list[Record]:
        if self._lies != self._log._lies[1]:  # noqa: SLF001
            self._lies, self._next = self._log._lies[1], {}  # noqa: SLF001
            raise LogUnavailable("Another log lies there.")
        found: list[Record] = []
        for partition in sorted(self._next.keys() - without):
            if len(found) >= most:
                break
            records = self._log._read(  # noqa: SLF001
                self.topic, partition, self._next[partition], most - len(found)
            )
            self._next[partition] += len(records)
            found += records
        return found
