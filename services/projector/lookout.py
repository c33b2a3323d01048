"""Whether what is in the log comes to the worker. Never reads a record.

A reader can forget where a partition was to go on: one that was taken away and given back between
two looks at the assignment, or a client library that hangs. Nobody wakes a worker then, so it looks
at the heads by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared.domain.errors import Corrupt, Fenced
from shared.domain.ids import Position
from shared.log.port import Log

LOOK_SECONDS = 5.0
"""Between two looks: that of the embedded log takes some hundred microseconds."""

LOOKS_MAX = 6
"""Looks in a row at which records of the look before had not come: then only a new process
helps."""


class Lookout:
    """Of one worker."""

    def __init__(self, log: Log, topic: str, monotonic: Callable[[], float]) -> None:
        self._log, self._topic, self._monotonic = log, topic, monotonic
        self._looked_at, self._looks = monotonic(), 0
        self._waiting: dict[int, Position] = {}

    async def look(self, positions: Mapping[int, Position]) -> None:
        """Compare with the heads, now and then. Raises Fenced when the worker should start again
        from its positions, Corrupt when that has not helped, and Transient."""
        now = self._monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        heads = {
            head.partition: head.version for head in await self._log.heads(self._topic)
        }
        before = self._waiting
        self._waiting = {
            partition: position
            for partition, position in positions.items()
            if heads[partition] > position.version
        }
        late = [
            position
            for partition, position in self._waiting.items()
            if before.get(partition) == position
        ]
        if not late:
            self._looks = 0
            return
        self._looks += 1
        if self._looks > LOOKS_MAX:
            raise Corrupt(f"The log has records behind {late[0]} that do not come.")
        raise Fenced(
            f"The log has records behind {late[0]} that have not come: the reader is told again."
        )
