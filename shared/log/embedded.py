"""The log in a local SQLite file, shared by the processes of one machine. Never loses what it acknowledged.

Group commit: one writer thread a process; what is appended while it commits is its next commit, with one fsync.
SQLite's own busy handler starves the second writer (p99 379 ms), so writers take turns by `flock` (27 ms). One row
holds one frame: the records of one commit for one partition.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from shared.domain.errors import Corrupt, LogUnavailable, Transient
from shared.domain.ids import GENERATION_FIRST, Position
from shared.log import frames
from shared.log.flock import Flock
from shared.log.groups import Membership
from shared.log.port import HEADS_SECONDS_MAX, PENDING_BYTES_MAX, Entry, Record
from shared.log.waiting import Appended, Waiting
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.trouble import Trouble, full

COMMIT_BYTES_MAX = 8_000_000
"""Records of one commit: one fsync stays under the deadline on a slow disk."""

FETCH_BYTES_MAX = 4_000_000
"""Of one partition at once: its other records, if they are that heavy, are read when these are folded."""

CROWD, CROWD_ENOUGH, CROWD_SECONDS = 8, 64, 0.002
"""After a commit of more appends than the first, the next waits for as many as the second, but no longer than this
since the one before was begun. A commit costs 190 µs of a core for 8 appends and 300 for 64; with 64 clients one came
every 0.6 ms, and an append cost 21 µs of the writer thread instead of 12. Fewer clients never wait."""

CLOSE_SECONDS_MAX = 5.0
"""The writer may hang on a disk or on the lock of a frozen process; what is pending then was never acknowledged."""

POLL_SECONDS_MIN, POLL_SECONDS_MAX = 0.002, 0.004
"""A reader looks at `PRAGMA data_version` every 2 ms while records come, every 4 ms when idle: 10 µs each."""


class _Pending(NamedTuple):
    entries: Sequence[Entry]
    bytes: int
    future: Appended


class EmbeddedLog:
    """The log under `path`; `partitions` count only when the log is new.

    What waits belongs to the event loop, and the writer thread gets whole groups of it: a lock that both take makes
    each wait for the other's turn at the interpreter (26 of 60 µs an append).
    """

    def __init__(
        self,
        path: Path,
        partitions: Mapping[str, int],
        generation: int = GENERATION_FIRST,
        clock: Clock | None = None,
    ) -> None:
        self._path = path if generation == GENERATION_FIRST else path / f"g{generation}"
        self._wanted, self.generation = dict(partitions), generation
        self._clock = clock or SystemClock()
        self._partitions: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._waiting = Waiting(self._take)
        self._pending: dict[Appended, _Pending] = {}  # in the order of coming
        self._pending_bytes = 0
        self._idle, self._closing = True, False
        self._crowd, self._crowded_until = 0, 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._groups: SimpleQueue[list[_Pending] | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._executor = ThreadPoolExecutor(1, "log-heads")
        self._trouble = Trouble("log")

    async def start(self) -> None:
        with frames.failures("it"):
            await asyncio.to_thread(self._open)
        loop = asyncio.get_running_loop()
        self._writer = threading.Thread(target=self._write, args=(loop,), name="log-writer", daemon=True)
        self._writer.start()

    async def close(self) -> None:
        """Commit what is pending, then end."""
        self._closing = True
        if self._idle:
            self._groups.put(None)
        if self._writer is not None:
            await asyncio.to_thread(self._writer.join, CLOSE_SECONDS_MAX)
        self._waiting.close()
        self._executor.shutdown(wait=False)

    def partitions(self) -> dict[str, int]:
        return dict(self._partitions)

    def submit(self, entries: Sequence[Entry]) -> Appended:
        size = 0
        for _, _, key, value in entries:
            size += len(key) + len(value)
        if self._closing or self._pending_bytes + size > PENDING_BYTES_MAX:
            raise LogUnavailable("The log is closing." if self._closing else "The log does not keep up.")
        future = self._waiting.add()
        self._pending[future] = _Pending(entries, size, future)
        self._pending_bytes += size
        if self._idle:  # what else comes in this round of the loop goes with it
            self._idle = False
            asyncio.get_running_loop().call_soon(self._hand_over)
        elif self._gathering is not None and len(self._pending) >= CROWD_ENOUGH:
            self._hand_over()
        return future

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        return await self._waiting.result(self.submit(entries))

    async def trouble(self) -> str:
        if self._trouble.detail:
            with suppress(Transient):
                await self.append([])
        return self._trouble.detail

    async def heads(self, topic: str) -> list[Position]:
        return await self._ends(topic, frames.next_offset)

    async def beginnings(self, topic: str) -> list[Position]:
        return await self._ends(topic, frames.first_offset)

    async def _ends(self, topic: str, offset: Callable[[sqlite3.Connection, int], int]) -> list[Position]:
        try:
            async with asyncio.timeout(HEADS_SECONDS_MAX):
                return await asyncio.get_running_loop().run_in_executor(self._executor, self._look, topic, offset)
        except TimeoutError:
            raise LogUnavailable from None

    def reader(self, topic: str, group: str) -> EmbeddedReader:
        numbered = (self._numbers[topic], self._partitions[topic])
        return EmbeddedReader(self._path, topic, group, numbered, self.generation)

    async def forget(self, before_us: int) -> int:
        """Retention: forget whole frames older than that; their number. Of a partition's newest its place stays, for
        offsets count on from there."""
        with frames.failures("it"):
            return await asyncio.to_thread(self._forget, before_us)

    def _open(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(self._turn()) as turn, turn, frames.connect(self._path) as db:
            db.executescript(frames.SCHEMA)
            if "sums" not in {column[1] for column in db.execute("PRAGMA table_info(frames)")}:
                db.execute(frames.WITH_SUMS)
            for number, (topic, count) in enumerate(sorted(self._wanted.items())):
                db.execute("INSERT OR IGNORE INTO topics VALUES (?, ?, ?)", (topic, number, count))
            for topic, number, count in db.execute("SELECT name, number, partitions FROM topics"):
                self._partitions[topic], self._numbers[topic] = count, number
        db.close()

    def _turn(self) -> Flock:
        return Flock(self._path / "write.lock")

    def _look(self, topic: str, offset: Callable[[sqlite3.Connection, int], int]) -> list[Position]:
        """The position before the offset that is found, of every partition."""
        with frames.failures(topic), closing(frames.connect(self._path)) as db:
            return [
                Position(topic, partition, offset(db, self._part(topic, partition)) - 1, self.generation)
                for partition in range(self._partitions[topic])
            ]

    def _part(self, topic: str, partition: int) -> int:
        return self._numbers[topic] * frames.PART_BASE + partition

    def _hand_over(self) -> None:
        """Give the writer what came meanwhile, up to the size of a commit."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        group: list[_Pending] = []
        size = 0
        for pending in self._pending.values():
            size += pending.bytes
            if group and size > COMMIT_BYTES_MAX:
                break
            group.append(pending)
        for pending in group:
            self._take(pending.future)
        if group:
            self._crowd = len(group)
            self._crowded_until = asyncio.get_running_loop().time() + CROWD_SECONDS
            self._groups.put(group)
            return
        self._idle = True
        if self._closing:
            self._groups.put(None)

    def _landed(self, group: list[_Pending], outcome: list[list[Position]] | LogUnavailable) -> None:
        if isinstance(outcome, LogUnavailable):
            self._trouble.is_now(outcome.detail)
        elif self._trouble.detail and not full(self._path):  # on a full disk a small commit may fit between others
            self._trouble.is_now("")
        for index, pending in enumerate(group):
            self._waiting.tell(pending.future, outcome if isinstance(outcome, LogUnavailable) else outcome[index])
        loop = asyncio.get_running_loop()
        crowded = self._crowd > CROWD and len(self._pending) < CROWD_ENOUGH
        if crowded and loop.time() < self._crowded_until and not self._closing:
            self._gathering = loop.call_at(self._crowded_until, self._hand_over)
        else:
            self._hand_over()

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """The writer thread: one commit after the other. It must not die: nothing but it answers the waiting ones."""
        db: sqlite3.Connection | None = None
        turn: Flock | None = None
        offsets: dict[int, int] = {}
        seen = -1
        while (group := self._groups.get()) is not None:
            outcome: list[list[Position]] | LogUnavailable
            try:
                turn = turn or self._turn()
                with turn:
                    group = [one for one in group if not one.future.done()]  # who gave up meanwhile is not written
                    if db is None:
                        db = frames.connect(self._path)
                    version = db.execute("PRAGMA data_version").fetchone()[0]
                    if version != seen:  # another process has written: the remembered offsets are old
                        offsets.clear()
                        seen = version
                    outcome = self._insert(db, group, offsets)
            except Exception as error:  # noqa: BLE001  # whatever it is: who waits is told, and the next commit is tried
                seen = -1
                _close(db, turn)
                db = turn = None
                said = error if isinstance(error, sqlite3.Error | OSError) else type(error).__name__
                outcome = LogUnavailable(f"The log could not be written: {said}")
            if loop.is_closed():  # nobody is there to hear it
                break
            loop.call_soon_threadsafe(self._landed, group, outcome)
        _close(db, turn)

    def _take(self, future: Appended) -> None:
        pending = self._pending.pop(future, None)
        if pending is not None:
            self._pending_bytes -= pending.bytes

    def _insert(self, db: sqlite3.Connection, group: list[_Pending], offsets: dict[int, int]) -> list[list[Position]]:
        gathered: dict[int, list[tuple[bytes, bytes]]] = {}
        positions: list[list[Position]] = []
        bases: dict[int, int] = {}
        for pending in group:
            mine: list[Position] = []
            for topic, partition, key, value in pending.entries:
                part = self._part(topic, partition)
                frame = gathered.get(part)
                if frame is None:
                    if part not in offsets:
                        offsets[part] = frames.next_offset(db, part)
                    frame = gathered[part] = []
                    bases[part] = offsets[part]
                mine.append(Position(topic, partition, bases[part] + len(frame), self.generation))
                frame.append((key, value))
            positions.append(mine)
        at = self._clock.now_us()
        rows = [(part, bases[part], len(frame), at, *frames.packed(frame)) for part, frame in gathered.items()]
        if rows:  # one statement, so one transaction, and one wait for the interpreter's lock: each row had one
            values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
            db.execute(f"INSERT INTO frames VALUES {values}", [value for row in rows for value in row])
        else:
            db.execute(frames.TOUCH)
        for part, base, count, *_ in rows:
            offsets[part] = base + count
        return positions

    def _forget(self, before_us: int) -> int:
        db = frames.connect(self._path)
        try:
            with closing(self._turn()) as turn, turn, db:
                db.execute("BEGIN IMMEDIATE")
                dropped = db.execute(
                    "DELETE FROM frames WHERE at < ? AND base < (SELECT max(base) FROM frames newest"
                    " WHERE newest.part = frames.part)",
                    (before_us,),
                ).rowcount
                dropped += db.execute(
                    "UPDATE frames SET data = x'', sums = NULL WHERE at < ? AND data != x''", (before_us,)
                ).rowcount
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return dropped
        finally:
            db.close()


