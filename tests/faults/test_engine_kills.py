"""kill -9 of the engine, again and again, while somebody writes; and what becomes of it when its parent dies."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psutil
import pytest

from shared.domain.errors import StoreUnavailable
from shared.domain.ids import COMMANDS, IDENTITY
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query
from shared.store.shared_memory.segment import SharedMemory
from tests.support.chaos import Chaos, Recovery
from tests.support.engine import EngineProcess
from tests.support.judge import judge
from tests.support.processes import ROOT, Stack, lives, running, wait_for
from tests.support.tier import sized

SEED = int(os.environ.get("PERSONLOG_TEST_SEED", "1"))


class Size(NamedTuple):
    """Kills of the engine beside the whole stack, and of the engine alone."""

    kills: int
    alone: int


SIZE = sized(dev=Size(5, 4), ci=Size(50, 20), soak=Size(200, 100))

PAUSE_SECONDS_MAX = 0.5
"""Under load, between a recovery and the next kill: some flushes long, so that kills fall anywhere in them."""

UP = "from services import up; up.HEALTHY_SECONDS = 0.0; from services.cli import main; raise SystemExit(main(['up']))"
"""`personlog up` that takes every child for healthy. Fifty kills half a minute apart would take as many half minutes,
and closer together it is the supervisor's back-off of up to 5 s that would be measured."""

WRITERS, BLOCK_ROWS_MAX = 4, 20_000
ALONE_SECONDS_MAX = 0.8
"""How long the engine alone works between two kills, at most."""

AWAY_SECONDS = 0.02
"""Between two attempts of a writer while the engine is away."""

ENDED_SECONDS_MAX = 60.0

TALLY = Query(
    name="tally",
    sql="SELECT number, any(version), count(), uniqExact(fragment) FROM fragments GROUP BY number",
)
"""Of each block: its number, how many rows it was sent with, how many there are, and how many that differ."""

CHECK = Query(name="check", sql="CHECK TABLE fragments SETTINGS check_query_single_value_result = 0")
DETACHED = Query(name="detached", sql="SELECT count() FROM system.detached_parts WHERE database = currentDatabase()")


class EngineKills(Chaos):
    """A run whose every fault is the engine's death."""

    def _fault(self) -> None:
        time.sleep(self._chosen.uniform(0, PAUSE_SECONDS_MAX))  # the place of the kill; nothing is waited for
        ended = self._kill_engine()
        self.recoveries.append(("kill_engine", Recovery(self._recovered(ended), moved=0.0)))
        self.kills += 1


class HealthyStack(Stack):
    """A stack whose `up` starts each child again without back-off."""

    def run(self, *command: str, log: str, **environment: str) -> subprocess.Popen[bytes]:
        if command != ("up",):
            return super().run(*command, log=log, **environment)
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / log).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-c", UP], cwd=ROOT, env=self.environment, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip


@contextmanager
def restarted_at_once(data: Path) -> Iterator[Stack]:
    stack = HealthyStack(data)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.mark.fault
def test_no_kill_of_the_engine_loses_or_doubles_what_was_acknowledged(tmp_path: Path, record_property: Any) -> None:
    with restarted_at_once(tmp_path / "data") as stack:
        chaos = EngineKills(stack, None, SEED)
        chaos.run(SIZE.kills, 0)
        verdict = judge(chaos)
    seconds = [recovery.served for _, recovery in chaos.recoveries]
    told = (
        f"kills of the engine under the stack: {chaos.kills}, acknowledged {chaos.acknowledged:,}, records"
        f" {verdict.records:,}, lost {verdict.lost}, twice {verdict.duplicated}, rows that differ"
        f" {verdict.differences}, recovery median {statistics.median(seconds):.2f} s max {max(seconds):.2f} s"
    )
    record_property("faults", told)
    print(told)
    assert (verdict.lost, verdict.duplicated, verdict.differences) == (0, 0, 0), (told, verdict.named)
    assert chaos.kills == len(chaos.recoveries) == SIZE.kills  # each within the client's RECOVERY_SECONDS_MAX


class Blocks:
    """Writers that insert straight into the engine, and never twice."""

    def __init__(self, store: Store) -> None:
        self._store, self._numbers = store, count(1)
        self.answered: dict[int, int] = {}
        self.unanswered: dict[int, int] = {}
        """Rows by the number of their block."""

    async def write(self, seed: int) -> None:
        chosen = random.Random(seed)
        while True:
            number, size = next(self._numbers), round(BLOCK_ROWS_MAX ** chosen.random())
            try:
                await self._store.insert("fragments", block(number, size))
            except StoreUnavailable:
                self.unanswered[number] = size
                await asyncio.sleep(AWAY_SECONDS)
            else:
                self.answered[number] = size


