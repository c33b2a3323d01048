"""What one run of the sweep is given beside its parts: its end, its lock, and who hears of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from services.deleter.sweep.guard import Guard
from shared.domain.deletion import DeletionRequest

Lock = Callable[[], AbstractAsyncContextManager[None]]

Issue = Callable[[Sequence[DeletionRequest], int], Awaitable[None]]
"""Makes the receipts of requests that were counted as erased, at a time in microseconds."""

Tell = Callable[[int, int, str], None]
"""Hears of the partitions done, of how many, and what is being done."""


async def no_receipts(requests: Sequence[DeletionRequest], now_us: int) -> None:
    """For a run that proves nothing to anybody."""


def quiet(done: int, of: int, what: str) -> None:
    """For a run that nobody watches."""


@asynccontextmanager
async def unlocked() -> AsyncIterator[None]:
    """For a ledger that nobody else can change."""
    yield


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one run."""

    closes_at: int | None = None
    """The window's end in microseconds; None is no end."""

    lock: Lock = unlocked
    """Guards the ledger's pending rows."""

    issue: Issue = no_receipts
    guard: Guard | None = None
    """Without one no step waits for the engine to have room."""

    tell: Tell = quiet
