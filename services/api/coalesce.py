"""Coalescing: one call in flight, and whatever is asked meanwhile joins the next. Never caches an answer.

No timer: the batch adapts by itself to how long a call takes (13-21 times one by one at 64 in flight).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from shared.domain.errors import StoreUnavailable

KEYS_MAX = 4_000
"""Keys of one call: the planner's time grows faster than the answer beyond."""

WAITING_MAX = 20_000
"""Keys waiting for a call; above it the store does not keep up and clients are told so."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Coalesced(Generic[K, V]):
    """Turns many single asks into few calls of `many(keys) -> {key: value}`."""

    def __init__(self, many: Callable[[Sequence[K]], Awaitable[dict[K, V]]]) -> None:
        self._many = many
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._caller: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """The value of a key as it is after this ask began; None when there is none."""
        return await self.ask(key)

    def ask(self, key: K) -> asyncio.Future[V | None]:
        """The same for who asks for many: a task for each would take longer than its share of the call."""
        if len(self._waiting) >= WAITING_MAX:
            raise StoreUnavailable("Too many reads are waiting.")
        future: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._caller is None or self._caller.done():
            self._caller = asyncio.create_task(self._call(), name="coalesced reads")
        return future

    async def _call(self) -> None:
        while self._waiting:
            keys = list(self._waiting)[:KEYS_MAX]
            asked = {key: self._waiting.pop(key) for key in keys}
            try:
                found = await self._many(keys)
            except BaseException as error:  # every waiter hears of it; none may hang
                for futures in asked.values():
                    for future in futures:
                        if not future.done():
                            future.set_exception(
                                error if isinstance(error, Exception) else StoreUnavailable("Shutting down.")
                            )
                if not isinstance(error, Exception):
                    raise
                continue
            for key, futures in asked.items():
                for future in futures:
                    if not future.done():
                        future.set_result(found.get(key))
