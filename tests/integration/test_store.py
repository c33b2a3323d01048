"""The store client against a real engine host. Never against a mock."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.api.reads.query_batcher import KEYS_MAX, Coalesced
from shared.domain.errors import Corrupt, StoreUnavailable
from shared.domain.ids import COMMANDS, position_key
from shared.store.clickhouse import parameters
from shared.store.clickhouse.client import INLINE_BYTES_MAX, INLINE_ROWS_MAX, Store
from shared.store.clickhouse.failures import StoreError
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.parameters import FIELD_BYTES_MAX
from shared.store.clickhouse.queries import Query
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
ACTIVE = Query(name="active", sql=f"{PARTS.sql} AND active")
"""Without those that other tests have left."""


def fragments(ids: list[UUID], *, version: int = 1, bytes_each: int = 20) -> dict[str, list[Any]]:
    count = len(ids)
    return {
        "project": [1] * count,
        "fragment": ids,
        "version": [version] * count,
        "properties": ['{"text":"' + "x" * bytes_each + '"}'] * count,
        "keys": [[1, 2**64 - 1]] * count,
    }


@pytest.fixture
async def first_store(engine_url: str) -> AsyncIterator[Store]:
    """One that no test has used: parts are counted, and others leave theirs until the engine cleans up."""
    store = await Store.connect(engine_url)
    await migrate(store)
    yield store
    await store.close()


async def test_a_batch_with_its_position_row_is_one_part(first_store: Store) -> None:
    columns = fragments([uuid4() for _ in range(10_000)], bytes_each=800)
    position: dict[str, list[Any]] = {
        "project": [0],
        "fragment": [position_key(COMMANDS, 3)],
        "version": [9],
        "properties": [""],
        "keys": [[]],
    }
    await first_store.insert("fragments", {name: values + position[name] for name, values in columns.items()})
    assert await first_store.rows(PARTS, table="fragments") == [(1, 10_001)]


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
    row: dict[str, list[Any]] = {"project": [1], "at": [1], "version": [1], "keys": [["plan", "name"]]}
    await store.insert("timeline", row | {"kinds": [[1, 1]]} | {"before": [["1", "2"]], "after": [["1", "3"]]})
    query = Query(name="changes", sql="SELECT key, before, after FROM property_changes")
    assert await store.rows(query) == [("name", "2", "3")]


async def test_an_answer_too_large_for_the_event_loop_is_the_same(store: Store) -> None:
    text = "ä" * INLINE_BYTES_MAX
    assert await store.rows(Query(name="echo", sql="SELECT {text:String}"), text=text) == [(text,)]


async def test_a_query_without_rows_gives_none(store: Store) -> None:
    assert await store.rows(BY_ID, ids=[uuid4()]) == []
    await store.insert("fragments", fragments([]))
    assert await store.rows(ACTIVE, table="fragments") == [(0, 0)]


async def test_ten_thousand_ids_and_sixty_four_reads_at_once(store: Store) -> None:
    ids = [uuid4() for _ in range(10_000)]
    await store.insert("fragments", fragments(ids))
    assert len(await store.rows(BY_ID, ids=ids)) == 10_000
    answers = await asyncio.gather(*(store.rows(BY_ID, ids=[one]) for one in ids[:64]))
    assert [answer[0][0] for answer in answers] == ids[:64]


async def test_a_crowd_of_reads_is_one_statement_of_several_parameters(store: Store) -> None:
    ids = [uuid4() for _ in range(KEYS_MAX)]
    await store.insert("fragments", fragments(ids))
    calls: list[int] = []

    async def many(keys: Any) -> dict[str, int]:
        calls.append(len(keys))
        return {row[0].hex: row[1] for row in await store.rows(BY_ID, ids=list(keys))}

    reads: Coalesced[str, int] = Coalesced(many)
    first, rest = await asyncio.gather(reads.ask([uuid4().hex]), reads.ask([one.hex for one in ids]))
    assert [*first, *rest] == [None, *[1] * KEYS_MAX]
    assert max(calls) == KEYS_MAX


@pytest.mark.parametrize("size", [FIELD_BYTES_MAX - 1, FIELD_BYTES_MAX, FIELD_BYTES_MAX + 1, 3 * FIELD_BYTES_MAX])
@pytest.mark.parametrize("letter", ["x", "\n", "ä", "\U0001f600"])
async def test_a_text_of_any_length_arrives_as_it_was_sent(store: Store, size: int, letter: str) -> None:
    sent = (letter * size).encode()[:size].decode("utf-8", "ignore")
    sent += "x" * (size - len(sent.encode()))
    echo = Query(name="echo", sql="SELECT {text:String}, {texts:Array(String)}")
    assert await store.rows(echo, text=sent, texts=["", sent, "'"]) == [(sent, ["", sent, "'"])]


ECHO = Query(
    name="echo",
    sql="SELECT {ids:Array(UUID)}, {numbers:Array(UInt64)}, {texts:Array(String)}, {nested:Array(Array(String))}, "
    "{text:String}",
)
plain = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.uuids(), max_size=9), numbers=st.lists(st.integers(0, 2**64 - 1), max_size=9),
    texts=st.lists(plain, max_size=9), nested=st.lists(st.lists(plain, max_size=5), max_size=5), text=plain,
    times=st.integers(1, 4),
)  # fmt: skip
def test_values_of_any_bytes_arrive_whole_however_they_are_cut(
    engine_url: str, ids: list[UUID], numbers: list[int], texts: list[str], nested: list[list[str]], text: str,
    times: int,
) -> None:
    values = {"ids": ids * 1_000 * times, "numbers": numbers * 1_000 * times, "texts": texts * 2_000 * times,
              "nested": [*nested * 500 * times, [text * 10_000 * times]], "text": text * 10_000 * times}  # fmt: skip

    async def echo() -> list[tuple[Any, ...]]:
        store = await Store.connect(engine_url)
        try:
            await store.create_database()
            return await store.rows(ECHO, **values)
        finally:
            await store.close()

    assert asyncio.run(echo()) == [tuple(values.values())]


async def test_a_list_in_several_parameters_is_looked_up_by_the_key(store: Store) -> None:
    ids = [UUID(int=number << 64) for number in range(40_000)]
    await store.insert("fragments", fragments(ids, bytes_each=200))
    found = ids[:4_000]
    plan = Query(name="plan", sql=f"EXPLAIN indexes = 1 {BY_ID.sql}")
    lines = [line.strip() for (line,) in await store.rows(plan, ids=found)]
    assert any("fragment in 4000-element set" in line for line in lines), lines
    read, of = next(line for line in lines if line.startswith("Granules: ")).removeprefix("Granules: ").split("/")
    assert int(read) * 5 < int(of)


async def test_a_list_in_several_parameters_works_in_mutations_and_with_transform(store: Store) -> None:
    ids = [uuid4() for _ in range(8_000)]
    await store.insert("fragments", fragments(ids))
    end = "transform(fragment, {ids:Array(UUID)}, {ends:Array(UInt64)}, 0)"
    reached = f"fragment IN {{ids:Array(UUID)}} AND version < {end}"
    reach = {"ids": ids, "ends": [2] * 4_000 + [1] * 4_000}
    counts = f"SELECT count(), countIf(has({{ids:Array(UUID)}}, fragment)) FROM fragments WHERE {reached}"
    count = Query(name="count", sql=counts)
    assert await store.rows(count, **reach) == [(4_000, 4_000)]
    empty = f"ALTER TABLE fragments UPDATE properties = '' WHERE {reached} SETTINGS mutations_sync = 2"
    await store.command(empty, **reach)
    emptied = Query(name="emptied", sql="SELECT countIf(properties = '') FROM fragments")
    assert await store.rows(emptied) == [(4_000,)]
    await store.command(f"DELETE FROM fragments WHERE {reached} SETTINGS lightweight_deletes_sync = 2", **reach)
    assert await store.rows(count, **reach) == [(0, 0)]
    assert len(await store.rows(BY_ID, ids=ids)) == 4_000


async def test_the_engine_refuses_a_longer_field_as_any_server_does(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no test here would show that a list is not cut."""
    monkeypatch.setattr(parameters, "FIELD_BYTES_MAX", 20 * FIELD_BYTES_MAX)
    with pytest.raises(StoreError, match=r"^the_query: code 1000") as caught:
        await store.rows(Query(name="the_query", sql="SELECT {text:String}"), text=SECRET * FIELD_BYTES_MAX)
    assert SECRET not in everything_said(caught.value)


