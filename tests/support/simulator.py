"""The simulator: the real worker coroutines on in-memory log and tables, under a scheduler that wants them to fail.

An episode is a list of steps made from a seed, and a second stream of decisions made at every await: yield, fail
before or after it took effect, be killed there. After the chaos the tables must be what one pass over the log gives.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import reduce
from operator import or_
from typing import Any, NamedTuple, get_args
from uuid import UUID

from services.projector.fold import Folder, FragmentFolder, IdentityFolder
from services.projector.tables.marks import BEFORE_THE_FIRST
from services.projector.tables.memory import MemoryTables
from services.projector.worker import Worker
from shared.domain.commands import (
    Cancel,
    Command,
    CommandDecoder,
    MergePersons,
    Purge,
    RequestDeletion,
    decode,
    encode,
    route,
)
from shared.domain.errors import LogClosed, LogMismatch, LogUnavailable, Superseded
from shared.domain.ids import COMMANDS, DELETIONS
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from tests.support.deleting import MemoryLedger, SimulatedDeleter, check_cancels, sweep
from tests.support.door import let_in
from tests.support.episodes import TOPICS, Episode, Step, episode, shrink
from tests.support.gates import PARTITIONS, CountingLoader, Gate, GatedLog, GatedReader, GatedTables, limits
from tests.support.invariants import Expected, check_episode, rebuilt
from tests.support.renewing import Renewals, Renewing, judge
from tests.support.swapping import looked, put_back, swap
from tests.support.virtual import VirtualLoop

DELETERS_MAX = 2
WORKERS_MAX = 6
"""Workers that hold the same partitions at once."""

TURNS_MAX = 20_000
"""Waits until everything must have been projected: hundreds of times what it takes."""

FORGETFUL, UPGRADED = 5, 4
"""Every so many episodes the readers of the end forget once where to go on, and some workers before it are of a version
that does not know purges yet."""

OLDER = CommandDecoder(reduce(or_, (kind for kind in get_args(Command) if kind is not Purge)), {})


class Member(NamedTuple):
    worker: Worker
    task: asyncio.Task[None]
    gate: Gate
    reader: GatedReader
    log: GatedLog


class Deleting(NamedTuple):
    deleter: SimulatedDeleter
    task: asyncio.Task[None]


class Simulation(Renewals):
    """One episode being run."""

    def __init__(self, seed: int, counts: Counter[str]) -> None:
        self.decide = random.Random(seed ^ 0x5EED)
        self.forgetful, self.upgraded = seed % FORGETFUL == 0, seed % UPGRADED == 3
        self.counts = counts
        self.logs = [MemoryLog(PARTITIONS)]
        """The generations of the log. Nothing takes one back, whatever copy of the database is restored."""
        self.api = 1
        """The generation that the API appends to."""
        self.tables = MemoryTables()
        self.expected = Expected(self.logs)
        self.members: list[Member] = []
        self.looked: dict[UUID, MergePersons | None] = {}
        self.deleters: list[Deleting] = []
        self.ledger = MemoryLedger()
        self.copies: list[tuple[dict[str, Any], MemoryLedger]] = []
        self.renewal: Renewing | None = None
        self.acknowledged: set[bytes] = set()
        self.wary: set[asyncio.Task[None]] = set()
        """Workers that lived with the wrong log: one that had just looked at it ends with what it found."""

    @property
    def log(self) -> MemoryLog:
        """The generation that a process takes that starts now."""
        return self.logs[self.ledger.generation.number - 1]

    async def run(self, steps: Sequence[Step]) -> None:
        try:
            for kind, what in steps:
                await getattr(self, f"_{kind}")(what)
            await self._drain(0)
            there = {record.value for log in self.logs for topic in PARTITIONS for record in log.records(topic)}
            assert self.acknowledged <= there, "what was acknowledged is in the log"
            check_episode(self.logs, self.tables, self.expected)
            check_cancels(self.ledger, self.expected.timeline)
            self.counts["restored"] += sum(key[3] == "person.restored" for key in self.expected.timeline)
            self.counts["episodes with restores"] += any(key[3] == "person.restored" for key in self.expected.timeline)
            self.counts["left out"] += sum(bool(row[24]) for row in self.expected.timeline.values())
            self.counts["refused"] += sum(key[3] == "person.restore_refused" for key in self.expected.timeline)
        finally:
            await self._end()

    async def _look(self, command: MergePersons) -> None:
        self.looked[command.id] = let_in(self.tables, command)

    async def _send(self, command: Command) -> None:
        if isinstance(command, MergePersons) and command.mode == "operator":
            found = self.looked[command.id] if command.id in self.looked else let_in(self.tables, command)
            if found is None:
                self.counts["not found"] += 1
                return
            command = found
        log = self.logs[self.api - 1]
        await self._append(Entry(*route(command, log.partitions()), encode(command)))

    async def _garbage(self, partition: int) -> None:
        partition %= self.logs[self.api - 1].partitions()[COMMANDS]
        await self._append(Entry(COMMANDS, partition, b"garbage", b"garbage"))

    async def _append(self, entry: Entry) -> None:
        """As the API: when the log is closed it answers 503, and starts again on the store's generation."""
        try:
            await self.logs[self.api - 1].append([entry])
        except LogClosed:
            self.counts["closed"] += 1
            self.api = self.ledger.generation.number
        except LogUnavailable:
            assert self.swapped, "the right log takes everything"
            self.counts["not acknowledged"] += 1
        else:
            self.counts["commands"] += 1
            self.acknowledged.add(entry.value)

    @property
    def swapped(self) -> bool:
        """Whether another log lies in the place of the right one."""
        return self.expected.right is not None

    async def _swap(self, number: int) -> None:
        """Another log comes to lie there, or the right one again."""
        await (self._back() if self.swapped else swap(self, number))

    async def _back(self) -> None:
        await put_back(self)

    async def _turns(self, number: int) -> None:
        for _ in range(number % 16):
            await asyncio.sleep(0)

    async def _wait(self, number: int) -> None:
        await asyncio.sleep(0.06)
        for member in list(self.members):  # who hears of another generation ends, and is started again
            former = member.reader._log.generation < self.log.generation and member.gate.open.is_set()
            if former or member.task.done():
                self.members.remove(member)
                await self._stop(member)
                await self._start(member.reader.topic)

    async def _start(self, topic: str, *, calm: bool = False) -> None:
        if sum(one.reader.topic == topic for one in self.members) >= WORKERS_MAX:
            return
        if self.swapped and await looked(self.log, self.tables) is not None:
            self.counts["mismatches"] += 1
            return
        gate = Gate(self.decide, self.counts)
        gate.calm = calm
        reader = GatedReader(self.log, topic, gate)
        folder: Folder = FragmentFolder() if topic == COMMANDS else IdentityFolder()
        log, tables = GatedLog(self.log, gate), GatedTables(self.tables, gate, self.expected)
        made = Worker(
            log=log,
            reader=reader,
            tables=tables,
            folder=folder,
            monotonic=asyncio.get_running_loop().time,
        )
        made._loader = loader = CountingLoader(tables, folder, made._partitions)
        loader.counts = self.counts
        reader.forgetful = calm and self.forgetful
        if self.upgraded and not calm and self.decide.random() < 0.5:
            self.counts["older workers"] += 1
            made.read = OLDER.decode
        self.members.append(Member(made, asyncio.create_task(made.run()), gate, reader, log))

    async def _cancel(self, number: int) -> None:
        """Somebody cancels a deletion, and a deleter is there."""
        if self.swapped:
            return
        asked = [decode(record.value) for log in self.logs for record in log.records(DELETIONS)]
        requests = [one for one in asked if isinstance(one, RequestDeletion)]
        if not requests:
            return
        self.counts["cancels"] += 1
        request = requests[number % len(requests)]
        at = request.at + number % 20_000
        await self._send(Cancel(id=UUID(int=number), project=request.project, at=at, request=request.request))
        if len(self.deleters) < DELETERS_MAX:
            self._delete(calm=False)

    def _delete(self, *, calm: bool) -> None:
        gate = Gate(self.decide, self.counts)
        gate.calm = calm
        made = SimulatedDeleter(GatedLog(self.log, gate), self.tables, lambda: self.ledger, gate)
        self.deleters.append(Deleting(made, asyncio.create_task(made.run())))

    async def _window(self, number: int) -> None:
        if self.swapped:
            return
        async with self.ledger.lock:
            with suppress(Superseded):
                self.ledger.take(self.log)
            gone = sweep(self.ledger, self.tables)
        self.counts["swept"] += bool(gone)
        self.expected.swept |= gone

    async def _kill(self, number: int) -> None:
        """kill -9: the loop and the flush in flight stop wherever they await."""
        if self.renewal is not None and number % 4 == 1:
            await self._end_renewal()
        elif self.deleters and number % 3 == 0:
            await self._end_deleter(self.deleters.pop(0))
        elif self.members:
            await self._stop(self.members.pop(number % len(self.members)))

    async def _stop(self, member: Member) -> None:
        self.counts["kills"] += 1
        flight = member.worker._flight.task
        if flight is not None:
            flight.cancel()
        member.task.cancel()
        await asyncio.gather(member.task, *([flight] if flight else []), return_exceptions=True)
        self.counts["stopped partitions"] += len(member.worker.stopped)
        wary = self.swapped or member.task in self.wary
        allowed = (Superseded, LogMismatch) if wary else (Superseded,)
        self.counts["mismatches"] += judge(member.task, "a worker gave up", *allowed)

    async def _end_deleter(self, deleting: Deleting) -> None:
        self.counts["deleters killed"] += 1
        deleting.task.cancel()
        await asyncio.gather(deleting.task, return_exceptions=True)
        judge(deleting.task, "a deleter gave up", Superseded)

    async def _freeze(self, number: int) -> None:
        if self.members:
            self.counts["frozen"] += 1
            self.members[number % len(self.members)].gate.open.clear()

    async def _thaw(self, number: int) -> None:
        for member in self.members:
            member.gate.open.set()

    async def _assign(self, number: int) -> None:
        """A rebalance: one member holds some partitions, or none."""
        if self.members:
            reader = self.members[number % len(self.members)].reader
            count = reader._log.partitions()[reader.topic]
            reader.assign(frozenset(p for p in range(count) if number >> (4 + p) & 1))
            reader._log._wake()

    async def _snapshot(self, number: int) -> None:
        copied = ("state", "timeline", "captured", "numbers", "blocks", "epochs")
        copy = {name: dict(getattr(self.tables, name)) for name in copied}
        copy["state"] = {topic: dict(rows) for topic, rows in self.tables.state.items()}
        self.copies.append((copy, self.ledger.copy()))

    async def _restore(self, number: int) -> None:
        """An operator stops the projectors, restores an older copy of the database, and starts them again. On the right
        log: tables of before could not tell an older copy of it."""
        if not self.copies:
            return
        if self.swapped:
            await self._back()
        self.counts["restores"] += 1
        topics = [member.reader.topic for member in self.members]
        while self.members:
            await self._stop(self.members.pop())
        while self.deleters:
            await self._end_deleter(self.deleters.pop())
        await self._end_renewal()
        copy, ledger = self.copies[number % len(self.copies)]
        self.ledger = ledger.copy()
        for name, rows in copy.items():
            kept = {topic: dict(some) for topic, some in rows.items()} if name == "state" else dict(rows)
            setattr(self.tables, name, kept)
        self.expected.forget()
        for topic in topics:
            await self._start(topic)

    async def _rebuild(self, number: int) -> None:
        """Tables derived from the timeline up to their positions are swapped in while workers run."""
        self.counts["rebuilds"] += 1
        rebuilt(self.tables, self.log.partitions())
        self.expected.forget()

    async def _drain(self, number: int) -> None:
        """Stop everybody, start fresh processes without faults, and wait until they stand at the log's heads. A renewal
        that was begun is ended before, and one that an older copy of the database knows nothing of is done again."""
        await self._back()
        await self._end_renewal()
        while self.log._sealed or self.log is not self.logs[-1]:
            await self._restart()
            await self._renew(number, calm=True)
            await self._until(lambda: self._renewed(), "the renewal does not end")
            await self._end_renewal()
        await self._restart()
        await self._until(self._projected, "not everything was projected to its head")
        for member in self.members:
            member.gate.calm = False
        while self.deleters:
            await self._end_deleter(self.deleters.pop())

    async def _restart(self) -> None:
        while self.members:
            await self._stop(self.members.pop())
        while self.deleters:
            await self._end_deleter(self.deleters.pop())
        for topic in TOPICS:
            await self._start(topic, calm=True)
        self._delete(calm=True)

    async def _until(self, reached: Callable[[], Awaitable[bool]], refusal: str) -> None:
        for _ in range(TURNS_MAX):
            if await reached():
                return
            for one in (*self.members, *self.deleters):
                if one.task.done():
                    judge(one.task, "a process gave up", *([Superseded] if self.renewal is not None else []))
            await asyncio.sleep(0.05)
        raise AssertionError(refusal)

    async def _projected(self) -> bool:
        return self._settled() and all([await self._at_head(topic) for topic in TOPICS])

    async def _at_head(self, topic: str) -> bool:
        heads = self.log._heads(topic)
        loaded = await self.tables.load(topic, range(len(heads)), [])
        return all(loaded.positions.get(head.partition, BEFORE_THE_FIRST)[0] == head.version for head in heads)

    def _settled(self) -> bool:
        """Whether the ledger knows all of the topic, and nothing is being cancelled."""
        (head,) = self.log._heads(DELETIONS)
        taken = self.ledger.position == head
        return taken and not any(request.state == "cancelling" for request in self.ledger.all())

    async def _end(self) -> None:
        if self.renewal is not None:
            self.renewal.task.cancel()
            await asyncio.gather(self.renewal.task, return_exceptions=True)
        for deleting in self.deleters:
            deleting.task.cancel()
        await asyncio.gather(*(deleting.task for deleting in self.deleters), return_exceptions=True)
        for member in self.members:
            if member.worker._flight.task is not None:
                member.worker._flight.task.cancel()
            member.task.cancel()
        await asyncio.gather(*(member.task for member in self.members), return_exceptions=True)


def found_wrong(seed: int, counts: Counter[str]) -> str | None:
    """Run the seed's episode; None when all invariants held, else what was broken."""
    return fault(episode(seed), counts)


def report(seed: int) -> str:
    """A failing seed, told by the fewest steps that still fail."""
    small = shrink(episode(seed), lambda one: fault(one, Counter()) is not None)
    steps = "\n".join(f"  {kind} {what}" for kind, what in small.steps)
    return f"seed {seed}: {fault(small, Counter())}\n{len(small.steps)} steps:\n{steps}"


def fault(one: Episode, counts: Counter[str]) -> str | None:
    """Run an episode; None when all invariants held, else what was broken."""
    counts["episodes"] += 1
    loop = VirtualLoop()
    try:
        with limits(one.seed):
            loop.run_until_complete(Simulation(one.seed, counts).run(one.steps))
    except Exception as error:  # whatever breaks is a finding
        counts["wrong"] += 1
        return f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}"
    finally:
        loop.close()
    return None
