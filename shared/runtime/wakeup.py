"""A wake-up for a task that works when there is something to do. Never the only thing that makes it look.

What is set while the task works is not lost: the next wait ends at once. And a wait ends by itself, so that an event
that nobody told of costs the given seconds, and not for ever.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Wakeup:
    """For one task. It is set when made: whoever starts must look at what was left before it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._event.set()

    def set(self) -> None:
        """End the wait, or the next one. Not thread-safe."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Return once it is set, or after `seconds`; whether it was set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for of 3.11 may swallow a cancellation
                await self._event.wait()
        woken = self._event.is_set()
        self._event.clear()
        return woken
