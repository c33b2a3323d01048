"""Appends that wait to be durable, each with a future of its own, and one timer for all. Never
writes anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shared.domain.errors import LogUnavailable
from shared.domain.ids import Position
from shared.log.port import APPEND_SECONDS_MAX
from shared.runtime.trouble import Trouble

Appended = asyncio.Future[list[Position]]


class PendingAppends:
    """Pending appends with one shared timer: each fails after APPEND_SECONDS_MAX, and `dropped` is
    called with it. Not thread-safe: use it on the event loop."""

    def __init__(self, dropped: Callable[[Appended], None], trouble: Trouble) -> None:
        """`trouble` is told that appends fail so; whoever sees one succeed ends it."""
        self._dropped = dropped
        self._trouble = trouble
        self._until: dict[Appended, float] = {}  # in the order of coming
        self._timer: asyncio.TimerHandle | None = None

    def add(self, future: Appended) -> None:
        """One append more."""
        loop = asyncio.get_running_loop()
        self._until[future] = loop.time() + APPEND_SECONDS_MAX
        if self._timer is None:
            self._timer = loop.call_later(APPEND_SECONDS_MAX, self._expire)

    def tell(self, future: Appended, outcome: list[Position] | LogUnavailable) -> None:
        """What became of one; who has given up meanwhile is not told."""
        self._until.pop(future, None)
        if future.done():
            return
        if isinstance(outcome, LogUnavailable):
            future.set_exception(
                type(outcome)(outcome.detail)
            )  # each has a traceback of its own
        else:
            future.set_result(outcome)

    async def result(self, future: Appended) -> list[Position]:
        """Its positions. Who no longer waits for them drops the append, unless it is on its way."""
        try:
            return await future
        finally:
            if self._until.pop(future, None) is not None:
                self._dropped(future)

    def close(self) -> None:
        """Nobody waits any longer."""
        if self._timer is not None:
            self._timer.cancel()
        for future in list(self._until):
            self.tell(future, LogUnavailable("The log is closing."))

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer, now = None, loop.time()
        expired = False
        for future, until in list(self._until.items()):
            if until > now:
                self._timer = loop.call_at(until, self._expire)
                break
            expired = True
            self.tell(future, LogUnavailable())
            self._dropped(future)
        if expired:
            self._trouble.is_now(
                f"no append was acknowledged within {APPEND_SECONDS_MAX:g} s"
            )
