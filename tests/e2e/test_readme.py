"""The README's try-it, pasted line by line, gives what the README shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT, running

pytestmark = pytest.mark.alone


def test_the_readmes_try_it_gives_what_the_readme_shows(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    lines = block[1].splitlines()
    commands = "\n".join(line for line in lines if not line.startswith("# "))
    expected = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    with running(tmp_path / "var", PERSONLOG_PERSONAL_KEY="", PERSONLOG_PROJECT_TOKEN="") as stack:
        assert (stack.data / "keys.env").stat().st_mode & 0o777 == 0o600
        pasted = subprocess.run(
            ["bash", "-s"],
            input=commands.replace("http://127.0.0.1:8000", stack.url),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert pasted.stdout.splitlines() == expected, pasted.stderr
