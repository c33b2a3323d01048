"""The engine on a disk that is full: it reads as before, refuses to write, and goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.domain.errors import StoreUnavailable
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from tests.support.disks import fill, mounted
from tests.support.engine import EngineProcess

DISK_BYTES = 200 * 1_048_576
SECONDS_MAX = 60.0

ROWS = Query(name="rows", sql="SELECT n, text FROM kept ORDER BY n")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", DISK_BYTES) as disk:
        yield disk


@pytest.mark.fault
async def test_a_full_disk_hides_no_row_and_takes_none(disk: Path) -> None:
    engine = EngineProcess(disk / "data").start()
    store = await Store.connect(engine.url("default"))
    try:
        await store.command("CREATE TABLE kept (n UInt32, text String) ENGINE = MergeTree ORDER BY n")
        await store.learn_columns()
        acknowledged = list(range(1_000))
        await store.insert("kept", {"n": acknowledged, "text": ["x" * 100] * len(acknowledged)})
        filler = fill(disk)
        for _ in range(3):
            assert [n for n, _ in await store.rows(ROWS)] == acknowledged
            with pytest.raises(StoreUnavailable):
                await store.insert("kept", {"n": [1_000_000], "text": ["x" * 100_000]})
        assert [n for n, _ in await store.rows(ROWS)] == acknowledged
        filler.unlink()
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            try:
                await store.insert("kept", {"n": [5_000], "text": ["behind"]})
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)
        assert [n for n, _ in await store.rows(ROWS)] == [*acknowledged, 5_000]
    finally:
        await store.close()
        engine.stop()
