"""Appends by partition: one batch of each on its way, and what comes meanwhile is its next. Never
knows a broker.

Group commit per partition: 1.1 M msg/s by batches of our own against 209 k by the producer's
`send`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from shared.domain.errors import LogUnavailable
from shared.domain.ids import Position
from shared.log.pending_appends import Appended, PendingAppends
from shared.log.port import PENDING_BYTES_MAX, Entry
from shared.runtime.group_commit import Capacity, GroupCommit, Pending
from shared.runtime.trouble import Trouble

BATCH_BYTES_MAX = 1_048_576
"""One produce batch of a partition: what a broker takes by default."""

RECORD_OVERHEAD_BYTES = 21
"""What a record adds in a batch, at most."""

Send = Callable[[str, int, list[tuple[bytes, bytes]]], Awaitable[list[int]]]
"""(topic, partition, records) to the offsets of a batch from their front; raises LogUnavailable."""


PartitionQueue = GroupCommit["_Part", list[Position]]
"""One partition's appends in order: a part of an append is an item, with the append's future.

A batch in flight is never given up: the producer repeats it until a broker says yes. What waits
behind it is dropped when its append has failed or nobody waits for it.
"""


class RecordAccumulator:
    """Every partition that something was appended to, and the appends that are not durable yet."""

    def __init__(self, send: Send, generation: int, trouble: Trouble) -> None:
        self._send = send
        self._generation = generation
        self._capacity = Capacity(
            PENDING_BYTES_MAX, lambda: LogUnavailable("The log does not keep up.")
        )
        self._accumulator: dict[tuple[str, int], PartitionQueue] = {}
        self._appends: dict[Appended, _Append] = {}
        self._waiting = PendingAppends(self._drop, trouble)

    def submit(self, entries: Sequence[Entry]) -> Appended:
        """As the log's."""
        self._capacity.check(
            sum(
                [
                    len(key) + len(value) + RECORD_OVERHEAD_BYTES
                    for _, _, key, value in entries
                ]
            )
        )
        future: Appended = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        append = self._appends[future] = _Append(future, len(entries))
        for index, (topic, partition, key, value) in enumerate(entries):
            lane = self._accumulator.get((topic, partition)) or self._lane(
                topic, partition
            )
            part = append.parts.get(lane)
            if part is None:
                part = append.parts[lane] = _Part(append)
            part.records.append((key, value))
            part.indices.append(index)
            part.bytes += len(key) + len(value) + RECORD_OVERHEAD_BYTES
        for lane, part in append.parts.items():
            lane.submit(part, part.bytes, future)
        return future

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        """As the log's."""
        return await self._waiting.result(self.submit(entries))

    @property
    def waiting(self) -> bool:
        """Whether there is a part of an append that is not in flight yet."""
        return any(lane.waiting for lane in self._accumulator.values())

    async def close(self) -> None:
        for lane in self._accumulator.values():
            await lane.close()
        self._accumulator.clear()
        self._waiting.close()
        self._appends.clear()

    def _lane(self, topic: str, partition: int) -> PartitionQueue:
        lane = self._accumulator[topic, partition] = GroupCommit(
            partial(self._send_group, topic, partition),
            size_max=BATCH_BYTES_MAX,
            capacity=self._capacity,
            closing=lambda: LogUnavailable("The log is closing."),
            name=f"append {topic}/{partition}",
        )
        return lane

    async def _send_group(
        self, topic: str, partition: int, group: list[Pending[_Part, list[Position]]]
    ) -> None:
        """Send the parts of appends as one batch; a batch that was sent in part goes on behind
        that."""
        parts = [pending.item for pending in group]
        records = [record for part in parts for record in part.records]
        offsets: list[int] = []
        failure = LogUnavailable("The log is closing.")
        try:
            while len(offsets) < len(records) and not all(
                part.append.future.done() for part in parts
            ):
                offsets += await self._send(topic, partition, records[len(offsets) :])
        except LogUnavailable as error:
            failure = error
        finally:
            at = 0
            for part in parts:
                end = at + len(part.records)
                if end <= len(offsets):
                    self._land(
                        part,
                        [
                            Position(topic, partition, it, self._generation)
                            for it in offsets[at:end]
                        ],
                    )
                else:
                    self._fail(part.append.future, failure)
                at = end

    def _land(self, part: _Part, positions: list[Position]) -> None:
        """A part of an append is durable, at these positions."""
        append = part.append
        for position, index in zip(positions, part.indices, strict=True):
            append.positions[index] = position
        append.missing -= len(positions)
        if append.missing == 0:
            self._appends.pop(append.future, None)
            self._waiting.tell(append.future, append.positions)

    def _fail(self, future: Appended, failure: LogUnavailable) -> None:
        """A part of an append is not durable, as far as we know; its other parts that still wait
        are not sent."""
        self._waiting.tell(future, failure)
        self._drop(future)

    def _drop(self, future: Appended) -> None:
        append = self._appends.pop(future, None)
        for lane in append.parts if append is not None else ():
            lane.drop(future)


class _Part:
    """The records of one append that go to one partition, and which of its entries they are."""

    __slots__ = ("append", "bytes", "indices", "records")

    def __init__(self, append: _Append) -> None:
        self.append = append
        self.records: list[tuple[bytes, bytes]] = []
        self.indices: list[int] = []
        self.bytes = 0


class _Append:
    """One append: its parts by lane, and the positions that are known so far."""

    __slots__ = ("future", "missing", "parts", "positions")

    def __init__(self, future: Appended, count: int) -> None:
        self.future = future
        self.parts: dict[PartitionQueue, _Part] = {}
        self.positions: list[Any] = [None] * count
        self.missing = count
