"""Coalescing: one call in flight, and whatever is asked meanwhile joins the next. Never caches an answer.

The batch adapts by itself to how long a call takes; only a crowd that was answered just now is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from shared.domain.errors import StoreUnavailable

KEYS_MAX = 4_000
"""Keys of one call: the planner's time grows faster than the answer beyond."""

WAITING_MAX = 20_000
"""Keys waiting for a call; above it the store does not keep up and clients are told so."""

CROWD = 8
"""Who asked in a call after whose answer the next one may wait: fewer are not worth it."""

CROWD_SECONDS, GATHER_SECONDS = 0.02, 0.002
"""How long ago the crowd was answered at most, and how long the next call waits for it at most. Clients that were
answered ask again; else the first of them has a call for itself and the others wait for it: 1,850 -> 2,880 GETs/s at 64
in flight, with the answers sent past aiohttp."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Coalesced(Generic[K, V]):
    """Turns many single asks into few calls of `many(keys) -> {key: value}`."""

    def __init__(self, many: Callable[[Sequence[K]], Awaitable[dict[K, V]]]) -> None:
        self._many = many
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._caller: asyncio.Task[None] | None = None
        self._askers, self._crowd, self._answered_at = 0, 0, float("-inf")
        self._whole = asyncio.Event()

    async def get(self, key: K) -> V | None:
        """The value of a key as it is after this ask began; None when there is none."""
        return await self.ask([key])[0]

    def ask(self, keys: Sequence[K]) -> list[asyncio.Future[V | None]]:
        """The same of many for one who asks: a task for each would take longer than its share of the call."""
        if len(self._waiting) >= WAITING_MAX:
            raise StoreUnavailable("Too many reads are waiting.")
        create = asyncio.get_running_loop().create_future
        futures: list[asyncio.Future[V | None]] = [create() for _ in keys]
        for key, future in zip(keys, futures, strict=True):
            self._waiting.setdefault(key, []).append(future)
        self._askers += 1
        if self._askers >= self._crowd:
            self._whole.set()
        if self._caller is None or self._caller.done():
            self._caller = asyncio.create_task(self._call(), name="coalesced reads")
        return futures

    async def _call(self) -> None:
        while self._waiting:
            asked: dict[K, list[asyncio.Future[V | None]]] = {}
            try:
                await self._gather()
                answered, self._askers = self._askers, 0
                asked = {key: self._waiting.pop(key) for key in list(self._waiting)[:KEYS_MAX]}
                found = await self._many(list(asked))
            except BaseException as error:  # every waiter hears of it; none may hang
                ending = not isinstance(error, Exception)
                told = StoreUnavailable("Shutting down.") if ending else error
                for futures in [*asked.values(), *(self._waiting.values() if ending else ())]:
                    for future in futures:
                        if not future.done():
                            future.set_exception(told)
                if ending:
                    raise
                continue
            for key, futures in asked.items():
                for future in futures:
                    if not future.done():
                        future.set_result(found.get(key))
            self._crowd = answered + self._askers if answered >= CROWD else 0
            self._answered_at = asyncio.get_running_loop().time()

    async def _gather(self) -> None:
        """Let those who were answered just now ask again, if they were a crowd."""
        late = asyncio.get_running_loop().time() - self._answered_at > CROWD_SECONDS
        if late or self._askers >= self._crowd:
            return
        self._whole.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._whole.wait()
