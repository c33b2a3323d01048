"""The search table on the real engine: what the feeder writes is what persons are, whatever happened in between."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import orjson
import pytest

from services.projector.search import Feeder
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY
from shared.log.memory import MemoryLog
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.search import document_of, path_of
from tests.support import history
from tests.support.tier import sized

START = 1_795_000_000_000_000
PARTITIONS = {COMMANDS: 4, IDENTITY: 2, DELETIONS: 1, DEAD: 1}


async def rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    return await store.rows(Query(name="test", sql=sql))


async def living(store: Store) -> dict[UUID, Any]:
    columns = "fragment, created_at, distinct_ids, toString(properties)"
    sql = f"SELECT {columns} FROM search FINAL WHERE project = 1 AND living = 1"
    return {row[0]: (row[1], sorted(row[2]), orjson.loads(row[3])) for row in await rows(store, sql)}


def expected(log: MemoryLog) -> dict[UUID, Any]:
    return {
        root: (one["created_at"], sorted(one["distinct_ids"]), document_of(one["properties"]))
        for root, one in history.oracle_of(log).persons().items()
    }


@pytest.mark.parametrize("seed", range(3))
async def test_the_table_holds_every_living_person_after_any_history(store: Store, seed: int) -> None:
    """Fed in pieces, by two feeders that take turns and know nothing of each other."""
    log = MemoryLog(PARTITIONS)
    feeders = [Feeder(store, PARTITIONS), Feeder(store, PARTITIONS)]
    chosen = random.Random(seed)
    commands = history.commands(seed, 600, 60, START)
    while commands:
        count = chosen.randrange(1, 200)
        await history.append(log, *commands[:count])
        commands = commands[count:]
        await history.projected(store, log)
        if chosen.random() < 0.7:
            await chosen.choice(feeders).feed()
    for feeder in feeders:
        await feeder.feed()
    assert await living(store) == expected(log)
    assert len(expected(log)) > 10
    assert await feeders[1].feed() == 0  # nothing changed: nothing is written
    fed = await rows(store, "SELECT count() FROM search FINAL WHERE project = 0")
    assert fed[0][0] == 6 - 1  # every partition that has records; project 1 has one of identity's two


class Moving:
    """A store under which the world moves on after every query."""

    def __init__(self, store: Store, step: Callable[[], Awaitable[None]]) -> None:
        self._store, self._step = store, step

    async def rows(self, query: Query, **parameters: Any) -> list[tuple[Any, ...]]:
        found = await self._store.rows(query, **parameters)
        await self._step()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("seed", range(sized(dev=1, ci=4, soak=4)))
async def test_what_changes_between_two_queries_of_a_round_is_fed_by_the_next(store: Store, seed: int) -> None:
    log = MemoryLog(PARTITIONS)
    commands = history.commands(seed, sized(dev=300, ci=600, soak=600), 250, START)
    chosen = random.Random(seed)

    async def step() -> None:
        count = chosen.randrange(0, 25)
        await history.append(log, *commands[:count])
        del commands[:count]
        await history.projected(store, log)

    feeder = Feeder(Moving(store, step), PARTITIONS)  # type: ignore[arg-type]
    while commands:
        await feeder.feed()
        await step()
    while await feeder.feed():
        pass
    assert await living(store) == expected(log)


async def test_an_older_reading_never_replaces_a_newer_one(store: Store) -> None:
    """A feeder that was stopped after it read writes last, and changes nothing."""
    log = MemoryLog(PARTITIONS)
    commands = history.commands(5, 300, 30, START)
    await history.append(log, *commands[:150])
    await history.projected(store, log)
    slow = Feeder(store, PARTITIONS)
    keys = await rows(store, "SELECT DISTINCT project, fragment FROM timeline WHERE project = 1")
    stale = [line async for line in slow._lines(keys)]  # type: ignore[arg-type]  # rows are keys
    await history.append(log, *commands[150:])
    await history.projected(store, log)
    await Feeder(store, PARTITIONS).feed()
    await store.insert_json("search", stale)
    assert await living(store) == expected(log)


@pytest.mark.parametrize("name", ["a", "a.b", "%", "", "a%2Eb", "..", "$x", "ключ", "`", "a b", "'"])
def test_a_name_is_one_step_of_a_path_and_no_two_are_the_same(name: str) -> None:
    others = {path_of(one) for one in ("a", "a.b", "%", "a%2Eb", "..", "$x", "ключ", "`", "a b", "'") if one != name}
    assert "." not in path_of(name) and path_of(name)
    assert path_of(name) not in others


def test_a_document_keeps_plain_values_and_drops_nulls() -> None:
    sent = {"a": 1, "b": 1.5, "c": True, "d": None, "e": [1, None], "f": {}, "g.h": "x"}
    assert document_of(sent) == {"a": 1, "b": 1.5, "c": True, "e": "[1,null]", "f": "{}", "g%2Eh": "x"}
