"""The walks of ARCHITECTURE.md: which files a request, a record and a deletion pass, against what they pass."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.processes import ROOT
from tests.support.walks import DOCUMENT, block_of, rewritten, walked

WALKS = walked(DOCUMENT.read_text())

ONE_AFTER_THE_OTHER = ("capture", "GET", "PATCH", "DELETE")
"""Walks of one request. The others are of several tasks, whose order is nobody's rule."""

ENTERED_AGAIN: dict[str, set[str]] = {
    "capture": set(),
    "record": {"services/projector/worker.py from services/projector/fold.py"},
    "GET": {"shared/store/person.py from shared/domain/person/view.py"},
    "PATCH": {"shared/store/person.py from shared/domain/person/view.py"},
    "DELETE": {"shared/store/person.py from shared/domain/person/view.py"},
    "deletion": {
        "services/deleter/app.py from services/deleter/sweep/run.py",
        "services/deleter/sweep/run.py from services/deleter/sweep/guard.py",
    },
}
"""Files that call a file which calls them back. The list may only get shorter."""

ASKED_WHEN_LATE = frozenset(("shared/store/clickhouse/client.py", "shared/store/clickhouse/parameters.py"))
"""A write that is visible at once asks the store for nothing, and one that is not asks while it waits: these files are
entered there or not, and sooner or later."""

WAITING = ("PATCH", "DELETE")
"""Walks that wait until their write is visible."""


def certain(name: str, files: list[str]) -> list[str]:
    """The files of a walk, without those that depend on who is quicker."""
    return [file for file in files if name not in WAITING or file not in ASKED_WHEN_LATE]


@pytest.fixture(scope="module")
def traced() -> dict[str, dict[str, list[str]]]:
    command = [sys.executable, "-m", "tests.support.walks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    walks: dict[str, Any] = json.loads(done.stdout)
    return walks


def test_the_map_shows_each_walk(traced: dict[str, dict[str, list[str]]]) -> None:
    assert WALKS.keys() == traced.keys() == ENTERED_AGAIN.keys()


@pytest.mark.parametrize("name", WALKS)
def test_every_file_of_the_map_is_entered_and_no_other(traced: dict[str, dict[str, list[str]]], name: str) -> None:
    """When it fails and the walk is as it should be: `python -m tests.support.walks --write`."""
    entered, shown = set(certain(name, traced[name]["files"])), set(certain(name, WALKS[name]))
    assert (sorted(entered - shown), sorted(shown - entered)) == ([], [])


@pytest.mark.parametrize("name", ONE_AFTER_THE_OTHER)
def test_the_files_of_a_request_are_entered_in_the_order_of_the_map(
    traced: dict[str, dict[str, list[str]]], name: str
) -> None:
    assert certain(name, traced[name]["files"]) == certain(name, WALKS[name])


@pytest.mark.parametrize("name", WALKS)
def test_no_file_is_entered_again_by_its_own_doing(traced: dict[str, dict[str, list[str]]], name: str) -> None:
    assert set(traced[name]["again"]) == ENTERED_AGAIN[name]


@pytest.mark.parametrize("name", WALKS)
def test_every_file_of_the_map_is_there(name: str) -> None:
    assert [file for file in WALKS[name] if not (ROOT / file).is_file()] == []


def test_a_map_is_read_as_it_is_written() -> None:
    files = ["services/api/app.py", "services/api/http/errors.py", "services/api/http/routing.py", "shared/log/port.py"]
    text = "before\n```walk: a b\nold\n```\nbetween\n```sh\nls\n```\n"
    assert walked(rewritten(text, {"a b": files})) == {"a b": files}
    assert block_of(files) == "services/api/ app → services/api/http/ errors routing → shared/log/ port\n"
