"""Sharing partitions among the processes of one machine, by files that the kernel unlocks when a
process dies.

Never what correctness rests on: that is the position row. It only keeps two workers from doing the
same work.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO
from uuid import uuid4

REBALANCE_SECONDS = 0.5
"""Between two looks at who else is there; a dead member's partitions are taken over within two of
them."""


class GroupMember:
    """One member of a group over `count` partitions."""

    def __init__(self, folder: Path, group: str, count: int) -> None:
        self._folder, self._count = folder / group, count
        self._name = ""
        self._me: IO[str] | None = None
        self._held: dict[int, IO[str]] = {}
        self._looked = float("-inf")
        self.assigned: frozenset[int] = frozenset()

    def join(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._name = f"{os.getpid()}-{uuid4().hex[:8]}"
        self._me = (self._folder / f"new-{self._name}").open("w")
        fcntl.flock(self._me, fcntl.LOCK_EX)
        Path(self._me.name).rename(
            self._folder / f"member-{self._name}"
        )  # never seen without its lock
        self.rebalance(self._looked + 1)

    def leave(self) -> None:
        for held in self._held.values():
            held.close()
        self._held, self.assigned = {}, frozenset()
        if self._me is not None:
            (self._folder / f"member-{self._name}").unlink(missing_ok=True)
            self._me.close()
            self._me = None

    def rebalance(self, now: float) -> bool:
        """Take or give back partitions until this member has its fair share; whether anything
        changed."""
        if now - self._looked < REBALANCE_SECONDS:
            return False
        self._looked = now
        share = -(-self._count // max(1, self._living()))
        for partition in sorted(self._held)[share:]:
            self._held.pop(partition).close()
        for partition in range(self._count):
            if len(self._held) >= share:
                break
            if partition not in self._held and (
                lock := _try_lock(self._folder / f"partition-{partition}")
            ):
                self._held[partition] = lock
        before, self.assigned = self.assigned, frozenset(self._held)
        return before != self.assigned

    def _living(self) -> int:
        """Members whose file is locked; the files of dead ones are removed."""
        living = 0
        for path in self._folder.glob("member-*"):
            lock = _try_lock(path)
            if lock is None:
                living += 1
            else:
                path.unlink(missing_ok=True)
                lock.close()
        return living


def _try_lock(path: Path) -> IO[str] | None:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
