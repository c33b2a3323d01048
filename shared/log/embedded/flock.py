"""Taking turns among the processes of a machine: a lock that the kernel lets go of when its holder
dies."""

from __future__ import annotations

import fcntl
from pathlib import Path

LOCK = "write.lock"
"""The file in the log's folder by which writers take turns."""


class Flock:
    """Writers of all processes take turns. For one thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._file.close()
