"""What ends a start before anything is opened: one line, exit code 2, no traceback."""

from __future__ import annotations

import resource
import stat
from pathlib import Path

import pytest

from services.cli import BAD_USAGE, main
from shared.domain.ids import COMMANDS, IDENTITY
from shared.runtime.process import preflight
from shared.runtime.settings import Settings, SettingsError
from shared.store.shared_memory.segment import SharedMemory, renew
from tests.support.disks import fill, mounted

STARTS = ("up", "engine", "api", "projector", "deleter", "migrate", "rebuild", "doctor")
SIZES = {COMMANDS: 16, IDENTITY: 4}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == BAD_USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize("command", STARTS)
def test_a_data_path_that_is_a_file_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("")
    for path in (tmp_path / "data", tmp_path / "data" / "below"):
        monkeypatch.setenv("PERSONLOG_DATA", str(path))
        assert "must be a folder" in refused([command], capsys)


def test_an_import_says_it_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("")
    (tmp_path / "persons.ndjson").write_text("")
    monkeypatch.setenv("PERSONLOG_DATA", str(tmp_path / "data"))
    assert "must be a folder" in refused(["import", str(tmp_path / "persons.ndjson"), "--token", "phc_x"], capsys)


@pytest.mark.parametrize("command", STARTS)
def test_a_folder_that_is_read_only_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "disk", 1 << 20, "ro") as disk:
        for path in (disk, disk / "data"):
            monkeypatch.setenv("PERSONLOG_DATA", str(path))
            assert "Read-only file system" in refused([command], capsys)


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        fill(disk)
        monkeypatch.setenv("PERSONLOG_DATA", str(disk))
        assert "No space left on device" in refused(["api"], capsys)


@pytest.mark.parametrize("name", ["log", "run", "engine"])
def test_a_file_in_a_folder_s_place_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("")
    monkeypatch.setenv("PERSONLOG_DATA", str(tmp_path))
    assert f"{name} must be a folder" in refused(["projector"], capsys)


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\x1b[1mb"])
def test_what_no_engine_s_configuration_can_hold_is_refused_and_shown_safely(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONLOG_DATA", str(tmp_path / name))
    assert "\x1b" not in refused(["up"], capsys)


@pytest.mark.parametrize("name", ["a b", "ü", "a?b#c", "100%", "'\"`$(x)", "<&>", "{{log}}", "a:b;c=d,e"])
def test_other_characters_simply_work(name: str, tmp_path: Path) -> None:
    preflight.check(Settings(data=tmp_path / name))
    assert (tmp_path / name).is_dir()


def test_nothing_is_left_of_the_look(tmp_path: Path) -> None:
    preflight.check(Settings(data=tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_too_few_files_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONLOG_DATA", str(tmp_path))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert "256 files" in refused(["up"], capsys)


def test_the_soft_limit_of_files_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    preflight.check(Settings(data=tmp_path))
    assert asked == [(4_096, 4_096)]


def test_shared_memory_has_its_space_from_the_start(tmp_path: Path) -> None:
    """What is only promised ends the process by a signal when the disk is full."""
    path = tmp_path / "run" / "changes"
    SharedMemory(path, SIZES)
    assert path.stat().st_blocks * 512 >= path.stat().st_size


def test_shared_memory_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        sparse = disk / "changes"
        with sparse.open("wb") as file:
            file.truncate(600_000)
        fill(disk, 200_000)
        with pytest.raises(SettingsError, match="No space left"):
            SharedMemory(sparse, SIZES)
        with pytest.raises(SettingsError, match="No space left"):
            renew(sparse, 2)


def test_shared_memory_of_an_earlier_start_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "changes"
    one = SharedMemory(path, SIZES)
    one.versions.end_write([one.versions.slot(COMMANDS, 1, 5)], 8)
    again = SharedMemory(path, SIZES)
    assert again.versions.read_version(again.versions.slot(COMMANDS, 1, 5)) == 8
