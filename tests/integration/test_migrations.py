"""Migrations against a real engine host, and the rules their SQL must keep. Never edits the real files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.domain.errors import Corrupt
from shared.store.clickhouse.client import Store, StoreError
from shared.store.clickhouse.migrate import migrate, migrations, status
from shared.store.clickhouse.queries import Query, load


@pytest.fixture
async def store(engine_url: str) -> AsyncIterator[Store]:
    store = await Store.connect(engine_url)
    yield store
    await store.close()


def folder(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, sql in files.items():
        (path / f"{name[1:]}.sql").write_text(sql)
    return path


async def test_a_second_run_applies_nothing(store: Store) -> None:
    names = [migration.name for migration in migrations()]
    assert [migration.name for migration in (await status(store)).pending] == names
    assert await migrate(store) == names
    assert await migrate(store) == []
    assert (await status(store)).applied == tuple(names)


async def test_two_processes_may_migrate_at_once(engine_url: str) -> None:
    stores = [await Store.connect(engine_url) for _ in range(3)]
    await asyncio.gather(*(migrate(store) for store in stores))
    assert (await status(stores[0])).pending == ()
    for store in stores:
        await store.close()


async def test_every_statement_may_run_twice(store: Store) -> None:
    await migrate(store)
    for migration in migrations():
        for statement in migration.statements:
            await store.command(statement)


async def test_only_what_is_missing_is_applied(store: Store, tmp_path: Path) -> None:
    first = "CREATE TABLE IF NOT EXISTS a (id UInt8 CODEC(LZ4)) -- one; two\nENGINE = ReplacingMergeTree ORDER BY id;\n"
    files = folder(tmp_path / "sql", _0001_one=first)
    assert await migrate(store, files) == ["0001_one"]
    folder(files, _0002_two="ALTER TABLE a ADD COLUMN IF NOT EXISTS b UInt8 CODEC(LZ4);\n-- The end.\n")
    assert await migrate(store, files) == ["0002_two"]
    await store.insert("a", {"id": [1], "b": [2]})


async def test_a_changed_or_lost_file_is_refused(store: Store, tmp_path: Path) -> None:
    files = folder(tmp_path / "sql", _0001_one="SELECT 1;\n")
    await migrate(store, files)
    folder(files, _0001_one="SELECT 2;\n")
    with pytest.raises(Corrupt, match="0001_one was changed"):
        await migrate(store, files)
    (files / "0001_one.sql").unlink()
    with pytest.raises(Corrupt, match="does not know"):
        await migrate(store, files)


async def test_a_file_that_failed_is_run_again_from_its_start(store: Store, tmp_path: Path) -> None:
    create = "CREATE TABLE IF NOT EXISTS a (id UInt8) ENGINE = Memory;\n"
    files = folder(tmp_path / "sql", _0001_one=create + "CREATE NONSENSE;\n")
    with pytest.raises(StoreError):
        await migrate(store, files)
    folder(files, _0001_one=create)
    assert await migrate(store, files) == ["0001_one"]


@pytest.mark.parametrize("files", [{"_0002_two": ""}, {"_0001_one": "", "_0001_uno": ""}, {"_one": ""}])
def test_a_gap_a_double_or_a_nameless_number_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(Corrupt):
        migrations(folder(tmp_path / "sql", **files))


def test_a_statement_without_an_end_is_refused(tmp_path: Path) -> None:
    (migration,) = migrations(folder(tmp_path / "sql", _0001_one="SELECT 1;\nSELECT 2"))
    with pytest.raises(Corrupt, match="does not end"):
        _ = migration.statements


async def test_tables_that_hold_positions_have_no_partitions(store: Store) -> None:
    await migrate(store)
    query = Query(
        name="partitions",
        sql="SELECT name, partition_key FROM system.tables WHERE database = currentDatabase() "
        "AND name IN ('fragments', 'identity') ORDER BY name",
    )
    assert await store.rows(query) == [("fragments", ""), ("identity", "")]


async def test_every_column_of_every_table_has_a_codec(store: Store) -> None:
    await migrate(store)
    query = Query(
        name="codecs",
        sql="SELECT table, name FROM system.columns WHERE database = currentDatabase() AND compression_codec = '' "
        "AND table IN (SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree')",
    )
    assert await store.rows(query) == []


async def test_every_table_that_holds_state_is_synced_to_disk(store: Store) -> None:
    await migrate(store)
    query = Query(
        name="settings",
        sql="SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() "
        "AND name IN ('timeline', 'fragments', 'identity', 'numbers', 'deletion_requests')",
    )
    tables = await store.rows(query)
    assert len(tables) == 5
    for name, create in tables:
        for setting in ("fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge"):
            assert re.search(rf"\b{setting} = 1\b", create), (name, setting)


def test_queries_are_loaded_by_name_with_their_comments(tmp_path: Path) -> None:
    path = tmp_path / "q.sql"
    path.write_text(
        "-- File.\n\n-- name: one\n-- Why,\n-- and how.\nSELECT 1 -- not a name\n;\n\n-- name: two\nSELECT 2;\n"
    )
    assert dict(load(path)) == {
        "one": Query(name="one", sql="SELECT 1 -- not a name", comment="Why, and how."),
        "two": Query(name="two", sql="SELECT 2"),
    }


@pytest.mark.parametrize(
    "text", ["SELECT 1;", "-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;", "-- name: a\n-- name: b\nSELECT 1;"]
)
def test_unnamed_doubled_and_empty_queries_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "q.sql"
    path.write_text(text)
    with pytest.raises(Corrupt):
        load(path)
