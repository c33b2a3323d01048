"""The log on Kafka, by aiokafka: the only importer of it. Never relies on a clean rebalance or a
committed offset."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAlreadyExistsError,
)

from shared.domain.errors import LogClosed, LogUnavailable
from shared.domain.ids import GENERATION_FIRST, Position
from shared.log.doubts import Doubtful
from shared.log.identity import LogIdentity
from shared.log.kafka.queries import KafkaQueries
from shared.log.kafka.reader import (
    CALL_SECONDS_MAX,
    KafkaReader,
    answering,
    bounded,
    record_of,
)
from shared.log.kafka.seal import is_sealed, seal
from shared.log.pending_appends import Appended
from shared.log.port import RETENTION_SECONDS, Entry, Record
from shared.log.record_accumulator import BATCH_BYTES_MAX, RecordAccumulator
from shared.runtime.trouble import Trouble

START_ATTEMPTS_MAX = 5
"""A broker that is just starting answers within a few; then the supervisor starts us again."""

SEGMENT_SECONDS = 86_400

MESSAGE_BYTES_MAX = BATCH_BYTES_MAX + 12
"""Kafka's default. A topic is made with it, because Kafka 4 brings the settings of a topic that was
deleted back to one of the same name when a broker starts: a closed one's limit is 0."""


