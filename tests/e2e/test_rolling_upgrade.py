"""An upgrade without an interruption, in the wrong order: an API and a projector of now beside one of before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.processes import ROOT, Stack, wait_for

pytestmark = pytest.mark.alone

OLDER = """
import sys
from services.cli import main
from services.projector import worker
from shared.domain import commands as c
kinds = (
    c.Capture | c.Write | c.Erase | c.RecordBlock | c.MergePersons | c.SplitPerson | c.Delete
    | c.RequestDeletion | c.Cancel
)
worker.decode = c.CommandDecoder(kinds, {}).decode
sys.exit(main(["projector"]))
"""
"""A projector that does not know what came after e98b22b, but the rule for what it does not know."""

PERSONS = 64
"""Enough for each partition to have some."""

SECONDS_MAX = 120.0
STOPPED = "is stopped: A newer version wrote this; upgrade the projectors first."


@pytest.fixture
def older(own_stack: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """The projector of before, which has half of the partitions."""
    with (own_stack.data / "older.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", OLDER], cwd=ROOT, env=own_stack.environment, stdout=log,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # fmt: skip
    try:
        groups = own_stack.data / "log" / "groups" / "projector.personlog.commands"
        wait_for(lambda: len(list(groups.glob("member-*"))) == 2, SECONDS_MAX, "the second member")
        wait_for(lambda: _holds(process.pid, groups) >= 2, SECONDS_MAX, "partitions to be given to it")
        yield process
    finally:
        process.kill()
        process.wait()


def _holds(pid: int, groups: object) -> int:
    """Partitions whose lock this process has open."""
    open_files = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            open_files.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return sum(path.startswith(f"{groups}/partition-") for path in open_files)


def test_what_the_older_one_does_not_know_waits_for_the_upgrade(
    own_stack: Stack, older: subprocess.Popen[bytes]
) -> None:
    stack, key = own_stack, f"secret-{uuid4().hex[:8]}"
    names = [f"rolling-{uuid4().hex[:8]}-{number}" for number in range(PERSONS)]
    batch = [{"event": "e", "distinct_id": name, "properties": {"$set": {key: "x", "n": 1}}} for name in names]
    sent = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None)
    assert stack.persons("/?limit=1", Min_Position=sent.headers["Position"]).status == 200, "it does what it knows"
    purged = stack.persons("/purge_property/", "POST", {"key": key}, Prefer="respond-async")
    assert purged.status in (200, 201, 202), purged.body

    said = wait_for(lambda: _doctor_says(stack, STOPPED), SECONDS_MAX, "the doctor to say what has stopped")
    assert said.count(", ready") == 4 and said.count("not ready: partitions personlog.commands/") == 1
    assert STOPPED in said
    lines = (stack.data / "older.log").read_text()
    assert lines.count('"event": "stopped"') == said.count(STOPPED)
    assert stack.query("SELECT count() FROM timeline WHERE topic = 'command.failed'") == "0"
    assert 0 < _showing(stack, names, key) < PERSONS, "the partitions of the newer one have gone on"
    later = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None)
    assert later.status == 200, "writes are acknowledged all the same"

    older.terminate()
    older.wait(SECONDS_MAX)
    wait_for(lambda: stack.persons("/?limit=1", Min_Position=later.headers["Position"]).status == 200, SECONDS_MAX,
             "the newer projector to go on where the older one has stopped")  # fmt: skip
    assert stack.query("SELECT count() FROM timeline WHERE topic = 'command.failed'") == "0"
    taken = f"SELECT uniqExact(fragment) FROM timeline WHERE topic = 'fragment.purged' AND has(keys, '{key}')"
    assert int(stack.query(taken)) == PERSONS
    assert wait_for(lambda: _doctor_says(stack, ", ready"), SECONDS_MAX, "the doctor").count(", ready") == 4


def _doctor_says(stack: Stack, text: str) -> str:
    said = stack.call("doctor").stdout
    return said if text in said else ""


def _showing(stack: Stack, names: list[str], key: str) -> int:
    """Of how many the property is shown."""
    answer = stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": names})
    found = answer.json["results"]
    return sum(key in person["properties"] for person in found.values())
