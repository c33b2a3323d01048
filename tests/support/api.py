"""The API as it is composed, on the log's twin and a real store. Never with a projector: capture must not need one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from services.api.app import application, build
from services.api.context import Context
from shared.domain.commands import Command, decode
from shared.domain.errors import LogUnavailable
from shared.domain.ids import COMMANDS, IDENTITY, Position
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from shared.runtime.clock import ManualClock
from shared.store.access import ensure_bootstrap
from shared.store.client import Store
from shared.store.migrate import migrate
from tests.support.engine import free_port

TOKEN, PERSONAL_KEY = "phc_test", "phx_test"
NOW = 1_795_426_700_000_000
"""2026-11-23, the day of the recorded requests."""


class SwitchableLog(MemoryLog):
    """A log that can be away."""

    away = False

    async def append(self, entries: Any) -> list[Position]:
        if self.away:
            raise LogUnavailable
        entries_sent: list[Entry] = list(entries)
        return await super().append(entries_sent)


class Api:
    """A client of the API, and what its log holds."""

    def __init__(self, client: TestClient[Any, Any], log: SwitchableLog, context: Context) -> None:
        self.client, self.log, self.context = client, log, context

    def commands(self) -> list[Command]:
        """Every command in the log: those of fragments, then those of identity."""
        return [decode(record.value) for topic in (COMMANDS, IDENTITY) for record in self.log.records(topic)]


@asynccontextmanager
async def serving(engine_url: str, token: str = TOKEN, static: str = "") -> AsyncIterator[Api]:
    """The composed API on a database of its own, closed at the end."""
    store = await Store.connect(engine_url)
    await migrate(store)
    clock = ManualClock(NOW)
    await ensure_bootstrap(store, PERSONAL_KEY, token, clock.now_us)
    log = SwitchableLog()
    context = await build(log, store, clock)
    server = TestServer(application(context, static), port=free_port())
    await server.start_server(auto_decompress=False)  # as lifecycle.serve does
    async with TestClient(server) as client:
        yield Api(client, log, context)
    await context.watermarks.close()
    await context.access.close()
    await store.close()
