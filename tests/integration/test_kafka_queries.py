"""What a log on Kafka asks of its cluster goes on when the client that asks is no longer of use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shared.domain.errors import LogClosed, LogUnavailable
from shared.domain.ids import COMMANDS, Position
from shared.log.port import Entry
from tests.support.kafka import Cluster, empty

pytestmark = pytest.mark.kafka

SECONDS_MAX = 120.0

LOOKS_MAX = 10
"""Each is bounded in time by itself; the second replaces the client, and the third is answered."""


@pytest.fixture
async def log(kafka: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    from shared.log.kafka.log import KafkaLog

    monkeypatch.setattr("shared.log.kafka.queries.SILENT_SECONDS_MAX", 0.0)
    started = KafkaLog(kafka, {COMMANDS: 2})
    await started.start()
    await started.append([Entry(COMMANDS, 0, b"key", b"value")])
    yield started
    await started.close()


async def reading_ended(queries: Any) -> None:
    """What fetches records has died."""
    queries._connection.consumer._fetcher._fetch_task.cancel()


async def metadata_ended(queries: Any) -> None:
    """What brings news of brokers has died, and those that it knew are gone."""
    for client in (queries._connection.client, queries._connection.consumer._client):
        client._sync_task.cancel()
        client.cluster._brokers.clear()
        for connection in list(client._conns.values()):
            connection.close()


@pytest.mark.parametrize("harm", [reading_ended, metadata_ended])
async def test_a_client_that_answers_nothing_any_more_is_replaced(log: Any, harm: Callable[[Any], Any]) -> None:
    before = await log.identity()
    await harm(log._queries)
    with pytest.raises(LogUnavailable):
        await log.read(Position(COMMANDS, 0, 0))
    for _ in range(LOOKS_MAX):
        try:
            record, identity = await log.read(Position(COMMANDS, 0, 0)), await log.identity()
            heads = await log.heads(COMMANDS)
        except LogUnavailable:
            continue
        break
    else:
        pytest.fail("the client was not replaced")
    assert (record.value, identity, heads[0].offset) == (b"value", before, 0)
    assert await log.append([Entry(COMMANDS, 0, b"key", b"later")]) == [Position(COMMANDS, 0, 1)]


@pytest.mark.fault
async def test_topics_made_anew_take_records_also_after_a_kill(kafka_cluster: Cluster) -> None:
    """Of a topic that was closed, deleted and made again, Kafka 4 has the old limit in force after a restart."""
    from shared.log.kafka.log import KafkaLog

    address = await asyncio.to_thread(empty, kafka_cluster)
    closed = KafkaLog(address, {COMMANDS: 2})
    await closed.start()
    await closed.seal([COMMANDS])
    await closed.close()
    await asyncio.to_thread(empty, kafka_cluster)
    anew = KafkaLog(address, {COMMANDS: 2})
    await anew.start()
    try:
        await anew.append([Entry(COMMANDS, 0, b"key", b"before")])
        kafka_cluster.kill(1)
        kafka_cluster.restart(1)
        await asyncio.to_thread(kafka_cluster.wait_whole)
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                try:
                    positions = await anew.append([Entry(COMMANDS, 0, b"key", b"after")])
                    break
                except LogClosed:
                    pytest.fail("the limit of the topic that was deleted is in force")
                except LogUnavailable:
                    await asyncio.sleep(0.1)
        assert positions[0].offset >= 1
    finally:
        await anew.close()
