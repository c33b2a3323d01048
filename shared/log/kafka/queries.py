"""What a cluster is asked of its topics: what they are known by, where they begin and end, one
record. Never writes anything.

The connection is replaced when it has answered nothing for a while: a client whose background
task has died, or that waits for metadata which never come, would fail for ever beside a cluster
that is well, and the log would refuse for ever with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.domain.errors import LogUnavailable
from shared.log.identity import LogIdentity
from shared.log.kafka.identity import IdentityRequest, identity_in
from shared.log.kafka.reader import CALL_SECONDS_MAX, bounded
from shared.log.port import HEADS_SECONDS_MAX

NODE_SECONDS_MAX = 1.0
"""One broker's answer to what any of them knows; then the next is asked."""

SILENT_SECONDS_MAX = CALL_SECONDS_MAX
"""A connection that has answered nothing for so long is replaced. Not sooner: a new one must find a
broker first, and the old one may be about to learn of a new leader."""

Ask = Callable[[AIOKafkaConsumer, list[TopicPartition]], Awaitable[dict[Any, int]]]


class _Connection(NamedTuple):
    consumer: AIOKafkaConsumer
    """Of no group, and of no topic but while it reads one record."""
    client: AIOKafkaClient

    async def stop(self) -> None:
        await bounded(self.consumer.stop())
        await bounded(self.client.close())


class KafkaQueries:
    """Questions to one cluster. Each raises LogUnavailable."""

    def __init__(self, bootstrap: Sequence[str]) -> None:
        self._bootstrap = list(bootstrap)
        self._open = False
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._failing_since: float | None = None
        self._reading = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()
        self._node: int | None = None

    async def start(self) -> None:
        """Connect. Raises KafkaError, OSError and TimeoutError."""
        self._connection = await self._connect()
        self._open = True

    async def close(self) -> None:
        self._open = False
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled() and connecting.exception() is None:
                await connecting.result().stop()
        self._drop()
        await asyncio.gather(*self._stopping)

    async def ends(self, parts: list[TopicPartition]) -> list[int]:
        """The offset behind the last record of each."""
        return await self._offsets(parts, lambda consumer, of: consumer.end_offsets(of))

    async def starts(self, parts: list[TopicPartition]) -> list[int]:
        """The offset of the first record of each that is kept."""
        return await self._offsets(
            parts, lambda consumer, of: consumer.beginning_offsets(of)
        )

    async def record(self, at: TopicPartition, offset: int) -> Any:
        """aiokafka's record; None when there is none at that offset."""
        if offset < 0:
            return None
        async with self._reading, self._asking() as (consumer, _):
            if offset >= (await consumer.end_offsets([at]))[at]:
                return None
            consumer.assign([at])
            consumer.seek(at, offset)
            try:
                one = await consumer.getone(at)
            except OffsetOutOfRangeError:
                return None
            finally:
                consumer.assign([])
        return one if one.offset == offset else None

    async def identity(self, names: Mapping[str, str]) -> LogIdentity:
        """What the cluster and its topics are known by; `names` are our names for them, by the
        cluster's. As the first broker says that answers; that of last time is asked first, for one
        may hang."""
        failure: Exception = LogUnavailable("Kafka names no broker.")
        async with self._asking() as (_, client):
            nodes = [broker.nodeId for broker in client.cluster.brokers()]
            for node in sorted(nodes, key=lambda node: node != self._node):
                try:
                    async with asyncio.timeout(NODE_SECONDS_MAX):
                        answer = await client.send(node, IdentityRequest(list(names)))
                except (KafkaError, OSError, TimeoutError) as error:
                    failure = error
                else:
                    self._node = node
                    return identity_in(answer, names)
            raise failure

    async def _offsets(self, parts: list[TopicPartition], ask: Ask) -> list[int]:
        async with self._asking() as (consumer, _):
            offsets = await ask(consumer, parts)
            return [offsets[part] for part in parts]

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[_Connection]:
        """The connection, for one question. KeyError is of aiokafka: two requests that time out
        together close their connection twice."""
        connection = None
        try:
            async with asyncio.timeout(HEADS_SECONDS_MAX):
                connection = await self._connected()
                yield connection
        except (KafkaError, OSError, TimeoutError, KeyError, LogUnavailable) as error:
            if connection is not None and connection is self._connection:
                self._failed()
            if isinstance(error, LogUnavailable):
                raise
            raise LogUnavailable(
                f"Kafka does not answer: {type(error).__name__}"
            ) from error
        self._failing_since = None

    def _failed(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since >= SILENT_SECONDS_MAX:
            self._failing_since = None
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            task = asyncio.create_task(connection.stop(), name="stop a Kafka client")
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def _connected(self) -> _Connection:
        """The connection, or a new one, whose making goes on when who asks has given up."""
        if not self._open:
            raise LogUnavailable
        if self._connection is not None:
            return self._connection
        if self._connecting is None:
            self._connecting = asyncio.create_task(
                self._connect(), name="connect to Kafka"
            )
        connecting = self._connecting
        try:
            self._connection = await asyncio.shield(connecting)
        finally:
            if connecting.done():
                self._connecting = None
        return self._connection

    async def _connect(self) -> _Connection:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            request_timeout_ms=int(CALL_SECONDS_MAX * 1_000),
        )
        client = AIOKafkaClient(
            bootstrap_servers=self._bootstrap,
            request_timeout_ms=int(CALL_SECONDS_MAX * 1_000),
            metadata_max_age_ms=60_000,
        )
        try:
            await consumer.start()
            await client.bootstrap()
        except BaseException:
            await _Connection(consumer, client).stop()
            raise
        return _Connection(consumer, client)
