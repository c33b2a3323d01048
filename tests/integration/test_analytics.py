"""docs/analytics.md: every query on it runs as it stands, over histories whose answers are known."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import clickhouse_connect
import pytest
from clickhouse_driver import Client

from bench.analytics import query
from shared.runtime.settings import OWNER
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query
from shared.store.clickhouse.roles import ANALYST, ANALYST_VIEWS, DATABASE
from tests.support.analyst import Asker
from tests.support.engine import EngineProcess
from tests.support.processes import ROOT

ADA, BOB, EVE = (UUID(int=number) for number in (1, 2, 3))
"""Ada and Eve are one person now; Bob is by himself."""

HISTORIES: dict[UUID, tuple[tuple[str, str], ...]] = {
    ADA: (("2025-01-01", '"free"'), ("2025-01-31", '"trial"'), ("2025-03-02", '"pro"')),
    BOB: (("2025-06-01", '"free"'), ("2025-09-09", '"trial"'), ("2025-12-31", "")),
    EVE: (("2024-12-02", '"free"'),),
}


@pytest.fixture
async def store(engine_url: str) -> AsyncIterator[Store]:
    store = await Store.connect(engine_url)
    await _fill(store)
    yield store
    await store.close()


async def _fill(store: Store) -> None:
    await migrate(store)
    for _ in range(2):  # the second time is a replay after a crash: the same rows, in other parts
        for fragment, history in HISTORIES.items():
            before = ""
            for version, (day, after) in enumerate(history, start=1):
                await store.insert("timeline", _change(fragment, version, day, before, after))
                before = after
    await store.insert("identity", {"project": [1], "fragment": [EVE], "version": [1], "root": [ADA]})


def _change(fragment: UUID, version: int, day: str, before: str, after: str) -> dict[str, list[Any]]:
    at = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000
    return {
        "project": [1], "fragment": [fragment], "version": [version], "topic": ["fragment.changed"], "at": [at],
        "stamp": [at], "command": [uuid4()], "keys": [["name", "plan", "seen"]], "kinds": [[1, 1, 1]],
        "before": [['"x"', before, ""]], "after": [['"x"', after, "1"]],
    }  # fmt: skip


async def test_transitions_count_each_change_once(store: Store) -> None:
    assert await store.rows(query("Transitions of a value")) == [
        ("", '"free"', 3, 3), ('"free"', '"trial"', 2, 2), ('"trial"', "", 1, 1), ('"trial"', '"pro"', 1, 1)
    ]  # fmt: skip


async def test_time_in_a_state_is_that_from_each_change_to_the_next(store: Store) -> None:
    free = 30 + 100 + 395
    assert await store.rows(query("Time in a state")) == [('"free"', free), ('"pro"', 305), ('"trial"', 30 + 113)]


async def test_a_funnel_goes_in_order_and_within_its_time(store: Store) -> None:
    assert await store.rows(query("A funnel over changes")) == [(1, 2), (3, 1)]


async def test_a_count_as_of_a_moment_knows_nothing_later(store: Store) -> None:
    assert await store.rows(query("Counts as of a moment")) == [('"free"', 2), ('"pro"', 1)]


async def test_persons_are_counted_once_with_the_newest_value_of_all_their_ids(store: Store) -> None:
    assert await store.rows(query("Persons instead of fragments")) == [('"pro"', 1)]


async def test_the_view_of_one_property_is_the_view_of_all_for_that_one(store: Store) -> None:
    columns = "fragment, stamp, before, after"
    one = Query(name="one", sql=f"SELECT {columns} FROM changes_of(key = 'plan') ORDER BY ALL")
    all_ = Query(name="all", sql=f"SELECT {columns} FROM property_changes WHERE key = 'plan' ORDER BY ALL")
    assert await store.rows(one) == await store.rows(all_) != []


DOCUMENT = (ROOT / "docs/analytics.md").read_text()
HEADINGS = re.findall(r"^## (.*)\n(?:(?!\n## )[\s\S])*?```sql\n", DOCUMENT, re.MULTILINE)


@pytest.fixture(scope="module")
def connections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineProcess, dict[str, Any]]]:
    """An engine with the histories in the database of the analysts, and what asks it as one, by each kind of client."""
    engine = EngineProcess(tmp_path_factory.mktemp("analytics") / "data").start()

    async def fill() -> None:
        store = await Store.connect(engine.url(DATABASE))
        await _fill(store)
        await store.close()

    try:
        asyncio.run(fill())
        password = engine.passwords[ANALYST.name]
        connect = clickhouse_connect.get_client(
            host="127.0.0.1", port=engine.port, username=ANALYST.name, password=password, database=DATABASE
        )
        with Client("127.0.0.1", engine.native_port, DATABASE, ANALYST.name, password) as native:
            http = Asker(engine, ANALYST.name)
            yield engine, {
                "http": lambda sql: _typed(http.ask(sql).rows),
                "clickhouse-connect": lambda sql: _typed(connect.query(sql).result_rows),
                "clickhouse-driver": lambda sql: _typed(native.execute(sql)),
            }
        connect.close()
    finally:
        engine.stop()


def _typed(rows: Any) -> list[tuple[str, ...]]:
    """Cells as text, and numbers as they are counted: clients differ in how they write them."""
    return [tuple(f"{cell:g}" if isinstance(cell, float | int) else str(cell) for cell in row) for row in rows]


@pytest.mark.parametrize("client", ["http", "clickhouse-connect", "clickhouse-driver"])
@pytest.mark.parametrize("heading", HEADINGS)
def test_an_analyst_gets_the_owners_answer_by_every_client(
    connections: tuple[EngineProcess, dict[str, Callable[[str], Any]]], heading: str, client: str
) -> None:
    engine, clients = connections
    expected = _typed(Asker(engine, OWNER).ask(query(heading).sql).rows)
    assert clients[client](query(heading).sql) == expected != []


def test_all_documented_queries_are_known() -> None:
    assert len(HEADINGS) == DOCUMENT.count("```sql")


TYPICAL = (
    "SELECT version()", "SELECT 1", "SHOW DATABASES", "SHOW TABLES", "SHOW TABLES FROM personlog", "SELECT timezone()",
    "SELECT currentUser()", "SELECT currentDatabase()", "DESCRIBE TABLE property_changes", "SHOW CREATE TABLE holders",
    "DESCRIBE TABLE changes_of(key = 'plan')", "EXPLAIN SELECT count() FROM property_changes",
    "SHOW COLUMNS FROM holders",
    "SELECT name FROM system.databases ORDER BY name",
    "SELECT name, engine, comment FROM system.tables WHERE database = 'personlog'",
    "SELECT t.database, t.name, t.engine FROM system.tables AS t JOIN system.databases AS d ON t.database = d.name",
    "SELECT table, name, type, position, is_in_primary_key FROM system.columns WHERE database = 'personlog'",
    "SELECT name, value, changed, description, readonly, type FROM system.settings LIMIT 10000",
    "SELECT name FROM system.functions", "SELECT name FROM system.table_functions",
    "SELECT name FROM system.data_type_families",
    "SELECT toStartOfDay(at) AS time, count() FROM property_changes WHERE at >= toDateTime(0) GROUP BY time",
    "SELECT count() AS `count` FROM `personlog`.`property_changes` AS source LIMIT 2000",
)  # fmt: skip
"""What Grafana, Metabase, JDBC drivers, DBeaver and `/play` ask before and beside an analyst's own queries."""

