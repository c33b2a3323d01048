"""The tables as the projector sees them: load with positions, write facts, write state. Never folds
anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

from services.projector.tables import rows as r
from services.projector.tables.marks import BEFORE_THE_FIRST, Mark, Vouched
from services.projector.tables.rows import StateKey, StateRow
from shared.domain.ids import COMMANDS, position_key
from shared.domain.person.fragment import Fragment
from shared.domain.person.fragment_events import FragmentEvent
from shared.domain.restore import ClosedLife
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries
from shared.store.shared_memory.segment import SharedMemory
from shared.store.timeline import PAGE_ROWS_MIN, TIMELINE, Row, event_of, next_page

LOAD_IDS_MAX = 10_000
"""Rows asked for in one SELECT: a whole batch; 10,000 ids as one parameter take 50 ms."""

LOAD_ROW_BYTES_MAX = 16_384
"""Of a row that is loaded with all others: 10,000 are 160 MB then. A person of twenty properties
has 1,500."""

UNBOUNDED = 2**63 - 1

_EVEN = (1 << 64) - 2

FACTS_PAGE = 5_000
"""Facts of a closed life read at once, folded page by page: one fragment may have any number of
them."""


class Closed(NamedTuple):
    """A life that the delete of identity version `iver` closed, to be opened again at `version`."""

    project: int
    fragment: UUID
    iver: int
    version: int


class LoadedState(NamedTuple):
    """One consistent answer: what each partition's position row says, and the rows asked for."""

    positions: dict[int, Mark]
    rows: list[StateRow]
    large: dict[StateKey, int]
    """The rows that were left out for their size, and their bytes."""

    def stand(self, topic: str, partitions: Sequence[int]) -> dict[int, Vouched]:
        """Where each of these partitions is."""
        return {
            partition: self.positions.get(partition, BEFORE_THE_FIRST).vouched(
                topic, partition
            )
            for partition in partitions
        }


class Facts(NamedTuple):
    """What is written before the state: idempotent rows, harmless when written twice."""

    timeline: list[Row]
    captured: list[Row]
    numbers: list[Row]
    blocks: list[Row]


class Tables(Protocol):
    """The port; `ClickHouseTables` and the in-memory twin in `memory` keep it."""

    async def load(
        self,
        topic: str,
        partitions: Sequence[int],
        keys: Sequence[StateKey],
        *,
        whole: bool = False,
    ) -> LoadedState:
        """The position rows of `partitions` and the newest rows of `keys` (project, fragment), in
        one SELECT.

        Rows above LOAD_ROW_BYTES_MAX are left out, and told, unless `whole` asks for them: 10,000
        fragments may hold 10 GB. A partition without a position row is missing from the answer.
        Raises Transient.
        """

    async def stand(self, topic: str, partitions: Sequence[int]) -> dict[int, Vouched]:
        """Where each partition is, for who takes them over. Raises Transient."""

    async def life(self, closed: Closed) -> Fragment:
        """The fragment as its facts below a version make it, and its captured events: what a
        restore gives back.

        All of them must be visible: nothing of the fragment may be in flight. Raises Transient.
        """

    async def write_facts(self, facts: Facts) -> None: ...

    async def write_state(
        self, topic: str, state: list[StateRow], positions: Sequence[Vouched]
    ) -> None:
        """Rows and the position rows in one INSERT block: all or nothing.

        Raises Transient when the table is of another epoch: it was rebuilt since, or a rebuild
        holds it.
        """


