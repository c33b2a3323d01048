"""Forgetting what is older than the log's retention, of former generations too."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from shared.domain.ids import GENERATION_FIRST
from shared.log.embedded import frames
from shared.log.embedded.flock import LOCK, Flock


def forget(path: Path, db: sqlite3.Connection, before_us: int) -> int:
    """Drop whole frames older than that; return their number."""
    with closing(Flock(path / LOCK)) as turn, turn, db:
        dropped = frames.forget(db, before_us)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return dropped


def forget_former(root: Path, generation: int, before_us: int) -> int:
    """As `forget`, in the generations before this one that are still there."""
    dropped = 0
    for number in range(GENERATION_FIRST, generation):
        former = frames.folder_of(root, number)
        if frames.file_of(former) is not None:
            with closing(frames.connect(former)) as db:
                dropped += forget(former, db, before_us)
    return dropped
