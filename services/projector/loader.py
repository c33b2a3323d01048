"""Everything that a fold needs from the tables, each answer proven to be of a time when the
partitions were ours. Never folds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.projector.fold import Folder
from services.projector.partition import OwnedPartitions
from services.projector.shares import Decoded, affordable
from services.projector.tables.clickhouse import (
    LOAD_IDS_MAX,
    Closed,
    LoadedState,
    Tables,
)
from services.projector.tables.marks import BEFORE_THE_FIRST
from services.projector.tables.rows import StateKey
from shared.domain.errors import Corrupt, Fenced

LOAD_ROUNDS_MAX = 8
"""Rounds of loading before a fold: a fragment, its root, the root's members, and as much again
after merges."""


class Loader:
    """Loads rows for a folder."""

    def __init__(
        self, tables: Tables, folder: Folder, partitions: OwnedPartitions
    ) -> None:
        self._tables = tables
        self._folder = folder
        self._partitions = partitions

    async def load(self, decoded: Sequence[Decoded]) -> Collection[StateKey]:
        """Load the rows that these commands need; of large ones only what the partitions' shares
        allow. The keys that were not loaded. Raises Fenced when a partition was moved on by
        somebody else, and Transient."""
        partitions = sorted({record.partition for record, _ in decoded})
        commands = [command for _, command in decoded if command is not None]
        large: dict[StateKey, int] = {}
        keys = self._folder.keys_to_load(commands)
        for _ in range(LOAD_ROUNDS_MAX + len(decoded)):
            large |= await self._load(partitions, keys[:LOAD_IDS_MAX])
            keys = [
                key for key in self._folder.keys_to_load(commands) if key not in large
            ]
            if not keys:
                break
        else:
            raise Corrupt(
                "Loading does not come to an end: the identity rows contradict each other."
            )
        for chunk in affordable(decoded, large) if large else ():
            await self._load(partitions, chunk, whole=True)
        return set(self._folder.keys_to_load(commands)) if large else ()

    async def open(self, closed: Closed) -> None:
        """Load a closed life. Raises NewerVersion for one with facts of a newer version, and
        Transient."""
        self._folder.open(closed, await self._tables.life(closed))

    async def _load(
        self, partitions: list[int], keys: list[StateKey], *, whole: bool = False
    ) -> dict[StateKey, int]:
        loaded = await self._tables.load(
            self._folder.topic, partitions, keys, whole=whole
        )
        self._check(partitions, loaded)
        self._folder.admit(
            [key for key in keys if key not in loaded.large], loaded.rows
        )
        return loaded.large

    def _check(self, partitions: list[int], loaded: LoadedState) -> None:
        """The tables must stand where we left them, or where the flush in flight will leave them,
        and be the same."""
        for number in partitions:
            table = loaded.positions.get(number, BEFORE_THE_FIRST)
            partition = self._partitions[number]
            expected = (partition.confirmed.version, partition.newest.version)
            if table.version not in expected:
                raise Fenced(
                    f"Partition {number} of {self._folder.topic} was moved on by somebody else."
                )
            if table.epoch != partition.epoch:
                raise Fenced(f"The table of {self._folder.topic} was rebuilt.")
