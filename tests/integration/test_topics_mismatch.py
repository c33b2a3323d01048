"""Kafka's topics are not the tables' own any more: nothing is acknowledged that never appears, and it is told why."""

from __future__ import annotations

import asyncio
import shutil
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.tables.marks import Vouched
from shared.domain.errors import LogMismatch, LogUnavailable
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, Position, hash64
from shared.log.evidence import Standing, check
from shared.log.identity import Generation
from shared.log.kafka.log import KafkaLog
from shared.log.port import Entry
from shared.store.clickhouse.client import Store
from shared.store.generations import compared, current, take_on
from shared.store.logwatch import LogWatch
from tests.support.kafka import START_SECONDS_MAX, Cluster, _java, need_kafka

pytestmark = pytest.mark.kafka

COUNTS = {COMMANDS: 3, IDENTITY: 2, DELETIONS: 1, DEAD: 1}
SECONDS_MAX = 240.0


class Broker:
    """One node whose data may be put away and put back."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder / "node").start()
        self.bootstrap = self.cluster.bootstrap
        self._kept = folder
        self._data = self.cluster._running / "data-1"

    def keep(self, name: str) -> None:
        """A copy of everything it has."""
        self.cluster.kill(1)
        shutil.copytree(self._data, self._kept / name)
        self._start()

    def put(self, name: str) -> None:
        """What it had then."""
        self.cluster.kill(1)
        shutil.rmtree(self._data)
        shutil.copytree(self._kept / name, self._data)
        self._start()

    def be_another(self) -> None:
        """A new cluster at the same address."""
        self.cluster.kill(1)
        shutil.rmtree(self._data)
        name = urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
        config = str(self.cluster._running / "server-1.properties")
        _java("-Xmx128m", "kafka.tools.StorageTool", "format", "-g", "-t", name, "-c", config)
        self._start()

    def _start(self) -> None:
        self.cluster.restart(1)
        assert asyncio.run(self.cluster._answers(START_SECONDS_MAX))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    need_kafka()
    made = Broker(tmp_path)
    yield made
    made.cluster.close()


@pytest.fixture
async def known(broker: Broker, store: Store) -> Generation:
    """The log, taken on by the store."""
    log = KafkaLog(broker.bootstrap, COUNTS)
    await log.start()
    made = await take_on(log, store, 1)
    await log.close()
    assert await current(store) == made
    assert set(made.identity.topics) == set(COUNTS)
    assert all(len(one) == 32 for one in made.identity.topics.values())
    return made


@pytest.fixture
async def log(broker: Broker, known: Generation) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(broker.bootstrap, known.partitions, generation=known.number, create=False)
    await log.start()
    yield log
    await log.close()


class Writer:
    """Appends to one partition after the other, and keeps what was acknowledged."""

    def __init__(self, log: KafkaLog) -> None:
        self.acknowledged: dict[Position, bytes] = {}
        self.refused = 0
        self._log = log
        self._may = asyncio.Event()
        self._may.set()
        self._task = asyncio.create_task(self._write())

    async def pause(self) -> None:
        """None is on its way any more."""
        self._may.clear()
        await self._idle.wait()

    def go_on(self) -> None:
        self._may.set()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def more(self, count: int) -> None:
        goal = len(self.acknowledged) + count
        await eventually(lambda: done(len(self.acknowledged) >= goal), f"{count} more acknowledged")

    async def _write(self) -> None:
        self._idle = asyncio.Event()
        for number in range(1_000_000):
            self._idle.set()
            await self._may.wait()
            self._idle.clear()
            value = b"%d" % number
            try:
                (at,) = await self._log.append([Entry(COMMANDS, number % COUNTS[COMMANDS], b"", value)])
            except LogUnavailable:
                self.refused += 1
                await asyncio.sleep(0.05)
            else:
                self.acknowledged[at] = value


async def project(log: KafkaLog, store: Store) -> bool:
    """Position rows at the heads, as a projector leaves them."""
    tables = ClickHouseTables(store)
    for topic in (COMMANDS, IDENTITY):
        vouched = []
        for head in await log.heads(topic):
            record = await log.read(head)
            if record is not None:
                vouched.append(Vouched(head, 0, 0, hash64(record.value)))
        if vouched:
            await tables.write_state(topic, [], vouched)
    return True


async def done(value: Any) -> Any:
    return value


async def eventually(check: Callable[[], Awaitable[Any]], what: str) -> Any:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            with suppress(LogUnavailable):
                if found := await check():
                    return found
            await asyncio.sleep(0.05)
    raise AssertionError(what)


async def admin(broker: Broker, act: Callable[[Any], Awaitable[Any]]) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    try:
        await act(client)
    finally:
        await client.close()


async def removed(broker: Broker, writer: Writer) -> None:
    """A broker takes records until it has heard of it: those are gone with the topic, as all that was in it."""
    kept = dict(writer.acknowledged)
    await admin(broker, lambda client: client.delete_topics([COMMANDS]))
    writer.go_on()
    refused = writer.refused
    await eventually(lambda: done(writer.refused > refused), "the topic to be gone")
    writer.acknowledged = kept


async def remade(broker: Broker, writer: Writer) -> None:
    await removed(broker, writer)
    log = KafkaLog(broker.bootstrap, COUNTS)
    await log.start()
    await log.close()


async def more_partitions(broker: Broker, writer: Writer) -> None:
    from aiokafka.admin import NewPartitions

    counts = {COMMANDS: NewPartitions(COUNTS[COMMANDS] + 1)}
    await admin(broker, lambda client: client.create_partitions(counts))


async def older_copy(broker: Broker, writer: Writer) -> None:
    await away(broker, writer)
    await asyncio.to_thread(broker.put, "older")


async def another_cluster(broker: Broker, writer: Writer) -> None:
    await away(broker, writer)
    await asyncio.to_thread(broker.be_another)


async def away(broker: Broker, writer: Writer) -> None:
    """Who writes goes on, while the broker is away and when it comes back."""
    await asyncio.to_thread(broker.cluster.kill, 1)
    writer.go_on()


Mischief = Callable[[Broker, Writer], Awaitable[None]]

MISCHIEFS: dict[Mischief, str] = {
    removed: "removed", remade: "another", more_partitions: "partitions", older_copy: "older",
    another_cluster: "another",
}  # fmt: skip


@pytest.mark.parametrize("mischief", MISCHIEFS, ids=lambda mischief: mischief.__name__)
async def test_another_log_acknowledges_nothing_and_the_right_one_has_everything(
    broker: Broker, store: Store, known: Generation, log: KafkaLog, mischief: Mischief
) -> None:
    watch = LogWatch(log, store, known)
    await watch.start()
    writer = Writer(log)
    await writer.more(30)
    await writer.pause()
    await eventually(lambda: project(log, store), "positions")
    await asyncio.to_thread(broker.keep, "older")
    writer.go_on()
    await writer.more(30)
    await writer.pause()
    await eventually(lambda: project(log, store), "positions")
    await asyncio.to_thread(broker.keep, "right")
    following = asyncio.create_task(watch.follow())
    before = len(writer.acknowledged)
    await mischief(broker, writer)
    if mischief is not more_partitions:  # until that is seen records go where they belong
        writer.go_on()
    # A topic that is made anew is gone before.
    of_kind = lambda: done(watch.mismatch and watch.mismatch.kind == MISCHIEFS[mischief])  # noqa: E731
    await eventually(of_kind, "the mismatch")
    writer.go_on()
    refused = writer.refused
    await eventually(lambda: done(writer.refused > refused + 3), "refusals")
    assert len(writer.acknowledged) == before
    found = await eventually(lambda: compared(log, store, known), "what doctor says")
    assert found.kind == MISCHIEFS[mischief]

    await asyncio.to_thread(broker.put, "right")
    await eventually(lambda: done(watch.mismatch is None), "the right log")
    await writer.more(10)
    await writer.end()
    following.cancel()
    for at, value in writer.acknowledged.items():
        record = await log.read(at)
        assert record is not None
        assert record.value == value


async def test_records_that_retention_took_before_they_were_projected(
    broker: Broker, store: Store, known: Generation, log: KafkaLog
) -> None:
    await log.append([Entry(COMMANDS, 0, b"", b"%d" % number) for number in range(10)])
    await eventually(lambda: project(log, store), "positions")
    await forget(broker, Position(COMMANDS, 0, 9))
    await LogWatch(log, store, known).start()
    await log.append([Entry(COMMANDS, 0, b"", b"late %d" % number) for number in range(10)])
    await forget(broker, Position(COMMANDS, 0, 14))
    with pytest.raises(LogMismatch, match=r"records 10 to 14 of personlog.commands/0 before they were projected"):
        await LogWatch(log, store, known).start()
    standing = {0: Standing(Position(COMMANDS, 0, 9), 0)}
    log.trust(log.doubts)  # as of a reader that meets the gap before its watch has looked
    with pytest.raises(LogMismatch):
        await check(log, COMMANDS, standing, await log.starts(COMMANDS), log.doubts)


async def forget(broker: Broker, position: Position) -> None:
    from aiokafka.admin import RecordsToDelete
    from aiokafka.structs import TopicPartition

    at = TopicPartition(position.topic, position.partition)
    await admin(broker, lambda client: client.delete_records({at: RecordsToDelete(before_offset=position.next)}))
