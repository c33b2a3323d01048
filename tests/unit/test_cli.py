"""The command line: what it refuses before it touches anything, and what it never prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.cli import BAD_USAGE, DONE, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONLOG_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["--no-such-option"],
        ["keys"],
        ["keys", "create"],
        ["projects", "create"],
        ["deletions"],
        ["projects", "recordings", "one", "on"],
        ["projects", "recordings", "1", "maybe"],
        ["projects", "delete-everything"],
        ["projects", "delete-everything", "1", "yes"],
        ["projects", "zone", "1"],
        ["projects", "zone", "1", "Atlantis/Centre"],
        ["projects", "zone", "1", "europe/berlin"],
        ["projects", "zone", "one", "UTC"],
        ["projects", "create", "shop", "--zone", "+02:00"],
    ],
)
def test_bad_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == BAD_USAGE


def test_no_command_prints_the_help_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == BAD_USAGE
    assert "run everything here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PERSONLOG_PORT", "eighty"),
        ("PERSONLOG_WINDOW", "now and then"),
        ("PERSONLOG_WINDOW_ZONE", "Atlantis/Centre"),
        ("PERSONLOG_CLICKHOUSE", "clickhouse:8123"),
        ("PERSONLOG_STATIC", "/no/such/folder"),
        ("PERSONLOG_COLOUR", "blue"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_one_line_that_names_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["doctor"]) == BAD_USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert name in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scopes", "person:everything", "--projects", "all"],
        ["--scopes", "*", "--projects", "one"],
        ["--scopes", "*", "--projects", "1", "--expires", "soon"],
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONLOG_CLICKHOUSE", "http://127.0.0.1:1/nowhere")
    assert main(["keys", "create", *arguments]) == BAD_USAGE
    assert capsys.readouterr().out == ""


def test_check_shows_every_setting_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONLOG_PORT", "8099")
    monkeypatch.setenv("PERSONLOG_PERSONAL_KEY", "phx_of_the_environment")
    monkeypatch.setenv("PERSONLOG_CLICKHOUSE", "http://user:secret@127.0.0.1:8123/personlog")
    assert main(["--check"]) == DONE
    shown = capsys.readouterr().out
    assert "PERSONLOG_PORT=8099" in shown
    assert "PERSONLOG_PERSONAL_KEY=***" in shown
    kept = (tmp_path / "data" / "keys.env").read_text().splitlines()
    for secret in ("phx_of_the_environment", "secret@", *(line.partition("=")[2] for line in kept)):
        assert secret not in shown


def test_the_command_line_is_light() -> None:
    """`personlog up` supervises for months: it must not carry what its children need."""
    heavy = "{'aiohttp', 'aiokafka', 'clickhouse_connect', 'chdb', 'pandas', 'eventsourcing', 'prometheus_client'}"
    program = f"import sys, services.cli, services.up; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert shown.stdout.strip() == "[]"
