"""The running processes of a data folder and their versions: one locked file a process.

For operators and `personlog doctor` only; nothing depends on it. The kernel frees the lock of a
process that dies.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

import msgspec

from shared.runtime.release import release


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process; `url` is the address of its operator's endpoints on `host`."""

    service: str
    host: str
    pid: int
    url: str
    version: str


@contextmanager
def announced(data: Path, service: str, url: str) -> Iterator[None]:
    """List this process while the block runs."""
    folder = _folder(data)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = Process(
        service=service,
        host=socket.gethostname(),
        pid=os.getpid(),
        url=url,
        version=release(),
    )
    name = f"{service}-{uuid4().hex[:12]}"
    with (folder / f"new-{name}").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(msgspec.json.encode(process))
        file.flush()
        path = Path(file.name).rename(
            folder / f"lives-{name}"
        )  # never listed without its lock
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def living(data: Path) -> list[Process]:
    """Return the running processes of this data folder; remove the files of ended ones."""
    processes = []
    for path in sorted(_folder(data).glob("lives-*")):
        try:
            with path.open("rb") as file:
                if _is_locked(file):
                    processes.append(msgspec.json.decode(file.read(), type=Process))
                else:
                    path.unlink(missing_ok=True)
        except (FileNotFoundError, msgspec.DecodeError):  # it has just ended
            continue
    return processes


def _folder(data: Path) -> Path:
    return data / "run" / "processes"


def _is_locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
