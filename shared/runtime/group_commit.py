"""Group commit: one group in flight, and what is submitted meanwhile is the next. Not thread-safe.

The size of a group adapts by itself to how long a send takes. After a group of many the next one may linger: clients
that were answered just now submit again, and else the first of them would have a group for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

CROWD = 8
"""Minimum number of items of a group after whose answer the next one lingers: fewer are not worth it."""

LINGER_SECONDS = 0.002
"""The longest wait for the items of the last group to come again; it ends once they are there."""

CROWD_SECONDS = 0.02
"""Nothing lingers later than this after the answer: those clients do something else."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Linger(NamedTuple):
    """How long a group waits for the crowd that the last one answered, in seconds."""

    seconds: float = LINGER_SECONDS
    cycle: float = float("inf")
    """The longest time from the beginning of the last send to the end of the wait: after a slower one nothing waits."""


NO_LINGER = Linger(0.0)


class Pending(NamedTuple, Generic[Item, Result]):
    """An item that waits or is in flight. An item whose future is done is not sent."""

    item: Item
    size: int
    future: asyncio.Future[Result]


class Room:
    """The size of all items that may wait or be in flight at once; several groups may share it."""

    def __init__(self, size_max: int, refusal: Callable[[], Exception]) -> None:
        """`refusal` makes the error of an item that finds no room."""
        self.size_max = size_max
        self.size = 0
        self.refusal = refusal

    def check(self, size: int) -> None:
        """Raise the refusal when there is no room for so much."""
        if self.size + size > self.size_max:
            raise self.refusal()


class GroupCommit(Generic[Item, Result]):
    """Sends items in the order of their coming, in groups. `send` sets the result of each item's future itself; those
    that it left open when it raises get its error, and the next group is sent all the same."""

    def __init__(
        self,
        send: Callable[[list[Pending[Item, Result]]], Awaitable[None]],
        *,
        size_max: int,
        room: Room,
        closing: Callable[[], Exception],
        linger: Linger = NO_LINGER,
        name: str = "group commit",
    ) -> None:
        """A group holds items of `size_max` in all, but at least one. `closing` makes the error of what is open when
        the sender is cancelled; `name` is the sender's task's."""
        self._send = send
        self._size_max = size_max
        self.room = room
        self._closing = closing
        self._linger = linger
        self._name = name
        self._waiting: dict[asyncio.Future[Result], Pending[Item, Result]] = {}  # in the order of coming
        self._sender: asyncio.Task[None] | None = None
        self._crowd = 0
        self._linger_until = 0.0
        self._whole: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """The number of items that are not in flight yet."""
        return len(self._waiting)

    def submit(self, item: Item, size: int, future: asyncio.Future[Result] | None = None) -> asyncio.Future[Result]:
        """The future of an item's result; it may be the caller's own. Raises the room's refusal."""
        room = self.room
        if room.size + size > room.size_max:
            raise room.refusal()
        room.size += size
        loop = asyncio.get_running_loop()
        if future is None:
            future = loop.create_future()
        self._waiting[future] = Pending(item, size, future)
        if self._sender is None or self._sender.done():  # what else comes in this round of the loop goes with it
            self._sender = loop.create_task(self._send_all(), name=self._name)
        elif self._whole is not None and len(self._waiting) >= self._crowd:
            self._end_linger()
        return future

    def drop(self, future: asyncio.Future[Result]) -> None:
        """Do not send an item, unless it is in flight."""
        pending = self._waiting.pop(future, None)
        if pending is not None:
            self.room.size -= pending.size

    async def drain(self) -> None:
        """Return once everything is answered, without lingering."""
        self._linger = NO_LINGER
        self._end_linger()
        while self._sender is not None and not self._sender.done():
            await asyncio.wait([self._sender])

    async def close(self) -> None:
        """Cancel what is in flight; everything open gets the closing error."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        self._abandon()  # it may have been cancelled before it began

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
                except Exception as error:  # noqa: BLE001  # its callers are told, and the next group is tried
                    self._fail(group, error)
                finally:
                    self._release(group)
        except BaseException:  # cancelled: every caller hears of it, none may hang
            self._fail(group, self._closing())
            self._abandon()
            raise

    def _note_crowd(self, count: int, began: float) -> None:
        """So many were answered just now: a crowd comes again, and those who wait already belong to it."""
        if self._linger.seconds and count >= CROWD:
            self._crowd = count + len(self._waiting)
            now = asyncio.get_running_loop().time()
            self._linger_until = min(now + CROWD_SECONDS, began + self._linger.cycle)

    async def _gather(self) -> None:
        """Linger until the crowd that was answered just now is here again."""
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
        """The items that came first and fit, but those whose caller has given up."""
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
        self.room.size -= sum([pending.size for pending in pendings])

    def _fail(self, pendings: Iterable[Pending[Item, Result]], error: Exception) -> None:
        for pending in pendings:
            if not pending.future.done():
                pending.future.set_exception(error)
