"""The load guard: a step waits while the engine has other work to do. Never stops a step that runs.

It looks at what makes readers slow: a pool full of merges, a replica that lags, and a read by key
of its own, timed against what the same read took when the run began. Rewriting a partition needs
room for it a second time, so that is looked at as well.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from shared.domain.errors import StoreUnavailable
from shared.runtime import telemetry
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries

POOL_SHARE_MAX = 0.75
"""Of the threads for merges and mutations: a step takes one, and inserts must not wait for
merges."""

REPLICA_SECONDS_MAX = 60
"""A replica further behind would be given more to catch up with."""

PROBES = 9
"""Reads of a probe, whose median counts: a single one is as slow as the machine's last hiccup."""

SLOWER_MAX, PROBE_SECONDS_MIN = 3.0, 0.02
"""Times the first probe; below 20 ms nobody notices, whatever the ratio."""

FREE_FACTOR = 2.0
"""Times the bytes of the partition: its rewritten parts lie beside the old ones for a moment."""

PAUSE_SECONDS = 2.0

PAUSED_SECONDS_MAX = 900.0
"""A load that lasts is no peak: the run ends, says why, and the next one goes on."""


class Guard:
    """Made for one run. `pause` sleeps, `monotonic` counts seconds."""

    def __init__(
        self,
        store: Store,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._pause, self._monotonic = store, pause, monotonic
        self._queries = load_queries(Path(__file__).with_suffix(".sql"))
        self._idle: float | None = None

    async def start(self) -> None:
        """Time the reads before there is a run to slow them down."""
        self._idle = await self._probe()

    async def clear(self, in_time: Callable[[], bool], needs_bytes: int = 0) -> bool:
        """Wait until there is room for a step; False when the window ends first.

        StoreUnavailable, with the reason, when the load lasts for too long.
        """
        began = self._monotonic()
        while in_time():
            kind, reason = await self._load(needs_bytes)
            if not reason:
                return True
            telemetry.DELETION_PAUSES.labels(kind).inc()
            structlog.get_logger(service="deleter").info("paused", reason=reason)
            if self._monotonic() - began > PAUSED_SECONDS_MAX:
                raise StoreUnavailable(f"The store is too busy to erase: {reason}.")
            await self._pause(PAUSE_SECONDS)
        return False

    async def _load(self, needs_bytes: int) -> tuple[str, str]:
        """What is in the way, as a label and in words; empty when nothing is."""
        ((share, lag, free),) = await self._store.rows(self._queries["load"])
        if share > POOL_SHARE_MAX:
            return "merges", f"{share:.0%} of the threads for merges are taken"
        if lag > REPLICA_SECONDS_MAX:
            return "replicas", f"a replica is {lag} s behind"
        if free < needs_bytes * FREE_FACTOR:
            return (
                "disk",
                f"the partition needs {needs_bytes * FREE_FACTOR:,.0f} bytes and {free:,} are free",
            )
        seconds = await self._probe()
        if self._idle is not None and seconds > max(
            PROBE_SECONDS_MIN, SLOWER_MAX * self._idle
        ):
            return (
                "reads",
                f"a read by key takes {seconds * 1e3:.0f} ms instead of {self._idle * 1e3:.0f}",
            )
        return "", ""

    async def _probe(self) -> float:
        times = []
        for _ in range(PROBES):
            began = self._monotonic()
            await self._store.rows(self._queries["probe"])
            times.append(self._monotonic() - began)
        return statistics.median(times)
