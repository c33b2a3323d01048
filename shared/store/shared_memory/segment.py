"""The memory that the processes of a machine share: row versions and the position board, in one
mapped file.

An engine that starts renews the whole, in place: its tables may be an older copy. Each
generation of the log has a file of its own, because a slot's place depends on the partition
counts. When a generation has ended, its file is renewed for ever: a reader that still looks
there caches nothing.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shared.domain.ids import COMMANDS, GENERATION_FIRST, GENERATIONS_MAX, IDENTITY
from shared.runtime.settings import Settings, SettingsError
from shared.store.shared_memory.position_board import PositionBoard, board_size
from shared.store.shared_memory.row_versions import SLOTS, WHOLE, RowVersions

BLOCK_BYTES = 512
"""What a file's `st_blocks` counts."""

_PARTS, _BOARD = 1, 2
"""Where there is, after the version of whole tables: the number of partitions, and the board. The
slots follow."""


class SharedMemory:
    """The mapped file of a store; it is never replaced."""

    def __init__(self, path: Path, partitions: Mapping[str, int]) -> None:
        counts = {COMMANDS: partitions[COMMANDS], IDENTITY: partitions[IDENTITY]}
        parts = sum(counts.values())
        slots = _BOARD + board_size(parts)
        size = 8 * (slots + parts * SLOTS)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _allocate(file, size, path)
            values = memoryview(mmap.mmap(file, size)).cast(
                "Q"
            )  # each value is read and written in one piece
        finally:
            os.close(file)
        values[_PARTS] = parts
        self.versions = RowVersions(values, slots, counts)
        self.board = PositionBoard(values, _BOARD, counts)


def memory_of(
    settings: Settings,
    partitions: Mapping[str, int],
    generation: int = GENERATION_FIRST,
) -> SharedMemory | None:
    """The memory of a generation of the log. None when the engine is not ours: its writers may run
    on any machine."""
    return (
        SharedMemory(path_of(settings, generation), partitions)
        if settings.embedded
        else None
    )


def path_of(settings: Settings, generation: int = GENERATION_FIRST) -> Path:
    name = "changes" if generation == GENERATION_FIRST else f"changes.g{generation}"
    return settings.data / "run" / name


def newest(settings: Settings) -> Path:
    """The file of the last generation that has one."""
    there = (
        number
        for number in range(GENERATIONS_MAX, 0, -1)
        if path_of(settings, number).exists()
    )
    return path_of(settings, next(there, GENERATION_FIRST))


def supersede(
    settings: Settings, partitions: Mapping[str, int], generation: int
) -> None:
    """Begin the file of a generation: from now on nothing is cached by the files of earlier
    ones."""
    if memory_of(settings, partitions, generation) is None:
        return
    for number in range(GENERATION_FIRST, generation):
        renew(path_of(settings, number), secrets.randbits(63) << 1, ended=True)


def renew(path: Path, version: int, *, ended: bool = False) -> None:
    """Invalidate every cached row and confirmed position, and for good when the generation has
    `ended`; `version` was never used before, and is even."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        _allocate(file.fileno(), os.fstat(file.fileno()).st_size, path)
    with (
        path.open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as memory,
        memoryview(memory).cast("Q") as values,
    ):
        values[WHOLE] = version | 1
        for at in range(_BOARD, _BOARD + board_size(values[_PARTS])):
            values[at] = 0
        values[WHOLE] = version | ended


def _allocate(file: int, size: int, path: Path) -> None:
    """Have the disk's space for the whole of it: what is only promised ends the process when it is
    written to."""
    if os.fstat(file).st_blocks * BLOCK_BYTES >= size:
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise SettingsError(f"{path} needs {size:,} bytes: {error.strerror}") from None


@contextmanager
def all_rewritten(memory: SharedMemory | None) -> Iterator[None]:
    """Every row may change until the end, and has changed then."""
    if memory is None:
        yield
        return
    with memory.versions.rewrite(secrets.randbits(63) << 1):
        yield
