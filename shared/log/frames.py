"""How records lie in the embedded log's SQLite file: a row is a frame, the records of one commit for one partition.

Never knows who writes or reads them.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable
from pathlib import Path

SYNC_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "busy_timeout=5000")

SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, partitions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS frames (
    part INTEGER NOT NULL, base INTEGER NOT NULL, count INTEGER NOT NULL, at INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (part, base)
);
"""
LENGTHS = struct.Struct(">II")
PART_BASE = 1_000_000


def connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path / "log.sqlite", isolation_level=None, check_same_thread=False)
    for pragma in SYNC_PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    return db


def next_offset(db: sqlite3.Connection, part: int) -> int:
    row = db.execute("SELECT base + count FROM frames WHERE part = ? ORDER BY base DESC LIMIT 1", (part,)).fetchone()
    return int(row[0]) if row else 0


def unpack(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        key, value = LENGTHS.unpack_from(data, at)
        at += LENGTHS.size
        yield data[at : at + key], data[at + key : at + key + value]
        at += key + value
