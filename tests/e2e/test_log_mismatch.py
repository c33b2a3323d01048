"""A log that is not the tables' own, under the feet of real processes: nothing is acknowledged that never appears.

Each mischief happens while somebody writes. Then: 503, `doctor` 1, projector and deleter end with one line; and when
the right log is back everything that was acknowledged shows.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY
from shared.log.embedded.log import EmbeddedLog
from shared.log.port import Entry
from shared.runtime.process.exits import FOUND_WRONG, WRONG_LOG
from tests.support.parts import Parts, Writer, started
from tests.support.processes import READY_SECONDS_MAX, Stack, wait_for

pytestmark = pytest.mark.alone

COUNTS = {COMMANDS: 4, IDENTITY: 4, DELETIONS: 1, DEAD: 1}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with started(tmp_path_factory.mktemp("mismatch") / "data", PERSONLOG_PARTITIONS="4") as made:
        yield made


def removed(log: Path, older: Path) -> None:
    """Nothing lies there any more."""


def remade(log: Path, older: Path) -> None:
    """A new log lies there, with other people's records: further than the old one."""
    asyncio.run(fill(log, "somebody else"))


def older_copy(log: Path, older: Path) -> None:
    older.rename(log)


def older_copy_that_went_on(log: Path, older: Path) -> None:
    """Its heads are not below the tables' positions: only the records are others."""
    older.rename(log)
    asyncio.run(fill(log, "on the copy"))


def other_counts(log: Path, older: Path) -> None:
    """The same records, and another modulus."""
    older.rename(log)
    with sqlite3.connect(log / "log.sqlite") as db:
        db.execute("UPDATE topics SET partitions = 5 WHERE name = ?", (COMMANDS,))
    db.close()


async def fill(folder: Path, text: str) -> None:
    log = EmbeddedLog(folder, COUNTS)
    await log.start()
    for _ in range(1_000):
        await log.append([
            Entry(topic, partition, b"", text.encode()) for topic in COUNTS for partition in range(COUNTS[topic])
        ])
    await log.close()


async def forget(folder: Path) -> None:
    log = EmbeddedLog(folder, COUNTS, create=False)
    await log.start()
    await log.forget(2**62)
    await log.close()


MISCHIEFS: dict[Callable[[Path, Path], None], str] = {
    removed: "The log is gone",
    remade: "This is another log",
    older_copy: "it is an older copy, or another log",
    older_copy_that_went_on: "it is an older copy, or another log",
    other_counts: "The topic personlog.commands has 5 partitions instead of 4",
}


@pytest.mark.parametrize("mischief", MISCHIEFS, ids=lambda mischief: mischief.__name__)
def test_another_log_acknowledges_nothing_and_the_right_one_has_everything(
    parts: Parts, mischief: Callable[[Path, Path], None]
) -> None:
    stack, line = parts.stack, MISCHIEFS[mischief]
    log, older, aside = (stack.data / name for name in ("log", f"older-{mischief.__name__}", "aside"))
    writer = Writer(stack, mischief.__name__)
    try:
        writer.wait(20)
        copy(log, older)
        writer.wait(100)
        check_all_there(stack, writer)  # so the tables are further than the copy
        log.rename(aside)
        changed = time.monotonic()
        mischief(log, older)
        writer.wait_refused(5)
        check_told(parts, line)
        assert not [one for one, at in writer.acknowledged.items() if at > changed + 1.0]  # an answer was on its way
        put_back(parts, log, aside)
        writer.wait(20)
    finally:
        writer.end()
    check_all_there(stack, writer)


@pytest.mark.parametrize("mischief", [older_copy, older_copy_that_went_on], ids=lambda mischief: mischief.__name__)
def test_a_copy_that_is_as_far_as_the_tables_and_lacks_what_was_acknowledged(
    parts: Parts, mischief: Callable[[Path, Path], None]
) -> None:
    """Nobody but the API that acknowledged it knows: whoever reads it then would take it for the tables' own."""
    stack, readers = parts.stack, [parts.processes[name] for name in ("projector", "deleter")]
    log, older, aside = (stack.data / name for name in ("log", f"as-far-{mischief.__name__}", "aside"))
    writer = Writer(stack, f"as-far-{mischief.__name__}")
    try:
        writer.wait(20)
        for reader in readers:
            reader.send_signal(signal.SIGSTOP)
        copy(log, older)
        writer.wait(100)
        log.rename(aside)
        changed = time.monotonic()
        mischief(log, older)
        writer.wait_refused(5)
        wait_for(lambda: b"this process" in stack.ask("GET", "/readyz?verbose").body, READY_SECONDS_MAX, "the line")
        assert not [one for one, at in writer.acknowledged.items() if at > changed + 1.0]
        log.rename(log.with_name(f"wrong-{time.monotonic_ns()}"))
        aside.rename(log)
        for reader in readers:
            reader.send_signal(signal.SIGCONT)
        parts.wait_ready()
        writer.wait(20)
    finally:
        for reader in readers:
            reader.send_signal(signal.SIGCONT)
        writer.end()
    check_all_there(stack, writer)


