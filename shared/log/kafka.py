"""The log on Kafka, by aiokafka: the only importer of it. Never relies on a clean rebalance or a committed offset."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
)

from shared.domain.errors import Corrupt, LogUnavailable
from shared.domain.ids import GENERATION_FIRST, Position
from shared.log.lanes import BATCH_BYTES_MAX, Lanes
from shared.log.port import HEADS_SECONDS_MAX, RETENTION_SECONDS, Entry, Record
from shared.log.waiting import Appended

CALL_SECONDS_MAX = 10.0
"""Administrative calls, and a request to a broker."""

START_ATTEMPTS_MAX = 5
"""A broker that is just starting answers within a few; then the supervisor starts us again."""

COMMIT_SECONDS_MIN, COMMIT_SECONDS_MAX = 1.0, 1.0
"""Between two commits to the group, and for one: lag tools need no more, and a flush must not wait for a hint."""

SEGMENT_SECONDS = 86_400


class KafkaLog:
    """The log on a cluster; topics that are missing are created with the wanted partition counts. Those of a later
    generation have its number in their names."""

    def __init__(
        self,
        bootstrap: str,
        partitions: Mapping[str, int],
        replication: int = 1,
        instance: str = "",
        generation: int = GENERATION_FIRST,
    ) -> None:
        self._instance, self.generation = instance, generation
        self._bootstrap, self._wanted, self._replication = bootstrap.split(","), dict(partitions), replication
        self._partitions: dict[str, int] = {}
        self._producer: AIOKafkaProducer | None = None
        self._watcher: AIOKafkaConsumer | None = None
        self._lanes = Lanes(self._send, generation)
        self._renewing: asyncio.Lock = asyncio.Lock()

    async def start(self) -> None:
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            try:
                async with asyncio.timeout(3 * CALL_SECONDS_MAX):
                    await self._create_topics()
                    self._watcher = AIOKafkaConsumer(
                        bootstrap_servers=self._bootstrap, group_id=None, enable_auto_commit=False,
                        auto_offset_reset="none", request_timeout_ms=int(CALL_SECONDS_MAX * 1_000),
                    )  # fmt: skip
                    await self._watcher.start()
                    self._producer = await self._new_producer()
                    for topic in self._wanted:
                        self._partitions[topic] = len(await self._producer.partitions_for(self._name(topic)))
                return
            except (KafkaError, OSError, TimeoutError) as error:
                await self.close()
                if attempt == START_ATTEMPTS_MAX:
                    raise LogUnavailable(f"Kafka does not answer: {error}") from error
                await asyncio.sleep(0.2 * attempt)

    async def close(self) -> None:
        await self._lanes.close()
        producer, self._producer = self._producer, None
        watcher, self._watcher = self._watcher, None
        for part in (producer, watcher):
            if part is not None:
                await _stop(part)

    def partitions(self) -> dict[str, int]:
        return dict(self._partitions)

    def submit(self, entries: Sequence[Entry]) -> Appended:
        return self._lanes.submit(entries)

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        return await self._lanes.append(entries)

    async def trouble(self) -> str:
        """A broker that cannot write gives its partitions away, or has no heads to tell of."""
        return ""

    async def heads(self, topic: str) -> list[Position]:
        return await self._ends(topic, AIOKafkaConsumer.end_offsets)

    async def beginnings(self, topic: str) -> list[Position]:
        return await self._ends(topic, AIOKafkaConsumer.beginning_offsets)

    async def _ends(self, topic: str, offsets: Any) -> list[Position]:
        """The position before the offset that the consumer's method says, of every partition."""
        if self._watcher is None:
            raise LogUnavailable
        parts = [TopicPartition(self._name(topic), partition) for partition in range(self._partitions[topic])]
        try:
            async with asyncio.timeout(HEADS_SECONDS_MAX):
                ends = await offsets(self._watcher, parts)
        except (KafkaError, OSError, TimeoutError) as error:
            raise LogUnavailable(f"Kafka does not answer: {type(error).__name__}") from error
        return [Position(topic, part.partition, ends[part] - 1, self.generation) for part in parts]

    def reader(self, topic: str, group: str) -> KafkaReader:
        return KafkaReader(self._bootstrap, (topic, self._name(topic)), group, self._instance, self.generation)

    def _name(self, topic: str) -> str:
        """The topic's name on the cluster."""
        return topic if self.generation == GENERATION_FIRST else f"{topic}.g{self.generation}"

    async def _send(self, topic: str, partition: int, records: list[tuple[bytes, bytes]]) -> list[int]:
        """One batch from the front of `records`: the offsets it got; raises LogUnavailable."""
        producer = self._producer
        if producer is None:
            raise LogUnavailable
        batch = producer.create_batch()
        taken = 0
        for key, value in records:
            if batch.append(key=key, value=value, timestamp=None) is None:
                break
            taken += 1
        batch.close()
        try:
            sent = await producer.send_batch(batch, self._name(topic), partition=partition)
            base = (await sent).offset
        except (KafkaError, OSError) as error:
            await self._renew(producer, error)
            raise LogUnavailable(f"Kafka did not take the batch: {type(error).__name__}") from error
        if base < 0:
            raise LogUnavailable("Kafka knows the batch, but no longer its offset.")
        return list(range(base, base + taken))

    async def _renew(self, broken: AIOKafkaProducer, error: Exception) -> None:
        """After an error that is not retriable (lost sequence numbers, fencing) only a new producer goes on."""
        if getattr(error, "retriable", False):
            return
        async with self._renewing:
            if self._producer is broken:
                try:
                    self._producer = await self._new_producer()
                except (KafkaError, OSError) as failure:
                    raise LogUnavailable(f"Kafka does not answer: {type(failure).__name__}") from failure
                await _stop(broken)

    async def _new_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True, linger_ms=0,
            max_batch_size=BATCH_BYTES_MAX, max_request_size=4 * BATCH_BYTES_MAX, compression_type=None,
            request_timeout_ms=int(CALL_SECONDS_MAX * 1_000), retry_backoff_ms=100, metadata_max_age_ms=60_000,
        )  # fmt: skip
        try:
            await producer.start()
        except BaseException:
            await _stop(producer)
            raise
        return producer

    async def _create_topics(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=int(CALL_SECONDS_MAX * 1_000))
        try:
            await admin.start()
            known = set(await admin.list_topics())
            missing = [topic for topic in self._wanted if self._name(topic) not in known]
            if missing:
                await admin.create_topics([self._new_topic(topic) for topic in missing])
        except TopicAlreadyExistsError:
            return  # another process was quicker
        finally:
            await admin.close()

    def _new_topic(self, topic: str) -> NewTopic:
        return NewTopic(
            name=self._name(topic),
            num_partitions=self._wanted[topic],
            replication_factor=self._replication,
            topic_configs={
                "cleanup.policy": "delete",
                "message.timestamp.type": "LogAppendTime",
                "retention.ms": str(RETENTION_SECONDS * 1_000),
                "segment.ms": str(SEGMENT_SECONDS * 1_000),
                "min.insync.replicas": str(max(1, self._replication - 1)),
            },
        )


