"""Waiting for positions: one poller per process, running only while somebody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from services.api.http.guards.costly import aside
from shared.domain.errors import NotYet
from shared.domain.ids import DELETIONS, Position, partition_of_key
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.shared_memory.position_board import PositionBoard

WAIT_SECONDS_MAX = 5.0
"""A reader that waits longer is told 503: the projection lags."""

POLL_SECONDS_MIN, POLL_SECONDS_MAX = 0.005, 0.025
"""Polled at once, then every 5 ms, backing off to 25 ms: each poll costs the engine 3.7 ms."""

LOOK_SECONDS = 0.001
"""Between two looks at what writers of this machine confirm: each takes some microseconds."""

WAITERS_MAX = 1_000
"""Requests that wait at once; above it the projection does not keep up, and waiting more would not
help."""


class Watermarks:
    """How far the tables are, by (topic, partition)."""

    def __init__(
        self,
        store: Store,
        query: Query,
        observe_stamp: Callable[[int], None],
        board: PositionBoard | None = None,
    ) -> None:
        """`board` where writers confirm what they wrote; the store is asked all the same, less
        often."""
        self._store, self._query, self._board = store, query, board
        self._observe_stamp = observe_stamp
        self._versions: dict[tuple[str, int], int] = {}
        self._waiters: dict[asyncio.Future[None], Sequence[Position]] = {}
        self._poller: asyncio.Task[None] | None = None
        self.polls = 0
        """How often the store was asked: the versions are the same as long as this is."""

    async def wait(
        self, positions: Sequence[Position], seconds: float = WAIT_SECONDS_MAX
    ) -> None:
        """Return once every position is visible to reads; NotYet after `seconds`. A missing row
        means stale."""
        if not self.covers(positions):
            self._look()
        if self.covers(positions):
            return
        if len(self._waiters) >= WAITERS_MAX:
            raise NotYet("Too many requests wait for the projection.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[future] = positions
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="watermarks")
        try:
            async with aside(), asyncio.timeout(seconds):
                await future
        except TimeoutError:
            raise NotYet from None
        finally:
            self._waiters.pop(future, None)

    async def refresh(self) -> None:
        """Read every position row now. Raises Transient."""
        rows = await self._store.rows(self._query)
        self.polls += 1
        for key, version, stamp in rows:
            if (place := partition_of_key(key)) is not None:
                self._versions[place] = max(version, self._versions.get(place, 0))
                self._observe_stamp(stamp)

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    def versions(self) -> dict[tuple[str, int], int]:
        """The versions of the last poll, by (topic, partition)."""
        return dict(self._versions)

    def covers(self, positions: Sequence[Position]) -> bool:
        """Whether reads saw all these positions at the last poll."""
        return all(
            self._versions.get((position.topic, position.partition), 0)
            >= position.version
            for position in positions
        )

    def _must_ask(self) -> bool:
        """Whether only the store can tell: no writer confirms here, or none confirms deletions."""
        return self._board is None or any(
            position.topic == DELETIONS
            for positions in self._waiters.values()
            for position in positions
        )

    def _look(self) -> None:
        """Take over what writers have confirmed."""
        for topic, partition, version, stamp in (
            self._board.read() if self._board is not None else ()
        ):
            if version > self._versions.get((topic, partition), 0):
                self._versions[topic, partition] = version
                self._observe_stamp(stamp)
                self.polls += 1

    async def _poll(self) -> None:
        """Poll until nobody waits: the store ever less often, and between two polls what writers
        confirm."""
        loop = asyncio.get_running_loop()
        pause = POLL_SECONDS_MIN if self._must_ask() else POLL_SECONDS_MAX
        asked_at = float("-inf") if self._must_ask() else loop.time()
        while self._waiters:
            if loop.time() - asked_at >= pause:
                try:
                    await self.refresh()
                except Exception as error:  # noqa: BLE001  # the waiters are told; the next request starts a new poller
                    for future in self._waiters:
                        if not future.done():
                            future.set_exception(error)
                    return
                asked_at = loop.time()
                pause = (
                    min(pause * 1.3, POLL_SECONDS_MAX)
                    if self._must_ask()
                    else POLL_SECONDS_MAX
                )
            self._look()
            for future, positions in self._waiters.items():
                if not future.done() and self.covers(positions):
                    future.set_result(None)
            await asyncio.sleep(pause if self._must_ask() else LOOK_SECONDS)
