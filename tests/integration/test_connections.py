"""Connections of a served process: as many as it can hold, and none that says nothing keeps another one out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from shared.runtime.process import connections, lifecycle
from tests.support.fronts import fronting, post
from tests.support.processes import free_port

SECONDS_MAX = 60.0
REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
CROWD = 1_000
"""Connections at the front that say nothing, or drip: as many as it holds."""


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a server of aiohttp's that has three connections at most."""
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 3)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/livez", answer)
    chosen = free_port()
    server = await lifecycle.serve(app, "127.0.0.1", chosen)
    yield chosen
    await server.cleanup()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(REQUEST)
    async with asyncio.timeout(SECONDS_MAX):
        return (await reader.readuntil(b"\r\n\r\n")).decode()


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(SECONDS_MAX):
            return await reader.read() == b""
    except ConnectionError:
        return True


async def test_the_connection_that_was_quiet_for_longest_gives_way(port: int) -> None:
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    for streams in (held[1], held[2], held[0]):
        assert (await ask(*streams)).startswith("HTTP/1.1 200")
    streams = await asyncio.open_connection("127.0.0.1", port)
    assert (await ask(*streams)).startswith("HTTP/1.1 200")
    await held[1][0].read(100)  # the rest of its answer
    assert await ended(held[1][0])
    for _, writer in (*held, streams):
        writer.close()


async def test_a_connection_that_sends_half_a_head_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "KEEPALIVE_SECONDS", 0.5)
    server = await lifecycle.serve(web.Application(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.addresses[0][:2])
    writer.write(REQUEST[:-4])
    assert await ended(reader)
    writer.close()
    await server.cleanup()


async def test_only_where_all_have_a_request_under_way_one_more_is_told_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 3)
    async with fronting() as served, AsyncExitStack() as stack:

        async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            streams = await asyncio.open_connection("127.0.0.1", served.port)
            stack.callback(streams[1].close)
            return streams

        for number in range(3):
            _, writer = await opened()
            writer.write(post("/later"))
            async with asyncio.timeout(SECONDS_MAX):
                while len(served.endpoints.waiting) <= number:
                    await asyncio.sleep(0)
        reader, _ = await opened()
        async with asyncio.timeout(SECONDS_MAX):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 503") and "Retry-After: 1" in head and f"Content-Length: {len(body)}" in head
        served.endpoints.waiting[0].set_result(b"done")
        assert (await ask(*await opened())).startswith("HTTP/1.1 200")


async def test_idle_and_dripping_connections_never_keep_anybody_out() -> None:
    """A thousand of them, and as many again: each new client is answered, and the oldest are gone."""
    assert CROWD >= connections.CONNECTIONS_MAX
    beginnings = (b"", b"GET /livez HTTP/1.1\r\nX-", REQUEST, post("/indirect", b"a"))
    async with fronting() as served, AsyncExitStack() as stack:
        crowd = []
        for number in range(2 * CROWD):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            stack.callback(writer.close)
            writer.write(beginnings[number % len(beginnings)])
            crowd.append((reader, writer))
            if number % 100 == 99:
                for _, old in crowd[1 :: len(beginnings)]:
                    if not old.is_closing():
                        old.write(b"x")
                streams = await asyncio.open_connection("127.0.0.1", served.port)
                assert (await ask(*streams)).startswith("HTTP/1.1 200")
                streams[1].close()
        assert len(served.front.connections) == connections.CONNECTIONS_MAX
        for reader, _ in crowd[:100]:
            data = b""
            try:
                async with asyncio.timeout(SECONDS_MAX):
                    data = await reader.read()
            except ConnectionError:
                continue
            assert b"503" not in data
