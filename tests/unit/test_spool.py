"""Temporary files of answers: bounded together, nameless, and gone with the request however it ends."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest

from services.api.http.spool import MEMORY_BYTES, Spools
from shared.domain.errors import BadInput, Transient

HALF = 2 * MEMORY_BYTES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_all_files_together_have_a_bound_and_each_gives_its_part_back(folder: Path) -> None:
    spools = Spools(2 * HALF)
    with spools.open() as first:
        first.file.write(b"x" * (HALF + 1))
        first.check()
        with pytest.raises(Transient), spools.open() as second:
            second.file.write(b"x" * HALF)
            second.check()
        assert spools.bytes == HALF + 1
        with spools.open() as second:
            second.file.write(b"x" * (HALF - 1))
            second.check()
        assert list(folder.iterdir()) == []  # nameless: nothing is left by who is killed now
    assert spools.bytes == 0


def test_what_never_fits_is_the_clients_to_change(folder: Path) -> None:
    spools = Spools(HALF)
    with pytest.raises(BadInput, match="ask for less"), spools.open() as spool:
        spool.file.write(b"x" * (HALF + 1))
        spool.check()
    assert spools.bytes == 0


def test_a_full_disk_is_told_as_full_and_any_other_fault_is_not(folder: Path) -> None:
    spools = Spools()
    with pytest.raises(Transient), spools.open():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ConnectionResetError), spools.open():
        raise ConnectionResetError
    assert spools.bytes == 0
