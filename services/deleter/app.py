"""The deleter process: requests from the log to the ledger, a sweep while the window is open. Never
talks to the API.

There is one owner: whoever holds the only partition of the deletions topic. `personlog deletions
run` sweeps beside it, so two locks lie in the data directory, and both processes must run on that
machine: `sweep.lock` is held for a whole sweep, `ledger.lock` for each change of pending requests,
so that a cancel and the start of hiding exclude each other. Once hiding has begun, only the sweep
changes a request. The kernel lets go of both when their holder dies.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from functools import partial
from uuid import UUID

import structlog
from aiohttp import web

from services.deleter.intake import Intake
from services.deleter.ledger import Ledger
from services.deleter.locks import LOCK_SECONDS_MAX, locked
from services.deleter.purges import Purges
from services.deleter.receipts import Receipts
from services.deleter.restores import Restores, TimelineHistory
from services.deleter.sweep.guard import Guard
from services.deleter.sweep.run import Sweep
from services.deleter.sweep.run_options import RunOptions, Tell, quiet
from services.deleter.wakeups import Wakeups
from services.deleter.window import Window
from shared.domain.deletion import OPEN, DeletionRequest
from shared.domain.errors import NewerVersion, Transient
from shared.domain.ids import COMMANDS, DELETIONS, IDENTITY, Position
from shared.log.embedded.log import EmbeddedLog
from shared.log.port import RETENTION_SECONDS, Log
from shared.runtime import telemetry
from shared.runtime.process.lifecycle import serve, url_of
from shared.runtime.process.ops import add_ops
from shared.runtime.process.processes import announced
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import clock_of, watch
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.connect import connect_store, judge_of
from shared.store.clickhouse.failures import StoreError
from shared.store.logwatch import right_log
from shared.store.objects import Objects

GROUP = "deleter"

SWEEP_SECONDS = 60.0
"""Between two looks: requests that come while the window is open share a sweep, for each rewrites
whole partitions."""

RETRY_SECONDS = 900.0
"""After a sweep with failures: what failed seldom helps itself sooner, and each attempt lengthens
the history. A store that was away is tried again like any other sweep."""

PROJECTED_SECONDS_MAX = 10.0
"""How long a sweep waits for the projector to pass what the log holds; else only erased profiles
are worked on."""

CANCELLING_SECONDS = 30.0
"""Between two looks for what is being cancelled when nothing was heard: another deleter may have
left something."""

CANCELLING_RETRY_SECONDS = 1.0
"""The same while something is, and the projector or the store is behind."""

FORGET_SECONDS, FORGET_RETRY_SECONDS = 86_400.0, 3_600.0
"""The embedded log forgets once a day; an hour later when the projector is behind."""

REASON_CHARS_MAX = 300

NICE = 10
"""Erasing gives way to reading. The engine's own threads for it have a nice value in engine.xml."""

HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000


