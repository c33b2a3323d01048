"""How records lie in the embedded log's SQLite file: a row is a frame, the records of one commit for one partition.

Never knows who writes or reads them.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from shared.domain.ids import GENERATION_FIRST

SYNC_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "busy_timeout=5000")

SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, partitions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS frames (
    part INTEGER NOT NULL, base INTEGER NOT NULL, count INTEGER NOT NULL, at INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (part, base)
);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
"""`meta` has the log's `id`, and a row for each topic that is closed."""

LENGTHS = struct.Struct(">II")
PART_BASE = 1_000_000
FILE = "log.sqlite"


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """The file in this folder; sqlite3.OperationalError where there is none."""
    mode = "rwc" if create else "rw"
    uri = f"{(path.absolute() / FILE).as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    for pragma in SYNC_PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    return db


def file_of(path: Path) -> tuple[int, int] | None:
    """Which file lies in this folder, by its device and inode; None without one."""
    try:
        found = (path / FILE).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def identity_of(db: sqlite3.Connection) -> tuple[str, dict[str, tuple[int, int]]]:
    """The file's id, and the number and partition count of each topic; without an id when it is of before ids."""
    if db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('meta', 'topics')").fetchone()[0] < 2:
        return "", {}
    found = db.execute("SELECT value FROM meta WHERE name = 'id'").fetchone()
    topics = db.execute("SELECT name, number, partitions FROM topics")
    return found[0] if found else "", {name: (number, count) for name, number, count in topics}


CLOSED = "closed "
"""Before a topic's name in `meta`."""


def close_topics(db: sqlite3.Connection, topics: Iterable[str]) -> None:
    db.executemany("INSERT OR IGNORE INTO meta VALUES (?, '')", [(CLOSED + topic,) for topic in topics])


def closed_topics(db: sqlite3.Connection) -> set[str]:
    """Topics that take nothing more."""
    rows = db.execute("SELECT name FROM meta WHERE name LIKE ?", (f"{CLOSED}%",))
    return {name.removeprefix(CLOSED) for (name,) in rows}


def next_offset(db: sqlite3.Connection, part: int) -> int:
    row = db.execute("SELECT base + count FROM frames WHERE part = ? ORDER BY base DESC LIMIT 1", (part,)).fetchone()
    return int(row[0]) if row else 0


def folder_of(root: Path, generation: int) -> Path:
    """Where the file of a generation lies."""
    return root if generation == GENERATION_FIRST else root / f"g{generation}"


def forget(db: sqlite3.Connection, before_us: int) -> int:
    """Drop frames older than that; their number. Of a partition's newest its place stays, without its records."""
    db.execute("BEGIN IMMEDIATE")
    dropped = db.execute(
        "DELETE FROM frames WHERE at < ? AND base < (SELECT max(base) FROM frames newest"
        " WHERE newest.part = frames.part)",
        (before_us,),
    ).rowcount
    dropped += db.execute("UPDATE frames SET data = x'' WHERE at < ? AND data != x''", (before_us,)).rowcount
    return int(dropped)


def unpack(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        key, value = LENGTHS.unpack_from(data, at)
        at += LENGTHS.size
        yield data[at : at + key], data[at + key : at + key + value]
        at += key + value


def first_offset(db: sqlite3.Connection, part: int) -> int:
    """Of what retention has left; that of the next record when it has left nothing."""
    row = db.execute("SELECT min(base) FROM frames WHERE part = ? AND data != x''", (part,)).fetchone()
    return next_offset(db, part) if row[0] is None else int(row[0])


def record_at(db: sqlite3.Connection, part: int, offset: int) -> tuple[int, bytes, bytes] | None:
    """Append time, key and value of the record at an offset; None for one that is not there."""
    row = db.execute(
        "SELECT base, count, at, data FROM frames WHERE part = ? AND base <= ? ORDER BY base DESC LIMIT 1",
        (part, offset),
    ).fetchone()
    if row is None or not row[3] or offset >= row[0] + row[1]:
        return None
    key, value = next(islice(unpack(row[3]), offset - row[0], None))
    return int(row[2]), key, value
