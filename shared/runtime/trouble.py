"""What is wrong with one part of a process: said in one line when it begins, and in one when it is over."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable
from pathlib import Path

import structlog

FREE_BYTES_MIN = 16 * 1_048_576
"""A disk with less is full: the engine refuses an INSERT before the last byte, and a commit of the log has 8 MB."""

NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

LOOK_SECONDS = 2.0


class Trouble:
    """The trouble of one part. Whoever meets it says so each time; it is told once."""

    def __init__(self, part: str) -> None:
        self._part = part
        self.detail = ""

    def is_now(self, detail: str) -> None:
        """What is wrong now; nothing: it is over."""
        before, self.detail = self.detail, detail
        if bool(detail) == bool(before):
            return
        say = structlog.get_logger()
        if detail:
            say.error("trouble", part=self._part, detail=detail)
        else:
            say.warning("trouble is over", part=self._part)


def full(folder: Path) -> str:
    """What is wrong with the disk that a folder is on: that it is full, or cannot be looked at."""
    try:
        free = free_bytes(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return "" if free >= FREE_BYTES_MIN else f"the disk of {folder} is full: {free:,} bytes are free"


def free_bytes(folder: Path) -> int:
    """What may still be written to the disk of a folder."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


async def watch_disks(folders: Iterable[Path]) -> None:
    """Tell when a disk is full, and when it no longer is, until cancelled."""
    troubles = {folder: Trouble(f"disk of {folder}") for folder in folders}
    while True:
        for folder, trouble in troubles.items():
            trouble.is_now(full(folder))
        await asyncio.sleep(LOOK_SECONDS)
