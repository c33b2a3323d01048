"""Locks between processes of one machine: files in the data directory. The kernel lets go of one
when its holder dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shared.domain.errors import Transient

LOCK_SECONDS_MAX = 30.0
"""How long to wait for the other process: taking requests over lasts milliseconds, a sweep may last
the window."""


@asynccontextmanager
async def locked(path: Path, seconds: float) -> AsyncIterator[None]:
    """Hold the file's lock. Raises Transient when another process keeps it for so long."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Transient(
                        f"{path.name} is held by another process."
                    ) from None
                await asyncio.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
