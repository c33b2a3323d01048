"""The logs' contract while what is behind them stands still: bounded in bytes, and nothing is written for nobody."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.domain.errors import LogUnavailable
from shared.domain.ids import COMMANDS, Position
from shared.log.embedded.log import EmbeddedLog
from shared.log.port import PENDING_BYTES_MAX, Entry
from tests.support.kafka import Cluster

PARTITIONS = {COMMANDS: 2}
LARGE = 900_000
SECONDS_MAX = 60.0

Frozen = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Frozen]:
    if request.param == "embedded":
        return EmbeddedLog(tmp_path, PARTITIONS), partial(held, tmp_path)
    from shared.log.kafka.log import KafkaLog

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


async def appending(log: Any, *texts: str) -> list[asyncio.Task[list[Position]]]:
    """Appends that have been begun: each is refused, or waits."""
    tasks = [asyncio.create_task(log.append([entry(text)])) for text in texts]
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # who was refused has ended
    return tasks


async def on_its_way(log: Any, text: str) -> asyncio.Task[list[Position]]:
    """An append that is in the hands of the log's writer: what comes later is not in its batch."""
    (task,) = await appending(log, text)
    async with asyncio.timeout(SECONDS_MAX):
        while waits(log):
            await asyncio.sleep(0.001)
    return task


def waits(log: Any) -> bool:
    """Whether there are appends that are not on their way yet."""
    return bool(log.waiting if isinstance(log, EmbeddedLog) else log._accumulator.waiting)


async def test_what_waits_for_a_log_is_bounded_in_bytes_and_then_acknowledged(
    log_and_frozen: tuple[Any, Frozen],
) -> None:
    log, frozen = log_and_frozen
    with frozen():
        tasks = await appending(log, *["x" * LARGE] * (2 * PENDING_BYTES_MAX // LARGE))
        refused = [task for task in tasks if task.done()]
        waiting = [task for task in tasks if not task.done()]
    assert all(isinstance(task.exception(), LogUnavailable) for task in refused)
    assert PENDING_BYTES_MAX // LARGE <= len(waiting) <= PENDING_BYTES_MAX // LARGE + 10
    positions = [position for task in waiting for position in await task]
    assert len(set(positions)) == len(waiting)
    assert (await log.append([entry("after")]))[0].offset == len(waiting), "what was refused is not in the log"


async def test_what_nobody_waits_for_any_more_is_not_written(log_and_frozen: tuple[Any, Frozen]) -> None:
    log, frozen = log_and_frozen
    with frozen():
        first = await on_its_way(log, "on its way")
        given_up, kept = await appending(log, "given up", "kept")
        given_up.cancel()
        await asyncio.wait({given_up})
    assert [task.result()[0].offset for task in (first, kept) if await task] == [0, 1]


async def test_an_append_ends_while_the_log_is_away_and_leaves_nothing_waiting(
    log_and_frozen: tuple[Any, Frozen], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, frozen = log_and_frozen
    with frozen():
        with monkeypatch.context() as patch:
            patch.setattr("shared.log.pending_appends.APPEND_SECONDS_MAX", 0.5)
            first = await on_its_way(log, "on its way")
            more = await appending(log, *["y" * LARGE] * 20)
        async with asyncio.timeout(SECONDS_MAX):
            outcomes = await asyncio.gather(first, *more, return_exceptions=True)
        assert all(isinstance(outcome, LogUnavailable) for outcome in outcomes)
        filling = await appending(log, *["z" * LARGE] * (PENDING_BYTES_MAX // LARGE - 1))
        assert not any(task.done() for task in filling), "those that gave up have left their place"
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


async def test_the_embedded_writer_outlives_an_error_that_nobody_thought_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but its thread answers who waits: without it each append would wait its 7 seconds, for ever."""
    log = EmbeddedLog(tmp_path, PARTITIONS)
    await log.start()
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedLog, "_insert", lambda *_: [][1])
        with pytest.raises(LogUnavailable, match="could not be written: IndexError"):
            await log.append([entry("a")])
    assert (await log.append([entry("b")]))[0].offset == 0
    await log.close()


async def test_the_embedded_log_closes_though_its_writer_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.log.embedded.log.CLOSE_SECONDS_MAX", 0.2)
    log = EmbeddedLog(tmp_path, PARTITIONS)
    await log.start()
    with held(tmp_path):
        appended = await on_its_way(log, "never acknowledged")
        async with asyncio.timeout(SECONDS_MAX):
            await log.close()
        with pytest.raises(LogUnavailable):
            await appended
