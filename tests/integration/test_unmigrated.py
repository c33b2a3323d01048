"""A store without its tables: each command says so in one line, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli import BAD_USAGE, DONE
from tests.support.engine import EngineProcess
from tests.support.processes import ROOT


def run(engine: EngineProcess, data: Path, database: str, *command: str) -> subprocess.CompletedProcess[str]:
    own = {"PERSONLOG_DATA": str(data), "PERSONLOG_CLICKHOUSE": engine.url(database)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERSONLOG_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *command],
        cwd=ROOT, env=inherited | own, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", ["api", "projector", "deleter", "rebuild", "keys list", "projects list", "deletions run"]
)
def test_a_store_without_its_tables_is_one_line(command: str, engine: EngineProcess, tmp_path: Path) -> None:
    ended = run(engine, tmp_path, "unmigrated", *command.split())
    shown = [line for line in ended.stderr.splitlines() if '"level": "info"' not in line]
    assert ended.returncode == BAD_USAGE
    assert len(shown) == 1
    assert "run personlog migrate" in shown[0]


def test_and_migrate_makes_them(engine: EngineProcess, tmp_path: Path) -> None:
    assert run(engine, tmp_path, "migrated_here", "migrate").returncode == DONE
    assert "bootstrap" in run(engine, tmp_path, "migrated_here", "keys", "list").stdout