class KafkaReader:
    """One member of a consumer group. A partition is paused from its assignment until it is sought.

    With an `instance` it is a static member: one that is started again within the session's time-out has its
    partitions back at once, instead of after the time-out (6 s, the least that a broker allows).
    """

    def __init__(
        self, bootstrap: Sequence[str], topic: tuple[str, str], group: str, instance: str, generation: int
    ) -> None:
        """`topic` is our name for it, and the cluster's."""
        (self._topic, self._name), self._generation = topic, generation
        self._next: dict[int, int] = {}
        self._assigned: frozenset[int] = frozenset()
        self._committed_at = 0.0
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=list(bootstrap), group_id=f"personlog-{group}-{self._name}", enable_auto_commit=False,
            auto_offset_reset="none", fetch_min_bytes=1, fetch_max_wait_ms=200, fetch_max_bytes=8 * BATCH_BYTES_MAX,
            max_partition_fetch_bytes=4 * BATCH_BYTES_MAX, session_timeout_ms=6_000, heartbeat_interval_ms=1_500,
            rebalance_timeout_ms=10_000, max_poll_interval_ms=300_000, check_crcs=True,
            request_timeout_ms=int(CALL_SECONDS_MAX * 1_000), retry_backoff_ms=100, metadata_max_age_ms=60_000,
            isolation_level="read_uncommitted", group_instance_id=instance or None,
        )  # fmt: skip

    async def start(self) -> None:
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            raise LogUnavailable(f"Kafka does not answer: {type(error).__name__}") from error
        self._consumer.subscribe([self._name], listener=_Listener(self))

    async def close(self) -> None:
        await _stop(self._consumer)

    def assigned(self) -> frozenset[int]:
        return self._assigned

    def assign(self, partitions: frozenset[int]) -> None:
        """What the group gave us; called by the listener, which does nothing else: it runs beside a fetch.

        A rebalance forgets pauses and seeks, so a partition that we keep goes on where we were. Whether it is still
        ours alone, its position row will tell.
        """
        self._next = {partition: offset for partition, offset in self._next.items() if partition in partitions}
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

    async def fetch(self, *, records_max: int, wait_seconds: float, without: Collection[int] = ()) -> list[Record]:
        wanted = [TopicPartition(self._topic, one) for one in self._next if one not in without] if without else []
        if without and not wanted:  # none means all to the client
            await asyncio.sleep(wait_seconds)
            return []
        try:
            found: dict[Any, list[Any]] = await self._consumer.getmany(
                *wanted, timeout_ms=int(wait_seconds * 1_000), max_records=records_max
            )
        except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
            raise Corrupt(f"Records of {self._topic} at a sought position are gone: {error}") from error
        except (KafkaError, OSError) as error:
            raise LogUnavailable(f"Kafka does not answer: {type(error).__name__}") from error
        taken = []
        for at, records in found.items():
            if at.partition in self._next and records:
                self._next[at.partition] = records[-1].offset + 1
                taken += [
                    Record(
                        self._topic,
                        at.partition,
                        one.offset,
                        one.timestamp * 1_000,
                        one.key or b"",
                        one.value or b"",
                        self._generation,
                    )
                    for one in records
                ]
        return taken

    async def commit(self, positions: Sequence[Position]) -> None:
        now = time.monotonic()
        if now - self._committed_at < COMMIT_SECONDS_MIN:
            return
        self._committed_at = now
        offsets = {TopicPartition(self._name, one.partition): one.next for one in positions}
        try:
            async with asyncio.timeout(COMMIT_SECONDS_MAX):
                await self._consumer.commit(offsets)
        except (KafkaError, OSError, TimeoutError):
            return  # a hint for lag tools: the position row is the truth, and the next flush commits again


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    def __init__(self, reader: KafkaReader) -> None:
        self._reader = reader

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self._reader.release()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader.assign(frozenset(at.partition for at in assigned))


async def _stop(part: Any) -> None:
    """Stop within a bound: a broker that is away must not keep a process from ending."""
    try:
        async with asyncio.timeout(3.0):
            await part.stop()
    except (KafkaError, OSError, TimeoutError):
        return
