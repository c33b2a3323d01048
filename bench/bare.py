"""The limit of acknowledged appends: a bare aiohttp handler that decodes and answers."""

from __future__ import annotations

import sys

import msgspec
from aiohttp import web

from shared.runtime.process.lifecycle import run


async def handle(request: web.Request) -> web.Response:
    msgspec.json.decode(await request.read())
    return web.Response(body=b'{"status":"Ok"}', content_type="application/json")


async def main(port: int) -> None:
    import asyncio

    app = web.Application()
    app.router.add_post("/capture/", handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main(int(sys.argv[1])))
