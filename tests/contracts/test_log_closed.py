"""A closed topic takes nothing more, whoever appends, and keeps what it has; the next generation lies beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.domain.errors import LogClosed, LogUnavailable
from shared.domain.ids import COMMANDS, DEAD, IDENTITY, Position
from shared.log.embedded.log import EmbeddedLog
from shared.log.memory import MemoryLog
from shared.log.port import EMPTY, Entry
from tests.contracts.test_log import PARTITIONS, Open, entry, kind, log, opened, read, sought  # noqa: F401  # fixtures

WIDER = PARTITIONS | {COMMANDS: 7}


async def test_a_closed_topic_takes_nothing_more_from_anybody(opened: Open) -> None:  # noqa: F811
    log, other = await opened(), await opened()  # noqa: F811
    for one in (log, other):  # both have appended before, and know where the log ends
        await one.append([entry(number % 4, "before") for number in range(8)])
    heads = await log.heads(COMMANDS)
    await log.seal([COMMANDS])
    for one in (log, other, await opened()):
        with pytest.raises(LogClosed):
            await one.append([entry(1, "behind")])
        assert [head.offset for head in await one.heads(COMMANDS)] == [head.offset for head in heads]


async def test_the_other_topics_go_on_until_they_are_closed_too(opened: Open) -> None:  # noqa: F811
    log, other = await opened(), await opened()  # noqa: F811
    await log.seal([COMMANDS])
    assert (await other.append([Entry(DEAD, 0, b"", b"dead")]))[0].offset == 0
    await other.seal([COMMANDS, DEAD])  # the first one once more
    with pytest.raises(LogClosed):
        await log.append([Entry(DEAD, 0, b"", b"dead")])
    assert (await log.append([Entry(IDENTITY, 1, b"", b"x")]))[0].offset == 0


async def test_one_append_into_a_closed_and_an_open_topic_is_refused(log: Any) -> None:  # noqa: F811
    await log.seal([IDENTITY])
    with pytest.raises(LogClosed):
        await log.append([entry(0, "a"), Entry(IDENTITY, 0, b"", b"x")])


async def test_what_was_appended_before_is_still_read(log: Any) -> None:  # noqa: F811
    await log.append([entry(0, str(number)) for number in range(5)])
    await log.seal([COMMANDS])
    reader = log.reader(COMMANDS, "g")
    await sought(reader, 0)
    found = [record.value for record in await read(reader, 5)]
    assert [value for value in found if value != EMPTY] == [b"0", b"1", b"2", b"3", b"4"]
    await reader.close()


async def test_appends_that_race_with_the_closing_are_acknowledged_below_the_last_record_or_refused(
    opened: Open,  # noqa: F811
) -> None:
    log, other = await opened(), await opened()  # noqa: F811
    acknowledged: list[Position] = []

    async def go(one: Any) -> None:
        while True:
            try:
                acknowledged.extend(await one.append([entry(0, "x"), entry(2, "y")]))
            except LogUnavailable:
                return
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(go(one)) for one in (log, other, log, other)]
    while len(acknowledged) < 40:
        await asyncio.sleep(0.001)
    await log.seal([COMMANDS])
    heads = {head.partition: head.offset for head in await log.heads(COMMANDS)}
    await asyncio.gather(*tasks)
    assert {head.partition: head.offset for head in await other.heads(COMMANDS)} == heads
    assert all(position.offset <= heads[position.partition] for position in acknowledged)


@pytest.fixture
async def second(kind: tuple[str, str], log: Any, tmp_path: Path) -> AsyncIterator[Any]:  # noqa: F811
    """The next generation of the log, with other partition counts."""
    name, bootstrap = kind
    if name == "memory":
        made: Any = MemoryLog(WIDER, generation=2, name="second")
    elif name == "embedded":
        made = EmbeddedLog(tmp_path / "log", WIDER, 2)
    else:
        from shared.log.kafka.log import KafkaLog

        made = KafkaLog(bootstrap, WIDER, generation=2)
    await made.start()
    yield made
    await made.close()


async def test_the_next_generation_begins_anew_beside_the_closed_one(log: Any, second: Any) -> None:  # noqa: F811
    await log.append([entry(0, "first")])
    await log.seal([COMMANDS])
    (position,) = await second.append([entry(6, "second")])
    assert (position, second.partitions()) == (Position(COMMANDS, 6, 0, 2), WIDER)
    assert position.version > (await log.heads(COMMANDS))[0].version
    assert (await log.identity()) != (await second.identity())
    reader = second.reader(COMMANDS, "g")
    await sought(reader, *range(7))
    (record,) = await read(reader, 1)
    assert (record.value, record.generation) == (b"second", 2)
    await reader.close()


async def test_the_embedded_log_forgets_what_former_generations_hold_too(tmp_path: Path) -> None:
    logs = [EmbeddedLog(tmp_path, {COMMANDS: 1}, number) for number in (1, 2, 3)]
    for number, one in enumerate(logs, start=1):
        await one.start()
        await one.append([Entry(COMMANDS, 0, b"", f"ann{number}@example.com".encode())])
        await one.append([Entry(COMMANDS, 0, b"", f"bob{number}@example.com".encode())])
    await logs[0].seal([COMMANDS])
    assert await logs[1].forget(2**62) == 4  # its own and that of the first; the third is not its affair
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("log.sqlite*"))
    assert [number for number in (1, 2, 3) if b"@example.com" in held and f"ann{number}@".encode() in held] == [3]
    assert await logs[2].forget(2**62) == 2
    assert b"@example.com" not in b"".join(path.read_bytes() for path in tmp_path.rglob("log.sqlite*"))
    assert [(await one.heads(COMMANDS))[0].offset for one in logs] == [1, 1, 1]
    with pytest.raises(LogClosed):
        await logs[0].append([Entry(COMMANDS, 0, b"", b"x")])
    for one in logs:
        await one.close()
