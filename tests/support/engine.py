"""A real engine process for tests, and the fixture `engine_url`. Never shared between test sessions."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from services.engine.config import native_port
from shared.runtime.settings import ENGINE_USERS, OWNER, read
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query
from tests.support.processes import ROOT, free_port

USER, PASSWORD = OWNER, "se:cret /ä"
START_SECONDS_MAX = 60.0
"""Half a second on a quiet machine; other test processes may hold both cores."""


class EngineProcess:
    """One engine in a process of its own; may be killed and started again on the same data folder and port."""

    def __init__(self, data: Path, port: int | None = None) -> None:
        self.data, self.port = data, port or free_port()
        self.process: subprocess.Popen[str] | None = None
        self.passwords = {user: PASSWORD if user == OWNER else f"of {user}" for user in ENGINE_USERS}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PERSONLOG_")},
            "PERSONLOG_DATA": str(data),
            "PERSONLOG_ENGINE_PORT": str(self.port),
            **{f"PERSONLOG_{ENGINE_USERS[user].upper()}": password for user, password in self.passwords.items()},
        }

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def native_port(self) -> int:
        """Of ClickHouse's native protocol; it may be another one after a restart."""
        return native_port(read(self._environment))

    def url(self, database: str, user: str = OWNER) -> str:
        return f"http://{user}:{quote(self.passwords[user], safe='')}@127.0.0.1:{self.port}/{database}"

    def spawn(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "services.cli", "engine"]
        return subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def start(self) -> EngineProcess:
        self.process = self.spawn()
        assert self.process.stderr is not None
        line = self.process.stderr.readline()  # it says `started`, or what is wrong
        if '"started"' not in line:
            rest = self.process.communicate(timeout=START_SECONDS_MAX)[1]
            raise RuntimeError(f"the engine ended: {line}{rest}")
        return self

    def kill(self) -> None:
        """kill -9."""
        self.stop(signal.SIGKILL)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """End the process; the seconds it took."""
        began = time.monotonic()
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()
        self.process = None
        return time.monotonic() - began


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    process = EngineProcess(tmp_path_factory.mktemp("engine") / "data").start()
    yield process
    process.stop()


_databases = iter(range(1, 1_000_000))


@pytest.fixture
def engine_url(engine: EngineProcess) -> Iterator[str]:
    """The URL of a database that does not exist yet: `migrate` makes it, and no other test uses it.

    It goes with the test: an engine looks at the parts of each table all the time, 0.2 % of a core for each database.
    """
    database = _unused()
    yield engine.url(database)
    asyncio.run(_drop(engine.url("default"), database))


LEFT_SQL = """
SELECT
    (
        SELECT groupArray((name, create_table_query)) FROM
        (SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY name)
    ),
    (SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done),
    (SELECT count() FROM system.detached_parts WHERE database = currentDatabase()),
    (SELECT count() FROM system.processes WHERE current_database = currentDatabase())
"""
"""What a test may leave beside rows; the last are statements that nobody waits for any more, and this one."""

Prepare = Callable[[Store], Awaitable[Any]]


class Databases:
    """Migrated databases, each for one test after the other: making one takes longer than most of the tests."""

    def __init__(self, engine: EngineProcess) -> None:
        self._engine = engine
        self._free: dict[Prepare, list[tuple[str, Any]]] = {}

    @asynccontextmanager
    async def empty(self, connect: type[Store] = Store, prepare: Prepare = migrate) -> AsyncIterator[Store]:
        """A store whose tables are as `prepare` made them. Not thread-safe."""
        free = self._free.setdefault(prepare, [])
        name, made = free.pop() if free else (_unused(), None)
        store = await connect.connect(self._engine.url(name))
        try:
            if made is None:
                await prepare(store)
                made = await _left(store)
            yield store
            if await _emptied(store, made):
                free.append((name, made))
            else:
                await store.command(Query(name="drop", sql=f"DROP DATABASE IF EXISTS {name}"))
        finally:
            await store.close()


async def _emptied(store: Store, made: Any) -> bool:
    """Take all rows away; False when something else is left."""
    if await _left(store) != made:
        return False
    await store.command(Query(name="empty", sql=f"TRUNCATE ALL TABLES FROM {store.database} NOT LIKE 'migrations'"))
    return True


async def _left(store: Store) -> Any:
    return await store.rows(Query(name="left", sql=LEFT_SQL))


@pytest.fixture(scope="session")
def databases(engine: EngineProcess) -> Databases:
    return Databases(engine)


def _unused() -> str:
    return f"test_{os.getpid()}_{next(_databases)}"


async def _drop(url: str, database: str) -> None:
    store = await Store.connect(url)
    try:
        await store.command(Query(name="drop", sql=f"DROP DATABASE IF EXISTS {database}"))
    finally:
        await store.close()


@pytest.fixture
async def store(databases: Databases) -> AsyncIterator[Store]:
    """A store of its own, with its tables."""
    async with databases.empty() as store:
        yield store
