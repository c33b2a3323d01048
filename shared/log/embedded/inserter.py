"""What one commit writes: a frame for each partition that the appends go to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from shared.domain.errors import LogClosed, LogUnavailable
from shared.domain.ids import Position
from shared.log.doubts import Doubts
from shared.log.embedded import frames
from shared.log.port import Entry

Outcomes = list[list[Position] | LogUnavailable]
"""Of the appends of one commit."""


class Inserter:
    """The inserts of one log's writer. Called on its thread only."""

    def __init__(
        self,
        generation: int,
        part: Callable[[str, int], int],
        doubts: Doubts,
        now_us: Callable[[], int],
    ) -> None:
        """`part` gives a partition's number in the file."""
        self._generation = generation
        self._part = part
        self._doubts = doubts
        self._now_us = now_us

    def insert(
        self,
        db: sqlite3.Connection,
        appends: Sequence[Sequence[Entry]],
        offsets: dict[int, int],
        closed: set[str],
    ) -> Outcomes:
        """Write the appends in one transaction; return what became of each.

        `offsets` are the next offsets known by partition, and are kept up to date; appends to
        `closed` topics are refused. Raises LogUnavailable when an offset does not rise.
        """
        groups: dict[int, list[tuple[bytes, bytes]]] = {}
        outcomes: Outcomes = []
        firsts: dict[int, Position] = {}
        for entries in appends:
            if closed and not closed.isdisjoint(entry.topic for entry in entries):
                outcomes.append(LogClosed())
                continue
            positions: list[Position] = []
            for topic, partition, key, value in entries:
                part = self._part(topic, partition)
                group = groups.get(part)
                if group is None:
                    if part not in offsets:
                        offsets[part] = frames.next_offset(db, part)
                    group = groups[part] = []
                    firsts[part] = Position(
                        topic, partition, offsets[part], self._generation
                    )
                    floor = self._doubts.floor(topic, partition)
                    self._doubts.rises(firsts[part], floor)
                offset = firsts[part].offset + len(group)
                positions.append(Position(topic, partition, offset, self._generation))
                group.append((key, value))
            outcomes.append(positions)
        self._write(db, groups, firsts)
        for part, group in groups.items():
            offsets[part] = firsts[part].offset + len(group)
            last = firsts[part]._replace(offset=offsets[part] - 1)
            self._doubts.raised(last, group[-1][1])
        return outcomes

    def _write(
        self,
        db: sqlite3.Connection,
        groups: dict[int, list[tuple[bytes, bytes]]],
        firsts: dict[int, Position],
    ) -> None:
        """One statement, so one transaction and one wait for the interpreter's lock."""
        now_us = self._now_us()
        rows = [
            (part, firsts[part].offset, len(group), now_us, *frames.packed(group))
            for part, group in groups.items()
        ]
        if not rows:
            db.execute(frames.TOUCH)
            return
        values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
        db.execute(
            f"INSERT INTO frames VALUES {values}",
            [value for row in rows for value in row],
        )
