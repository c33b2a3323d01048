"""What analysts cannot take: while theirs run and wait, the services' queries are answered. Asserts no time."""

from __future__ import annotations

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from uuid import UUID

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import Error as NativeError

from services.api.reads.persons import Reads
from shared.domain.ids import COMMANDS, IDENTITY
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query
from shared.store.clickhouse.roles import ANALYST, API, DATABASE, WRITER
from shared.store.person import PERSON_QUERIES
from tests.support.engine import EngineProcess

ASKED = 20
"""Queries of the analyst by each protocol. One runs; the others wait, or are refused."""

ENDLESS = (
    "SELECT max(cityHash64(a.after, b.after, c.after)) FROM property_changes AS a, property_changes AS b,"
    " property_changes AS c SETTINGS max_execution_time = 300"
)
TOO_MANY = frozenset((202, 745))
"""What a query that may not even wait ends with: too many of the user, or of the workload."""

ROWS, READS, INSERTS = 20_000, 100, 20
SECONDS_MAX = 120.0

FILL = Query(
    name="fill",
    sql="INSERT INTO timeline (project, fragment, version, topic, at, keys, kinds, before, after)"
    " SELECT 1, reinterpretAsUUID(sipHash128(number)), number, 'fragment.changed', now64(6), ['plan'], [1], [''],"
    " [toString(number)] FROM numbers({rows:UInt64})",
)
PERSONS = Query(
    name="persons",
    sql="INSERT INTO fragments (project, fragment, version, distinct_id, created_at, properties)"
    " SELECT 1, toUUID(concat('00000000-0000-0000-0000-', leftPad(toString(number), 12, '0'))), 1,"
    " toString(number), 1, '{}' FROM numbers({rows:UInt64})",
)
RUNNING = Query(name="running", sql="SELECT count() FROM system.processes WHERE user = 'analyst'")
WAITING = Query(name="waiting", sql="SELECT value FROM system.metrics WHERE metric = 'ConcurrentQueryScheduled'")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EngineProcess]:
    """An engine with rows in the database that the analyst may see, and changes that are worth a long look."""
    engine = await asyncio.to_thread(EngineProcess(tmp_path / "data").start)
    try:
        owner = await Store.connect(engine.url(DATABASE))
        await migrate(owner)
        for query in (FILL, PERSONS):
            await owner.command(query, rows=ROWS)
        await owner.close()
        yield engine
    finally:
        await asyncio.to_thread(engine.kill)  # the analyst's queries would hold a stop up


def by_http(engine: EngineProcess) -> int:
    """The code that the endless query ends with; 0 when the engine ended first."""
    headers = {"X-ClickHouse-User": ANALYST.name, "X-ClickHouse-Key": engine.passwords[ANALYST.name]}
    request = urllib.request.Request(f"{engine.address}/?database={DATABASE}", ENDLESS.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=2 * SECONDS_MAX) as answer:
            found = re.search(rb"Code: (\d+)", answer.read())
            return int(found[1]) if found else -1
    except urllib.error.HTTPError as error:
        with error:
            return int(error.headers["X-ClickHouse-Exception-Code"])
    except (OSError, HTTPException):
        return 0


def by_native(engine: EngineProcess) -> int:
    client = Client(
        "127.0.0.1", engine.native_port, DATABASE, ANALYST.name, engine.passwords[ANALYST.name],
        send_receive_timeout=2 * SECONDS_MAX,
    )  # fmt: skip
    try:
        client.execute(ENDLESS)
    except NativeError as error:
        return int(error.code)
    except (OSError, EOFError):
        return 0
    finally:
        client.disconnect()
    return -1


async def test_reads_and_inserts_go_on_beside_all_the_queries_that_an_analyst_may_start(engine: EngineProcess) -> None:
    owner = await Store.connect(engine.url(DATABASE))
    with ThreadPoolExecutor(2 * ASKED) as analysts:
        asked = [analysts.submit(ask, engine) for _ in range(ASKED) for ask in (by_http, by_native)]
        try:
            await started(owner, asked)
            await reads_are_answered(engine)
            await inserts_are_answered(engine)
            await started(owner, asked)  # it was all beside them, not after them
        finally:
            await owner.close()
            await asyncio.to_thread(engine.kill)


async def started(owner: Store, asked: list[Future[int]]) -> None:
    """Wait until one runs and each of the others waits or was refused."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            ((running,),), ((waiting,),) = await owner.rows(RUNNING), await owner.rows(WAITING)
            codes = {one.result() for one in asked if one.done()}
            assert codes <= TOO_MANY
            if running == 1 and waiting + sum(one.done() for one in asked) == len(asked) - 1:
                return
            await asyncio.sleep(0.05)


async def reads_are_answered(engine: EngineProcess) -> None:
    """By key, many at once as from many processes, and coalesced as from one; a list, which is a scan."""
    store = await Store.connect(engine.url(DATABASE, API.name))
    keys = [UUID(f"00000000-0000-0000-0000-{number:012}") for number in range(READS)]
    single = (
        store.rows(PERSON_QUERIES["fragments"], projects=[1], fragments=[key], row_bytes_max=1_000_000) for key in keys
    )
    assert [rows[0][1] for rows in await asyncio.gather(*single)] == keys
    reads = Reads(store, lambda: {COMMANDS: 16, IDENTITY: 4}, lambda stamp: None)
    persons = await asyncio.gather(*(reads.by_fragment(1, key) for key in keys))
    assert [person and person.uuid for person in persons] == keys
    scan = Query(name="scan", sql="SELECT uniqExact(distinct_id) FROM fragments", workload="scans")
    assert await store.rows(scan) == [(ROWS,)]
    await store.close()


async def inserts_are_answered(engine: EngineProcess) -> None:
    store = await Store.connect(engine.url(DATABASE, WRITER.name))
    for number in range(INSERTS):
        await store.insert("fragments", {"project": [2], "fragment": [UUID(int=number)], "version": [1]})
    count = Query(name="count", sql="SELECT count() FROM fragments WHERE project = 2")
    assert await store.rows(count) == [(INSERTS,)]
    await store.close()
