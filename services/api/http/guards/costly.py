"""Admission of costly calls: whatever reads more than a few rows by key passes one gate in each API
process.

A place is held while a call's rows are made and never while they are sent, so a slow reader holds
none. Half of the places are the most that one project has, and projects take turns, so that one's
lists wait for each other and not everybody's. Who waits too long, or behind too many, is told when
to ask again: 429 where it is the project's own calls that fill its places, 503 where it is
everybody's. Reads by key, writes and capture never come here.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from services.api.http import errors
from shared.domain.errors import Transient
from shared.runtime import telemetry

PLACES = 4
"""Without a setting. The engine gives all scans together two threads; more at once only share
these."""

WAIT_SECONDS_MAX = 5.0
"""A call waits so long for its place; a read may take 10 s more."""

STEP_SECONDS_MAX = 60.0
"""An answer that has begun waits so long for its next rows: to break off costs more than to
wait."""

PROJECT_WAITING_MAX, WAITING_MAX = 32, 256
"""Calls of one project, and of all, that wait for a place: what is behind them would wait for too
long."""

LOOK_SECONDS = 0.25
"""Between two looks at whether the client is still there."""

T = TypeVar("T")

Costly = Callable[[Mapping[str, str]], bool]
"""Whether a call with this query is costly."""

_HELD: ContextVar[tuple[Gate, int] | None] = ContextVar("held", default=None)
"""The gate and the project of the place that the call at hand holds."""

Place = Callable[[], AbstractAsyncContextManager[None]]


def never(query: Mapping[str, str]) -> bool:
    """Of routes that read by key, or only write."""
    return False


def always(query: Mapping[str, str]) -> bool:
    return True


def with_any(*names: str) -> Costly:
    """When one of these parameters asks for more: a moment of the past, a dry run."""

    def costly(query: Mapping[str, str]) -> bool:
        return any(query.get(name, "") not in ("", "0", "false") for name in names)

    return costly


class Gate:
    """The places of one API process. Not thread-safe."""

    def __init__(self, places: int = PLACES) -> None:
        self._places, self._share = places, max(1, places // 2)
        self._running: Counter[int] = Counter()
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = (
            OrderedDict()
        )  # whose turn is next comes first

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def place(self, project: int, *, begun: bool = False) -> AsyncIterator[None]:
        """Hold a place; wait for it in turn. Throttled (429) or Transient (503) when that takes too
        long.

        `begun`: rows of this call were made before, so it waits longer, and behind any number.
        """
        await self._enter(
            project, STEP_SECONDS_MAX if begun else WAIT_SECONDS_MAX, behind_any=begun
        )
        token = _HELD.set((self, project))
        try:
            yield
        finally:
            _HELD.reset(token)
            self._leave(project)

    @asynccontextmanager
    async def _aside(self, project: int) -> AsyncIterator[None]:
        self._leave(project)
        try:
            yield
            await self._enter(project, WAIT_SECONDS_MAX, behind_any=True)
        except BaseException:
            self._running[project] += 1  # it is left at once
            raise

    async def _enter(self, project: int, seconds: float, *, behind_any: bool) -> None:
        siblings = self._waiting.get(project, ())
        if not siblings and self._may(project):
            self._running[project] += 1
            return
        if not behind_any and (
            len(siblings) >= PROJECT_WAITING_MAX or self.waiting >= WAITING_MAX
        ):
            raise self._full(project)
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except BaseException as error:
            if (
                future.done() and not future.cancelled()
            ):  # it was given a place in the same round of the loop
                self._leave(project)
            self._forget(project, future)
            if isinstance(error, TimeoutError):
                raise self._full(project) from None
            raise

    def _leave(self, project: int) -> None:
        self._running[project] -= 1
        if not self._running[project]:
            del self._running[project]
        self._grant()

    def _grant(self) -> None:
        """Give what is free to who waits, a place for each project in turn."""
        while (project := next(filter(self._may, self._waiting), None)) is not None:
            future = self._waiting[project].popleft()
            self._waiting.move_to_end(project)
            self._forget(project, future)
            if not future.done():
                self._running[project] += 1
                future.set_result(None)

    def _may(self, project: int) -> bool:
        return self.running < self._places and self._running[project] < self._share

    def _forget(self, project: int, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(project)
        if waiting is not None and future in waiting:
            waiting.remove(future)
        if not waiting:
            self._waiting.pop(project, None)

    def _full(self, project: int) -> Exception:
        if self._running[project] < self._share:
            telemetry.REFUSED.labels("queries").inc()
            return Transient("Too many lists, searches and exports are under way.")
        telemetry.REFUSED.labels("project").inc()
        return errors.throttled(
            errors.RETRY_SECONDS,
            errors.rate_limits(self._share, 0, errors.RETRY_SECONDS),
        )


def aside() -> AbstractAsyncContextManager[None]:
    """While a costly call waits for something else than its own rows, others have its place. Else
    nothing."""
    place = _HELD.get()
    if place is None:
        return nullcontext()
    gate, project = place
    return gate._aside(project)  # noqa: SLF001  # of this module


async def stepped(items: AsyncIterator[T], place: Place) -> AsyncIterator[T]:
    """The same items, each made while a place is held, and none while it is looked at."""
    while True:
        async with place():
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
        yield item


def step(gate: Gate, project: int) -> Place:
    """The place of each further step of an answer."""
    return partial(gate.place, project, begun=True)


async def while_connected(
    is_connected: Callable[[], bool], work: Coroutine[Any, Any, T]
) -> T:
    """The result of the work. It is cancelled, with the engine's query, when the client hangs
    up."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_SECONDS))[0]:
            if not is_connected():
                raise Transient("The client has hung up.")
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
