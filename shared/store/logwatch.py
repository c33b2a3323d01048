"""Whether the log is still the one that the tables belong to: asked at start, again and again, and
whenever it is odd.

Never mends anything. While the answer is not known to be yes, the log acknowledges nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import stamina
import structlog

from shared.domain.errors import LogUnavailable, Superseded, Transient
from shared.log.connect import connect_log
from shared.log.doubts import REFUSAL
from shared.log.identity import TOPICS, Generation, Mismatch, compare
from shared.log.port import Log
from shared.runtime.settings import Settings
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.failures import StoreError
from shared.store.generations import compared, current, take_on

LOOK_SECONDS = 2.0
"""Between two looks at the log alone: what it is known by, and whether it has become shorter. On
Kafka four requests; the tables are only asked which generation is open, unless something is odd."""

START_SECONDS_MAX = 60.0
"""A broker may be started with us."""

DOUBT_SECONDS = 0.05
"""Until a doubt is looked at: appends are refused meanwhile."""


@asynccontextmanager
async def the_log(
    settings: Settings, store: Store
) -> AsyncIterator[tuple[Log, Generation | None]]:
    """The started log of these tables, and what they know of it. Whoever enters compares. Raises
    Transient."""
    generation = await current(store)
    log = connect_log(settings, generation)
    try:
        await log.start()
        yield log, generation
    finally:
        await log.close()


@asynccontextmanager
async def right_log(
    settings: Settings, store: Store
) -> AsyncIterator[tuple[Log, LogWatch]]:
    """The started log of these tables, compared with them, and the watch that has done so. Raises
    LogMismatch, Superseded and Transient."""
    async with the_log(settings, store) as (log, generation):
        watch = LogWatch(log, store, generation)
        await watch.start()
        yield log, watch


async def take_on_log(
    settings: Settings, store: Store, now_us: Callable[[], int]
) -> None:
    """Make the log if the tables know none, and take it on. Waits for one that is just starting.
    Raises LogMismatch and Transient."""
    async for attempt in stamina.retry_context(
        on=LogUnavailable,
        attempts=None,
        timeout=START_SECONDS_MAX,
        wait_initial=0.2,
        wait_max=1.0,
        wait_jitter=0.1,
    ):
        with attempt:
            async with the_log(settings, store) as (log, _):
                await take_on(log, store, now_us())


class LogWatch:
    """One process's eye on its log."""

    def __init__(self, log: Log, store: Store, generation: Generation | None) -> None:
        """`generation` is what `log` was connected with."""
        self._log, self._store, self._generation = log, store, generation
        self._settled = 0
        self._looking = asyncio.Lock()
        self._away = False  # what was away may come back as another
        self.mismatch: Mismatch | None = None
        """What is wrong, as of the last look."""

    @property
    def wrong(self) -> str:
        """What is wrong, in one line; or nothing."""
        if self.mismatch is not None:
            return self.mismatch.line
        return REFUSAL if self._log.doubts > self._settled else ""

    async def check(self) -> str:
        """What is wrong, for /readyz."""
        return self.wrong

    async def look(self) -> Mismatch | None:
        """Look at the log; at the tables too when something is odd. Raises Transient when either
        does not answer, and Superseded when the tables belong to a later generation."""
        async with self._looking:
            newest = await current(self._store)
            if newest is not None and newest.number != self._log.generation:
                raise Superseded
            if (
                self.mismatch is None
                and self._log.doubts == self._settled
                and not self._away
            ):
                if await self._same():
                    return None
                self._log.doubt()
            doubts = self._log.doubts
            self._generation = newest
            mismatch = await compared(self._log, self._store, self._generation)
            if mismatch is None:
                self._log.trust(doubts)
                self._settled = doubts
            elif doubts == self._settled:
                self._log.doubt()
            self._tell(mismatch)
            return mismatch

    async def start(self) -> None:
        """The first look: nothing is acknowledged before. Raises LogMismatch, Superseded and
        Transient."""
        self._log.doubt()
        mismatch = await self.look()
        if mismatch is not None:
            raise mismatch.error

    async def follow(self) -> None:
        """Look until cancelled, and come to know that the right log is back. Raises Superseded."""
        while True:
            await self._calmly()
            await self._pause()

    async def guard(self) -> None:
        """Look until something is wrong. Raises LogMismatch then, and Superseded."""
        while True:
            await self._pause()
            mismatch = await self._calmly()
            if mismatch is not None:
                raise mismatch.error

    async def _calmly(self) -> Mismatch | None:
        try:
            mismatch = await self.look()
        except (Transient, StoreError) as error:
            if not self._away:
                structlog.get_logger().warning("log watch", trouble=error.detail)
            self._away = True
            return self.mismatch
        self._away = False
        return mismatch

    async def _same(self) -> bool:
        """Whether the log is known by what it was, and has not become shorter."""
        if compare(self._generation, await self._log.identity(), ()) is not None:
            return False
        for topic in TOPICS:
            await self._log.heads(topic)
        return self._log.doubts == self._settled

    async def _pause(self) -> None:
        """Until the next look is due, which is soon when a doubt comes up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LOOK_SECONDS
        await asyncio.sleep(DOUBT_SECONDS)
        while loop.time() < until and self._calm:  # noqa: ASYNC110  # the log's writer is a thread, and sets no event
            await asyncio.sleep(DOUBT_SECONDS)

    @property
    def _calm(self) -> bool:
        """Whether nothing has come up that was not looked at."""
        return (
            self.mismatch is not None or self._away or self._log.doubts == self._settled
        )

    def _tell(self, mismatch: Mismatch | None) -> None:
        before, self.mismatch = self.mismatch, mismatch
        if mismatch is not None and mismatch != before:
            structlog.get_logger().error(
                "log mismatch", kind=mismatch.kind, line=mismatch.line
            )
        elif mismatch is None and before is not None:
            structlog.get_logger().info("the right log is back")
