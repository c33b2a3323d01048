"""The embedded log on a disk that is full: told once, nothing acknowledged is lost, and it goes on by itself."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.domain.errors import LogUnavailable
from shared.domain.ids import COMMANDS, Position
from shared.log.embedded.log import EmbeddedLog
from shared.log.port import Entry
from tests.support.disks import fill, mounted

PARTITIONS = {COMMANDS: 2}
SECONDS_MAX = 60.0
DISK_BYTES = 48 * 1_048_576


def entry(text: str) -> Entry:
    return Entry(COMMANDS, 0, b"key", text.encode())


@contextmanager
def no_more_bytes(path: Path) -> Iterator[Callable[[], None]]:
    """This process may write nothing to files, whoever runs it, until the end or what is given is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_disk(path: Path) -> Iterator[Callable[[], None]]:
    """The disk is full, until the end or what is given is called."""
    filler = fill(path)
    try:
        yield lambda: filler.unlink(missing_ok=True)
    finally:
        filler.unlink(missing_ok=True)


async def whole(log: EmbeddedLog, count: int) -> list[bytes]:
    reader = log.reader(COMMANDS, "g")
    await reader.start()
    deadline = time.monotonic() + SECONDS_MAX
    while not reader.assigned() >= {0}:
        await reader.fetch(records_max=1, wait_seconds=0.1)
        assert time.monotonic() < deadline
    reader.seek(Position(COMMANDS, 0, -1))
    found: list[bytes] = []
    while len(found) < count and time.monotonic() < deadline:
        found += [one.value for one in await reader.fetch(records_max=1_000, wait_seconds=0.5)]
    await reader.close()
    return found


async def survives(path: Path, trouble: Callable[[Path], Iterator[Callable[[], None]]]) -> None:
    log = EmbeddedLog(path, PARTITIONS)
    await log.start()
    acknowledged: list[str] = []
    for number in range(20):
        await log.append([entry(f"before {number}")])
        acknowledged.append(f"before {number}")
    assert await log.trouble() == ""
    with capture_logs() as said, trouble(path) as over:
        failed = 0
        for number in range(400):
            text = f"{number} " + "x" * 4_000
            try:
                await log.append([entry(text)])
                acknowledged.append(text)
            except LogUnavailable:
                failed += 1
            if failed >= 20:
                break
        assert failed >= 20
        assert await log.trouble()
        assert [one["event"] for one in said].count("trouble") == 1
        over()
        deadline = time.monotonic() + SECONDS_MAX
        while await log.trouble():
            assert time.monotonic() < deadline, "it does not go on by itself"
            await asyncio.sleep(0.05)
        assert said[-1]["event"] == "trouble is over"
    await log.append([entry("behind")])
    acknowledged.append("behind")
    found = await whole(log, len(acknowledged))
    assert [one for one in found if one.decode() in set(acknowledged)] == [one.encode() for one in acknowledged]
    await log.close()


async def test_a_full_disk_is_told_once_and_loses_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", DISK_BYTES) as disk:
        await survives(disk / "log", full_disk)


async def test_a_file_that_may_not_grow_is_the_same(tmp_path: Path) -> None:
    await survives(tmp_path / "log", no_more_bytes)


async def test_a_log_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        fill(disk, 8_192)
        with pytest.raises((LogUnavailable, OSError)):
            await EmbeddedLog(disk / "log", PARTITIONS).start()