def block(number: int, size: int) -> dict[str, list[Any]]:
    """Rows that say which block they are of, and how many it has."""
    return {
        "project": [1] * size,
        "fragment": [UUID(int=number << 64 | row) for row in range(size)],
        "version": [size] * size,
        "number": [number] * size,
        "properties": [f'{{"row":{row}}}' for row in range(size)],
    }


@pytest.mark.fault
async def test_an_insert_that_was_answered_is_whole_and_one_that_was_not_is_whole_or_absent(
    tmp_path: Path, record_property: Any
) -> None:
    engine, chosen = EngineProcess(tmp_path / "data").start(), random.Random(SEED)
    try:
        store = await Store.connect(engine.url("test"))
        await migrate(store)
        blocks = Blocks(store)
        writers = [asyncio.create_task(blocks.write(SEED * 100 + one)) for one in range(WRITERS)]
        for _ in range(SIZE.alone):
            await _goes_on(blocks, writers)
            await asyncio.sleep(chosen.uniform(0, ALONE_SECONDS_MAX))
            await asyncio.to_thread(engine.kill)
            await asyncio.to_thread(engine.start)
        await _goes_on(blocks, writers)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await asyncio.to_thread(engine.stop)
        await asyncio.to_thread(engine.start)
        found = {number: (size, rows, different) for number, size, rows, different in await store.rows(TALLY)}
        checked, detached = await store.rows(CHECK), await store.rows(DETACHED)
        await store.close()
    finally:
        engine.stop()
    lost = [number for number in blocks.answered if number not in found]
    torn = [number for number, (size, rows, different) in found.items() if not size == rows == different]
    told = (
        f"kills of the engine alone: {SIZE.alone}, blocks answered {len(blocks.answered):,}"
        f" ({sum(blocks.answered.values()):,} rows), unanswered {len(blocks.unanswered):,}, found {len(found):,},"
        f" lost {len(lost)}, torn {len(torn)}, parts checked {len(checked)}, detached {detached[0][0]}"
    )
    record_property("faults", told)
    print(told)
    assert (lost, torn, detached) == ([], [], [(0,)]), told
    assert checked and all(passed for _, passed, _ in checked), [one for one in checked if not one[1]]


async def _goes_on(blocks: Blocks, writers: list[asyncio.Task[None]]) -> None:
    """Wait for some more answers; fail when one of them ended."""
    before, deadline = len(blocks.answered), time.monotonic() + ENDED_SECONDS_MAX
    while len(blocks.answered) < before + WRITERS:
        for writer in writers:
            if writer.done():
                writer.result()
        assert time.monotonic() < deadline, "no insert was answered"
        await asyncio.sleep(0.02)


@pytest.mark.fault
def test_the_death_of_up_ends_all_its_children_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with running(tmp_path / "data") as stack:
        assert stack.capture(event="seen", distinct_id="ann", properties={"$set": {"plan": "pro"}}).status == 200
        children = [psutil.Process(stack.pid(name)) for name in ("engine", "api", "projector", "deleter")]
        stack.kill("up")
        wait_for(lambda: not any(lives(child) for child in children), ENDED_SECONDS_MAX, "the children to end")
        stack.stop()
        stack.start()  # their ports and locks are free
        answer = stack.capture(event="seen", distinct_id="ann", properties={"$set": {"seats": 3}})
        position = answer.headers["Position"]
        (person,) = stack.persons("/?distinct_id=ann", Min_Position=position).json["results"]
        assert person["properties"] == {"plan": "pro", "seats": 3}


@pytest.mark.fault
def test_an_engine_that_is_back_has_made_void_what_was_kept_of_its_rows(tmp_path: Path) -> None:
    """Before it answers anybody: its tables may be an older copy."""
    engine = EngineProcess(tmp_path / "data")
    memory = SharedMemory(engine.data / "run" / "changes", {COMMANDS: 3, IDENTITY: 2})
    slots = [memory.versions.slot(topic, 1, fragment) for topic in (COMMANDS, IDENTITY) for fragment in range(1, 9)]
    try:
        for _ in range(3):
            engine.start()
            kept = [memory.versions.read_version(slot) for slot in slots]
            assert None not in kept
            memory.board.publish(COMMANDS, [(1, 70)])
            memory.board.confirm(IDENTITY, [(1, 80, 90)])
            engine.kill()
            engine.process = engine.spawn()
            wait_for(lambda: answers(engine), ENDED_SECONDS_MAX, "the first answer")
            now = [memory.versions.read_version(slot) for slot in slots]
            assert not [slot for slot, was, version in zip(slots, kept, now, strict=True) if version == was]
            assert memory.board.published(COMMANDS, 1) == 0
            assert {confirmed[2:] for confirmed in memory.board.read()} == {(0, 0)}
            engine.kill()
    finally:
        engine.stop()


def answers(engine: EngineProcess) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", engine.port), timeout=5):
        return True
    return False
