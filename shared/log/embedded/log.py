"""The log in a local SQLite file, shared by the processes of one machine. Never loses what it
acknowledged.

Group commit: one writer thread a process; what is appended while it commits is its next commit,
with one fsync. SQLite's own busy handler starves the second writer (p99 379 ms), so writers take
turns by `flock` (27 ms). One row holds one frame: the records of one commit for one partition.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, TypeVar
from uuid import uuid4

from shared.domain.errors import LogClosed, LogUnavailable, Transient
from shared.domain.ids import GENERATION_FIRST, Position
from shared.log.doubts import Doubtful
from shared.log.embedded import frames, retention
from shared.log.embedded.flock import LOCK, Flock
from shared.log.embedded.inserter import Inserter, Outcomes
from shared.log.embedded.reader import EmbeddedReader
from shared.log.identity import LogIdentity
from shared.log.pending_appends import Appended, PendingAppends
from shared.log.port import HEADS_SECONDS_MAX, PENDING_BYTES_MAX, Entry, Record
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.group_commit import Capacity, GroupCommit, Linger, Pending
from shared.runtime.trouble import Trouble, full

COMMIT_BYTES_MAX = 8_000_000
"""Records of one commit: one fsync stays under the deadline on a slow disk."""

CYCLE_SECONDS = 0.002
"""From the beginning of a commit until the next no longer waits for a crowd. With 2,000 appends
a second on a disk that takes 5 ms a commit, waiting after each made an append of 8.5 ms one of
10.8."""

CLOSE_SECONDS_MAX = 5.0
"""The writer may hang on a disk or on the lock of a frozen process; what is pending then was never
acknowledged."""

T = TypeVar("T")

Appends = list[Pending[Sequence[Entry], list[Position]]]
"""The appends of one commit."""


class _Commit(NamedTuple):
    """One commit for the writer thread, and the future of its end, on the loop."""

    appends: Appends
    landed: asyncio.Future[None]


class EmbeddedLog(Doubtful[tuple[int, int] | None]):
    """The log under `path`; `partitions` count when the log is new, or known to the store: then it
    is not made either.

    What waits belongs to the event loop, and the writer thread gets whole groups of it: a lock that
    both take makes each wait for the other's turn at the interpreter (26 of 60 µs an append).
    Commits linger, for one costs 190 µs of a core for 8 appends and 300 for 64.
    """

    def __init__(
        self,
        path: Path,
        partitions: Mapping[str, int],
        generation: int = GENERATION_FIRST,
        *,
        create: bool = True,
        clock: Clock | None = None,
        mint: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        super().__init__(None)
        self._root, self._path = path, frames.folder_of(path, generation)
        self.generation, self._create, self._mint = generation, create, mint
        self._partitions = dict(partitions)
        self._numbers = {
            topic: number for number, topic in enumerate(sorted(partitions))
        }
        self._inserter = Inserter(
            generation, self._part, self._doubts, (clock or SystemClock()).now_us
        )
        self._trouble = Trouble("log")
        self.refused = False
        self._closing = False
        self._appends: GroupCommit[Sequence[Entry], list[Position]] = GroupCommit(
            self._commit,
            size_max=COMMIT_BYTES_MAX,
            capacity=Capacity(
                PENDING_BYTES_MAX, lambda: LogUnavailable("The log does not keep up.")
            ),
            closing=lambda: LogUnavailable("The log is closing."),
            linger=Linger(cycle=CYCLE_SECONDS),
            name="log commits",
        )
        self._waiting = PendingAppends(self._appends.drop, self._trouble)
        self._commits: SimpleQueue[_Commit | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._executor = ThreadPoolExecutor(1, "log-heads")

    async def assure(self, topic: str, since: int) -> None:
        self._check_file()
        self._doubts.check(since)

    async def start(self) -> None:
        if self._create:
            with frames.failures("it"):
                await asyncio.to_thread(self._open)
        self._trusted = self._compared = frames.file_of(self._path)
        loop = asyncio.get_running_loop()
        self._writer = threading.Thread(
            target=self._write, args=(loop,), name="log-writer", daemon=True
        )
        self._writer.start()

    async def close(self) -> None:
        """Commit what is pending, then end."""
        self._closing = True
        until = asyncio.get_running_loop().time() + CLOSE_SECONDS_MAX
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._appends.drain()
        await self._appends.close()
        self._commits.put(None)
        if self._writer is not None:
            await asyncio.to_thread(
                self._writer.join, max(0.0, until - asyncio.get_running_loop().time())
            )
        self._waiting.close()
        self._executor.shutdown(wait=False)

    def partitions(self) -> dict[str, int]:
        return dict(self._partitions)

    def submit(self, entries: Sequence[Entry]) -> Appended:
        size = 0
        for _, _, key, value in entries:
            size += len(key) + len(value)
        if self._closing:
            raise LogUnavailable("The log is closing.")
        future = self._appends.submit(entries, size)
        self._waiting.add(future)
        return future

    @property
    def waiting(self) -> bool:
        """Whether there is an append that is not in the writer's hands yet."""
        return self._appends.waiting > 0

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        return await self._waiting.result(self.submit(entries))

    async def trouble(self) -> str:
        if self._trouble.detail:
            with suppress(Transient):
                await self.append([])
        return self._trouble.detail

    async def heads(self, topic: str) -> list[Position]:
        seen = self._doubts.seen()
        heads = await self._look(
            lambda db: self._ends(db, topic, frames.next_offset, -1)
        )
        self._doubts.heads(heads, seen)
        return heads

    async def starts(self, topic: str) -> list[Position]:
        return await self._look(
            lambda db: self._ends(db, topic, frames.first_offset, 0)
        )

    async def read(self, position: Position) -> Record | None:
        topic, partition, offset, _ = position
        found = await self._look(
            lambda db: frames.record_at(db, self._part(topic, partition), offset)
        )
        if found is None:
            return None
        at, key, value, fault = found
        return Record(topic, partition, offset, at, key, value, self.generation, fault)

    async def identity(self) -> LogIdentity:
        return await self._in_time(self._identify)

    def reader(self, topic: str, group: str) -> EmbeddedReader:
        numbered = (self._numbers[topic], self._partitions[topic])
        return EmbeddedReader(self._path, topic, group, numbered, self.generation)

    async def seal(self, topics: Sequence[str]) -> None:
        def close() -> None:
            with self._session() as db, closing(self._turn()) as turn, turn:
                frames.close_topics(db, topics)

        await asyncio.to_thread(close)

    async def sealed(self, topic: str) -> bool:
        return topic in await self._look(frames.closed_topics)

    async def forget(self, before_us: int) -> int:
        """Retention: forget whole frames older than that, of former generations too; their number.
        Of a partition's newest its place stays, for offsets count on from there."""
        with frames.failures("it"):
            return await asyncio.to_thread(self._forget, before_us)

    def _open(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            closing(self._turn()) as turn,
            turn,
            closing(frames.connect(self._path, create=True)) as db,
        ):
            db.executescript(frames.SCHEMA)
            if "sums" not in {
                column[1] for column in db.execute("PRAGMA table_info(frames)")
            }:
                db.execute(frames.WITH_SUMS)
            db.execute("INSERT OR IGNORE INTO meta VALUES ('id', ?)", (self._mint(),))
            for topic, number in self._numbers.items():
                db.execute(
                    "INSERT OR IGNORE INTO topics VALUES (?, ?, ?)",
                    (topic, number, self._partitions[topic]),
                )
            _, topics = frames.identity_of(db)
        for topic, (number, count) in topics.items():
            self._partitions[topic], self._numbers[topic] = count, number

    def _turn(self) -> Flock:
        return Flock(self._path / LOCK)

    async def _look(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """What the file under the path says; raises LogUnavailable."""

        def asked() -> T:
            with self._session() as db:
                return ask(db)

        return await self._in_time(asked)

    async def _in_time(self, ask: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(HEADS_SECONDS_MAX):
                return await asyncio.get_running_loop().run_in_executor(
                    self._executor, ask
                )
        except TimeoutError:
            raise LogUnavailable from None

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """The file under the path, for reading. Another one than before is odd."""
        with suppress(LogUnavailable):
            self._check_file()
        with frames.failures("it"), closing(frames.connect(self._path)) as db:
            yield db

    def _identify(self) -> LogIdentity:
        file = frames.file_of(self._path)
        if file is None:
            return LogIdentity(id="")
        with self._session() as db:
            name, topics = frames.identity_of(db)
        self._compared = file
        self._numbers |= {topic: number for topic, (number, _) in topics.items()}
        return LogIdentity(
            id=name, partitions={topic: count for topic, (_, count) in topics.items()}
        )

    def _ends(
        self,
        db: sqlite3.Connection,
        topic: str,
        offset: Callable[[sqlite3.Connection, int], int],
        less: int,
    ) -> list[Position]:
        return [
            Position(
                topic,
                partition,
                offset(db, self._part(topic, partition)) + less,
                self.generation,
            )
            for partition in range(self._partitions[topic])
        ]

    def _part(self, topic: str, partition: int) -> int:
        return self._numbers[topic] * frames.PART_BASE + partition

    async def _commit(self, appends: Appends) -> None:
        """Have appends committed by the writer thread."""
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._commits.put(_Commit(appends, landed))
        await landed

    def _landed(
        self,
        landed: asyncio.Future[None],
        appends: Appends,
        outcome: Outcomes | LogUnavailable,
    ) -> None:
        """Tell each append what became of it. The next commit is begun before those who hear of it
        go on."""
        if not landed.done():  # the log may have been closed
            landed.set_result(None)
        if isinstance(outcome, LogUnavailable):
            self._trouble.is_now(outcome.detail)
        elif self._trouble.detail and not full(
            self._path
        ):  # on a full disk a small commit may fit between others
            self._trouble.is_now("")
        for index, pending in enumerate(appends):
            self._waiting.tell(
                pending.future,
                outcome if isinstance(outcome, LogUnavailable) else outcome[index],
            )

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """The writer thread: one commit after the other. It must not die: nothing but it answers
        the waiting ones."""
        db: sqlite3.Connection | None = None
        turn: Flock | None = None
        offsets: dict[int, int] = {}
        closed: set[str] = set()
        seen, opened = -1, self._trusted
        while (commit := self._commits.get()) is not None:
            appends = commit.appends
            outcome: Outcomes | LogUnavailable
            try:
                turn = turn or self._turn()
                with turn:
                    appends = [
                        one for one in appends if not one.future.done()
                    ]  # given up meanwhile: not written
                    self._check_file()
                    if db is None or opened != self._trusted:
                        _close(db)
                        db, opened, seen = frames.connect(self._path), self._trusted, -1
                        self._check_file()
                    version = db.execute("PRAGMA data_version").fetchone()[0]
                    if (
                        version != seen
                    ):  # another connection has written: what is remembered is old
                        offsets.clear()
                        closed = frames.closed_topics(db)
                        seen = version
                    outcome = self._insert(db, appends, offsets, closed)
                    self._check_file()  # what was written to a file that is gone would never appear
            except Exception as error:  # noqa: BLE001  # whatever it is: who waits is told, and the next commit is tried
                _close(db, turn)
                db = turn = None
                said = (
                    error
                    if isinstance(error, sqlite3.Error | OSError | LogUnavailable)
                    else type(error).__name__
                )
                outcome = LogUnavailable(f"The log could not be written: {said}")
            if loop.is_closed():  # nobody is there to hear it
                break
            loop.call_soon_threadsafe(self._landed, commit.landed, appends, outcome)
        _close(db, turn)

    def _check_file(self) -> None:
        """The file under the path must be the one that was compared with the tables. Raises
        LogUnavailable."""
        if not self._doubts.pending and frames.file_of(self._path) != self._trusted:
            self._doubts.add()
        self._doubts.check()

    def _insert(
        self,
        db: sqlite3.Connection,
        appends: Appends,
        offsets: dict[int, int],
        closed: set[str],
    ) -> Outcomes:
        outcomes = self._inserter.insert(
            db, [entries for entries, _, _ in appends], offsets, closed
        )
        self.refused |= any(isinstance(outcome, LogClosed) for outcome in outcomes)
        return outcomes

    def _forget(self, before_us: int) -> int:
        self._check_file()
        with self._session() as db:
            dropped = retention.forget(self._path, db, before_us)
        return dropped + retention.forget_former(self._root, self.generation, before_us)


def _close(*parts: sqlite3.Connection | Flock | None) -> None:
    for part in parts:
        if part is not None:
            part.close()