class EmbeddedReader:
    """One member of a group. Reads run in a thread of its own; the loop only looks whether anything changed."""

    def __init__(self, path: Path, topic: str, group: str, numbered: tuple[int, int], generation: int) -> None:
        self._path, self._topic, self._generation = path, topic, generation
        self._number, count = numbered
        self._membership = Membership(path / "groups", f"{group}.{topic}", count)
        self._next: dict[int, int] = {}
        self._db: sqlite3.Connection | None = None
        self._executor = ThreadPoolExecutor(1, "log-reader")
        self._seen = -1
        self._more = True
        self._turn = 0

    async def start(self) -> None:
        self._db = frames.connect(self._path)
        self._membership.join()

    async def close(self) -> None:
        self._membership.leave()
        self._executor.shutdown()
        if self._db is not None:
            self._db.close()

    def assigned(self) -> frozenset[int]:
        return self._membership.assigned

    def seek(self, position: Position) -> None:
        if position.partition in self._membership.assigned:
            self._next[position.partition] = position.next
            self._more = True

    async def fetch(self, *, records_max: int, wait_seconds: float, without: Collection[int] = ()) -> list[Record]:
        assert self._db is not None
        deadline = time.monotonic() + wait_seconds
        pause = POLL_SECONDS_MIN
        while True:
            if self._membership.rebalance(time.monotonic()):
                self._next = {part: at for part, at in self._next.items() if part in self._membership.assigned}
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

    def _changed(self) -> bool:
        assert self._db is not None
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen:
            self._seen = version
            self._more = True
        return self._more

    def _read(self, records_max: int, without: Collection[int]) -> list[Record]:
        """Partition by partition; the one after the last comes first next time, so that none starves."""
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
        part, offset = self._number * frames.PART_BASE + partition, self._next[partition]
        first = self._db.execute(
            "SELECT max(base) FROM frames WHERE part = ? AND base <= ?", (part, offset)
        ).fetchone()[0]
        rows = self._db.execute(
            "SELECT base, count, at, data, sums FROM frames WHERE part = ? AND base >= ? ORDER BY base LIMIT ?",
            (part, first or 0, most + 1),
        )
        found: list[Record] = []
        size = 0
        for base, count, at, data, sums in rows:
            if base > offset + len(found) or (not data and base + count > offset):
                raise Corrupt(f"The records of {self._topic}/{partition} from {offset + len(found)} on are gone.")
            for index, (key, value, fault) in enumerate(frames.checked(data, count, sums), start=base):
                if index >= offset and len(found) < most:
                    found.append(Record(self._topic, partition, index, at, key, value, self._generation, fault))
            size += len(data)
            if len(found) >= most:
                break
            if size >= FETCH_BYTES_MAX:
                self._more = True
                break
        self._next[partition] = offset + len(found)
        return found


def _close(*parts: sqlite3.Connection | Flock | None) -> None:
    for part in parts:
        if part is not None:
            part.close()
