"""The registry of personal data against the schema: what is in neither list fails here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query
from shared.store.targets import ELSEWHERE, STAYS, TABLES, TARGETS, TECHNICAL

SCHEMA = Query(
    name="schema",
    sql="SELECT table, groupArray(name) FROM system.columns WHERE database = currentDatabase() GROUP BY table",
)


@pytest.fixture
async def schema(engine_url: str) -> AsyncIterator[dict[str, set[str]]]:
    store = await Store.connect(engine_url)
    await migrate(store)
    yield {table: set(columns) for table, columns in await store.rows(SCHEMA)}
    await store.close()


async def test_every_table_is_a_target_or_says_why_it_stays(schema: dict[str, set[str]]) -> None:
    assert set(TABLES) | set(STAYS) == set(schema)
    assert not set(TABLES) & set(STAYS)
    assert all(len(why) > 10 for why in STAYS.values())


def test_every_topic_says_until_when_it_holds_what() -> None:
    assert {COMMANDS, IDENTITY, DELETIONS, DEAD} <= set(ELSEWHERE)
    assert all(len(why) > 10 for why in ELSEWHERE.values())


async def test_every_column_of_a_target_is_personal_or_technical(schema: dict[str, set[str]]) -> None:
    for table in TABLES:
        personal = {column for target in TARGETS if target.table == table for column in target.columns}
        assert personal <= schema[table], table
        unregistered = schema[table] - personal - TECHNICAL
        assert not unregistered, f"{table}: {unregistered}"
