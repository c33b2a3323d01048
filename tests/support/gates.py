"""What stands between the simulator and the world: every await may yield, fail, or fail after it took effect."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from services.projector import batch, fetcher, fold, shares
from services.projector.loader import Loader
from services.projector.tables import clickhouse as tables
from services.projector.tables.clickhouse import Closed, Facts, LoadedState
from services.projector.tables.marks import Vouched
from services.projector.tables.memory import MemoryTables
from shared.domain import operations
from shared.domain.errors import Fenced, LogUnavailable, StoreUnavailable
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, Position
from shared.domain.person.fragment import Fragment
from shared.log.doubts import Doubts
from shared.log.memory import MemoryLog, MemoryReader
from shared.log.port import Entry, Record
from tests.support.invariants import Expected

PARTITIONS = {COMMANDS: 2, IDENTITY: 1, DELETIONS: 1, DEAD: 1}
"""Of the first generation."""

FAIL, AMBIGUOUS, YIELD = 0.05, 0.05, 0.35
"""Chances at one await."""

REDELIVER = 0.1
"""Chance that a fetch gives some records again: logs deliver at least once."""


class Gate:
    """What stands between one worker and the world: every await goes through it."""

    def __init__(self, decide: random.Random, counts: Counter[str]) -> None:
        self.decide, self.counts = decide, counts
        self.calm = False
        self.open = asyncio.Event()
        self.open.set()

    async def before(self, error: type[Exception]) -> None:
        await self._pause()
        if not self.calm and self.decide.random() < FAIL:
            self.counts["failures"] += 1
            raise error("planted, before")

    async def after(self, error: type[Exception]) -> None:
        await self._pause()
        if not self.calm and self.decide.random() < AMBIGUOUS:
            self.counts["ambiguous"] += 1
            raise error("planted, after it took effect")

    async def _pause(self) -> None:
        if not self.open.is_set():
            await self.open.wait()
        if not self.calm and self.decide.random() < YIELD:
            for _ in range(self.decide.randrange(1, 6)):
                await asyncio.sleep(0)


class GatedTables:
    """One worker's way to the shared tables. Facts are written table by table, as the real ones are."""

    def __init__(self, tables: MemoryTables, gate: Gate, expected: Expected) -> None:
        self.tables, self.gate, self.expected = tables, gate, expected

    async def load(
        self, topic: str, partitions: Sequence[int], keys: Sequence[tuple[int, UUID]], *, whole: bool = False
    ) -> LoadedState:
        await self.gate.before(StoreUnavailable)
        loaded = await self.tables.load(topic, partitions, keys, whole=whole)
        await self.gate.after(StoreUnavailable)
        return loaded

    async def stand(self, topic: str, partitions: Sequence[int]) -> dict[int, Vouched]:
        return (await self.load(topic, partitions, [])).stand(topic, partitions)

    async def life(self, closed: Closed) -> Fragment:
        await self.gate.before(StoreUnavailable)
        return await self.tables.life(closed)

    async def write_facts(self, facts: Facts) -> None:
        nothing = Facts([], [], [], [])
        for table in ("numbers", "captured", "blocks", "timeline"):
            part = nothing._replace(**{table: getattr(facts, table)})
            await self.gate.before(StoreUnavailable)
            await self.tables.write_facts(part)
            await self.gate.after(StoreUnavailable)

    async def write_state(self, topic: str, state: list[Any], positions: Sequence[Vouched]) -> None:
        await self.gate.before(StoreUnavailable)
        await self.tables.write_state(topic, state, positions)
        self.expected.visible(self.tables, topic, [position for position, *_ in positions])
        await self.gate.after(StoreUnavailable)


class CountingLoader(Loader):
    """Counts how often a worker was fenced."""

    counts: Counter[str]

    def _check(self, partitions: list[int], loaded: LoadedState) -> None:
        try:
            super()._check(partitions, loaded)
        except Fenced:
            self.counts["fenced"] += 1
            raise


class GatedLog(MemoryLog):
    """One worker's way to the shared log: the same records and groups, its own failures."""

    def __init__(self, log: MemoryLog, gate: Gate) -> None:
        self.__dict__ = log.__dict__ | {"gate": gate, "_doubts": Doubts(), "_trusted": tuple(log._lies)}
        self.log = log

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        await self.gate.before(LogUnavailable)
        self._check()
        floors = self._doubts.seen()
        positions = await self.log.append(entries)
        for position, entry in zip(positions, entries, strict=True):
            self._doubts.rises(position, floors.get(position[:2], -1))
            self._doubts.raised(position, entry.value)
        await self.gate.after(LogUnavailable)
        return positions

    async def heads(self, topic: str) -> list[Position]:
        await self.gate.before(LogUnavailable)
        return await super().heads(topic)

    async def starts(self, topic: str) -> list[Position]:
        await self.gate.before(LogUnavailable)
        return await super().starts(topic)

    async def read(self, position: Position) -> Record | None:
        await self.gate.before(LogUnavailable)
        return await super().read(position)


class GatedReader(MemoryReader):
    """Holds every partition from its first fetch on, whoever else does: correctness must not depend on the group."""

    def __init__(self, log: MemoryLog, topic: str, gate: Gate) -> None:
        super().__init__(log, topic, "simulated")
        self.gate = gate
        self.forgetful = False
        self.assign(frozenset(range(log.partitions()[topic])))

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def fetch(self, *, records_max: int, wait_seconds: float, without: Collection[int] = ()) -> list[Record]:
        await self.gate.before(LogUnavailable)
        if self._next and not self.gate.calm and self.gate.decide.random() < REDELIVER:
            partition = self.gate.decide.choice(sorted(self._next))
            self._next[partition] = max(0, self._next[partition] - self.gate.decide.randrange(1, 6))
            self.gate.counts["redeliveries"] += 1
        if self.forgetful and self._next:  # as one whose partitions went and came back between two looks
            self.forgetful = False
            self._next.clear()
            self.gate.counts["forgotten"] += 1
        return await super().fetch(records_max=records_max, wait_seconds=wait_seconds, without=without)


@contextmanager
def limits(seed: int) -> Iterator[None]:
    """Every third episode has bounds so small that caches are trimmed and batches cut, every fifth such that records
    are heavy and rows large, every other one such that fragments are full; else they are the real ones."""
    small: list[tuple[Any, str, int]] = []
    if seed % 3 == 0:
        small += [(fold, "CACHE_MAX", 2), (batch, "STATE_ROWS_MAX", 3), (fetcher, "BATCH_RECORDS_MAX", 5)]
    if seed % 5 == 0:
        small += [(shares, "SHARE_BYTES", 300), (shares, "RECORD_BYTES_USUAL", 200), (shares, "ROWS_BYTES", 1)]
        small += [(tables, "LOAD_ROW_BYTES_MAX", 30), (fold, "CACHE_BYTES_MAX", 300)]
    if seed % 2 == 0:
        small += [(operations, "FRAGMENT_BYTES_MAX", 14), (operations, "FRAGMENT_NAMES_MAX", 2)]
    kept = [(module, name, getattr(module, name)) for module, name, _ in small]
    for module, name, bound in small:
        setattr(module, name, bound)
    try:
        yield
    finally:
        for module, name, bound in kept:
            setattr(module, name, bound)
