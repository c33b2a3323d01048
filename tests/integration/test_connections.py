"""Connections of a served process: as many as it can hold, and none that says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from shared.runtime import lifecycle
from tests.support.processes import free_port

SECONDS_MAX = 60.0
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that wait for a request only for a moment."""
    monkeypatch.setattr(lifecycle, "KEEPALIVE_SECONDS", 0.5)


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a server that has three connections at most."""
    monkeypatch.setattr(lifecycle, "CONNECTIONS_MAX", 3)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/", answer)
    chosen = free_port()
    runner = await lifecycle.serve(app, "127.0.0.1", chosen)
    yield chosen
    await runner.cleanup()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(REQUEST)
    return (await reader.readuntil(b"\r\n\r\n")).decode()


async def served(port: int) -> bool:
    """Whether a new connection is answered; it is closed again."""
    streams = await asyncio.open_connection("127.0.0.1", port)
    try:
        return (await ask(*streams)).startswith("HTTP/1.1 200")
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    finally:
        streams[1].close()


async def test_a_connection_too_many_is_told_503_and_when_to_come_again(port: int) -> None:
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    for streams in held:
        assert (await ask(*streams)).startswith("HTTP/1.1 200")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = (await reader.read()).decode()
    head, _, body = said.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503") and "Retry-After: 1" in head and f"Content-Length: {len(body)}" in head
    writer.close()
    held[0][1].close()
    async with asyncio.timeout(SECONDS_MAX):
        while not await served(port):  # until the place that was left is given again
            await asyncio.sleep(0.02)
    for _, each in held[1:]:
        each.close()


async def test_a_connection_that_sends_half_a_head_is_closed(brief: None, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST[:-4])
    async with asyncio.timeout(SECONDS_MAX):
        assert await reader.read() == b""
    writer.close()
