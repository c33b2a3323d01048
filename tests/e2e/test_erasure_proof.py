"""Receipts end to end: made by a window, shown by the API, checked offline by somebody who has the public key only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.asking import sent
from tests.support.processes import Stack, running

pytestmark = pytest.mark.alone

PEOPLE = ("ann@example.com", "bob@example.com", "cat@example.com")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("receipts") / "data") as stack:
        for name in PEOPLE:
            sent(stack, name, "sign up", **{"$set": {"email": name}})
            assert stack.persons(f"/{stack.uuid(name)}/?delete_events=true", "DELETE").status == 204
        ran = stack.call("deletions", "run")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        yield stack


def requests(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.persons("/deletion_requests/").json["results"]
    return found


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """On a machine that has nothing but these files."""
    folder.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PERSONLOG")}
    command = [Path(sys.executable).with_name("personlog"), "receipts", "verify", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def files(stack: Stack, tmp_path: Path) -> tuple[Path, list[str]]:
    folder = tmp_path / "auditor"
    shutil.copytree(stack.data / "receipts", folder, ignore=shutil.ignore_patterns("signing-key.pem"))
    return folder, sorted(path.name for path in folder.glob("*.json"))


def test_each_verified_request_has_its_receipt_and_no_personal_data_is_in_it(stack: Stack) -> None:
    found = requests(stack)
    assert [one["state"] for one in found] == ["verified"] * 3
    for one in found:
        said = one["receipt"]["said"]
        assert (said["request"], said["person"]) == (one["id"], one["person_uuid"])
        assert said["erased"]["captured_events"]["rows_hidden"] == 1
        assert orjson.loads((stack.data / "receipts" / f"{one['id']}.json").read_bytes()) == one["receipt"]
    text = orjson.dumps(found).decode()
    assert not any(name in text for name in PEOPLE) and "sign up" not in text
    assert sorted(one["receipt"]["said"]["sequence"] for one in found) == [1, 2, 3]


def test_another_run_makes_no_other_receipt_and_goes_on_with_the_chain(stack: Stack) -> None:
    before = requests(stack)
    sent(stack, "dora", "sign up")
    assert stack.persons(f"/{stack.uuid('dora')}/", "DELETE").status == 204
    assert stack.call("deletions", "run").returncode == 0
    newest, *others = requests(stack)
    assert others == before
    last = max(before, key=lambda one: one["receipt"]["said"]["sequence"])["receipt"]
    assert newest["receipt"]["said"]["previous"] == last["sha256"]


def test_they_are_checked_offline_with_the_public_key_alone(files: tuple[Path, list[str]]) -> None:
    folder, names = files
    ran = verify(folder, "--key", "public-key.pem", *names)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count(": ok, project 1, receipt ") == len(names)
    assert not (folder / "var").exists()  # nothing is made where something is only checked


def test_what_was_changed_is_found(files: tuple[Path, list[str]]) -> None:
    folder, names = files
    path = folder / names[0]
    path.write_bytes(path.read_bytes().replace(b'"rows_hidden": 1', b'"rows_hidden": 2', 1))
    ran = verify(folder, "--key", "public-key.pem", *names, "missing.json")
    assert ran.returncode == 1
    assert f"{names[0]}: It was changed" in ran.stdout and "missing.json" in ran.stdout
    assert verify(folder, "--key", "no-such.pem", *names).returncode == 1
    assert verify(folder).returncode == 2
