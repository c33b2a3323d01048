"""Atomically written files, and file locks that one process at a time holds."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.domain.errors import PersonlogError


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Replace a file durably and atomically: a power cut leaves the old or the new content."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(
        draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode
    )
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def file_lock(path: Path, refusal: PersonlogError) -> Iterator[None]:
    """Hold a file's lock, which the kernel frees when the holder dies; raise `refusal` if taken."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield
