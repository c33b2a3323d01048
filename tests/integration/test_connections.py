"""Connections of a served process: as many as it can hold, and none that says nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from shared.runtime import lifecycle
from tests.support.processes import free_port

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a server that has three connections at most, and waits for a request only for a moment."""
    monkeypatch.setattr(lifecycle, "CONNECTIONS_MAX", 3)
    monkeypatch.setattr(lifecycle, "KEEPALIVE_SECONDS", 0.5)

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
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        streams = await asyncio.open_connection("127.0.0.1", port)
        try:
            if (await ask(*streams)).startswith("HTTP/1.1 200"):
                break
        except (ConnectionError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.02)
        finally:
            streams[1].close()
    else:
        pytest.fail("a place that was left is never given again")
    for _, each in held[1:]:
        each.close()


async def test_a_connection_that_sends_half_a_head_is_closed(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST[:-4])
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