class ClickHouseTables:
    """The tables in ClickHouse."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queries = load_queries(Path(__file__).with_name("flush.sql"))

    async def load(
        self,
        topic: str,
        partitions: Sequence[int],
        keys: Sequence[StateKey],
        *,
        whole: bool = False,
    ) -> LoadedState:
        by_key = {position_key(topic, partition): partition for partition in partitions}
        answer = await self._store.rows(
            self._queries["load_fragments" if topic == COMMANDS else "load_identity"],
            projects=sorted({0, *(project for project, _ in keys)}),
            fragments=[*by_key, *(fragment for _, fragment in keys)],
            **(
                {"row_bytes_max": UNBOUNDED if whole else LOAD_ROW_BYTES_MAX}
                if topic == COMMANDS
                else {}
            ),
        )
        selected = r.selected_rows(topic, answer)
        positions = {
            by_key[key]: mark for key, mark in selected.marks.items() if key in by_key
        }
        return LoadedState(positions, selected.rows, selected.large)

    async def stand(self, topic: str, partitions: Sequence[int]) -> dict[int, Vouched]:
        return (await self.load(topic, partitions, [])).stand(topic, partitions)

    async def life(self, closed: Closed) -> Fragment:
        key = {
            "project": closed.project,
            "fragment": closed.fragment,
            "until": closed.version,
        }
        ends = events_of(await self._store.rows(self._queries["ends_of_lives"], **key))
        life = ClosedLife(closed.project, closed.fragment, closed.iver, ends)
        after = life.since - 1 if life.since else 0
        page = min(PAGE_ROWS_MIN, FACTS_PAGE)
        while rows := await self._store.rows(
            self._queries["facts_of_life"], **key, after=after, limit=page
        ):
            life_events = events_of(rows)
            for event in life_events:
                life.replay(event)
            after = life_events[-1].originator_version
            page = next_page(rows, FACTS_PAGE)
        ((newest,),) = await self._store.rows(
            self._queries["last_seen"], **key, since=life.since
        )
        life.observe_event(newest)
        return life.fragment

    async def write_facts(self, facts: Facts) -> None:
        inserts = [
            self._store.insert(table, r.columns(names, rows))
            for table, names, rows in (
                ("numbers", r.NUMBERS, facts.numbers),
                ("captured_events", r.CAPTURED_EVENTS, facts.captured),
                ("recording_blocks", r.BLOCKS, facts.blocks),
                ("timeline", TIMELINE, facts.timeline),
            )
            if rows
        ]  # in any order, so at once: each waits for the disk
        for outcome in await asyncio.gather(
            *inserts, return_exceptions=True
        ):  # all have ended when one has failed
            if outcome is not None:
                raise outcome

    async def write_state(
        self, topic: str, state: list[StateRow], positions: Sequence[Vouched]
    ) -> None:
        table = "fragments" if topic == COMMANDS else "identity"
        await self._store.insert(table, r.state_columns(topic, state, positions))


class AnnouncedTables:
    """Tables whose rows are marked before they change and after: other processes keep what they
    have read of them."""

    def __init__(self, tables: Tables, memory: SharedMemory, nonce: int) -> None:
        """Writes have versions from `nonce` on, which must be new to this setup."""
        self._tables = tables
        self._memory = memory
        self._nonce = nonce & _EVEN

    async def load(
        self,
        topic: str,
        partitions: Sequence[int],
        keys: Sequence[StateKey],
        *,
        whole: bool = False,
    ) -> LoadedState:
        return await self._tables.load(topic, partitions, keys, whole=whole)

    async def stand(self, topic: str, partitions: Sequence[int]) -> dict[int, Vouched]:
        tables = await self._tables.stand(topic, partitions)
        self._memory.board.publish(
            topic,
            [(partition, mark.position.version) for partition, mark in tables.items()],
        )
        return tables

    async def life(self, closed: Closed) -> Fragment:
        return await self._tables.life(closed)

    async def write_facts(self, facts: Facts) -> None:
        await self._tables.write_facts(facts)

    async def write_state(
        self, topic: str, state: list[StateRow], positions: Sequence[Vouched]
    ) -> None:
        memory = self._memory
        slots = [
            memory.versions.slot(topic, row.project, row.fragment.int) for row in state
        ]
        memory.versions.begin_write(slots, self._nonce)
        memory.board.publish(
            topic,
            [(mark.position.partition, mark.position.version) for mark in positions],
        )
        await self._tables.write_state(topic, state, positions)
        self._nonce = self._nonce + 2 & _EVEN
        memory.versions.end_write(slots, self._nonce)
        memory.board.confirm(
            topic,
            [
                (mark.position.partition, mark.position.version, mark.stamp)
                for mark in positions
            ],
        )


def events_of(rows: Sequence[Row]) -> list[FragmentEvent]:
    """The facts that timeline rows of a fragment tell."""
    events = (event_of(row) for row in rows)
    return [event for event in events if isinstance(event, FragmentEvent)]
