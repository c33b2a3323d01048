"""What an import makes of a file, without any server: events, merges, refusals, rows by kind."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from clients.importing.index import JOINED_ROWS_MAX, SourceIndex
from clients.importing.parcels import Manner
from clients.importing.run import RowReader
from clients.importing.sources.files import File


@dataclass
class Imported:
    """The outcome of reading a file."""

    events: list[dict[str, Any]] = field(default_factory=list)
    merges: list[tuple[str, str]] = field(default_factory=list)
    refusals: dict[int, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    def of(self, distinct_id: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["distinct_id"] == distinct_id]

    def sets(self, distinct_id: str) -> list[dict[str, Any]]:
        return [event.get("$set", {}) for event in self.of(distinct_id)]

    def joins(self) -> set[tuple[str, str]]:
        """Who is joined with whom, by events or by REST."""
        fields = ("alias", "$anon_distinct_id")
        return set(self.merges) | {
            (event["distinct_id"], event["properties"][name])
            for event in self.events for name in fields if name in event.get("properties", {})
        }  # fmt: skip


def imported(path: Path, *, skip: int = 0, joined_rows_max: int = JOINED_ROWS_MAX, **manner: Any) -> Imported:
    """Read the file as the command does; the rows before `skip` were imported before."""

    async def read() -> Imported:
        file, index, outcome = File(path), SourceIndex(joined_rows_max), Imported()
        try:
            async for row in file.rows():
                index.add(row.value, row.number)
            index.close_rows()
            reader = RowReader(file.rows(), Manner(**manner), index, skip)
            while (window := await reader.window()).last is not None:
                events = sorted((row, at, event) for lane in window.lanes for at, (row, event) in enumerate(lane))
                outcome.events += [msgspec.json.decode(event) for _, _, event in events]
                outcome.merges += [(merge.into, merge.source) for merge in window.merges]
                outcome.refusals |= {refusal.row: refusal.reason for refusal in window.refusals}
                outcome.kinds += window.kinds
        finally:
            index.close()
            await file.close()
        return outcome

    return asyncio.run(read())
