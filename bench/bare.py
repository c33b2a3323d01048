"""The limit of acknowledged appends: a bare aiohttp handler that decodes and answers."""

from __future__ import annotations

import sys

import msgspec
from aiohttp import web

from shared.runtime.lifecycle import run, serve


async def handle(request: web.Request) -> web.Response:
    msgspec.json.decode(await request.read())
    return web.Response(body=b'{"status":"Ok"}', content_type="application/json")


async def main(port: int) -> None:
    import asyncio

    app = web.Application()
    app.router.add_post("/capture/", handle)
    await serve(app, "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main(int(sys.argv[1])))
