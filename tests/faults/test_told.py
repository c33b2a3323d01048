"""Faults of a machine, under a whole stack: each is told in one line, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from shared.domain.commands import Write, encode
from shared.domain.ids import COMMANDS, DEAD, fragment_id, partition_of
from shared.log.dead import dead_letter
from shared.log.embedded.log import EmbeddedLog
from shared.log.port import Record
from tests.support.disks import fill, mounted
from tests.support.processes import ROOT, Stack, running, wait_for

pytestmark = pytest.mark.fault

SECONDS_MAX = 240.0
DISK_BYTES = 400 * 1_048_576
ODD = "a b?c#d%20e'f\"g&h<i>ü$(x){{log}};=,:z"


def lines(stack: Stack, process: str) -> list[dict[str, Any]]:
    """What a process has logged, as JSON."""
    text = (stack.data / "logs" / f"{process}.log").read_bytes()
    return [orjson.loads(line) for line in text.splitlines() if line.startswith(b"{")]


def told(stack: Stack, process: str, event: str) -> list[dict[str, Any]]:
    return [line for line in lines(stack, process) if line.get("event") == event]


def person(stack: Stack, name: str) -> Any:
    answer = stack.persons(f"?distinct_id={name}")
    found = answer.json["results"] if answer.status == 200 else []
    return found[0]["properties"] if found else None


def ready(stack: Stack) -> tuple[int, str]:
    """What the API says of itself; 0 while there is none."""
    try:
        answer = stack.ask("GET", "/readyz?verbose", key=None)
    except OSError:
        return 0, ""
    return answer.status, answer.body.decode()


def test_a_data_path_with_the_characters_of_urls_simply_works(tmp_path: Path) -> None:
    with running(tmp_path / ODD) as stack:
        assert stack.capture(event="e", distinct_id="ann", properties={"$set": {"plan": "pro"}}).status == 200
        told_of = {"$session_id": "s", "$window_id": "w", "$snapshot_data": [{"type": 2, "timestamp": 1, "data": {}}]}
        snapshot = {"event": "$snapshot", "distinct_id": "ann", "properties": told_of}
        assert stack.ask("POST", "/s", {"api_key": stack.token, **snapshot}, key=None).status == 200
        wait_for(lambda: person(stack, "ann") == {"plan": "pro"}, SECONDS_MAX, "the person")
        stack.stop()
        stack.start()
        wait_for(lambda: person(stack, "ann") == {"plan": "pro"}, SECONDS_MAX, "the person after a restart")
        looked = stack.call("doctor")
        assert (looked.returncode, looked.stderr) == (0, ""), looked.stdout
        assert looked.stdout.count(": ok") == 10
        assert any((tmp_path / ODD / "objects").rglob("*"))


def set_skew(file: Path, seconds: float) -> None:
    file.with_suffix(".new").write_text(f"{seconds}")
    file.with_suffix(".new").replace(file)


def test_a_clock_of_two_days_ahead_and_back_stamps_nothing_with_it(tmp_path: Path) -> None:
    skew = tmp_path / "skew"
    path = f"{ROOT / 'tests' / 'support' / 'skew'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with running(tmp_path / "data", PYTHONPATH=path, SKEWED_BY=str(skew)) as stack:
        def write(name: str, value: int) -> None:
            event = {"event": "e", "distinct_id": name, "properties": {"$set": {"n": value}}}
            assert stack.capture(**event).status == 200
            wait_for(lambda: (person(stack, name) or {}).get("n") == value, SECONDS_MAX, f"{name} = {value}")

        def stamps() -> int:
            return int(stack.query("SELECT max(stamp) FROM timeline"))

        write("ann", 1)
        write("bob", 1)
        set_skew(skew, 2 * 86_400)
        wait_for(lambda: told(stack, "api", "trouble"), SECONDS_MAX, "a line about the clock")
        write("ann", 2)
        old = stack.kill("api")  # who starts now has never seen the right time
        stack.wait_restarted("api", old)
        wait_for(lambda: ready(stack)[0] == 200, SECONDS_MAX, "the API")
        write("bob", 2)
        assert stamps() < (time.time() + 90) * 1e6
        looked = stack.call("doctor")
        assert looked.returncode == 1
        assert "clock: wrong: the machine's clock is 172," in looked.stdout
        metrics = stack.ask("GET", "/metrics", key=None).body.decode()
        assert any(line.startswith("personlog_clock_ahead_seconds 172") for line in metrics.splitlines())
        create = ("keys", "create", "--scopes", "person:read", "--projects", "all")
        key = wait_for(lambda: stack.call(*create).stdout.strip(), SECONDS_MAX, "a key")
        set_skew(skew, 0)
        wait_for(lambda: stack.call("keys", "revoke", key).returncode == 0, SECONDS_MAX, "it to be revoked")
        wait_for(lambda: stack.ask("GET", "/api/person/", key=key).status == 401, SECONDS_MAX, "the key to end")
        write("ann", 3)
        write("bob", 3)
        assert stack.persons("/?limit=10").status == 200
        assert stamps() < (time.time() + 90) * 1e6
        wait_for(lambda: told(stack, "api", "trouble is over"), SECONDS_MAX, "the line that it is over")
        assert len(told(stack, "api", "trouble")) == 2  # one of each process that lived then
        assert stack.call("doctor").returncode == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack on a disk of its own."""
    with mounted(tmp_path_factory.mktemp("small") / "disk", DISK_BYTES) as disk, running(disk / "data") as stack:
        yield stack


