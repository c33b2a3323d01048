"""Running a service until it is told to stop. Never adds a step whose absence would lose data: kill -9 is as safe."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

STOP_SECONDS_MAX = 8.0
"""A service that has not ended by then is ended; the supervisor allows 10 s in all."""

SWITCH_SECONDS = 0.0005
"""How long a thread may hold the interpreter while another wants it. With Python's 5 ms the log's writer thread waited
that long for the busy event loop after each fsync, and every request of its commit with it."""

REQUEST_LINE_BYTES_MAX = 65_536
"""The longest URL: a list's filters are in it."""

KEEPALIVE_SECONDS = 75.0
CONNECTIONS_BACKLOG = 512


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
    await task


async def serve(app: web.Application, host: str, port: int, *, reuse_port: bool = False) -> web.AppRunner:
    """Start answering; the caller owns the runner and calls `cleanup`."""
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=3.0,
        handle_signals=False,
        max_line_size=REQUEST_LINE_BYTES_MAX,
        auto_decompress=False,  # a false Content-Encoding would break the connection; whoever reads a body inflates it
    )
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=CONNECTIONS_BACKLOG, reuse_port=reuse_port or None).start()
    return runner


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
