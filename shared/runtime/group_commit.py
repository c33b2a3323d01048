"""Group commit: one group in flight; items submitted meanwhile are the next. Not thread-safe.

The size of a group adapts to the time of a send. After a group of many the next one may linger:
clients that have just been answered submit again, and else the first of them would have a group for
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

CROWD = 8
"""Minimum number of items of a group after which the next one lingers: fewer are not worth it."""

LINGER_SECONDS = 0.002
"""The longest wait for new items of the last group's clients; it ends once all are there."""

CROWD_SECONDS = 0.02
"""The last moment of a wait, from the answer on: later the clients do something else."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Linger(NamedTuple):
    """The wait of a group for the clients of the last one, in seconds."""

    seconds: float = LINGER_SECONDS
    cycle: float = float("inf")
    """The longest time from the begin of the last send to the end of the wait.

    After a slower send no group waits.
    """


NO_LINGER = Linger(0.0)


class Pending(NamedTuple, Generic[Item, Result]):
    """An item that waits or is in flight; it is not sent when its future is done."""

    item: Item
    size: int
    future: asyncio.Future[Result]


class Capacity:
    """A bound on the size of all waiting items and those in flight; groups may share it."""

    def __init__(self, size_max: int, refusal: Callable[[], Exception]) -> None:
        """Bound the size to `size_max`; `refusal` makes the error of an item above it."""
        self.size_max = size_max
        self.size = 0
        self.refusal = refusal

    def check(self, size: int) -> None:
        """Raise the refusal when `size` does not fit."""
        if self.size + size > self.size_max:
            raise self.refusal()


class GroupCommit(Generic[Item, Result]):
    """Send items in the order of submission, in groups.

    `send` sets the result of each item's future. When it raises, the futures that it left open get
    its error, and the next group is sent.
    """

    def __init__(
        self,
        send: Callable[[list[Pending[Item, Result]]], Awaitable[None]],
        *,
        size_max: int,
        capacity: Capacity,
        closing: Callable[[], Exception],
        linger: Linger = NO_LINGER,
        name: str = "group commit",
    ) -> None:
        """Group items up to `size_max` in all, but at least one.

        `closing` makes the error of items that are open when the sender is cancelled; `name` names
        the sender's task.
        """
        self._send = send
        self._size_max = size_max
        self.capacity = capacity
        self._closing = closing
        self._linger = linger
        self._name = name
        # in the order of submission
        self._waiting: dict[asyncio.Future[Result], Pending[Item, Result]] = {}
        self._sender: asyncio.Task[None] | None = None
        self._crowd = 0
        self._linger_until = 0.0
        self._whole: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """The number of items that are not in flight yet."""
        return len(self._waiting)

    def submit(
        self, item: Item, size: int, future: asyncio.Future[Result] | None = None
    ) -> asyncio.Future[Result]:
        """Return the future of an item's result, or the given one; raise the refusal when full."""
        capacity = self.capacity
        if capacity.size + size > capacity.size_max:
            raise capacity.refusal()
        capacity.size += size
        loop = asyncio.get_running_loop()
        if future is None:
            future = loop.create_future()
        self._waiting[future] = Pending(item, size, future)
        if (
            self._sender is None or self._sender.done()
        ):  # takes all items of this loop iteration
            self._sender = loop.create_task(self._send_all(), name=self._name)
        elif self._whole is not None and len(self._waiting) >= self._crowd:
            self._end_linger()
        return future

    def drop(self, future: asyncio.Future[Result]) -> None:
        """Do not send an item, unless it is in flight."""
        pending = self._waiting.pop(future, None)
        if pending is not None:
            self.capacity.size -= pending.size

    async def drain(self) -> None:
        """Wait until all items are answered, without lingering."""
        self._linger = NO_LINGER
        self._end_linger()
        while self._sender is not None and not self._sender.done():
            await asyncio.wait([self._sender])

    async def close(self) -> None:
        """Cancel the group in flight; all open items get the closing error."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        self._abandon()  # the sender may have been cancelled before it began

    async def _send_all(self) -> None:
        group: list[Pending[Item, Result]] = []
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                if len(self._waiting) < self._crowd:
                    await self._gather()
                group = self._next_group()
                self._crowd, began = 0, loop.time()
                try:
                    if group:
                        await self._send(group)
                        self._note_crowd(len(group), began)
                except Exception as error:  # noqa: BLE001  # callers get it; the next group is sent
                    self._fail(group, error)
                finally:
                    self._release(group)
        except BaseException:  # cancelled: every caller gets an error, none hangs
            self._fail(group, self._closing())
            self._abandon()
            raise

    def _note_crowd(self, count: int, began: float) -> None:
        """Expect the clients of `count` answers again; waiting items count among them."""
        if self._linger.seconds and count >= CROWD:
            self._crowd = count + len(self._waiting)
            now = asyncio.get_running_loop().time()
            self._linger_until = min(now + CROWD_SECONDS, began + self._linger.cycle)

    async def _gather(self) -> None:
        """Linger until the expected clients have submitted, or the wait ends."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        until = min(now + self._linger.seconds, self._linger_until)
        if until <= now:
            return
        self._whole = loop.create_future()
        timer = loop.call_at(until, self._end_linger)
        try:
            await self._whole
        finally:
            timer.cancel()
            self._whole = None

    def _end_linger(self) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(None)

    def _next_group(self) -> list[Pending[Item, Result]]:
        """Take the first items that fit, without those whose caller has given up."""
        group: list[Pending[Item, Result]] = []
        size = 0
        for pending in self._waiting.values():
            size += pending.size
            if group and size > self._size_max:
                break
            group.append(pending)
        for pending in group:
            del self._waiting[pending.future]
        abandoned = [pending for pending in group if pending.future.done()]
        if abandoned:
            self._release(abandoned)
            group = [pending for pending in group if not pending.future.done()]
        return group

    def _abandon(self) -> None:
        self._fail(self._waiting.values(), self._closing())
        self._release(self._waiting.values())
        self._waiting.clear()

    def _release(self, pendings: Iterable[Pending[Item, Result]]) -> None:
        self.capacity.size -= sum([pending.size for pending in pendings])

    def _fail(
        self, pendings: Iterable[Pending[Item, Result]], error: Exception
    ) -> None:
        for pending in pendings:
            if not pending.future.done():
                pending.future.set_exception(error)
