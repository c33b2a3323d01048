"""One renewal on the configured log and store: who projects meanwhile, and what is told. Works beside running services.

The workers and the intake of this process join the groups of those that run, or do it all where none does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from services.deleter.app import GROUP as DELETERS
from services.deleter.app import LOCK_SECONDS_MAX, locked
from services.deleter.intake import Intake
from services.deleter.ledger import Ledger
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
from shared.store.client import Store
from shared.store.generations import compared, current, generations
from shared.store.shared_memory import supersede

Tell = Callable[[str], None]

STILL_PROJECTED = ("passed", "partitions")
"""Mismatches of a log that is the right one all the same: what it has forgotten is passed over, and partitions that
were added to its topics hold nothing of ours."""


class Outlook(NamedTuple):
    """What a renewal would do: the generation that ends, what is wrong with its log, and whether an earlier renewal was
    cut off behind the point from which nothing of it counts any more."""

    known: list[Generation]
    ending: Generation
    mismatch: Mismatch | None
    begun: bool

    @property
    def projects(self) -> bool:
        """Whether what is left in the log is projected first."""
        return self.mismatch is None or self.mismatch.kind in STILL_PROJECTED


async def renew(
    settings: Settings, store: Store, partitions: int | None, agreed: Callable[[Outlook], bool], tell: Tell
) -> Generation | None:
    """Renew the log when `agreed`; the generation that is open now, None without consent. Raises Rejected, Corrupt."""
    known = await current(store)
    log = connect_log(settings, known)
    await log.start()
    try:
        outlook = await _look(settings, store, log, known)
        next_number(outlook.ending)  # refused before anything is done
        if not agreed(outlook):
            return None
        counts: dict[str, int] = dict(outlook.ending.partitions)
        wanted = counts | ({COMMANDS: partitions} if partitions else {})
        books = StoreBooks(store, counts, clock_of(settings).now_us)
        async with _projecting(settings, log, store, outlook) as check:
            renewal = Renewal(books=books, make=partial(_make, settings), check=check, tell=tell)
            for line in await _ended(renewal, log, outlook):
                tell(str(line))
        return await renewal.begin(outlook.known, outlook.ending, wanted)
    finally:
        await log.close()


async def _ended(renewal: Renewal, log: Log, outlook: Outlook) -> Sequence[Lost]:
    if outlook.begun:
        return ()
    if outlook.projects:
        return await renewal.end(log)
    return await renewal.abandon(outlook.ending.partitions)


async def _look(settings: Settings, store: Store, log: Log, known: Generation | None) -> Outlook:
    """Raises LogUnavailable when the log does not answer; a log that is not there is a mismatch."""
    if known is None:  # of before generations were written down
        known = Generation(number=GENERATION_FIRST, identity=LogIdentity(id="", partitions=log.partitions()))
        mismatch = await compared(log, store, None)
        if mismatch is None:
            known = Generation(number=GENERATION_FIRST, identity=await log.identity())
    else:
        mismatch = await compared(log, store, known)
    books = StoreBooks(store, known.partitions, clock_of(settings).now_us)
    rows = [row for topic in PROJECTED for row in (await books.positions(topic)).values()]
    begun = any(row.generation > known.number for row in rows)
    return Outlook(await generations(store), known, None if begun else mismatch, begun)


async def _make(settings: Settings, number: int, counts: Counts) -> Log:
    wanted = Generation(number=number, identity=LogIdentity(id="", partitions=dict(counts)))
    log = connect_log(settings, wanted, create=True)
    await log.start()
    supersede(settings, log.partitions(), number)
    return log


@asynccontextmanager
async def _projecting(
    settings: Settings, log: Log, store: Store, outlook: Outlook
) -> AsyncIterator[Callable[[], None]]:
    """Workers and the intake, as long as a log is being ended; the function raises when one of them has given up."""
    if outlook.begun or not outlook.projects:
        yield lambda: None
        return
    workers = workers_on(settings, log, store)
    window = Window(cron=settings.window, hours=settings.window_hours, zone=settings.window_zone)
    intake = Intake(
        log=log,
        reader=log.reader(DELETIONS, DELETERS),
        ledger=Ledger(store, window),
        lock=partial(locked, settings.data / "run" / "ledger.lock", LOCK_SECONDS_MAX),
        now_us=clock_of(settings).now_us,
    )
    running = [*(worker.run() for worker in workers), intake.run()]
    tasks = [asyncio.create_task(one, name="renewal") for one in running]

    def check() -> None:
        for task in tasks:
            if task.done():
                task.result()
                raise Transient("A worker ended.")
        for worker in workers:
            if worker.stopped:
                raise Rejected(f"partitions {sorted(worker.stopped)} are stopped after too many dead letters.")

    try:
        yield check
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