class Deleter:
    """The parts of the process, and what they do together."""

    def __init__(self, settings: Settings, log: Log, store: Store) -> None:
        self.window = Window(
            cron=settings.window, hours=settings.window_hours, zone=settings.window_zone
        )
        self.ledger = Ledger(store, self.window)
        self.clock = clock_of(settings)
        self.now_us = self.clock.now_us
        self.trouble = self.newer = ""
        self.woken = Wakeups()
        self._log, self._store, self._objects = (
            log,
            store,
            Objects(settings.objects_url),
        )
        self._days = settings.deletion_days
        self._locks = settings.data / "run"
        self._receipts = Receipts(store, settings.data / "receipts")
        self._restores = Restores(
            log=log,
            history=TimelineHistory(store),
            ledger=self.ledger,
            lock=partial(self.lock, "ledger"),
            projected=self._caught_up,
            now_us=self.now_us,
        )
        self.purges = Purges(log, store, self.ledger, self.now_us, self._projected)
        self._say = structlog.get_logger(service="deleter")

    def lock(self, name: str) -> AbstractAsyncContextManager[None]:
        return locked(self._locks / f"{name}.lock", LOCK_SECONDS_MAX)

    async def sweep(
        self, closes_at: int | None, tell: Tell = quiet
    ) -> list[DeletionRequest]:
        """One run; the requests that it has brought to an end. It waits for no load once a request
        is overdue."""
        async with self.lock("sweep"):
            states = await self._observe()
            if not states.keys() & set(OPEN):
                return []
            options = RunOptions(
                closes_at=closes_at,
                lock=partial(self.lock, "ledger"),
                issue=self._receipts.issue,
                guard=None if await self._overdue() else Guard(self._store),
                tell=tell,
            )
            run = Sweep(self._store, self._objects, self.ledger, self.now_us, options)
            try:
                await run.wait_for_late_blocks()
                purged = await self.purges.spread(again=True)
                projected = await self._projected()
                ended = await run.run(
                    projected=projected,
                    purged=purged if await self._search_caught_up(purged) else (),
                )
            except StoreError as error:
                await run.fail(error.detail[:REASON_CHARS_MAX])
                raise
            for request in ended:
                if request.state == "verified":
                    for target, rows in request.hidden.items():
                        telemetry.ERASED_ROWS.labels(target).inc(rows)
            await self._observe()
            return ended

    async def sweep_in_windows(self, owns: Callable[[], bool]) -> None:
        """Sweep whenever the window is open and this process is the owner, until cancelled."""
        pause = SWEEP_SECONDS
        while True:
            await self.woken.sweep.wait(pause)
            self.trouble, pause = "", SWEEP_SECONDS
            if not owns():
                continue
            try:
                closes_at = await self.closes_at()
                if closes_at is not None:
                    ended = await self.sweep(closes_at)
                    failed = [
                        request.reason for request in ended if request.state == "failed"
                    ]
                    if failed:
                        self.trouble, pause = (
                            f"{len(failed)} requests failed: {failed[0]}",
                            RETRY_SECONDS,
                        )
            except Transient as error:
                self.trouble = error.detail
            except (StoreError, NewerVersion) as error:
                self.trouble, pause = error.detail, RETRY_SECONDS
                if isinstance(error, NewerVersion):
                    self.newer = error.detail
            if self.trouble:
                self._say.warning("sweep", trouble=self.trouble)

    async def restore_cancelled(self, owns: Callable[[], bool]) -> None:
        """Give back who is being cancelled, as soon as that is heard of, until cancelled."""
        pause = CANCELLING_SECONDS
        while True:
            await self.woken.restore.wait(pause)
            pause = CANCELLING_SECONDS
            try:
                if owns() and await self._restores.round():
                    pause = CANCELLING_RETRY_SECONDS
            except (Transient, StoreError, NewerVersion) as error:
                pause = CANCELLING_RETRY_SECONDS
                self._say.warning("restore", trouble=error.detail)

    async def closes_at(self) -> int | None:
        """When a sweep that begins now must end; None for none. A request that has waited for too
        long opens a window of the usual length at any hour: the law's month counts, not ours."""
        now = self.now_us()
        overdue, closing = await self._overdue(), self.window.closes_at(now)
        if closing is None and overdue:
            self._say.warning("window opened early", oldest_days=round(overdue, 1))
            return now + round(self.window.hours * HOUR_US)
        return closing

    async def _overdue(self) -> float:
        """The age of the oldest request in days, once it has waited for too long; 0 before."""
        now, oldest = self.now_us(), await self.ledger.oldest()
        telemetry.OLDEST_DELETION.set(0 if oldest is None else (now - oldest) / 1e6)
        days = 0.0 if oldest is None else (now - oldest) / DAY_US
        return days if days > self._days else 0.0

    async def forget(self, owns: Callable[[], bool]) -> None:
        """Keep the embedded log's retention, once a day, until cancelled; Kafka keeps its own."""
        pause = FORGET_RETRY_SECONDS
        while isinstance(self._log, EmbeddedLog):
            await self.woken.forget.wait(pause)
            pause = FORGET_RETRY_SECONDS
            try:
                if owns() and await self._all_taken_over():
                    await self._log.forget(
                        self.now_us() - RETENTION_SECONDS * 1_000_000
                    )
                    pause = FORGET_SECONDS
            except Transient as error:
                self._say.warning("forget", trouble=error.detail)

    async def check(self) -> str:
        """What is wrong, for /readyz: that a newer version wrote the ledger. A failed sweep is in
        the ledger, and does not make the process unready."""
        await self._observe()
        return self.newer

    async def _all_taken_over(self) -> bool:
        """Whether everything in the log now is in the tables: only then may the old be
        forgotten."""
        for head in await self._log.heads(DELETIONS):
            if (await self.ledger.position(head.partition)).offset < head.offset:
                return False
        return await self._projected()

    async def _projected(self) -> bool:
        return await self._caught_up(
            [*await self._log.heads(COMMANDS), *await self._log.heads(IDENTITY)]
        )

    async def _search_caught_up(self, purged: Collection[UUID]) -> bool:
        """Whether the search table has passed what was purged; without purges nobody waits for
        it."""
        return not purged or await _in_time(self.purges.search_caught_up)

    async def _caught_up(self, heads: Sequence[Position]) -> bool:
        """Wait until the projector has passed these positions; False when it takes too long."""
        run = Sweep(self._store, self._objects, self.ledger, self.now_us)
        return await _in_time(lambda: run.projected(heads))

    async def _observe(self) -> dict[str, int]:
        states = await self.ledger.states()
        for state, count in states.items():
            telemetry.DELETIONS.labels(state).set(count)
        return states


