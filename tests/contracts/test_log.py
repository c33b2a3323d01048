"""The contract of the log, held by every implementation: in memory, embedded, and Kafka from its jars."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from shared.domain.errors import Corrupt, LogUnavailable
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, Position
from shared.log.embedded.log import EmbeddedLog
from shared.log.memory import MemoryLog
from shared.log.port import Entry, Log, Reader, Record

PARTITIONS = {COMMANDS: 4, IDENTITY: 2, DELETIONS: 1, DEAD: 1}
SECONDS_MAX = 60.0

Open = Callable[[], Awaitable[Any]]


@pytest.fixture(
    params=[
        "memory",
        "embedded",
        pytest.param("kafka", marks=pytest.mark.kafka),
    ]
)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The implementation, and Kafka's address."""
    return request.param, request.getfixturevalue("kafka") if request.param == "kafka" else ""


@pytest.fixture
async def opened(kind: tuple[str, str], tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one more instance of the same log; all are closed at the end."""
    logs: list[Any] = []
    memory = MemoryLog(PARTITIONS)
    name, bootstrap = kind

    async def make() -> Any:
        if name == "memory":
            return memory
        if name == "embedded":
            log: Any = EmbeddedLog(tmp_path / "log", PARTITIONS)
        else:
            from shared.log.kafka.log import KafkaLog

            log = KafkaLog(bootstrap, PARTITIONS)
        await log.start()
        logs.append(log)
        return log

    yield make
    for log in logs:
        await log.close()


@pytest.fixture
async def log(opened: Open) -> Log:
    made: Log = await opened()
    return made


def entry(partition: int, text: str) -> Entry:
    return Entry(COMMANDS, partition, b"key", text.encode())


async def read(reader: Reader, count: int, without: Collection[int] = ()) -> list[Record]:
    """Fetch until `count` records came."""
    found: list[Record] = []
    deadline = time.monotonic() + SECONDS_MAX
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records came"
        found += await reader.fetch(records_max=1_000, wait_seconds=0.1, without=without)
    return found


async def sought(reader: Reader, *partitions: int) -> None:
    """Start and seek to the beginning of partitions once they are assigned."""
    await reader.start()
    await holding(reader, *partitions)
    for partition in partitions:
        reader.seek(Position(COMMANDS, partition, -1))


async def holding(reader: Reader, *partitions: int) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not reader.assigned() >= set(partitions):
        assert time.monotonic() < deadline, f"only {reader.assigned()} assigned"
        await reader.fetch(records_max=10, wait_seconds=0.05)


async def test_partitions_that_are_left_out_of_a_fetch_go_on_where_they_were(log: Log) -> None:
    await log.append([entry(number % 4, str(number)) for number in range(40)])
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0, 1, 2, 3)
    found = await read(reader, 20, without={1, 3})
    assert await reader.fetch(records_max=1_000, wait_seconds=0.0, without={0, 1, 2, 3}) == []
    assert {record.partition for record in found} == {0, 2}
    rest = await read(reader, 20)
    await reader.close()
    assert [record.value for record in rest if record.partition == 3] == [f"{n}".encode() for n in range(3, 40, 4)]
    assert {record.partition for record in rest} == {1, 3}


async def test_records_of_any_size_come_all(log: Log) -> None:
    """However much one partition has: a fetch may be bounded in bytes, and goes on without being woken."""
    await log.append([entry(0, str(number) * 300_000) for number in range(10)])
    await log.append([entry(0, "y" * 700_000) for _ in range(10)])
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0, 1, 2, 3)
    found = await read(reader, 20)
    await reader.close()
    assert [record.offset for record in found] == list(range(20))


async def test_submit_is_append_without_a_task(log: Log) -> None:
    futures = [log.submit([entry(number % 4, str(number)), entry(0, "x")]) for number in range(20)]
    positions = await asyncio.gather(*futures)
    heads = {head.partition: head.offset for head in await log.heads(COMMANDS)}
    assert [position.partition for position, _ in positions] == [number % 4 for number in range(20)]
    assert max(other.offset for _, other in positions) == heads[0]
    given = [position for pair in positions for position in pair]
    assert len(set(given)) == 40
    for partition, offset in heads.items():
        assert sorted(one.offset for one in given if one.partition == partition) == list(range(offset + 1))


async def test_offsets_are_dense_from_zero_and_each_entry_gets_its_own(log: Log) -> None:
    first = await log.append([entry(0, "a"), entry(1, "b"), entry(0, "c")])
    second = await log.append([entry(0, "d")])
    assert [*first, *second] == [
        Position(COMMANDS, 0, 0),
        Position(COMMANDS, 1, 0),
        Position(COMMANDS, 0, 1),
        Position(COMMANDS, 0, 2),
    ]


async def test_records_come_back_as_they_were_appended_and_in_order(log: Log) -> None:
    await log.append([entry(2, str(number)) for number in range(50)])
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0, 1, 2, 3)
    found = await read(reader, 50)
    await reader.close()
    assert [record.value for record in found] == [str(number).encode() for number in range(50)]
    assert [record.offset for record in found] == list(range(50))
    assert all(record[:2] == (COMMANDS, 2) and record.key == b"key" for record in found)


async def test_fifty_appenders_at_once_lose_nothing_and_double_nothing(log: Log) -> None:
    async def one(name: int) -> list[Position]:
        return [(await log.append([entry(name % 4, f"{name}.{turn}")]))[0] for turn in range(20)]

    positions = [position for many in await asyncio.gather(*map(one, range(50))) for position in many]
    assert len(set(positions)) == 1_000
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0, 1, 2, 3)
    found = await read(reader, 1_000)
    await reader.close()
    assert {record.value for record in found} == {f"{n}.{t}".encode() for n in range(50) for t in range(20)}
    for name in range(50):
        mine = [record.value for record in found if record.value.startswith(f"{name}.".encode())]
        assert mine == [f"{name}.{turn}".encode() for turn in range(20)]


async def test_a_reader_goes_on_behind_the_position_it_seeks(log: Log) -> None:
    await log.append([entry(0, str(number)) for number in range(10)])
    reader = log.reader(COMMANDS, "g")
    await reader.start()
    await holding(reader, 0)
    reader.seek(Position(COMMANDS, 0, 6))
    assert [record.offset for record in await read(reader, 3)] == [7, 8, 9]
    reader.seek(Position(COMMANDS, 0, 8))
    assert [record.offset for record in await read(reader, 1)] == [9]
    await reader.close()


async def test_a_partition_is_not_fetched_before_it_is_sought(log: Log) -> None:
    await log.append([entry(0, "a"), entry(1, "b")])
    reader = log.reader(COMMANDS, "g")
    await reader.start()
    await holding(reader, 0, 1)
    assert await reader.fetch(records_max=10, wait_seconds=0.3) == []
    reader.seek(Position(COMMANDS, 1, -1))
    assert [record.partition for record in await read(reader, 1)] == [1]
    await reader.close()


async def test_a_fetch_returns_at_most_what_was_asked_for(log: Log) -> None:
    await log.append([entry(0, str(number)) for number in range(30)])
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0)
    found: list[Record] = []
    while len(found) < 30:
        part = await reader.fetch(records_max=7, wait_seconds=1.0)
        assert len(part) <= 7
        found += part
    await reader.close()
    assert [record.offset for record in found] == list(range(30))


async def test_a_waiting_fetch_returns_when_something_comes(log: Log) -> None:
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0)
    waiting = asyncio.create_task(reader.fetch(records_max=10, wait_seconds=100 * SECONDS_MAX))
    await asyncio.sleep(0)
    assert not waiting.done()
    await log.append([entry(0, "now")])
    async with asyncio.timeout(SECONDS_MAX):
        found = await waiting
        while not found:  # a fetch may return early with nothing
            found = await reader.fetch(records_max=10, wait_seconds=100 * SECONDS_MAX)
    assert [record.value for record in found] == [b"now"]
    await reader.close()


async def test_two_members_share_the_partitions_and_together_see_everything(opened: Open) -> None:
    log, other = await opened(), await opened()
    readers = [log.reader(COMMANDS, "g"), other.reader(COMMANDS, "g")]
    await readers[0].start()
    await holding(readers[0], 0, 1, 2, 3)
    await readers[1].start()
    deadline = time.monotonic() + SECONDS_MAX
    while not all(len(reader.assigned()) == 2 for reader in readers):
        assert time.monotonic() < deadline
        await asyncio.gather(*(reader.fetch(records_max=10, wait_seconds=0.05) for reader in readers))
    assert readers[0].assigned() | readers[1].assigned() == {0, 1, 2, 3}
    for reader in readers:
        for partition in reader.assigned():
            reader.seek(Position(COMMANDS, partition, -1))
    await log.append([entry(number % 4, str(number)) for number in range(100)])
    found = [record for reader in readers for record in await read(reader, 50)]
    assert sorted(int(record.value) for record in found) == list(range(100))
    await readers[1].close()
    await holding(readers[0], 0, 1, 2, 3)
    await readers[0].close()


async def test_heads_are_the_last_records_and_before_the_first_one_minus_one(log: Log) -> None:
    await log.append([entry(1, "a"), entry(1, "b"), entry(3, "c")])
    assert [position.offset for position in await log.heads(COMMANDS)] == [-1, 1, -1, 0]
    assert [position.offset for position in await log.heads(IDENTITY)] == [-1, -1]
    assert log.partitions() == PARTITIONS


async def test_a_record_of_nine_hundred_kilobytes_goes_through_beside_small_ones(log: Log) -> None:
    large = "x" * 900_000
    await asyncio.gather(*(log.append([entry(0, large), entry(0, "small")]) for _ in range(3)))
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0)
    assert [len(record.value) for record in await read(reader, 6)] == [900_000, 5] * 3
    await reader.close()


async def test_a_cancelled_append_does_not_harm_its_neighbours(log: Log) -> None:
    tasks = [asyncio.create_task(log.append([entry(0, str(number))])) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kept = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(kept) >= 13
    assert len({positions[0] for positions in kept}) == len(kept)


async def test_what_another_instance_appends_is_seen(opened: Open) -> None:
    log, other = await opened(), await opened()
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0)
    for number in range(5):
        await (other if number % 2 else log).append([entry(0, str(number))])
    assert [record.value for record in await read(reader, 5)] == [b"0", b"1", b"2", b"3", b"4"]
    await reader.close()


async def test_records_that_are_gone_are_an_error_and_never_a_gap(log: Log) -> None:
    """How records go differs: retention in memory and embedded, a position past the end on Kafka."""
    await log.append([entry(0, "a")])
    await log.append([entry(0, "b")])
    reader = log.reader(COMMANDS, "g")
    await reader.start()
    await holding(reader, 0)
    if isinstance(log, MemoryLog):
        log.forget(COMMANDS, 0, 1)
        reader.seek(Position(COMMANDS, 0, -1))
    elif isinstance(log, EmbeddedLog):
        assert await log.forget(2**62) == 2
        reader.seek(Position(COMMANDS, 0, -1))
    else:
        reader.seek(Position(COMMANDS, 0, 70))
    with pytest.raises(Corrupt):
        await read(reader, 1)
    await reader.close()


async def test_the_embedded_log_forgets_a_partitions_last_record_too_and_counts_on(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, {COMMANDS: 1})
    await log.start()
    await log.append([entry(0, "ann@example.com")])
    assert await log.forget(2**62) == 1
    assert await log.forget(2**62) == 0
    assert b"ann@example.com" not in b"".join(path.read_bytes() for path in tmp_path.glob("log.sqlite*"))
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0)
    with pytest.raises(Corrupt):
        await read(reader, 1)
    reader.seek(Position(COMMANDS, 0, 0))
    (appended,) = await log.append([entry(0, "b")])
    assert appended.offset == 1
    assert [record.value for record in await read(reader, 1)] == [b"b"]
    await reader.close()
    await log.close()


async def delete_records(log: Any, position: Position) -> None:
    """Kafka's records up to a position, as retention would, but at once."""
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
    from aiokafka.structs import TopicPartition

    admin = AIOKafkaAdminClient(bootstrap_servers=log._bootstrap)
    await admin.start()
    await admin.delete_records({
        TopicPartition(position.topic, position.partition): RecordsToDelete(before_offset=position.next)
    })
    await admin.close()


async def test_a_log_is_known_by_its_identity_whoever_opens_it(opened: Open) -> None:
    log, other = await opened(), await opened()
    identity = await log.identity()
    assert identity.id
    assert identity.partitions == PARTITIONS
    assert await other.identity() == identity


async def test_starts_are_where_reading_may_begin(log: Log) -> None:
    assert [position.offset for position in await log.starts(COMMANDS)] == [0, 0, 0, 0]
    await log.append([entry(0, "a"), entry(1, "b")])
    await log.append([entry(0, "c")])
    assert [position.offset for position in await log.starts(COMMANDS)] == [0, 0, 0, 0]
    if isinstance(log, MemoryLog):
        log.forget(COMMANDS, 0, 2)
    elif isinstance(log, EmbeddedLog):
        await log.forget(2**62)
        assert [position.offset for position in await log.starts(COMMANDS)] == [2, 1, 0, 0]
    else:
        await delete_records(log, Position(COMMANDS, 0, 1))
    assert (await log.starts(COMMANDS))[0] == Position(COMMANDS, 0, 2)
    assert await log.read(Position(COMMANDS, 0, 1)) is None


async def test_a_record_is_read_by_its_position(log: Log) -> None:
    await log.append([entry(0, str(number)) for number in range(5)])
    await log.append([entry(0, "last"), entry(3, "other")])
    for offset, text in ((0, b"0"), (3, b"3"), (5, b"last")):
        record = await log.read(Position(COMMANDS, 0, offset))
        assert record is not None
        assert (record.position, record.key, record.value) == (Position(COMMANDS, 0, offset), b"key", text)
    assert await log.read(Position(COMMANDS, 0, 6)) is None
    assert await log.read(Position(COMMANDS, 1, 0)) is None
    assert await log.read(Position(COMMANDS, 0, -1)) is None


async def test_while_a_log_is_doubted_it_acknowledges_nothing(log: Log) -> None:
    await log.append([entry(0, "a")])
    log.doubt()
    doubts = log.doubts
    with pytest.raises(LogUnavailable):
        await log.append([entry(0, "b")])
    log.doubt()
    log.trust(doubts)
    with pytest.raises(LogUnavailable):
        await log.append([entry(0, "c")])
    log.trust(log.doubts)
    (position,) = await log.append([entry(0, "d")])
    assert position.offset > 0


async def test_what_was_read_before_a_doubt_is_never_assured(log: Log) -> None:
    """It may be of the log that lay there meanwhile, whatever was found since."""
    before = log.doubts
    await log.assure(COMMANDS, before)
    log.doubt()
    with pytest.raises(LogUnavailable):
        await log.assure(COMMANDS, log.doubts)
    log.trust(log.doubts)
    with pytest.raises(LogUnavailable):
        await log.assure(COMMANDS, before)
    await log.assure(COMMANDS, log.doubts)
