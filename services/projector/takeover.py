"""Position rows of a topic, which must be of this log: read when a partition is taken over, or records are gone.

Never folds, and never seeks.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.projector.rows import BEFORE_THE_FIRST
from services.projector.tables import Loaded, Tables
from shared.domain.errors import Corrupt
from shared.domain.ids import position_of
from shared.log.evidence import Riddle, Standing, check
from shared.log.port import Log


class Takeover:
    """Of one worker."""

    def __init__(self, log: Log, tables: Tables, topic: str) -> None:
        self._log, self._tables, self._topic = log, tables, topic
        self._riddle = Riddle()

    async def load(self, partitions: Sequence[int]) -> Loaded:
        """Their position rows. Raises LogMismatch when they are not of this log, and Transient."""
        doubts = self._log.doubts
        starts = await self._log.starts(self._topic)
        loaded = await self._tables.load(self._topic, partitions, [])
        tables = {}
        for partition in partitions:
            mark = loaded.positions.get(partition, BEFORE_THE_FIRST)
            tables[partition] = Standing(position_of(self._topic, partition, mark.version), mark.record)
        await check(self._log, self._topic, tables, starts)
        await self._log.assure(self._topic, doubts)
        return loaded

    async def explain(self, error: Corrupt, partitions: Sequence[int]) -> None:
        """Records are gone: raises LogMismatch when the log is not the tables'. Else Transient, for the right one may
        have come back just now; and the error itself when that was so the last time as well."""
        await self.load(partitions)
        self._riddle.pose(error)

    def fetched(self) -> None:
        """Records came, or none: nothing is gone."""
        self._riddle.solved()
