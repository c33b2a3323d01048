"""The embedded log's file when a disk has spoilt it, and one of before there were checksums."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from shared.domain.errors import Corrupt
from shared.domain.ids import COMMANDS, Position
from shared.log.embedded.frames import LENGTHS, SCHEMA
from shared.log.embedded.log import EmbeddedLog
from tests.contracts.test_log import entry, read, sought


async def spoilt(path: Path, before: bytes, after: bytes) -> None:
    """Change bytes of the log's file as a disk would."""
    db = sqlite3.connect(path / "log.sqlite")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = (path / "log.sqlite").read_bytes()
    assert content.count(before) == 1
    (path / "log.sqlite").write_bytes(content.replace(before, after))


async def test_a_flipped_byte_costs_one_record_and_is_told(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, {COMMANDS: 1})
    await log.start()
    await log.append([entry(0, "before"), entry(0, "the spoilt one"), entry(0, "behind")])
    await log.append([entry(0, "later")])
    await log.close()
    await spoilt(tmp_path, b"the spoilt one", b"the sp\x6filt 0ne")
    again = EmbeddedLog(tmp_path, {COMMANDS: 1})
    await again.start()
    reader = again.reader(COMMANDS, "g")
    await sought(reader, 0)
    found = await read(reader, 4)
    assert [(one.offset, one.value, bool(one.fault)) for one in found] == [
        (0, b"before", False), (1, b"the spoilt 0ne", True), (2, b"behind", False), (3, b"later", False),
    ]  # fmt: skip
    await reader.close()
    await again.close()


async def test_a_file_of_before_there_were_sums_is_read_and_written(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "log.sqlite")
    db.executescript(SCHEMA.replace("sums BLOB, ", ""))
    db.execute("INSERT INTO topics VALUES (?, 0, 1)", (COMMANDS,))
    old = LENGTHS.pack(1, 3) + b"kold"
    db.execute("INSERT INTO frames VALUES (0, 0, 1, 5, ?)", (old,))
    db.commit()
    db.close()
    log = EmbeddedLog(tmp_path, {COMMANDS: 1})
    await log.start()
    await log.append([entry(0, "new")])
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0)
    assert [(one.value, one.fault) for one in await read(reader, 2)] == [(b"old", ""), (b"new", "")]
    await reader.close()
    await log.close()


async def test_a_file_that_sqlite_cannot_read_is_no_reason_to_try_again(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, {COMMANDS: 1})
    await log.start()
    for number in range(200):
        await log.append([entry(0, f"{number}" * 200)])
    await log.close()
    content = bytearray((tmp_path / "log.sqlite").read_bytes())
    content[-8_192:] = bytes(8_192)
    (tmp_path / "log.sqlite").write_bytes(content)
    again = EmbeddedLog(tmp_path, {COMMANDS: 1})
    await again.start()
    reader = again.reader(COMMANDS, "g")
    await reader.start()
    reader.seek(Position(COMMANDS, 0, -1))
    with pytest.raises(Corrupt, match=r"damaged|are gone"):
        await read(reader, 200)
    await reader.close()
    await again.close()
