"""What asks the store for many at once: no statement of ours has a list that a server's form fields do not hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.projector.tables.clickhouse import LOAD_IDS_MAX, ClickHouseTables
from shared.domain.ids import COMMANDS, IDENTITY
from shared.store import targets
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.parameters import FIELD_BYTES_MAX, bind
from shared.store.clickhouse.queries import Query, load
from tests.support.erasing import World

ROOT = Path(__file__).parents[2]
MANY = 12_000
"""Of a list's items: a field has at most 3,276 ids, and 11,000 of the smallest items here."""

VALUES = {"UUID": UUID(int=1), "String": "x" * 30, "UInt64": 2**63 - 1, "Int64": 2**63 - 1, "UInt32": 2**32 - 1}
PLACEHOLDER = re.compile(r"\{(\w+):(\w+)(?:\((\w+)\))?\}")


def queries() -> Iterator[Query]:
    """Every query of ours that reads and takes a list, those of every target too."""
    for path in sorted([*(ROOT / "services").rglob("*.sql"), *(ROOT / "shared" / "store").glob("*.sql")]):
        for query in load(path).values():
            filled = query.filled(filter="1", beyond="<", order="DESC", column="properties.a.:String")
            reads = filled.sql.startswith(("SELECT", "WITH")) and "{{" not in filled.sql
            if reads and ":Array(" in filled.sql and query.name != "search_given":  # that wants JSON: below
                yield filled
    for target in targets.TARGETS:
        yield target.query("count")


def values_of(query: Query) -> dict[str, Any]:
    values = {}
    for name, kind, item in PLACEHOLDER.findall(query.sql):
        values[name] = [VALUES[item]] * MANY if item else VALUES.get(kind, 1)
    return values


@pytest.mark.parametrize("query", list(queries()), ids=lambda query: query.name)
async def test_every_query_takes_lists_of_any_length(store: Store, query: Query) -> None:
    values = values_of(query)
    sql, fields = bind(query.sql, values)
    assert all(len(str(field)) <= FIELD_BYTES_MAX for field in fields.values())
    assert sql.count("arrayConcat(") == query.sql.count(":Array(")
    await store.rows_with_hidden(query, **values)


@pytest.mark.parametrize("topic", [COMMANDS, IDENTITY])
async def test_the_projector_loads_a_whole_batch_in_one_snapshot(store: Store, topic: str) -> None:
    ids = [uuid4() for _ in range(LOAD_IDS_MAX)]
    await store.insert("fragments" if topic == COMMANDS else "identity", {"project": [1] * len(ids), "fragment": ids})
    loaded = await ClickHouseTables(store).load(topic, range(16), [(1, one) for one in ids])
    assert {row[1] for row in loaded.rows} == set(ids)


async def test_a_backlog_of_ten_thousand_new_ids_is_projected(world: World) -> None:
    await world.tell(*(world.capture(f"user-{number}") for number in range(10_000)))
    await world.settle()
    count = Query(name="count", sql="SELECT uniqExact(fragment) FROM fragments WHERE project = 1")
    assert await world.store.rows(count) == [(10_000,)]


async def test_persons_of_the_past_are_judged_however_much_they_have(store: Store) -> None:
    queries = load(ROOT / "services/api/reads/persons.sql")
    query = queries["search_given"].filled(filter="has(distinct_ids, 'ann')")
    persons = [UUID(int=number) for number in range(100)]
    rows = [
        orjson.dumps({
            "fragment": one, "distinct_ids": ["ann"] if one.int % 2 else ["it's", "bob"],
            "properties": {"text": "ä'\\\n" * (60_000 if one.int == 7 else 600)},
        }).decode()
        for one in persons
    ]  # fmt: skip
    found = await store.rows(query, rows=rows)
    assert [one for (one,) in found] == persons[1::2]
