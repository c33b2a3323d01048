"""A disk of its own for a test: small enough to be filled, or mounted read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, size: int, options: str = "rw") -> Iterator[Path]:
    """A tmpfs of `size` bytes at `folder`; skips where nothing may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    said = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"{options},size={size}", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if said.returncode:
        pytest.skip(f"a disk of a test's own needs the right to mount: {said.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    """Fill the disk that holds `folder`, up to `left` bytes, with a file that may be removed again."""
    filler = folder / "filler"
    with filler.open("wb") as file, suppress(OSError):
        while True:
            stat = os.statvfs(folder)
            rest = stat.f_bavail * stat.f_frsize - left
            if rest <= 0:
                break
            file.write(bytes(min(rest, 1 << 20)))
            file.flush()
    return filler