async def run(settings: Settings) -> None:
    """Take requests over and sweep in the windows, until cancelled."""
    os.nice(NICE)
    store = await connect_store(settings, "deleter")
    try:
        async with right_log(settings, store) as (log, log_watch):
            deleter = Deleter(settings, log, store)
            intake = Intake(
                log=log,
                reader=log.reader(DELETIONS, GROUP),
                ledger=deleter.ledger,
                lock=partial(deleter.lock, "ledger"),
                now_us=deleter.now_us,
                on_commands=deleter.woken.on_commands,
            )
            telemetry.STOPPED.labels(DELETIONS).set_function(
                lambda: int(bool(intake.stopped))
            )
            app = web.Application()
            add_ops(
                app,
                {
                    "log": log_watch.check,
                    "ledger": deleter.check,
                    "intake": partial(_stopped, intake),
                },
            )
            runner = await serve(app, "127.0.0.1", settings.ops_port)
            clock_watch = watch(deleter.clock, settings, judge_of(settings, store))
            try:
                with announced(settings.data, "deleter", url_of(runner)):
                    await _run(deleter, intake, clock_watch, log_watch.guard())
            finally:
                await runner.cleanup()
    finally:
        await store.close()


async def _run(
    deleter: Deleter, intake: Intake, *watches: Coroutine[None, None, None]
) -> None:
    async with asyncio.TaskGroup() as group:
        for coroutine in watches:
            group.create_task(coroutine, name="watch")
        group.create_task(intake.run(), name="intake")
        group.create_task(deleter.sweep_in_windows(intake.owns), name="sweep")
        group.create_task(deleter.restore_cancelled(intake.owns), name="restore")
        group.create_task(
            deleter.purges.run(intake.owns, deleter.woken.purge), name="purges"
        )
        group.create_task(deleter.forget(intake.owns), name="forget")


async def _stopped(intake: Intake) -> str:
    return intake.stopped


async def run_once(
    settings: Settings, tell: Tell = quiet
) -> tuple[list[DeletionRequest], int]:
    """Sweep once, now, whatever the window; the requests that it ended, and how many are left
    open."""
    os.nice(NICE)
    store = await connect_store(settings, "deleter")
    try:
        async with right_log(settings, store) as (log, _):
            deleter = Deleter(settings, log, store)
            ended = await deleter.sweep(None, tell)
            open_count = sum(
                count
                for state, count in (await deleter.ledger.states()).items()
                if state in OPEN
            )
    finally:
        await store.close()
    return ended, open_count


async def _in_time(condition: Callable[[], Awaitable[bool]]) -> bool:
    """Ask until it has passed; False when it takes too long."""
    deadline = time.monotonic() + PROJECTED_SECONDS_MAX
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True
