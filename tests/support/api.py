"""The API as it is composed, on the log's twin and a real store. Never with a projector: capture must not need one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.test_utils import RawTestServer, TestClient

from services.api.app import build, pipeline_of
from services.api.context import Context
from services.api.http.transports.aiohttp_adapter import Adapter
from shared.domain.commands import Command, decode
from shared.domain.errors import LogUnavailable, Transient
from shared.domain.ids import COMMANDS, IDENTITY, Position
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from shared.runtime.clock import ManualClock
from shared.store.clickhouse.access import ensure_bootstrap
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.objects import Objects
from tests.support.engine import free_port

TOKEN, PERSONAL_KEY = "phc_test", "phx_test"
NOW = 1_795_426_700_000_000
"""2026-11-23, the day of the recorded requests."""


class SwitchableLog(MemoryLog):
    """A log that can be away."""

    away = False

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Position]]:
        if self.away:
            raise LogUnavailable
        return super().submit(entries)

    async def append(self, entries: Sequence[Entry]) -> list[Position]:
        return await self.submit(entries)


class SwitchableObjects(Objects):
    """An object store in memory that can be away, or slow."""

    def __init__(self) -> None:
        super().__init__("memory:///")
        self.away = False
        self.slow: Callable[[], Awaitable[None]] | None = None

    async def put(self, path: str, content: bytes) -> None:
        if self.away:
            raise Transient("Object store: away.")
        if self.slow is not None:
            await self.slow()
        await super().put(path, content)


class Api:
    """A client of the API, and what its log and its object store hold."""

    def __init__(
        self, client: TestClient[Any, Any], log: SwitchableLog, objects: SwitchableObjects, context: Context
    ) -> None:
        self.client, self.log, self.objects, self.context = client, log, objects, context

    def commands(self) -> list[Command]:
        """Every command in the log: those of fragments, then those of identity."""
        return [decode(record.value) for topic in (COMMANDS, IDENTITY) for record in self.log.records(topic)]


@asynccontextmanager
async def serving(engine_url: str, token: str = TOKEN, static: str = "") -> AsyncIterator[Api]:
    """The composed API on a database, which gets its tables if it has none; closed at the end."""
    store = await Store.connect(engine_url)
    if not store.has_table("migrations"):
        await migrate(store)
    clock = ManualClock(NOW)
    await ensure_bootstrap(store, PERSONAL_KEY, token, clock.now_us)
    log = SwitchableLog()
    objects = SwitchableObjects()
    context = await build(log, store, objects, clock)
    server = RawTestServer(Adapter(pipeline_of(context, static)).handle, port=free_port())
    await server.start_server(auto_decompress=False)  # as lifecycle does
    async with TestClient(server) as client:
        yield Api(client, log, objects, context)
    await context.blocks.close()
    await context.watermarks.close()
    await context.access.close()
    await store.close()
