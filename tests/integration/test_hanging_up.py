"""Who hangs up frees what its call holds: its place at the gate, and the engine's query. Asserts no time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import ClientSession, web

from services.api.http.guards.costly import Gate, while_connected
from services.api.http.transports.aiohttp_adapter import is_connected
from shared.runtime.process.lifecycle import serve
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from tests.support.processes import free_port

SECONDS_MAX = 60.0

ENDLESS = Query(name="endless", sql="SELECT max(sipHash64(number)) FROM numbers(1000000000000)")
SCAN = Query(name="scan", sql=ENDLESS.sql, workload="scans")
RUNNING = Query(name="running", sql="SELECT count() FROM system.processes WHERE query LIKE 'SELECT max(sipHash64%'")


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not check():
            await asyncio.sleep(0.01)


async def test_a_call_whose_client_hangs_up_is_cancelled_and_frees_its_place() -> None:
    gate = Gate(1)
    ended: list[str] = []

    async def endless() -> web.Response:
        async with gate.place(1):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("ended")
        return web.Response()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await while_connected(lambda: is_connected(request), endless())

    app = web.Application()
    app.router.add_get("/", handle)
    port = free_port()
    runner = await serve(app, "127.0.0.1", port)
    async with ClientSession() as session:
        calls = [asyncio.create_task(session.get(f"http://127.0.0.1:{port}/")) for _ in range(3)]
        await until(lambda: gate.running == 1 and gate.waiting == 2)
        for left in (2, 1, 0):  # one that holds the place or waits for it, whichever
            calls.pop().cancel()
            await until(lambda left=left: gate.running + gate.waiting == left)  # type: ignore[misc]
    assert (gate.running, gate.waiting) == (0, 0)
    assert ended
    await runner.cleanup()


async def test_a_read_that_is_given_up_ends_in_the_engine_too(store: Store) -> None:
    for query in (ENDLESS, SCAN):
        read = asyncio.create_task(store.rows(query))
        async with asyncio.timeout(SECONDS_MAX):
            while (await store.rows(RUNNING))[0][0] == 0:
                await asyncio.sleep(0.01)
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)
        async with asyncio.timeout(5):  # of itself it would end after READ_SECONDS_MAX, 10
            while (await store.rows(RUNNING))[0][0]:
                await asyncio.sleep(0.01)