def test_a_full_disk_is_told_once_and_everything_goes_on_by_itself(small: Stack) -> None:
    def capture(name: str) -> int:
        event = {"event": "e", "distinct_id": name, "properties": {"$set": {"name": name, "fat": "x" * 20_000}}}
        return small.capture(**event).status

    acknowledged = [name for name in (f"before-{number}" for number in range(20)) if capture(name) == 200]
    assert len(acknowledged) == 20
    filler = fill(small.data)
    wait_for(lambda: ready(small)[0] == 503, SECONDS_MAX, "readiness to end")
    assert "disk" in ready(small)[1]
    refused = 0
    for number in range(400):
        name = f"full-{number}"
        status = capture(name)
        if status == 200:
            acknowledged.append(name)
        else:
            assert status == 503
            refused += 1
        if refused >= 40:
            break
    assert refused >= 40
    assert ready(small)[0] == 503
    parts = [line["part"] for line in told(small, "api", "trouble")]
    assert sorted(set(parts)) == sorted(parts), "a part's trouble is told once"
    filler.unlink()
    wait_for(lambda: ready(small)[0] == 200, SECONDS_MAX, "readiness to come back by itself")
    assert capture("behind") == 200
    acknowledged.append("behind")
    for name in acknowledged:
        wait_for(lambda name=name: (person(small, name) or {}).get("name") == name, SECONDS_MAX, name)
    for process in ("api", "projector"):
        texts = (small.data / "logs" / f"{process}.log").read_text()
        assert "Traceback" not in texts
    wait_for(lambda: small.call("doctor").stdout.count(": ok") >= 9, SECONDS_MAX, "doctor")


def test_one_spoilt_record_is_told_with_its_position_and_nothing_else_is_lost(tmp_path: Path) -> None:
    with running(tmp_path / "data") as stack:
        stack.capture(event="e", distinct_id="first", properties={"$set": {"n": 0}})
        wait_for(lambda: person(stack, "first"), SECONDS_MAX, "the first")
        os.kill(stack.pid("projector"), signal.SIGSTOP)
        names = [f"p{number}" for number in range(40)]
        batch = [{"event": "e", "distinct_id": name, "properties": {"$set": {"word": f"<{name}>"}}} for name in names]
        assert stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None).status == 200
        stack.stop()
        spoil(stack.data / "log" / "log.sqlite", b'"set":{"word":"<p17>"}', b'"set":{"word":"<p7!>"}')
        stack.start()
        for name in names:
            if name != "p17":
                wait_for(lambda name=name: person(stack, name) == {"word": f"<{name}>"}, SECONDS_MAX, name)
        assert person(stack, "p17") is None
        (line,) = wait_for(lambda: told(stack, "projector", "dead letter"), SECONDS_MAX, "the line")
        partition = partition_of(fragment_id(1, "p17"), 16)
        assert line["position"].startswith(f"c.{partition}.")
        assert line["reason"] == "Corrupt"
        looked = stack.call("doctor")
        assert looked.returncode == 1
        assert "dead letters: wrong: 1 records" in looked.stdout
        assert line["position"] in stack.call("dead", "list").stdout
        shown = stack.call("dead", "show", line["position"]).stdout
        assert "<p7!>" in shown
        replayed = stack.call("dead", "replay", line["position"])
        assert replayed.returncode == 1
        assert "not those that were written" in replayed.stdout


