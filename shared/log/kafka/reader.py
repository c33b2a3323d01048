"""Reading the log on Kafka: one member of a consumer group. Never relies on a clean rebalance or a
committed offset."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from shared.domain.errors import Corrupt, LogUnavailable
from shared.domain.ids import Position
from shared.log.port import Record
from shared.log.record_accumulator import BATCH_BYTES_MAX

CALL_SECONDS_MAX = 10.0
"""Administrative calls, and a request to a broker."""

CLOSE_SECONDS_MAX = 3.0

COMMIT_SECONDS_MIN, COMMIT_SECONDS_MAX = 1.0, 1.0
"""Between two commits to the group, and for one: lag tools need no more, and a flush must not wait
for a hint."""


class KafkaReader:
    """One member of a consumer group. A partition is paused from its assignment until it is sought.

    With an `instance` it is a static member: one that is started again within the session's
    time-out has its partitions back at once, instead of after the time-out (6 s, the least that a
    broker allows).
    """

    def __init__(
        self,
        bootstrap: Sequence[str],
        topic: tuple[str, str],
        group: str,
        instance: str,
        generation: int,
    ) -> None:
        """`topic` is our name for it, and the cluster's."""
        (self._topic, self._name), self._generation = topic, generation
        self._next: dict[int, int] = {}
        self._assigned: frozenset[int] = frozenset()
        self._committed_at = 0.0
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=list(bootstrap),
            group_id=f"personlog-{group}-{self._name}",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_min_bytes=1,
            fetch_max_wait_ms=200,
            fetch_max_bytes=8 * BATCH_BYTES_MAX,
            max_partition_fetch_bytes=4 * BATCH_BYTES_MAX,
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_500,
            rebalance_timeout_ms=10_000,
            max_poll_interval_ms=300_000,
            check_crcs=True,
            request_timeout_ms=int(CALL_SECONDS_MAX * 1_000),
            retry_backoff_ms=100,
            metadata_max_age_ms=60_000,
            isolation_level="read_uncommitted",
            group_instance_id=instance or None,
        )

    async def start(self) -> None:
        with answering():
            await self._consumer.start()
        self._consumer.subscribe([self._name], listener=_Listener(self))

    async def close(self) -> None:
        await bounded(self._consumer.stop())

    def assigned(self) -> frozenset[int]:
        return self._assigned

    def assign(self, partitions: frozenset[int]) -> None:
        """What the group gave us; called by the listener, which does nothing else: it runs beside a
        fetch.

        A rebalance forgets pauses and seeks, so a partition that we keep goes on where we were.
        Whether it is still ours alone, its position row will tell.
        """
        self._next = {
            partition: offset
            for partition, offset in self._next.items()
            if partition in partitions
        }
        for partition in partitions:
            at = TopicPartition(self._name, partition)
            self._consumer.seek(at, self._next.get(partition, 0))
            if partition not in self._next:
                self._consumer.pause(at)
        self._assigned = partitions

    def release(self) -> None:
        """A rebalance begins: nothing is ours until it ends."""
        self._assigned = frozenset()

    def seek(self, position: Position) -> None:
        at = TopicPartition(self._name, position.partition)
        try:
            self._consumer.seek(at, position.next)
            self._consumer.resume(at)
        except IllegalStateError:
            return  # lost in this very moment; the assignment says so
        self._next[position.partition] = position.next

    async def fetch(
        self, *, records_max: int, wait_seconds: float, without: Collection[int] = ()
    ) -> list[Record]:
        wanted = (
            [
                TopicPartition(self._name, one)
                for one in self._next
                if one not in without
            ]
            if without
            else []
        )
        if without and not wanted:  # none means all to the client
            await asyncio.sleep(wait_seconds)
            return []
        try:
            found: dict[Any, list[Any]] = await self._consumer.getmany(
                *wanted, timeout_ms=int(wait_seconds * 1_000), max_records=records_max
            )
        except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
            raise Corrupt(
                f"Records of {self._topic} at a sought position are gone: {error}"
            ) from error
        except (KafkaError, OSError) as error:
            raise LogUnavailable(
                f"Kafka does not answer: {type(error).__name__}"
            ) from error
        taken = []
        for at, records in found.items():
            if at.partition in self._next and records:
                self._next[at.partition] = records[-1].offset + 1
                taken += [
                    record_of(one, self._topic, self._generation) for one in records
                ]
        return taken

    async def commit(self, positions: Sequence[Position]) -> None:
        now = time.monotonic()
        if now - self._committed_at < COMMIT_SECONDS_MIN:
            return
        self._committed_at = now
        offsets = {
            TopicPartition(self._name, one.partition): one.next for one in positions
        }
        try:
            async with asyncio.timeout(COMMIT_SECONDS_MAX):
                await self._consumer.commit(offsets)
        except (KafkaError, OSError, TimeoutError):
            # a hint for lag tools: the position row is the truth, and the next flush commits again
            return


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    def __init__(self, reader: KafkaReader) -> None:
        self._reader = reader

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self._reader.release()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader.assign(frozenset(at.partition for at in assigned))


def record_of(one: Any, topic: str, generation: int) -> Record:
    return Record(
        topic,
        one.partition,
        one.offset,
        one.timestamp * 1_000,
        one.key or b"",
        one.value or b"",
        generation,
    )


@contextmanager
def answering() -> Iterator[None]:
    """What Kafka does not answer is LogUnavailable."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(
            f"Kafka does not answer: {type(error).__name__}"
        ) from error


async def bounded(closing: Awaitable[Any]) -> None:
    """Wait for it within a bound: a broker that is away must not keep a process from ending."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await closing
    except (KafkaError, OSError, TimeoutError):
        return
