"""Running a service until it is told to stop. Never adds a step whose absence would lose data: kill -9 is as safe."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from shared.domain.errors import LogMismatch, Superseded
from shared.runtime import telemetry
from shared.runtime.express import Express, Server

STOP_SECONDS_MAX = 8.0
"""A service that has not ended by then is ended; the supervisor allows 10 s in all."""

SWITCH_SECONDS = 0.0005
"""How long a thread may hold the interpreter while another wants it. With Python's 5 ms the log's writer thread waited
that long for the busy event loop after each fsync, and every request of its commit with it."""

REQUEST_LINE_BYTES_MAX = 65_536
"""The longest URL: a list's filters are in it."""

KEEPALIVE_SECONDS = 75.0
"""A connection without a request is closed then, be it after its last one or before its first."""

CONNECTIONS_BACKLOG = 512

CONNECTIONS_MAX = 1_000
"""Of one process; a further one is told 503. Each may hold half a megabyte that nobody has asked to read yet."""

READ_BYTES = 65_536
"""Of a body in aiohttp's own buffer, twice that at most, until somebody reads on."""

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: 98\r\n\r\n"
    b'{"type":"server_error","code":"unavailable","detail":"Too many connections are open.","attr":null}'
)


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


async def serve(
    app: web.Application, host: str, port: int, *, reuse_port: bool = False, express: Express | None = None
) -> web.AppRunner:
    """Start answering; the caller owns the runner and calls `cleanup`. `express` is offered requests before `app`."""
    runner = _Runner(
        app,
        express,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=3.0,
        handle_signals=False,
        max_line_size=REQUEST_LINE_BYTES_MAX,
        read_bufsize=READ_BYTES,
        auto_decompress=False,  # a false Content-Encoding would break the connection; whoever reads a body inflates it
    )
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=CONNECTIONS_BACKLOG, reuse_port=reuse_port or None).start()
    return runner


def url_of(runner: web.AppRunner) -> str:
    """Where a started server answers on this machine; for port 0 it took one that was free."""
    host, port = runner.addresses[0][:2]
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"


class _Runner(web.AppRunner):
    """With a bound on connections, which aiohttp has no setting for."""

    def __init__(self, app: web.Application, express: Express | None, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._express = express

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        if self._express is not None:
            server = Server(server, self._express)
        made = server.connection_made

        def bounded(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
            made(handler, transport)
            if len(server.connections) > CONNECTIONS_MAX:
                telemetry.REFUSED.labels("connections").inc()
                transport.write(_FULL)
                handler.force_close()

        server.connection_made = bounded  # type: ignore[method-assign]  # the only place to count at
        return server


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
