"""What a worker tells whoever watches it. Never measures anything itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared.domain.ids import Position


class WorkerProgress(NamedTuple):
    """What the worker tells whoever watches it: of a flush, or with nothing in it of partitions
    that came or went."""

    topic: str
    records: int
    outcomes: dict[str, int]
    dead: Sequence[tuple[Position, str]]
    """Records that went to the dead letters, each with the kind of the reason."""
    rows: int
    left_out: int = 0


def moved(topic: str) -> WorkerProgress:
    """Partitions came or went."""
    return WorkerProgress(topic=topic, records=0, outcomes={}, dead=(), rows=0)
