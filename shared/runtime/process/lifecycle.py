"""Run a service until it is asked to stop. No data depends on a clean stop: kill -9 is safe."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

from shared.domain.errors import LogMismatch, Superseded
from shared.runtime.process.connections import KEEPALIVE_SECONDS, Connections, Guarded

STOP_SECONDS_MAX = 8.0
"""The longest stop of a service; the supervisor allows 10 s in all."""

SWITCH_SECONDS = 0.0005
"""How long a thread may hold the interpreter while another waits for it.

With Python's 5 ms the log's writer thread waited that long for the busy event loop after each
fsync, and every request of its commit with it.
"""

REQUEST_LINE_BYTES_MAX = 65_536
"""The longest URL, which has a list's filters."""

CONNECTIONS_BACKLOG = 512

SHUTDOWN_SECONDS_MAX = 3.0
"""Time for requests under way to end at a stop."""

READ_BYTES = 65_536
"""Unread bytes of a body in aiohttp's buffer, which holds twice that at most."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` until it ends, or cancel it at SIGTERM or SIGINT; on uvloop where installed."""
    sys.setswitchinterval(SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_stopped(main))


async def _until_stopped(main: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(main, name="service")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    waiting = asyncio.create_task(stopping.wait(), name="signals")
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_SECONDS_MAX)
        return
    try:
        await task
    except ExceptionGroup as group:  # the first failed task is the reason of the end
        raise _first(group.subgroup((LogMismatch, Superseded)) or group) from None


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def collect_seldom(objects: int) -> None:
    """Exempt present objects from garbage collection, and collect each `objects` new ones."""
    gc.freeze()
    gc.set_threshold(objects, 50, 50)


AIOHTTP: dict[str, Any] = {
    "access_log": None,
    "max_line_size": REQUEST_LINE_BYTES_MAX,
    "read_bufsize": READ_BYTES,
    # a false Content-Encoding would break the connection; the reader of a body inflates it
    "auto_decompress": False,
}
"""Settings of aiohttp's side of a connection."""


class Listener:
    """A listening server; `end` closes its connections."""

    def __init__(
        self, server: asyncio.Server, end: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._server = server
        self._end = end

    @property
    def addresses(self) -> list[Any]:
        return [socket.getsockname() for socket in self._server.sockets]

    async def cleanup(self) -> None:
        """Stop accepting, let requests under way end, and close all connections."""
        self._server.close()
        await self._end()


async def listen(
    factory: Callable[[], asyncio.Protocol],
    end: Callable[[], Coroutine[Any, Any, None]],
    host: str,
    port: int,
    *,
    reuse_port: bool = False,
) -> Listener:
    """Serve each connection by a new protocol; `end` closes the open ones at the stop."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        factory, host, port, backlog=CONNECTIONS_BACKLOG, reuse_port=reuse_port or None
    )
    return Listener(server, end)


async def serve(app: web.Application, host: str, port: int) -> Listener:
    """Start a server; the caller owns it and calls `cleanup`."""
    runner = web.AppRunner(
        app,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS_MAX,
        handle_signals=False,
        **AIOHTTP,
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    connections = Connections()

    async def end() -> None:
        await runner.cleanup()
        connections.close()

    return await listen(lambda: Guarded(server(), connections), end, host, port)


def url_of(server: Listener) -> str:
    """Return the URL of a started server on this machine, with its chosen port for port 0."""
    host, port = server.addresses[0][:2]
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