def test_records_that_retention_took_before_they_were_projected(parts: Parts) -> None:
    """It ends with one line; `personlog log renew` mends it. What was projected may be forgotten."""
    stack = parts.stack
    asyncio.run(forget(stack.data / "log"))
    parts.run_again("projector")
    parts.wait_ready()
    assert stack.call("doctor").returncode == 0
    os.kill(parts.processes["projector"].pid, signal.SIGKILL)
    parts.code("projector")
    sent = [stack.capture(event="came", distinct_id=f"late-{number}") for number in range(20)]
    assert all(one.status == 200 for one in sent)
    asyncio.run(forget(stack.data / "log"))
    parts.run("projector")
    assert parts.code("projector") == WRONG_LOG
    assert "before they were projected" in parts.last_line("projector")
    doctor = stack.call("doctor")
    assert doctor.returncode == FOUND_WRONG
    assert "before they were projected" in doctor.stdout


def test_up_ends_with_the_line_and_starts_again_when_the_log_is_back(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    log, aside = stack.data / "log", stack.data / "aside"
    try:
        stack.start()
        sent = stack.capture(event="came", distinct_id="ann")
        assert stack.persons("/?distinct_id=ann", Min_Position=sent.headers["Position"]).json["results"]
        log.rename(aside)
        for _ in ("while it runs", "at its start"):
            assert stack.ended(READY_SECONDS_MAX) == WRONG_LOG
            assert (stack.data / "up.log").read_text().splitlines()[-1].startswith("personlog: The log is gone")
            assert not log.exists()
            stack.begin()
        assert stack.ended(READY_SECONDS_MAX) == WRONG_LOG
        aside.rename(log)
        stack.start()
        assert stack.persons("/?distinct_id=ann").json["results"]
        assert stack.call("doctor").returncode == 0
    finally:
        stack.stop()


def copy(log: Path, older: Path) -> None:
    """A copy as a backup makes it."""
    older.mkdir()
    source, target = sqlite3.connect(log / "log.sqlite"), sqlite3.connect(older / "log.sqlite")
    source.backup(target)
    source.close()
    target.close()


def check_told(parts: Parts, line: str) -> None:
    stack = parts.stack
    parts.wait_unready()
    for name in ("projector", "deleter"):
        assert parts.code(name) == WRONG_LOG, parts.last_line(name)
        assert line in parts.last_line(name), parts.last_line(name)
    wait_for(lambda: line.encode() in stack.ask("GET", "/readyz?verbose").body, READY_SECONDS_MAX, "the line")
    for answer in (
        stack.persons("/"), stack.capture(event="came", distinct_id="nobody"),
        stack.persons(f"/{stack.uuid('nobody')}/", "PATCH", {"properties": {"a": 1}}),
    ):  # fmt: skip
        assert answer.status == 503, answer.body
        assert answer.json["code"] == "unavailable"
        assert answer.headers["Retry-After"]
    doctor = stack.call("doctor")
    assert doctor.returncode == FOUND_WRONG
    assert line in doctor.stdout
    again = stack.call("migrate")
    assert again.returncode == WRONG_LOG
    assert line in again.stderr


def put_back(parts: Parts, log: Path, aside: Path) -> None:
    if log.exists():
        log.rename(log.with_name(f"wrong-{time.monotonic_ns()}"))
    aside.rename(log)
    parts.wait_ready()
    for name in ("projector", "deleter"):
        parts.run(name)
    for name in ("projector", "deleter"):  # one that meets the next mischief at its start ends otherwise
        parts.wait_running(name)


def check_all_there(stack: Stack, writer: Writer) -> None:
    names = list(writer.acknowledged)
    for start in range(0, len(names), 100):
        page = names[start : start + 100]
        wait_for(lambda page=page: all_there(stack, page), READY_SECONDS_MAX, f"all of {page[0]} and on")  # type: ignore[misc]


def all_there(stack: Stack, names: list[str]) -> bool:
    answer = stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": names})
    return answer.status == 200 and set(names) <= answer.json["results"].keys()
