"""The simulator's renewals: the real procedure on logs, tables and a ledger in memory; each await may fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from services.projector.tables.marks import BEFORE_THE_FIRST, Vouched
from services.projector.tables.memory import MemoryTables
from services.renewing.books import before_the_first
from shared.domain.errors import LogMismatch, LogUnavailable, Rejected, StoreUnavailable, Transient
from shared.domain.ids import COMMANDS, DELETIONS, IDENTITY, PARTITIONS_MAX, Position, position_of
from shared.log.identity import Generation
from shared.log.memory import MemoryLog
from shared.log.renewal import Counts, Renewal
from tests.support.deleting import MemoryLedger
from tests.support.episodes import TOPICS
from tests.support.gates import PARTITIONS, Gate, GatedLog

ATTEMPTS = 30

GENERATIONS = 5
"""Of one episode, at most."""


class MemoryBooks:
    """The port `Books` on what the simulator has; the ledger is the one of now, as after a restored copy."""

    def __init__(self, tables: MemoryTables, ledger: Callable[[], MemoryLedger], gate: Gate) -> None:
        self.tables, self.ledger, self.gate = tables, ledger, gate

    async def positions(self, topic: str) -> dict[int, Position]:
        await self.gate.before(StoreUnavailable)
        if topic == DELETIONS:
            return {0: self.ledger().position}
        marks = (await self.tables.load(topic, range(PARTITIONS_MAX), [])).positions
        return {partition: position_of(topic, partition, mark.version) for partition, mark in marks.items()}

    async def move(self, positions: Sequence[Position]) -> None:
        for topic in (COMMANDS, IDENTITY):
            await self._vouch(topic, [one for one in positions if one.topic == topic])
        await self._take_over([one for one in positions if one.topic == DELETIONS])

    async def feed(self) -> None: ...

    async def begin(self, generation: int, counts: Counts) -> None:
        for topic in (COMMANDS, IDENTITY):
            await self._vouch(topic, before_the_first(topic, counts[topic], generation))
        await self._take_over(before_the_first(DELETIONS, counts[DELETIONS], generation))

    async def write(self, generation: Generation) -> None:
        await self.gate.before(StoreUnavailable)
        ledger = self.ledger()
        ledger.generations = [one for one in ledger.generations if one.number != generation.number] + [generation]
        await self.gate.after(StoreUnavailable)

    async def _vouch(self, topic: str, positions: Sequence[Position]) -> None:
        await self.gate.before(StoreUnavailable)
        marks = (await self.tables.load(topic, range(PARTITIONS_MAX), [])).positions
        stamp = max((mark.stamp for mark in marks.values()), default=0)
        ahead = [one for one in positions if one.version > marks.get(one.partition, BEFORE_THE_FIRST).version]
        vouched = [Vouched(one, stamp, self.tables.epochs[topic]) for one in ahead]
        await self.tables.write_state(topic, [], vouched)
        await self.gate.after(StoreUnavailable)

    async def _take_over(self, positions: Sequence[Position]) -> None:
        await self.gate.before(StoreUnavailable)
        ledger = self.ledger()
        for position in positions:
            if position.version > ledger.position.version:
                ledger.position = position
        await self.gate.after(StoreUnavailable)


class SimulatedRenewal:
    """One renewal of the generation that the store names. `logs` are all generations; the next one is appended there,
    or is there already when the store is an older copy."""

    def __init__(
        self,
        logs: list[MemoryLog],
        tables: MemoryTables,
        ledger: Callable[[], MemoryLedger],
        wanted: Counts,
        gate: Gate,
    ) -> None:
        self.logs, self.ledger, self.wanted, self.gate = logs, ledger, dict(wanted), gate
        self.books = MemoryBooks(tables, ledger, gate)
        self.ended: Callable[[MemoryLog], None] = lambda log: None

    async def run(self) -> None:
        """An operator runs it again, and again."""
        for _ in range(ATTEMPTS):
            try:
                await self.once()
                return
            except Transient:
                await asyncio.sleep(0.01)

    async def once(self) -> None:
        ending = self.ledger().generation
        log = self.logs[ending.number - 1]
        renewal = Renewal(books=self.books, make=self._make)
        reached = [one for topic in (COMMANDS, IDENTITY) for one in (await self.books.positions(topic)).values()]
        if not any(one.generation > ending.number for one in reached):
            assert not await renewal.end(GatedLog(log, self.gate)), "nothing was forgotten"
            self.ended(log)
        await renewal.begin(self.ledger().generations, ending, self.wanted)

    async def _make(self, number: int, counts: Counts) -> MemoryLog:
        await self.gate.before(LogUnavailable)
        if number > len(self.logs):
            self.logs.append(MemoryLog(counts, generation=number, name=f"g{number}"))
        await self.gate.after(LogUnavailable)
        return self.logs[number - 1]


def judge(task: asyncio.Task[None], what: str, *allowed: type[BaseException]) -> bool:
    """Raise when a process ended by an error that it must not meet; whether the log was the wrong one."""
    error = task.exception() if task.done() and not task.cancelled() else None
    if error is not None and not isinstance(error, allowed):
        raise AssertionError(what) from error
    return isinstance(error, LogMismatch)


class Renewing(NamedTuple):
    renewal: SimulatedRenewal
    task: asyncio.Task[None]


class Renewals:
    """An operator at work; a part of `simulator.Simulation`."""

    decide: Any
    counts: Any
    logs: Any
    tables: Any
    ledger: Any
    expected: Any
    swapped: bool
    renewal: Renewing | None

    async def _renew(self, number: int, *, calm: bool = False) -> None:
        """An operator renews the log, with other partition counts; what is cut off is gone on with by the next one."""
        if self.renewal is not None and self.renewal.task.done():
            await self._end_renewal()
        if self.renewal is not None or self.swapped:
            return
        if len(self.logs) >= GENERATIONS and not calm:  # one that an older copy knows nothing of is done again
            return
        gate = Gate(self.decide, self.counts)
        gate.calm = calm
        wanted = PARTITIONS | {COMMANDS: 1 + number % 4, IDENTITY: 1 + number // 4 % 2}
        made = SimulatedRenewal(self.logs, self.tables, lambda: self.ledger, wanted, gate)
        made.ended = self._ended
        self.renewal = Renewing(made, asyncio.create_task(made.run()))

    def _ended(self, log: MemoryLog) -> None:
        """I3: all of a generation is visible when it has ended."""
        self.counts["generations ended"] += 1
        for topic in TOPICS:
            self.expected.visible(self.tables, topic, log._heads(topic))

    async def _end_renewal(self) -> None:
        if self.renewal is not None:
            renewal, self.renewal = self.renewal, None
            self.counts["renewals killed"] += not renewal.task.done()
            renewal.task.cancel()
            await asyncio.gather(renewal.task, return_exceptions=True)
            judge(renewal.task, "a renewal gave up", Transient, Rejected)
            self.counts["renewals"] += not renewal.task.cancelled() and renewal.task.exception() is None

    async def _renewed(self) -> bool:
        assert self.renewal is not None
        return self.renewal.task.done()
