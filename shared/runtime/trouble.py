"""Trouble of one component of a process: logged once when it begins, and once when it ends."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable
from pathlib import Path

import structlog

FREE_BYTES_MIN = 16 * 1_048_576
"""A disk with less is full.

The engine refuses an INSERT before the last byte, and a commit of the log has up to 8 MB.
"""

NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

LOOK_SECONDS = 2.0


class Trouble:
    """The trouble of one component, reported at each occurrence, and logged once."""

    def __init__(self, component: str) -> None:
        self._component = component
        self.detail = ""

    def is_now(self, detail: str) -> None:
        """Report the trouble; an empty text ends it."""
        before, self.detail = self.detail, detail
        if bool(detail) == bool(before):
            return
        log = structlog.get_logger()
        if detail:
            log.error("trouble", part=self._component, detail=detail)
        else:
            log.warning("trouble is over", part=self._component)


def full(folder: Path) -> str:
    """Return the trouble of a folder's disk, full or unreadable; an empty text for none."""
    try:
        free = free_bytes(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if free >= FREE_BYTES_MIN:
        return ""
    return f"the disk of {folder} is full: {free:,} bytes are free"


def free_bytes(folder: Path) -> int:
    """Return the bytes that can still be written to a folder's disk."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


async def watch_disks(folders: Iterable[Path]) -> None:
    """Log when a disk becomes full, and when it no longer is, until cancelled."""
    troubles = {folder: Trouble(f"disk of {folder}") for folder in folders}
    while True:
        for folder, trouble in troubles.items():
            trouble.is_now(full(folder))
        await asyncio.sleep(LOOK_SECONDS)
