"""Reading the embedded log: one member of a group, and a thread of its own. Never writes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shared.domain.errors import Corrupt, LogUnavailable
from shared.domain.ids import Position
from shared.log.embedded import frames
from shared.log.embedded.consumer_group import GroupMember
from shared.log.port import Record

FETCH_BYTES_MAX = 4_000_000
"""Of one partition at once: its other records, if they are that heavy, are read when these are
folded."""

POLL_SECONDS_MIN, POLL_SECONDS_MAX = 0.002, 0.004
"""A reader looks at `PRAGMA data_version` every 2 ms while records come, every 4 ms when idle: 10
µs each."""


class EmbeddedReader:
    """One member of a group. Reads run in a thread of its own; the loop only looks whether anything
    changed."""

    def __init__(
        self,
        path: Path,
        topic: str,
        group: str,
        numbered: tuple[int, int],
        generation: int,
    ) -> None:
        self._path, self._topic, self._generation = path, topic, generation
        self._number, count = numbered
        self._member = GroupMember(path / "groups", f"{group}.{topic}", count)
        self._next: dict[int, int] = {}
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._executor = ThreadPoolExecutor(1, "log-reader")
        self._seen = -1
        self._more = True
        self._turn = 0

    async def start(self) -> None:
        self._check_file()
        self._member.join()

    async def close(self) -> None:
        self._member.leave()
        self._executor.shutdown()
        if self._db is not None:
            self._db.close()

    def assigned(self) -> frozenset[int]:
        return self._member.assigned

    def seek(self, position: Position) -> None:
        if position.partition in self._member.assigned:
            self._next[position.partition] = position.next
            self._more = True

    async def fetch(
        self, *, records_max: int, wait_seconds: float, without: Collection[int] = ()
    ) -> list[Record]:
        deadline = time.monotonic() + wait_seconds
        pause = POLL_SECONDS_MIN
        while True:
            self._check_file()
            if self._member.rebalance(time.monotonic()):
                self._next = {
                    part: at
                    for part, at in self._next.items()
                    if part in self._member.assigned
                }
                return []
            with frames.failures(self._topic):
                if self._changed() and self._next:
                    found = await asyncio.get_running_loop().run_in_executor(
                        self._executor, self._read, records_max, without
                    )
                    if found:
                        return found
            rest = deadline - time.monotonic()
            if rest <= 0:
                return []
            await asyncio.sleep(min(pause, rest))
            pause = min(pause * 1.2, POLL_SECONDS_MAX)

    async def commit(self, positions: Sequence[Position]) -> None:
        """Nobody reads it: lag is head minus the position rows."""

    def _check_file(self) -> None:
        """Whoever reads on from another file than the one that lies under the path would never hear
        of what comes. Raises LogUnavailable; the partitions are to be sought again."""
        file = frames.file_of(self._path)
        if self._db is not None and file == self._file:
            return
        again, self._next = self._db is not None, {}
        if self._db is not None:
            self._db.close()
            self._db = None
        with frames.failures(self._topic):
            self._db = frames.connect(self._path)
        self._file, self._seen = file, -1
        if again or file != frames.file_of(self._path):
            raise LogUnavailable("The log's file is another one.")

    def _changed(self) -> bool:
        assert self._db is not None
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen:
            self._seen = version
            self._more = True
        return self._more

    def _read(self, records_max: int, without: Collection[int]) -> list[Record]:
        """Partition by partition; the one after the last comes first next time, so that none
        starves."""
        assert self._db is not None
        found: list[Record] = []
        self._more = bool(without)
        partitions = sorted(self._next.keys() - without)
        start = self._turn % max(len(partitions), 1)
        for partition in partitions[start:] + partitions[:start]:
            if len(found) >= records_max:
                self._more = True
                return found
            found += self._read_partition(partition, records_max - len(found))
            self._turn += 1
        self._more |= len(found) >= records_max
        return found

    def _read_partition(self, partition: int, most: int) -> list[Record]:
        assert self._db is not None
        part, offset = (
            self._number * frames.PART_BASE + partition,
            self._next[partition],
        )
        first = self._db.execute(
            "SELECT max(base) FROM frames WHERE part = ? AND base <= ?", (part, offset)
        ).fetchone()[0]
        rows = self._db.execute(
            "SELECT base, count, at, data, sums FROM frames"
            " WHERE part = ? AND base >= ? ORDER BY base LIMIT ?",
            (part, first or 0, most + 1),
        )
        found: list[Record] = []
        size = 0
        for base, count, at, data, sums in rows:
            if base > offset + len(found) or (not data and base + count > offset):
                raise Corrupt(
                    f"The records of {self._topic}/{partition}"
                    f" from {offset + len(found)} on are gone."
                )
            for index, (key, value, fault) in enumerate(
                frames.checked(data, count, sums), start=base
            ):
                if index >= offset and len(found) < most:
                    found.append(
                        Record(
                            self._topic,
                            partition,
                            index,
                            at,
                            key,
                            value,
                            self._generation,
                            fault,
                        )
                    )
            size += len(data)
            if len(found) >= most:
                break
            if size >= FETCH_BYTES_MAX:
                self._more = True
                break
        self._next[partition] = offset + len(found)
        return found
