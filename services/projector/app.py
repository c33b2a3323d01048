"""The projector process: one worker for commands, one for identity, and the operator's endpoints."""

from __future__ import annotations

import asyncio
import secrets
import time

from aiohttp import web

from services.projector.fold import Folder, FragmentFolder, IdentityFolder
from services.projector.search import Feeder
from services.projector.tables import ClickHouseTables
from services.projector.worker import Progress, Worker
from shared.log.connect import connect_log
from shared.log.port import Log
from shared.runtime import telemetry
from shared.runtime.lifecycle import collect_seldom, serve
from shared.runtime.ops import add_ops
from shared.runtime.settings import Settings
from shared.store.changes import changes_of
from shared.store.connect import connect_store
from shared.store.generations import current
from shared.store.logwatch import LogWatch

GROUP = "projector"

COLLECTED_OBJECTS = 2_000_000
"""Rows and events make no cycles, and a collection in the middle of a batch walks all of it: 25.7 k commands/s against
19.5 k with 50,000, side by side. What does make cycles (errors, tasks) is collected all the same, later."""


async def run(settings: Settings) -> None:
    """Project until cancelled."""
    store = await connect_store(settings, "writer")
    known = await current(store)
    log = connect_log(settings, known)
    watch = LogWatch(log, store, known)
    runner = None
    try:
        await log.start()
        await watch.start()
        tables = ClickHouseTables(store)
        flushed = asyncio.Event()
        flushed.set()  # what an earlier process flushed may not be fed yet

        def observe(progress: Progress) -> None:
            _observe(progress)
            flushed.set()

        changes = changes_of(settings, log.partitions(), log.generation)
        folders: tuple[Folder, ...] = (FragmentFolder(), IdentityFolder())
        workers = [
            Worker(
                log=log,
                reader=log.reader(folder.topic, GROUP),
                tables=tables,
                folder=folder,
                monotonic=time.monotonic,
                observe=observe,
                changes=changes,
                nonce=secrets.randbits(64),
            )
            for folder in folders
        ]
        app = web.Application()
        checks = {"log": watch.check, "partitions": lambda: _stopped(workers), "lag": lambda: _lag(log, workers)}
        add_ops(app, checks)
        runner = await serve(app, "127.0.0.1", settings.ops_port)
        collect_seldom(COLLECTED_OBJECTS)
        feeder = Feeder(store, log.partitions())
        async with asyncio.TaskGroup() as group:
            group.create_task(watch.guard(), name="log watch")
            for worker in workers:
                group.create_task(worker.run(), name="worker")
            # One process feeds for all: it that holds the first partition. Two that both believe so do no harm.
            feeding = feeder.run(flushed, lambda: 0 in workers[0].positions, lambda: any(one.behind for one in workers))
            group.create_task(feeding, name="feeder")
    finally:
        if runner is not None:
            await runner.cleanup()
        await log.close()
        await store.close()


def _observe(progress: Progress) -> None:
    for outcome, count in progress.outcomes.items():
        telemetry.PROJECTED.labels(progress.topic, outcome).inc(count)
    telemetry.FLUSHED_ROWS.labels(progress.topic).inc(progress.rows)
    if progress.dead:
        telemetry.DEAD_LETTERS.labels(progress.topic).inc(progress.dead)


async def _stopped(workers: list[Worker]) -> str:
    stopped = sorted(partition for worker in workers for partition in worker.stopped)
    return f"stopped after too many dead letters: partitions {stopped}" if stopped else ""


async def _lag(log: Log, workers: list[Worker]) -> str:
    """Lag never makes a projector unready; it is measured here because somebody asks here."""
    telemetry.LAG.clear()
    for worker in workers:
        for partition, position in worker.positions.items():
            heads = {head.partition: head.offset for head in await log.heads(position.topic)}
            telemetry.LAG.labels(position.topic, partition).set(heads[partition] - position.offset)
    return ""