def spoil(path: Path, before: bytes, after: bytes) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))


def set_aside(stack: Stack, *commands: Write | bytes) -> None:
    """Letters, as a projector that could not fold these would have written them."""

    async def go() -> None:
        log = EmbeddedLog(stack.data / "log", {})
        await log.start()
        for offset, command in enumerate(commands):
            value = command if isinstance(command, bytes) else encode(command)
            record = Record(COMMANDS, 0, 1_000_000 + offset, 1, b"key", value)
            await log.append([dead_letter(record, "KeyError: of an older version", log.partitions()[DEAD])])
        await log.close()

    asyncio.run(go())


def test_dead_letters_are_listed_shown_and_replayed_once(own_stack: Stack) -> None:
    stack = own_stack

    def write(name: str, value: str, at: int) -> Write:
        return Write(
            id=uuid4(), project=1, at=at, fragment=fragment_id(1, name), distinct_id=name, set={"word": value}
        )

    now = time.time_ns() // 1_000
    stack.capture(event="e", distinct_id="newer", properties={"$set": {"word": "of today"}})
    stack.capture(event="e", distinct_id="gone", properties={"$set": {"word": "secret"}})
    wait_for(lambda: person(stack, "newer") and person(stack, "gone"), SECONDS_MAX, "both")
    uuid = stack.uuid("gone")
    assert stack.persons(f"/{uuid}/", "DELETE").status == 204
    hour = 3_600_000_000
    set_aside(
        stack,
        write("late", "came late", now - hour),
        write("newer", "of yesterday", now - hour),
        write("gone", "brought back", now - hour),
        b"\x1b[2J not \xff a command",
    )
    listed = stack.call("dead", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [f"c.0.{1_000_000 + number}" for number in range(4)]
    page = stack.call("dead", "list", "--limit", "2").stdout.splitlines()
    assert page == [*listed[:2], "more: personlog dead list --after c.0.1000001"]
    assert stack.call("dead", "list", "--after", "c.0.1000001").stdout.splitlines() == listed[2:]
    shown = stack.call("dead", "show", "c.0.1000003").stdout
    assert "\\x1b[2J not \\xff a command" in shown
    assert "\x1b" not in shown
    wait_for(lambda: "intake of deletions: ok" in stack.call("doctor").stdout, SECONDS_MAX, "the request")
    replayed = stack.call("dead", "replay", "--reason", "KeyError")
    assert replayed.returncode == 1
    said = replayed.stdout.splitlines()
    assert "replayed as c." in said[0]
    assert "replayed as c." in said[1]
    assert "was deleted since" in said[2]
    assert "not replayed: Not a command" in said[3]
    wait_for(lambda: person(stack, "late") == {"word": "came late"}, SECONDS_MAX, "who came late")
    assert person(stack, "newer") == {"word": "of today"}
    assert person(stack, "gone") is None
    again = stack.call("dead", "replay", "c.0.1000000")
    assert (again.returncode, again.stdout) == (0, "c.0.1000000: was replayed before\n")
    assert len(stack.call("dead", "list").stdout.splitlines()) == 2
    assert stack.call("dead", "show", "c.9.9").returncode == 1
    assert stack.call("dead", "show", "nonsense").returncode == 2


def test_the_lag_is_measured_without_anybody_asking(tmp_path: Path) -> None:
    ops = Stack(tmp_path / "unused").port  # a free port, and the deleter's is the next
    with running(tmp_path / "data", PERSONLOG_OPS_PORT=str(ops)) as stack:
        stack.capture(event="e", distinct_id="ann")
        lag = [f"personlog_lag_records{{partition=\"{partition}\",topic=\"{COMMANDS}\"}}" for partition in range(16)]

        def measured() -> bool:
            probe = Stack.__new__(Stack)
            probe.url = f"http://127.0.0.1:{ops}"
            text = probe.ask("GET", "/metrics", key=None).body.decode()
            return all(f"{name} 0.0" in text for name in lag)

        wait_for(measured, SECONDS_MAX, "the lag of every partition")
