"""The store client against a real engine host. Never against a mock."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.domain.errors import Corrupt, StoreUnavailable
from shared.domain.ids import COMMANDS, position_key
from shared.store.client import INLINE_BYTES_MAX, INLINE_ROWS_MAX, Store
from shared.store.failures import StoreError
from shared.store.migrate import migrate
from shared.store.queries import Query
from tests.support.engine import EngineProcess

BY_ID = Query(
    name="by_id",
    sql="SELECT fragment, version, properties FROM fragments WHERE project = 1 AND fragment IN {ids:Array(UUID)} "
    "ORDER BY version DESC LIMIT 1 BY fragment",
)
PARTS = Query(
    name="parts",
    sql="SELECT count(), sum(rows) FROM system.parts WHERE database = currentDatabase() AND table = {table:String}",
)


@pytest.fixture
async def store(engine_url: str) -> AsyncIterator[Store]:
    store = await Store.connect(engine_url)
    await migrate(store)
    yield store
    await store.close()


def fragments(ids: list[UUID], *, version: int = 1, bytes_each: int = 20) -> dict[str, list[Any]]:
    count = len(ids)
    return {
        "project": [1] * count,
        "fragment": ids,
        "version": [version] * count,
        "properties": ['{"text":"' + "x" * bytes_each + '"}'] * count,
        "keys": [[1, 2**64 - 1]] * count,
    }


async def test_a_batch_with_its_position_row_is_one_part(store: Store) -> None:
    columns = fragments([uuid4() for _ in range(10_000)], bytes_each=800)
    position: dict[str, list[Any]] = {
        "project": [0],
        "fragment": [position_key(COMMANDS, 3)],
        "version": [9],
        "properties": [""],
        "keys": [[]],
    }
    await store.insert("fragments", {name: values + position[name] for name, values in columns.items()})
    assert await store.rows(PARTS, table="fragments") == [(1, 10_001)]


@pytest.mark.parametrize("count", [1, INLINE_ROWS_MAX + 1])
async def test_uuids_go_in_as_objects_or_integers_and_come_out_as_objects(store: Store, count: int) -> None:
    ids = [uuid4() for _ in range(count)]
    await store.insert("fragments", fragments(ids))
    await store.insert("fragments", fragments(ids, version=2) | {"fragment": [one.int for one in ids]})
    rows = await store.rows(BY_ID, ids=ids)
    assert {row[0]: row[1] for row in rows} == dict.fromkeys(ids, 2)


async def test_times_go_in_and_come_out_as_microseconds(store: Store) -> None:
    at = 1_795_464_000_123_456
    await store.insert("timeline", {"project": [1], "at": [at], "actor": ["a"], "keys": [["plan", "plan"]]})
    assert await store.rows(Query(name="at", sql="SELECT at, actor, keys FROM timeline")) == [
        (at, "a", ["plan", "plan"])
    ]


async def test_the_view_of_property_changes_shows_values_that_differ(store: Store) -> None:
    names: dict[str, list[Any]] = {"project": [1], "at": [1], "keys": [["plan", "name"]], "kinds": [[1, 1]]}
    await store.insert("timeline", names | {"before": [["1", "2"]], "after": [["1", "3"]]})
    query = Query(name="changes", sql="SELECT key, before, after FROM property_changes")
    assert await store.rows(query) == [("name", "2", "3")]


async def test_an_answer_too_large_for_the_event_loop_is_the_same(store: Store) -> None:
    text = "ä" * INLINE_BYTES_MAX
    assert await store.rows(Query(name="echo", sql="SELECT {text:String}"), text=text) == [(text,)]


async def test_a_query_without_rows_gives_none(store: Store) -> None:
    assert await store.rows(BY_ID, ids=[uuid4()]) == []
    await store.insert("fragments", fragments([]))
    assert await store.rows(PARTS, table="fragments") == [(0, 0)]


async def test_ten_thousand_ids_and_sixty_four_reads_at_once(store: Store) -> None:
    ids = [uuid4() for _ in range(10_000)]
    await store.insert("fragments", fragments(ids))
    assert len(await store.rows(BY_ID, ids=ids)) == 10_000
    answers = await asyncio.gather(*(store.rows(BY_ID, ids=[one]) for one in ids[:64]))
    assert [answer[0][0] for answer in answers] == ids[:64]


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC",
        "SELECT * FROM nowhere",
        "SELECT toUInt8('x')",
        "SELECT {missing:UInt8}",
        "INSERT INTO fragments (project) VALUES (1)",
        "DROP TABLE fragments",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    ],
)
async def test_a_query_that_can_never_work_is_corrupt_and_named(store: Store, sql: str) -> None:
    with pytest.raises(StoreError, match=r"^the_query: ") as caught:
        await store.rows(Query(name="the_query", sql=sql))
    assert isinstance(caught.value, Corrupt)
    assert caught.value.code


async def test_rows_that_cannot_be_encoded_are_refused_without_telling_the_value(store: Store) -> None:
    with pytest.raises(StoreError, match="column project") as caught:
        await store.insert("fragments", {"fragment": [uuid4()], "project": ["secret"]})
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="unknown column"):
        await store.insert("fragments", {"no_such_column": [1]})
    with pytest.raises(StoreError, match="differ in length"):
        await store.insert("fragments", {"project": [1, 2], "version": [1]})
    assert await store.rows(PARTS, table="fragments") == [(0, 0)]


async def test_what_may_work_later_is_unavailable(store: Store, tmp_path: Path) -> None:
    hungry = Query(name="hungry", sql="SELECT groupArray(number) FROM numbers(1000000000)")
    with pytest.raises(StoreUnavailable, match=r"^hungry"):
        await store.rows(hungry)
    with pytest.raises(StoreUnavailable):
        await Store.connect("http://default:x@127.0.0.1:9/nowhere")


async def test_a_store_that_went_away_is_unavailable_and_works_again_when_it_is_back(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path / "data").start()
    try:
        store = await Store.connect(engine.url("test"))
        await migrate(store)
        await store.insert("fragments", fragments([UUID(int=1)]))
        engine.kill()
        with pytest.raises(StoreUnavailable):
            await store.rows(BY_ID, ids=[UUID(int=1)])
        with pytest.raises(StoreUnavailable):
            await store.insert("fragments", fragments([UUID(int=2)]))
        await asyncio.to_thread(engine.start)
        assert len(await store.rows(BY_ID, ids=[UUID(int=1)])) == 1
        await store.close()
    finally:
        engine.stop()


async def test_a_wrong_password_is_no_matter_of_waiting(engine: EngineProcess) -> None:
    with pytest.raises(StoreError) as caught:
        await Store.connect(f"http://default:wrong@127.0.0.1:{engine.port}/test")
    assert caught.value.code == 516
    assert "wrong" not in str(caught.value)


def test_the_client_never_imports_pandas(engine_url: str) -> None:
    program = """
import asyncio, sys
from shared.store.client import Store
from shared.store.migrate import migrate
async def main():
    store = await Store.connect(sys.argv[1])
    await migrate(store)
    await store.insert("fragments", {"project": [1], "fragment": [1]})
    await store.close()
asyncio.run(main())
print([name for name in ("pandas", "numpy", "pyarrow", "polars", "chdb") if name in sys.modules])
"""
    command = [sys.executable, "-c", program, engine_url]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root, check=False)
    assert done.stdout.strip() == "[]", done.stderr
