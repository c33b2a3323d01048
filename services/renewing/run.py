"""One renewal on the configured log and store, with or without running services.

The workers and the intake of this process join the consumer groups of running services, or do all
the work where none runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from services.deleter.app import GROUP as DELETERS
from services.deleter.intake import Intake
from services.deleter.ledger import Ledger
from services.deleter.locks import LOCK_SECONDS_MAX, locked
from services.deleter.window import Window
from services.projector.app import workers_on
from services.renewing.books import StoreBooks
from shared.domain.errors import Rejected, Transient
from shared.domain.ids import COMMANDS, DELETIONS, GENERATION_FIRST
from shared.log.connect import connect_log
from shared.log.identity import Generation, LogIdentity, Mismatch
from shared.log.port import Log
from shared.log.renewal import PROJECTED, Counts, Lost, Renewal, next_number
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import clock_of
from shared.store.clickhouse.client import Store
from shared.store.generations import compared, current, generations
from shared.store.shared_memory.segment import supersede

ReportLine = Callable[[str], None]
"""Prints one line."""

STILL_PROJECTED = ("passed", "partitions")
"""Mismatches of a log that is still the right one.

Records that it has dropped are skipped, and partitions that were added to its topics hold no
commands.
"""


class Outlook(NamedTuple):
    """The plan of a renewal.

    `ending` is the generation that ends, `mismatch` the trouble of its log. `begun` says that an
    earlier renewal was cut off when the next generation had begun.
    """

    generations: list[Generation]
    ending: Generation
    mismatch: Mismatch | None
    begun: bool

    @property
    def projects(self) -> bool:
        """Whether the remaining commands of the log are projected first."""
        return self.mismatch is None or self.mismatch.kind in STILL_PROJECTED


async def renew(
    settings: Settings,
    store: Store,
    partitions: int | None,
    consents: Callable[[Outlook], bool],
    report: ReportLine,
) -> Generation | None:
    """Renew the log if `consents` is true, and return the open generation; None without consent.

    Raises Rejected or Corrupt.
    """
    generation = await current(store)
    log = connect_log(settings, generation)
    await log.start()
    try:
        outlook = await _look(settings, store, log, generation)
        next_number(outlook.ending)  # raises before anything is done
        if not consents(outlook):
            return None
        counts: dict[str, int] = dict(outlook.ending.partitions)
        next_counts = counts | ({COMMANDS: partitions} if partitions else {})
        books = StoreBooks(store, counts, clock_of(settings).now_us)
        async with _projecting(settings, log, store, outlook) as check:
            renewal = Renewal(
                books=books, make=partial(_next_log, settings), check=check, tell=report
            )
            for loss in await _end(renewal, log, outlook):
                report(str(loss))
        return await renewal.begin(outlook.generations, outlook.ending, next_counts)
    finally:
        await log.close()


async def _end(renewal: Renewal, log: Log, outlook: Outlook) -> Sequence[Lost]:
    if outlook.begun:
        return ()
    if outlook.projects:
        return await renewal.end(log)
    return await renewal.abandon(outlook.ending.partitions)


async def _look(
    settings: Settings, store: Store, log: Log, ending: Generation | None
) -> Outlook:
    """Plan the renewal; raise LogUnavailable without an answer. A lost log is a mismatch."""
    if ending is None:  # the tables are older than their record of generations
        identity = LogIdentity(id="", partitions=log.partitions())
        ending = Generation(number=GENERATION_FIRST, identity=identity)
        mismatch = await compared(log, store, None)
        if mismatch is None:
            ending = Generation(number=GENERATION_FIRST, identity=await log.identity())
    else:
        mismatch = await compared(log, store, ending)
    books = StoreBooks(store, ending.partitions, clock_of(settings).now_us)
    begun = False
    for topic in PROJECTED:
        positions = (await books.positions(topic)).values()
        begun = begun or any(
            position.generation > ending.number for position in positions
        )
    return Outlook(await generations(store), ending, None if begun else mismatch, begun)


async def _next_log(settings: Settings, number: int, counts: Counts) -> Log:
    identity = LogIdentity(id="", partitions=dict(counts))
    log = connect_log(
        settings, Generation(number=number, identity=identity), create=True
    )
    await log.start()
    supersede(settings, log.partitions(), number)
    return log


@asynccontextmanager
async def _projecting(
    settings: Settings, log: Log, store: Store, outlook: Outlook
) -> AsyncIterator[Callable[[], None]]:
    """Run workers and the intake while a log ends; the yielded check raises when one gives up."""
    if outlook.begun or not outlook.projects:
        yield lambda: None
        return
    workers = workers_on(settings, log, store)
    window = Window(
        cron=settings.window, hours=settings.window_hours, zone=settings.window_zone
    )
    intake = Intake(
        log=log,
        reader=log.reader(DELETIONS, DELETERS),
        ledger=Ledger(store, window),
        lock=partial(locked, settings.data / "run" / "ledger.lock", LOCK_SECONDS_MAX),
        now_us=clock_of(settings).now_us,
    )
    running = [*(worker.run() for worker in workers), intake.run()]
    tasks = [asyncio.create_task(coroutine, name="renewal") for coroutine in running]

    def check() -> None:
        for task in tasks:
            if task.done():
                task.result()
                raise Transient("A worker ended.")
        for worker in workers:
            if worker.stopped:
                raise Rejected(
                    f"partitions {sorted(worker.stopped)} are stopped after too many dead letters."
                )

    try:
        yield check
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
