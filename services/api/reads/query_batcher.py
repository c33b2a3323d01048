"""Coalescing: one query in flight for many readers; keys that are requested meanwhile join the
next.

Caches nothing: a read sees what the store holds after it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from shared.domain.errors import StoreUnavailable
from shared.runtime.group_commit import Capacity, GroupCommit, Linger, Pending

KEYS_MAX = 4_000
"""Keys of one call: the planner's time grows faster than the answer beyond."""

WAITING_MAX = 20_000
"""Keys that wait or are in a call; above it the store does not keep up and clients are told so."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Coalesced(Generic[K, V]):
    """Turns many single reads into few calls of `many(keys) -> {key: value}`.

    Lingering for the crowd that was answered: 1,850 -> 2,880 GETs/s at 64 in flight.
    """

    def __init__(self, many: Callable[[Sequence[K]], Awaitable[dict[K, V]]]) -> None:
        self._many = many
        self._calls: GroupCommit[Sequence[K], list[V | None]] = GroupCommit(
            self._call,
            size_max=KEYS_MAX,
            capacity=Capacity(
                WAITING_MAX, lambda: StoreUnavailable("Too many reads are waiting.")
            ),
            closing=lambda: StoreUnavailable("Shutting down."),
            linger=Linger(),
            name="coalesced reads",
        )

    async def get(self, key: K) -> V | None:
        """The value of a key as it is after this read began; None when there is none."""
        return (await self.ask([key]))[0]

    def ask(self, keys: Sequence[K]) -> asyncio.Future[list[V | None]]:
        """The values of many keys, in their order. More than KEYS_MAX are as one full call, and are
        read in several."""
        return self._calls.submit(keys, min(len(keys), KEYS_MAX))

    async def _call(self, group: list[Pending[Sequence[K], list[V | None]]]) -> None:
        keys = list(dict.fromkeys([key for pending in group for key in pending.item]))
        values: dict[K, V] = {}
        for start in range(0, len(keys), KEYS_MAX):
            values |= await self._many(keys[start : start + KEYS_MAX])
        for requested_keys, _, future in group:
            if not future.done():
                future.set_result([values.get(key) for key in requested_keys])
