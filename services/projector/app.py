"""The projector process: one worker for commands, one for identity, and the operator's
endpoints."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from aiohttp import web

from services.projector.fold import Folder, FragmentFolder, IdentityFolder
from services.projector.progress import WorkerProgress
from services.projector.search import Duty, Feeder
from services.projector.tables.clickhouse import AnnouncedTables, ClickHouseTables
from services.projector.worker import Worker
from shared.domain.errors import Transient
from shared.domain.ids import COMMANDS, IDENTITY
from shared.log.port import Log
from shared.runtime import telemetry
from shared.runtime.process.lifecycle import collect_seldom, serve, url_of
from shared.runtime.process.ops import add_ops
from shared.runtime.process.processes import announced
from shared.runtime.settings import Settings
from shared.runtime.trouble import Trouble
from shared.runtime.wakeup import Wakeup
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.connect import connect_store
from shared.store.logwatch import LogWatch, right_log
from shared.store.shared_memory.segment import memory_of

GROUP = "projector"

LOOK_SECONDS, LAG_SECONDS = 1.0, 5.0
"""Between two looks at what is wrong; between two measurements of the lag, each of which asks the
log for its heads."""

COLLECTED_OBJECTS = 2_000_000
"""Rows and events make no cycles, and a collection in the middle of a batch walks all of it: 25.7 k
commands/s against 19.5 k with 50,000, side by side. What does make cycles (errors, tasks) is
collected all the same, later."""


async def run(settings: Settings) -> None:
    """Project until cancelled."""
    store = await connect_store(settings, "writer")
    try:
        async with right_log(settings, store) as (log, log_watch):
            flushed = Wakeup()

            def observe(progress: WorkerProgress) -> None:
                _observe(progress)
                flushed.set()

            workers = workers_on(settings, log, store, observe)
            for worker in workers:
                telemetry.STOPPED.labels(worker.topic).set_function(
                    partial(_stopped_count, worker)
                )
            app = web.Application()
            checks = {
                "log": log_watch.check,
                "partitions": lambda: _stopped(workers),
                "store": lambda: _trouble(workers),
            }
            add_ops(app, checks)
            runner = await serve(app, "127.0.0.1", settings.ops_port)
            collect_seldom(COLLECTED_OBJECTS)
            feeder = Feeder(store, log.partitions())
            try:
                with announced(settings.data, "projector", url_of(runner)):
                    await _project(log, workers, feeder, flushed, log_watch)
            finally:
                await runner.cleanup()
    finally:
        await store.close()


def workers_on(
    settings: Settings,
    log: Log,
    store: Store,
    observe: Callable[[WorkerProgress], None] = lambda progress: None,
) -> list[Worker]:
    """The workers of one process, which are members of the projectors' groups."""
    tables = ClickHouseTables(store)
    memory = memory_of(settings, log.partitions(), log.generation)
    folders: tuple[Folder, ...] = (FragmentFolder(), IdentityFolder())
    return [
        Worker(
            log=log,
            reader=log.reader(folder.topic, GROUP),
            tables=tables
            if memory is None
            else AnnouncedTables(tables, memory, secrets.randbits(64)),
            folder=folder,
            monotonic=time.monotonic,
            observe=observe,
        )
        for folder in folders
    ]


async def _project(
    log: Log,
    workers: list[Worker],
    feeder: Feeder,
    flushed: Wakeup,
    log_watch: LogWatch,
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(log_watch.guard(), name="log watch")
        for worker in workers:
            group.create_task(worker.run(), name="worker")
        duty = partial(_duty, workers, log.partitions())
        feeding = feeder.run(
            flushed, duty, lambda: any(worker.behind for worker in workers)
        )
        group.create_task(feeding, name="feeder")
        group.create_task(_watch(log, workers), name="watch")


def _observe(progress: WorkerProgress) -> None:
    for outcome, count in progress.outcomes.items():
        telemetry.PROJECTED.labels(progress.topic, outcome).inc(count)
    telemetry.FLUSHED_ROWS.labels(progress.topic).inc(progress.rows)
    if progress.left_out:
        telemetry.LEFT_OUT.inc(progress.left_out)
    telemetry.dead_letters(progress.dead)


def _duty(workers: list[Worker], counts: Mapping[str, int]) -> Duty:
    """One process feeds for all: it that holds the first partition. Two that both believe so do no
    harm."""
    positions = [
        position for worker in workers for position in worker.positions.values()
    ]
    if not any(
        position.topic == COMMANDS and position.partition == 0 for position in positions
    ):
        return Duty.OTHERS
    return (
        Duty.ALONE
        if len(positions) == counts[COMMANDS] + counts[IDENTITY]
        else Duty.SHARED
    )


def _stopped_count(worker: Worker) -> int:
    return len(worker.stopped)


async def _stopped(workers: list[Worker]) -> str:
    return " ".join(
        f"{worker.topic}/{partition} is stopped: {why}"
        for worker in workers
        for partition, why in sorted(worker.stopped.items())
    )


async def _trouble(workers: list[Worker]) -> str:
    return "; ".join(sorted({worker.trouble for worker in workers if worker.trouble}))


async def _watch(log: Log, workers: list[Worker]) -> None:
    """Tell what is wrong, once, and measure the lag, until cancelled."""
    trouble = Trouble("log or store")
    measured_at = float("-inf")
    while True:
        trouble.is_now(await _trouble(workers))
        if time.monotonic() - measured_at >= LAG_SECONDS:
            measured_at = time.monotonic()
            with suppress(Transient):  # told above, or by the next look
                await measure_lag(log, workers)
        await asyncio.sleep(LOOK_SECONDS)


async def measure_lag(log: Log, workers: list[Worker]) -> None:
    """Set the metric for the partitions that are held here, and drop it for all others. Raises
    Transient."""
    lags: dict[tuple[str, int], int] = {}
    for worker in workers:
        positions = worker.positions
        for topic in {position.topic for position in positions.values()}:
            for head in await log.heads(topic):
                if head.partition in positions:
                    lags[topic, head.partition] = max(
                        0, head.offset - positions[head.partition].offset
                    )
    telemetry.LAG.clear()
    for labels, records in lags.items():
        telemetry.LAG.labels(*labels).set(records)
