"""Running a service until it is told to stop. Never adds a step whose absence would lose data: kill -9 is as safe."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from aiohttp import web

from shared.domain.errors import LogMismatch, Superseded
from shared.runtime.connections import KEEPALIVE_SECONDS, Connections, Guarded

STOP_SECONDS_MAX = 8.0
"""A service that has not ended by then is ended; the supervisor allows 10 s in all."""

SWITCH_SECONDS = 0.0005
"""How long a thread may hold the interpreter while another wants it. With Python's 5 ms the log's writer thread waited
that long for the busy event loop after each fsync, and every request of its commit with it."""

REQUEST_LINE_BYTES_MAX = 65_536
"""The longest URL: a list's filters are in it."""

CONNECTIONS_BACKLOG = 512

SHUTDOWN_SECONDS_MAX = 3.0
"""Requests under way may end until then."""

READ_BYTES = 65_536
"""Of a body in aiohttp's own buffer, twice that at most, until somebody reads on."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` until it ends, or cancel it at SIGTERM or SIGINT; the event loop is uvloop where it is installed."""
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
    except ExceptionGroup as group:  # of the service's tasks the first that failed is why it ends
        raise _first(group.subgroup((LogMismatch, Superseded)) or group) from None


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def collect_seldom(objects: int) -> None:
    """What was made so far is never looked at again; cycles among what is new are, each time there is so much of it."""
    gc.freeze()
    gc.set_threshold(objects, 50, 50)


AIOHTTP: dict[str, Any] = {
    "access_log": None,
    "max_line_size": REQUEST_LINE_BYTES_MAX,
    "read_bufsize": READ_BYTES,
    "auto_decompress": False,  # a false Content-Encoding would break the connection; whoever reads a body inflates it
}
"""How aiohttp's side of a connection is set up."""


class Served(Protocol):
    """A server that has started to answer."""

    @property
    def addresses(self) -> list[Any]: ...

    async def cleanup(self) -> None: ...


class Listener:
    """A listening socket, and what each of its connections is served by."""

    def __init__(self, server: asyncio.Server, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._server = server
        self._end = end

    @property
    def addresses(self) -> list[Any]:
        return [socket.getsockname() for socket in self._server.sockets]

    async def cleanup(self) -> None:
        """Accept nothing more, let requests under way end, close all connections."""
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
    """Serve each connection by a new protocol; `end` ends those that are open."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        factory, host, port, backlog=CONNECTIONS_BACKLOG, reuse_port=reuse_port or None
    )
    return Listener(server, end)


async def serve(app: web.Application, host: str, port: int) -> Listener:
    """Start answering; the caller owns the server and calls `cleanup`."""
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


def url_of(server: Served) -> str:
    """Where a started server answers on this machine; for port 0 it took one that was free."""
    host, port = server.addresses[0][:2]
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
