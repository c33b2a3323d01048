"""How records lie in the embedded log's SQLite file: a row is a frame, the records of one commit
for one partition.

Every frame has sums beside its data: one of the whole, and for each record its lengths and one of
its own. So what a disk spoils costs the record that it lies in and no other: lengths are there
twice, and a spoilt sum is outvoted.

Never knows who writes or reads them.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from zlib import crc32

from shared.domain.errors import Corrupt, LogUnavailable
from shared.domain.ids import GENERATION_FIRST

SYNC_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "secure_delete=ON",
    "busy_timeout=5000",
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (
    name TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, partitions INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS frames (
    part INTEGER NOT NULL, base INTEGER NOT NULL, count INTEGER NOT NULL, at INTEGER NOT NULL,
    data BLOB NOT NULL, sums BLOB, UNIQUE (part, base)
);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
"""`meta` has the log's `id`, and a row for each topic that is closed."""

WITH_SUMS = "ALTER TABLE frames ADD COLUMN sums BLOB"
"""For a file of before there were any; its frames have NULL there."""

TOUCH = "UPDATE topics SET partitions = partitions"
"""Changes nothing and writes all the same: a full disk refuses it."""

LENGTHS = struct.Struct(">II")
"""In front of each record: the bytes of its key and of its value."""

SUM, RECORD_SUM = struct.Struct(">I"), struct.Struct(">III")
"""Of a frame's data; of each record behind that: both lengths again, and the CRC-32 of key and
value."""

SPOILT = "its bytes are not those that were written"
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
    """The file's id, and the number and partition count of each topic; without an id when it is of
    before ids."""
    (tables,) = db.execute(
        "SELECT count(*) FROM sqlite_master WHERE name IN ('meta', 'topics')"
    ).fetchone()
    if tables < 2:
        return "", {}
    (file_id,) = db.execute("SELECT value FROM meta WHERE name = 'id'").fetchone() or (
        "",
    )
    topics = db.execute("SELECT name, number, partitions FROM topics")
    return file_id, {name: (number, count) for name, number, count in topics}


CLOSED = "closed "
"""Before a topic's name in `meta`."""


def close_topics(db: sqlite3.Connection, topics: Iterable[str]) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO meta VALUES (?, '')",
        [(CLOSED + topic,) for topic in topics],
    )


def closed_topics(db: sqlite3.Connection) -> set[str]:
    """Topics that take nothing more."""
    rows = db.execute("SELECT name FROM meta WHERE name LIKE ?", (f"{CLOSED}%",))
    return {name.removeprefix(CLOSED) for (name,) in rows}


def next_offset(db: sqlite3.Connection, part: int) -> int:
    newest = db.execute(
        "SELECT base + count FROM frames WHERE part = ? ORDER BY base DESC LIMIT 1",
        (part,),
    )
    (offset,) = newest.fetchone() or (0,)
    return int(offset)


def folder_of(root: Path, generation: int) -> Path:
    """Where the file of a generation lies."""
    return root if generation == GENERATION_FIRST else root / f"g{generation}"


def forget(db: sqlite3.Connection, before_us: int) -> int:
    """Drop frames older than that; their number. Of a partition's newest its place stays, without
    its records."""
    db.execute("BEGIN IMMEDIATE")
    dropped = db.execute(
        "DELETE FROM frames WHERE at < ? AND base < (SELECT max(base) FROM frames newest"
        " WHERE newest.part = frames.part)",
        (before_us,),
    ).rowcount
    emptied = "UPDATE frames SET data = x'', sums = NULL WHERE at < ? AND data != x''"
    dropped += db.execute(emptied, (before_us,)).rowcount
    return int(dropped)


@contextmanager
def failures(topic: str) -> Iterator[None]:
    """What SQLite says while it reads: a file that is damaged is nothing that another try would
    mend."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LogUnavailable(f"The log cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        text = (
            f"The file of the log is damaged where {topic} is read ({error});"
            " restore it from a backup."
        )
        raise Corrupt(text) from error


def first_offset(db: sqlite3.Connection, part: int) -> int:
    """Of the first record that was not forgotten."""
    (base,) = db.execute(
        "SELECT min(base) FROM frames WHERE part = ? AND data != x''", (part,)
    ).fetchone()
    return next_offset(db, part) if base is None else int(base)


def record_at(
    db: sqlite3.Connection, part: int, offset: int
) -> tuple[int, bytes, bytes, str] | None:
    """Append time, key, value and fault of the record at an offset; None for one that is not
    there."""
    row = db.execute(
        "SELECT base, count, at, data, sums FROM frames"
        " WHERE part = ? AND base <= ? ORDER BY base DESC LIMIT 1",
        (part, offset),
    ).fetchone()
    if row is None:
        return None
    base, count, at, data, sums = row
    if not data or offset >= base + count:
        return None
    key, value, fault = next(islice(checked(data, count, sums), offset - base, None))
    return int(at), key, value, fault


def packed(records: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """The data and the sums of a frame with these keys and values."""
    data: list[bytes] = []
    sums = [b""]
    for key, value in records:
        body = key + value
        data.append(LENGTHS.pack(len(key), len(value)) + body)
        sums.append(RECORD_SUM.pack(len(key), len(value), crc32(body)))
    whole = b"".join(data)
    sums[0] = SUM.pack(crc32(whole))
    return whole, b"".join(sums)


def unpack(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        key, value = LENGTHS.unpack_from(data, at)
        at += LENGTHS.size
        yield data[at : at + key], data[at + key : at + key + value]
        at += key + value


def checked(
    data: bytes, count: int, sums: bytes | None
) -> Iterator[tuple[bytes, bytes, str]]:
    """Key, value and what is wrong with each record of a frame: nothing, or SPOILT."""
    if not sums:
        yield from _without_sums(data, count)
    elif crc32(data) == SUM.unpack_from(sums)[0]:
        for key, value in unpack(data):
            yield key, value, ""
    else:
        yield from _salvaged(data, sums)


def _salvaged(data: bytes, sums: bytes) -> Iterator[tuple[bytes, bytes, str]]:
    """Record by record: the lengths beside its sum, or else those in front of it, lead to bytes
    that fit the sum."""
    at = 0
    whole = len(sums) - (len(sums) - SUM.size) % RECORD_SUM.size
    for *beside, expected in RECORD_SUM.iter_unpack(sums[SUM.size : whole]):
        before = (
            LENGTHS.unpack_from(data, at) if at + LENGTHS.size <= len(data) else beside
        )
        at += LENGTHS.size
        for key, value in (beside, before):
            body = data[at : at + key + value]
            if crc32(body) == expected:
                yield body[:key], body[key:], ""
                break
        else:
            key, value = beside
            body = data[at : at + key + value]
            yield body[:key], body[key:], SPOILT
        at += key + value


def _without_sums(data: bytes, count: int) -> Iterator[tuple[bytes, bytes, str]]:
    """What the lengths lead to; from the first one that leads nowhere on, the rest is spoilt."""
    at = 0
    for index in range(count):
        start = at + LENGTHS.size
        key, value = (
            LENGTHS.unpack_from(data, at) if start <= len(data) else (0, len(data))
        )
        end = start + key + value
        if end > len(data) or (index == count - 1 and end != len(data)):
            for place in range(count - index):
                yield b"", data[at:] if not place else b"", SPOILT
            return
        yield data[start : start + key], data[start + key : end], ""
        at = end
