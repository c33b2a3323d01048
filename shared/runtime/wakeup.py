"""A wake-up signal for a task that waits for work, with a time limit of each wait.

A signal during the task's work is not lost: the next wait ends at once. A wait also ends by itself,
so that work without a signal is delayed by the given seconds at most.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Wakeup:
    """A wake-up for one task. It begins set: a new task must look at work from before it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._event.set()

    def set(self) -> None:
        """End the wait, or the next one. Not thread-safe."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most `seconds`; return whether it was set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(
                seconds
            ):  # wait_for of 3.11 may swallow a cancellation
                await self._event.wait()
        woken = self._event.is_set()
        self._event.clear()
        return woken
