"""The simulator's deleter: the real restores on a ledger in memory, and a window that takes rows out of the tables.

Ledger and position are as durable as the tables, and go back with an older copy of them. A deleter is killed like a
worker, wherever it awaits; two may be at it at once, for correctness must not depend on there being one owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid5

from services.deleter.ledger import decide
from services.deleter.restores import Before, RestoreOutcome, Restores
from services.deleter.sweep.planner import Boundary, Tombstone, plan
from services.projector.tables.marks import BEFORE_THE_FIRST
from services.projector.tables.memory import MemoryTables
from shared.domain.commands import Cancel, RequestDeletion, decode
from shared.domain.deletion import DeletionRequest, RequestState, load
from shared.domain.errors import StoreUnavailable, Superseded, Transient
from shared.domain.ids import COMMANDS, DELETIONS, GENERATION_FIRST, IDENTITY, Position, position_key
from shared.log.identity import Generation, LogIdentity
from shared.log.memory import MemoryLog
from shared.store.timeline import Row
from tests.support.gates import PARTITIONS, Gate

PATIENCE_TURNS = 40
"""How often a round looks for a position before it gives up."""

PAUSE_SECONDS = 0.05
NOW_US = 2_000_000


class MemoryLedger:
    """Requests as their documents, and the position in the deletions topic. What is read is what was saved."""

    def __init__(self) -> None:
        self.documents: dict[UUID, bytes] = {}
        self.position = Position(DELETIONS, 0, -1)
        self.generations: list[Generation] = [
            Generation(number=GENERATION_FIRST, identity=LogIdentity(id="memory", partitions=PARTITIONS))
        ]
        self.lock = asyncio.Lock()

    @property
    def generation(self) -> Generation:
        """That which a process takes that starts now."""
        return [one for one in self.generations if one.state == "open"][-1]

    def all(self) -> list[DeletionRequest]:
        return [load(request, document) for request, document in self.documents.items()]

    def keep(self, requests: Sequence[DeletionRequest]) -> None:
        for request in requests:
            self.documents[request.id] = request.document(None)

    def take(self, log: MemoryLog) -> None:
        """Everything new of the topic. Raises Superseded when it is that of a generation that has ended."""
        if self.position.generation != log.generation:
            raise Superseded
        records = log.records(DELETIONS)[self.position.next :]
        commands = [decode(record.value) for record in records]
        known = {request.id: request for request in self.all()}
        self.keep(decide([one for one in commands if isinstance(one, RequestDeletion | Cancel)], known))
        self.position = records[-1].position if records else self.position

    def copy(self) -> MemoryLedger:
        made = MemoryLedger()
        made.documents, made.position, made.lock = dict(self.documents), self.position, self.lock
        made.generations = list(self.generations)
        return made


class GatedLedger:
    """One deleter's way to the ledger."""

    def __init__(self, shared: Callable[[], MemoryLedger], tables: MemoryTables, gate: Gate) -> None:
        self.shared, self.tables, self.gate = shared, tables, gate

    async def open(self, *states: RequestState) -> list[DeletionRequest]:
        await self.gate.before(StoreUnavailable)
        return [request for request in self.shared().all() if request.state in states]

    async def find(self, keys: Any) -> dict[UUID, DeletionRequest]:
        await self.gate.before(StoreUnavailable)
        asked = {request for _, request in keys}
        return {request.id: request for request in self.shared().all() if request.id in asked}

    async def save(self, requests: Sequence[DeletionRequest], now_us: int) -> None:
        await self.gate.before(StoreUnavailable)
        for request in requests:
            check_visible(request, self.tables)
        self.shared().keep(requests)
        await self.gate.after(StoreUnavailable)


class GatedHistory:
    """One deleter's reading of the timeline."""

    def __init__(self, tables: MemoryTables, gate: Gate) -> None:
        self.tables, self.gate = tables, gate

    async def tombstones(self, request: DeletionRequest) -> list[Tombstone]:
        await self.gate.before(StoreUnavailable)
        return tombstones(self.tables, request.project, request.members)

    async def before(self, request: DeletionRequest, iver: int) -> dict[UUID, Before]:
        await self.gate.before(StoreUnavailable)
        found: dict[UUID, Before] = {}
        for row in sorted(self.tables.timeline.values(), key=lambda row: row[2]):
            mine = row[0] == request.project and row[1] in request.members
            if mine and row[3].startswith("person.") and row[2] < iver:
                found[row[1]] = (bool(row[18]), row[19], row[23])
        return found

    async def outcome(self, request: DeletionRequest, command: UUID) -> RestoreOutcome | None:
        await self.gate.before(StoreUnavailable)
        rows = [
            row for row in self.tables.timeline.values()
            if row[1] == request.person and row[6] == command and row[3].startswith("person.restore")
        ]  # fmt: skip
        return RestoreOutcome(row[3], row[21]) if (row := min(rows, key=lambda row: row[2], default=None)) else None


