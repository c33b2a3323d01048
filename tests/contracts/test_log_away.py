"""The logs' contract while what is behind them stands still: bounded in bytes, and nothing is written for nobody."""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.domain.errors import LogUnavailable
from shared.domain.ids import COMMANDS, Position
from shared.log.embedded import CLOSE_SECONDS_MAX, EmbeddedLog
from shared.log.port import APPEND_SECONDS_MAX, PENDING_BYTES_MAX, Entry
from tests.support.kafka import Cluster

PARTITIONS = {COMMANDS: 2}
LARGE = 900_000

Frozen = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Frozen]:
    if request.param == "embedded":
        return EmbeddedLog(tmp_path, PARTITIONS), partial(held, tmp_path)
    from shared.log.kafka import KafkaLog

    cluster: Cluster = request.getfixturevalue("kafka_cluster")
    return KafkaLog(request.getfixturevalue("kafka"), PARTITIONS), partial(paused, cluster)


@pytest.fixture
async def log_and_frozen(made: tuple[Any, Frozen]) -> AsyncIterator[tuple[Any, Frozen]]:
    """A started log, and what makes it stand still."""
    await made[0].start()
    yield made
    await made[0].close()


@contextmanager
def held(path: Path) -> Iterator[None]:
    with (path / "write.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def paused(cluster: Cluster) -> Iterator[None]:
    cluster.pause(1)
    try:
        yield
    finally:
        cluster.resume(1)


def entry(text: str) -> Entry:
    return Entry(COMMANDS, 0, b"key", text.encode())


async def appending(log: Any, text: str) -> asyncio.Task[list[Position]]:
    task = asyncio.create_task(log.append([entry(text)]))
    await asyncio.sleep(0.1)  # until it has been taken; no condition tells
    return task


async def test_what_waits_for_a_log_is_bounded_in_bytes_and_then_acknowledged(
    log_and_frozen: tuple[Any, Frozen],
) -> None:
    log, frozen = log_and_frozen
    with frozen():
        tasks = [asyncio.create_task(log.append([entry("x" * LARGE)])) for _ in range(2 * PENDING_BYTES_MAX // LARGE)]
        done, waiting = await asyncio.wait(tasks, timeout=1.0)
    assert all(isinstance(task.exception(), LogUnavailable) for task in done)
    assert PENDING_BYTES_MAX // LARGE <= len(waiting) <= PENDING_BYTES_MAX // LARGE + 10
    positions = [position for task in waiting for position in await task]
    assert len(set(positions)) == len(waiting)
    assert (await log.append([entry("after")]))[0].offset == len(waiting), "what was refused is not in the log"


async def test_what_nobody_waits_for_any_more_is_not_written(log_and_frozen: tuple[Any, Frozen]) -> None:
    log, frozen = log_and_frozen
    with frozen():
        first = await appending(log, "on its way")
        given_up = await appending(log, "given up")
        kept = await appending(log, "kept")
        given_up.cancel()
        await asyncio.wait({given_up})
    assert [task.result()[0].offset for task in (first, kept) if await task] == [0, 1]


async def test_an_append_ends_in_time_and_leaves_nothing_waiting(log_and_frozen: tuple[Any, Frozen]) -> None:
    log, frozen = log_and_frozen
    with frozen():
        first = await appending(log, "on its way")
        began = time.monotonic()
        more = (log.append([entry("y" * LARGE)]) for _ in range(20))
        outcomes = await asyncio.gather(first, *more, return_exceptions=True)
        assert time.monotonic() - began <= APPEND_SECONDS_MAX + 1
        assert all(isinstance(outcome, LogUnavailable) for outcome in outcomes)
        filling = [asyncio.create_task(log.append([entry("z" * LARGE)])) for _ in range(PENDING_BYTES_MAX // LARGE - 1)]
        refused, _ = await asyncio.wait(filling, timeout=0.5)
        assert not refused, "those that gave up have left their place"
        for task in filling:
            task.cancel()
        await asyncio.wait(filling)
    assert (await log.append([entry("after")]))[0].offset <= 2


async def test_the_embedded_writer_outlives_an_error_of_the_file_system(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, PARTITIONS)
    await log.start()
    lock = tmp_path / "write.lock"
    lock.unlink()
    lock.mkdir()  # it cannot be opened for writing, as when there are no descriptors left
    with pytest.raises(LogUnavailable, match="could not be written"):
        await log.append([entry("a")])
    lock.rmdir()
    assert (await log.append([entry("b")]))[0].offset == 0
    await log.close()


async def test_the_embedded_log_closes_though_its_writer_hangs(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, PARTITIONS)
    await log.start()
    with held(tmp_path):
        appended = await appending(log, "never acknowledged")
        began = time.monotonic()
        await log.close()
        assert time.monotonic() - began < CLOSE_SECONDS_MAX + 2
        with pytest.raises(LogUnavailable):
            await appended