SENT = {
    "jdbc": {"max_result_rows": 100, "result_overflow_mode": "break", "max_execution_time": 30, "extremes": 0,
             "compress": 0, "session_timezone": "Europe/Berlin", "default_format": "RowBinaryWithNamesAndTypes"},
    "metabase": {"select_sequential_consistency": 1, "enable_http_compression": 1},
    "grafana": {"max_execution_time": 60, "additional_table_filters": "{}"},
    "tableau": {"join_use_nulls": 1, "cast_keep_nullable": 1, "joined_subquery_requires_alias": 0},
    "play": {"add_http_cors_header": 1, "default_format": "JSONCompact", "max_result_rows": 1000,
             "max_result_bytes": 10_000_000, "result_overflow_mode": "break"},
    "python": {"send_progress_in_http_headers": 1, "http_headers_progress_interval_ms": 120_000, "log_comment": "x",
               "date_time_input_format": "best_effort", "output_format_native_write_json_as_string": 1},
    "a session": {"session_id": "s", "session_timeout": 60, "query_id": "q"},
}  # fmt: skip
"""Settings that clients send by themselves with every query."""


@pytest.mark.parametrize("client", ["http", "clickhouse-connect", "clickhouse-driver"])
def test_what_tools_ask_by_themselves_is_answered(
    connections: tuple[EngineProcess, dict[str, Callable[[str], Any]]], client: str
) -> None:
    _, clients = connections
    for asked in TYPICAL:
        assert clients[client](asked), asked
    assert [row[0] for row in clients[client]("SHOW TABLES")] == sorted(ANALYST_VIEWS)


@pytest.mark.parametrize("tool", SENT)
def test_what_tools_send_by_themselves_is_accepted(
    connections: tuple[EngineProcess, dict[str, Callable[[str], Any]]], tool: str
) -> None:
    engine, _ = connections
    answer = Asker(engine, ANALYST.name).ask("SELECT count() AS n FROM property_changes", **SENT[tool])
    assert answer.code == 0, answer.text


def test_a_client_that_says_what_it_wants_is_heard(
    connections: tuple[EngineProcess, dict[str, Callable[[str], Any]]],
) -> None:
    engine, _ = connections
    password = engine.passwords[ANALYST.name]
    with clickhouse_connect.get_client(
        host="127.0.0.1", port=engine.port, username=ANALYST.name, password=password, database=DATABASE,
        settings={"max_execution_time": 30, "max_block_size": 1000, "join_use_nulls": 1}, compress="zstd",
    ) as client:  # fmt: skip
        found = client.query("SELECT count() FROM changes_of(key = {key:String})", parameters={"key": "plan"})
        assert found.result_rows == [(7,)]
    address = ("127.0.0.1", engine.native_port, DATABASE, ANALYST.name, password)
    with Client(*address, settings={"max_block_size": 9}) as native:
        rows = native.execute_iter("SELECT before, after FROM property_changes WHERE key = %(key)s", {"key": "plan"})
        assert len(list(rows)) == 7