class SimulatedDeleter:
    """One process: takes requests over, and gives back who is being cancelled."""

    def __init__(self, log: MemoryLog, tables: MemoryTables, ledger: Callable[[], MemoryLedger], gate: Gate) -> None:
        self.log, self.tables, self.ledger, self.gate = log, tables, ledger, gate

        @asynccontextmanager
        async def locked() -> Any:
            async with ledger().lock:
                yield

        self.locked = locked
        self.restores = Restores(
            log=log,
            history=GatedHistory(tables, gate),
            ledger=GatedLedger(ledger, tables, gate),  # type: ignore[arg-type]  # what restores need of one
            lock=locked,
            projected=self.projected,
            now_us=lambda: NOW_US,
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with self.locked():
                    self.ledger().take(self.log)
                await self.restores.round()
            except Transient:
                pass
            await asyncio.sleep(PAUSE_SECONDS)

    async def projected(self, positions: Sequence[Position]) -> bool:
        for _ in range(PATIENCE_TURNS):
            await self.gate.before(StoreUnavailable)
            if all([await passed(self.tables, position) for position in positions]):
                return True
            await asyncio.sleep(PAUSE_SECONDS)
        return False


async def passed(tables: MemoryTables, position: Position) -> bool:
    loaded = await tables.load(position.topic, [position.partition], [])
    return loaded.positions.get(position.partition, BEFORE_THE_FIRST)[0] >= position.version


def tombstones(tables: MemoryTables, project: int, members: Sequence[UUID]) -> list[Tombstone]:
    return [
        Tombstone(row[1], row[3], row[2], row[19], row[4])
        for row in tables.timeline.values()
        if row[0] == project and row[1] in members and row[3] in ("fragment.erased", "person.deleted")
    ]


def sweep(ledger: MemoryLedger, tables: MemoryTables) -> set[tuple[Any, ...]]:
    """A window: whatever may be erased is, from hiding to the proof; the keys of the rows that went."""
    gone: set[tuple[Any, ...]] = set()
    for project in (1, 2):
        requests = [one for one in ledger.all() if one.state == "pending" and one.project == project]
        marks = [mark for one in requests for mark in tombstones(tables, project, one.members)]
        reached = _identity(tables, project % ledger.generation.partitions[IDENTITY])
        marks = [mark for mark in marks if mark.topic != "person.deleted" or mark.version <= reached]
        state = tables.state[COMMANDS]
        erased = {key: row[8] for (owner, key), row in state.items() if owner == project}
        cancelling = [one for one in ledger.all() if one.state == "cancelling"]
        ready = plan(requests, list(dict.fromkeys(marks)), erased, projected=True, cancelling=cancelling)
        for request in ready.requests:
            request.begin(uuid5(request.id, "plan"), NOW_US)
            request.hide({}, {}, NOW_US)
            request.verify({"timeline": 0}, NOW_US)
        ledger.keep(ready.requests)
        gone |= {
            ("timeline", *key) for key in tables.timeline
            if (reach := ready.boundaries.get(key[1])) and key[0] == project and _reached(reach, key)
        } | {
            ("captured", *key) for key, row in tables.captured.items()
            if (reach := ready.boundaries.get(key[1])) and key[0] == project and row[4] < reach.captured
        }  # fmt: skip
    for table, *key in gone:
        getattr(tables, table).pop(tuple(key))
    return gone


def _identity(tables: MemoryTables, partition: int) -> int:
    """How far the identity of a project is: a run waits for the projector, so that a fact has its state."""
    row = tables.state[IDENTITY].get((0, position_key(IDENTITY, partition)))
    return row[2] if row else 0


def _reached(reach: Boundary, key: tuple[int, UUID, int, str]) -> bool:
    """As reach_timeline of targets.sql."""
    if key[3] in ("fragment.erased", "person.deleted"):
        return False
    return key[2] < (reach.iver if key[3].startswith("person.") else reach.life)


def check_visible(request: DeletionRequest, tables: MemoryTables) -> None:
    """I11: who is told to be back is seen by every read from then on."""
    if request.state != "cancelled" or not request.scope.profile:
        return
    told = uuid5(request.id, f"restore {request.cancels}")
    for member in request.members:
        revived = uuid5(told, member.hex)
        facts = [row[2] for row in tables.timeline.values() if row[6] == revived and row[3] == "fragment.restored"]
        row = tables.state[COMMANDS].get((request.project, member))
        assert facts and row and row[2] >= facts[0], f"I11: {request.id} is cancelled, and {member} is not back"


def check_cancels(ledger: MemoryLedger, timeline: dict[tuple[int, UUID, int, str], Row]) -> None:
    """I10, never gone and kept: of whom is cancelled all members were restored, of whom is not nobody."""
    facts = {(row[3], row[1], row[6]) for row in timeline.values()}
    for request in ledger.all():
        assert request.state != "cancelling", f"I10: {request.id} is neither given back nor refused"
        told = [uuid5(request.id, f"restore {number}") for number in range(1, request.cancels + 1)]
        restored = {member for member in request.members for one in told if ("person.restored", member, one) in facts}
        whole = set(request.members) if request.state == "cancelled" and request.scope.profile else set()
        assert restored == whole, f"I10: {request.id} is {request.state}, and these were restored: {restored}"
        revived = [uuid5(one, member.hex) for one in told for member in restored]
        opened = [one for one in revived for member in restored if ("fragment.restored", member, one) in facts]
        assert len(opened) == len(restored), f"I10: of {request.id} these fragments are open again: {opened}"