async def test_a_value_that_cannot_be_cut_never_reaches_the_engine(store: Store) -> None:
    query = Query(name="the_query", sql="SELECT * FROM {table:Identifier}")
    with pytest.raises(StoreError, match=r"^the_query: parameter table: .* cannot be cut") as caught:
        await store.rows(query, table="secret" * FIELD_BYTES_MAX)
    assert "secret" not in str(caught.value)


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
    assert await store.rows(ACTIVE, table="fragments") == [(0, 0)]


SECRET = "secret-of-ann"


def everything_said(error: BaseException) -> str:
    """What a log or a crash would show, causes too."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "line",
    [
        b'{"project":"secret-of-ann"}',
        b'{"project":1,"fragment":"secret-of-ann"}',
        b'{"project":1,"version":"secret-of-ann"}',
        b'{"project":1,"properties": secret-of-ann}',
    ],
)
async def test_rows_that_the_engine_refuses_are_told_by_code_and_never_shown(store: Store, line: bytes) -> None:
    with pytest.raises(StoreError, match=r"^insert into fragments: code \d+, [A-Z_]+$") as caught:
        await store.insert_json("fragments", [line])
    assert SECRET not in everything_said(caught.value)
    assert caught.value.code


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT toUInt8({value:String})",
        "SELECT {value:UInt8}",
        "SELECT match('', concat('(', {value:String}))",
        "SELECT nothing, {value:String}",
        "SELECT * FROM nowhere WHERE x = {value:String}",
        "SELECT throwIf(1, {value:String})",
        "SELECT {value:String} FROM fragments WHERE version = {value:String}",
        "SELECT groupArray({value:String} || toString(number)) FROM numbers(1000000000)",
    ],
)
async def test_a_parameter_is_never_in_a_failure(store: Store, sql: str) -> None:
    with pytest.raises((StoreError, StoreUnavailable), match=r"^the_query: code \d+, [A-Z_]+") as caught:
        await store.rows(Query(name="the_query", sql=sql), value=SECRET)
    assert SECRET not in everything_said(caught.value)


async def test_an_exception_after_a_megabyte_of_rows_is_told_by_its_code(store: Store) -> None:
    sql = "SELECT {value:String} || toString(number), throwIf(number = 900000) FROM numbers(1000000)"
    with pytest.raises(StoreError, match=r"^the_query: code 395, FUNCTION_THROW_IF_VALUE_IS_NON_ZERO$") as caught:
        await store.rows(Query(name="the_query", sql=sql), value=SECRET)
    assert SECRET not in everything_said(caught.value)


@asynccontextmanager
async def tearing(url: str, answer_bytes: int) -> AsyncIterator[str]:
    """The URL of a store by way of connections that end after that many bytes of answers."""
    port = urlsplit(url).port
    tasks: list[asyncio.Task[None]] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> None:
        while (data := await reader.read(65_536)) and (left := left - len(data)) >= 0:
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port)
        tasks.append(asyncio.create_task(forward(reader, their_writer, 1 << 30)))
        tasks.append(asyncio.create_task(forward(their_reader, writer, answer_bytes)))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield url.replace(f":{port}/", f":{server.sockets[0].getsockname()[1]}/")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_torn_answer_may_work_later_and_its_rows_are_never_shown(store: Store, engine: EngineProcess) -> None:
    query = Query(name="the_query", sql="SELECT {value:String}, number FROM numbers(1000000)")
    async with tearing(engine.url(store.database), 300_000) as url:
        torn = await Store.connect(url)
        with pytest.raises(StoreUnavailable, match=r"^the_query: ") as caught:
            await torn.rows(query, value=SECRET)
        await torn.close()
    assert SECRET not in everything_said(caught.value)


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
        await Store.connect(f"http://personlog:wrong@127.0.0.1:{engine.port}/test")
    assert caught.value.code == 516
    assert "wrong" not in str(caught.value)


def test_the_client_never_imports_pandas(engine_url: str) -> None:
    program = """
import asyncio, sys
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.parameters import FIELD_BYTES_MAX
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