class KafkaLog(Doubtful[LogIdentity | None]):
    """The log on a cluster. Topics that are missing are created with the wanted partition counts,
    unless the store knows the log: then those counts are the log's, and no others. Topics of a
    later generation have its number in their names."""

    def __init__(
        self,
        bootstrap: str,
        partitions: Mapping[str, int],
        replication: int = 1,
        instance: str = "",
        generation: int = GENERATION_FIRST,
        *,
        create: bool = True,
    ) -> None:
        super().__init__(None)
        self._instance, self.generation, self._create = instance, generation, create
        self._bootstrap, self._wanted, self._replication = (
            bootstrap.split(","),
            dict(partitions),
            replication,
        )
        self._partitions = dict(partitions)
        self.refused = False
        self._queries = KafkaQueries(self._bootstrap)
        self._producer: AIOKafkaProducer | None = None
        self._trouble = Trouble("log")
        self._accumulator = RecordAccumulator(self._send, generation, self._trouble)
        self._failing: set[tuple[str, int]] = set()
        self._renewing: asyncio.Lock = asyncio.Lock()

    async def start(self) -> None:
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            try:
                async with asyncio.timeout(3 * CALL_SECONDS_MAX):
                    if self._create:
                        await self._create_topics()
                    await self._queries.start()
                    self._producer = await self._new_producer()
                    identity = await self.identity()
                    missing = self._wanted.keys() - identity.partitions.keys()
                    if missing and (
                        self._create or attempt < START_ATTEMPTS_MAX
                    ):  # a broker that just starts
                        raise KafkaTimeoutError(f"no {min(missing)} yet")
                    self._trusted = self._compared = identity
                    if self._create:
                        self._partitions |= identity.partitions
                return
            except (KafkaError, OSError, TimeoutError, LogUnavailable) as error:
                await self.close()
                if attempt == START_ATTEMPTS_MAX:
                    raise LogUnavailable(f"Kafka does not answer: {error}") from error
                await asyncio.sleep(0.2 * attempt)

    async def close(self) -> None:
        await self._accumulator.close()
        producer, self._producer = self._producer, None
        if producer is not None:
            await bounded(producer.stop())
        await self._queries.close()

    def partitions(self) -> dict[str, int]:
        return dict(self._partitions)

    def submit(self, entries: Sequence[Entry]) -> Appended:
        return self._accumulator.submit(entries)

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        return await self._accumulator.append(entries)

    async def trouble(self) -> str:
        """A broker that cannot write gives its partitions away, or has no heads to tell of."""
        return ""

    async def heads(self, topic: str) -> list[Position]:
        seen = self._doubts.seen()
        ends = await self._queries.ends(self._parts(topic))
        heads = self._positions(topic, [end - 1 for end in ends])
        self._doubts.heads(heads, seen)
        return heads

    async def starts(self, topic: str) -> list[Position]:
        return self._positions(topic, await self._queries.starts(self._parts(topic)))

    async def read(self, position: Position) -> Record | None:
        at = TopicPartition(self._name(position.topic), position.partition)
        one = await self._queries.record(at, position.offset)
        return None if one is None else record_of(one, position.topic, self.generation)

    async def identity(self) -> LogIdentity:
        self._compared = await self._queries.identity(
            {self._name(topic): topic for topic in self._wanted}
        )
        return self._compared

    async def assure(self, topic: str, since: int) -> None:
        if await self.identity() != self._trusted:
            self._doubts.add()
        self._doubts.check(since)

    async def seal(self, topics: Sequence[str]) -> None:
        counts = {self._name(topic): self._partitions[topic] for topic in topics}
        with answering():
            producer = (
                await self._new_producer()
            )  # the other one ends when an append of its own is refused
        try:
            await seal(self._bootstrap, producer, counts)
        finally:
            await bounded(producer.stop())

    async def sealed(self, topic: str) -> bool:
        return await is_sealed(self._bootstrap, self._name(topic))

    def reader(self, topic: str, group: str) -> KafkaReader:
        return KafkaReader(
            self._bootstrap,
            (topic, self._name(topic)),
            group,
            self._instance,
            self.generation,
        )

    def _name(self, topic: str) -> str:
        """The topic's name on the cluster."""
        return (
            topic
            if self.generation == GENERATION_FIRST
            else f"{topic}.g{self.generation}"
        )

    async def _send(
        self, topic: str, partition: int, records: list[tuple[bytes, bytes]]
    ) -> list[int]:
        """Send one batch from the front of `records`; return its offsets, or raise LogUnavailable.

        The log tells once why appends fail, and once that none does any longer.
        """
        try:
            offsets = await self._send_batch(topic, partition, records)
        except LogUnavailable as error:
            self._failing.add((topic, partition))
            self._trouble.is_now(error.detail)
            raise
        if self._trouble.detail:
            self._failing.discard((topic, partition))
            if not self._failing:
                self._trouble.is_now("")
        return offsets

    async def _send_batch(
        self, topic: str, partition: int, records: list[tuple[bytes, bytes]]
    ) -> list[int]:
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
        self._doubts.check()
        floor = self._doubts.floor(topic, partition)
        try:
            sent = await producer.send_batch(
                batch, self._name(topic), partition=partition
            )
            base = (await sent).offset
        except (KafkaError, OSError) as error:
            await self._renew(producer, error)
            if isinstance(error, MessageSizeTooLargeError) and await is_sealed(
                self._bootstrap, self._name(topic)
            ):
                self.refused = True
                raise LogClosed from error
            raise LogUnavailable(
                f"Kafka did not take the batch: {type(error).__name__}"
            ) from error
        if base < 0:
            raise LogUnavailable("Kafka knows the batch, but no longer its offset.")
        if (
            floor < 0 and await self.identity() != self._trusted
        ):  # nothing was seen of this partition
            self._doubts.add()
        self._doubts.rises(Position(topic, partition, base, self.generation), floor)
        last = Position(topic, partition, base + taken - 1, self.generation)
        self._doubts.raised(last, records[taken - 1][1])
        return list(range(base, base + taken))

    def _parts(self, topic: str) -> list[TopicPartition]:
        return [
            TopicPartition(self._name(topic), partition)
            for partition in range(self._partitions[topic])
        ]

    def _positions(self, topic: str, offsets: Sequence[int]) -> list[Position]:
        return [
            Position(topic, partition, offset, self.generation)
            for partition, offset in enumerate(offsets)
        ]

    async def _renew(self, broken: AIOKafkaProducer, error: Exception) -> None:
        """After an error that is not retriable (lost sequence numbers, fencing) only a new producer
        goes on."""
        if getattr(error, "retriable", False):
            return
        async with self._renewing:
            renewed = self._producer is not broken
            if renewed:
                return
            try:
                self._producer = await self._new_producer()
            except (KafkaError, OSError) as failure:
                raise LogUnavailable(
                    f"Kafka does not answer: {type(failure).__name__}"
                ) from failure
            await bounded(broken.stop())

    async def _new_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=4 * BATCH_BYTES_MAX,
            compression_type=None,
            request_timeout_ms=int(CALL_SECONDS_MAX * 1_000),
            retry_backoff_ms=100,
            metadata_max_age_ms=60_000,
        )
        try:
            await producer.start()
        except BaseException:
            await bounded(producer.stop())
            raise
        return producer

    async def _create_topics(self) -> None:
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self._bootstrap,
            request_timeout_ms=int(CALL_SECONDS_MAX * 1_000),
        )
        try:
            await admin.start()
            known = set(await admin.list_topics())
            missing = [
                topic for topic in self._wanted if self._name(topic) not in known
            ]
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
                "max.message.bytes": str(MESSAGE_BYTES_MAX),
            },
        )
