"""The tables in memory: the twin that tests and simulation run the real worker on. Never used in
production.

The same replace-by-version rule as ReplacingMergeTree, and each write as atomic as the real one:
facts table by table, state with its positions in one piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import orjson

from services.projector.tables import clickhouse as tables
from services.projector.tables.clickhouse import Closed, Facts, LoadedState, events_of
from services.projector.tables.marks import Vouched, mark_of, position_row
from services.projector.tables.rows import (
    BlockRow,
    CapturedRow,
    FragmentState,
    StateKey,
    StateRow,
)
from shared.domain.errors import StoreUnavailable
from shared.domain.ids import COMMANDS, IDENTITY, partition_of_key
from shared.domain.person.fragment import Fragment
from shared.domain.person.fragment_events import (
    FragmentErased,
    FragmentPurged,
    FragmentRestored,
)
from shared.domain.restore import ClosedLife
from shared.store.timeline import Fact, Row


class MemoryTables:
    """Rows by key; the highest version wins, the later of equal ones."""

    def __init__(self) -> None:
        self.state: dict[str, dict[StateKey, Any]] = {
            COMMANDS: {},
            IDENTITY: {},
        }
        self.epochs = {COMMANDS: 0, IDENTITY: 0}
        self.timeline: dict[tuple[int, UUID, int, str], Row] = {}
        self.captured: dict[tuple[int, UUID, UUID], Row] = {}
        self.numbers: dict[tuple[int, int], UUID] = {}
        self.blocks: dict[tuple[int, UUID, str, UUID], Row] = {}

    async def load(
        self,
        topic: str,
        partitions: Sequence[int],
        keys: Sequence[StateKey],
        *,
        whole: bool = False,
    ) -> LoadedState:
        table = self.state[topic]
        position_rows = {
            at[1]: row
            for (project, key), row in table.items()
            if not project and (at := partition_of_key(key))
        }
        positions = {
            partition: mark_of(topic, row)
            for partition, row in position_rows.items()
            if partition in partitions
        }
        rows: list[StateRow] = [table[key] for key in keys if key in table]
        if topic != COMMANDS or whole:
            return LoadedState(positions, rows, {})
        large: dict[StateKey, int] = {}
        for row in rows:
            size = (
                len(row.properties.encode()) + len(row.cells.encode())
                if isinstance(row, FragmentState)
                else 0
            )
            if size > tables.LOAD_ROW_BYTES_MAX:
                large[row.project, row.fragment] = size
        return LoadedState(
            positions,
            [row for row in rows if (row.project, row.fragment) not in large],
            large,
        )

    async def stand(self, topic: str, partitions: Sequence[int]) -> dict[int, Vouched]:
        return (await self.load(topic, partitions, [])).stand(topic, partitions)

    async def life(self, closed: Closed) -> Fragment:
        return life_of(self.timeline.values(), self.captured.values(), closed)

    async def write_facts(self, facts: Facts) -> None:
        for project, number, fragment in facts.numbers:
            self.numbers[project, number] = fragment
        for event in map(CapturedRow._make, facts.captured):
            self.captured[event.project, event.fragment, event.uuid] = event
        for block in map(BlockRow._make, facts.blocks):
            self.blocks[block.project, block.fragment, block.session, block.block] = (
                block
            )
        for row in facts.timeline:
            project, fragment, version, topic, *_ = row
            self.timeline[project, fragment, version, topic] = row

    async def write_state(
        self, topic: str, state: list[StateRow], positions: Sequence[Vouched]
    ) -> None:
        table = self.state[topic]
        if any(mark.epoch != self.epochs[topic] for mark in positions):
            raise StoreUnavailable("The table is of another epoch.")
        for row in [*state, *(position_row(*position) for position in positions)]:
            project, fragment, version, *_ = row
            _, _, newest, *_ = table.get((project, fragment), (0, 0, 0))
            if version >= newest:
                table[project, fragment] = row


def life_of(
    timeline: Iterable[Row], captured: Iterable[Row], closed: Closed
) -> Fragment:
    """A closed life, of these rows."""
    key = (closed.project, closed.fragment)
    facts = (
        fact
        for fact in map(Fact._make, timeline)
        if (fact.project, fact.fragment) == key
    )
    former = [fact for fact in facts if fact.version < closed.version]
    former.sort(key=lambda fact: fact.version)
    events = events_of(former)
    ends = [
        event
        for event in events
        if isinstance(event, FragmentErased | FragmentRestored | FragmentPurged)
    ]
    life = ClosedLife(*key, closed.iver, ends)
    for event in events:
        if event.originator_version >= life.since:
            life.replay(event)
    for captured_event in map(CapturedRow._make, captured):
        person = (
            orjson.loads(captured_event.properties).get("$process_person_profile")
            is not False
        )
        if (
            captured_event[:2] == key
            and life.since < captured_event.version < closed.version
            and person
        ):
            life.observe_event(captured_event.timestamp)
    return life.fragment
