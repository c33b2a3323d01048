"""The operator's endpoints of every process: /livez, /readyz, /metrics, /version; no secrets."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.runtime.release import release

Check = Callable[[], Awaitable[str]]
"""Returns the trouble, or an empty text."""


def add_ops(app: web.Application, checks: Mapping[str, Check]) -> None:
    """Add the endpoints; `/readyz` is 200 when every check is empty; `?verbose` lists all."""

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        outcomes = {name: await _outcome(check) for name, check in checks.items()}
        ready = not any(outcomes.values())
        if "verbose" in request.query:
            text = "".join(
                f"[{'-' if trouble else '+'}] {name} {trouble or 'ok'}\n"
                for name, trouble in outcomes.items()
            )
        else:
            text = "ok\n" if ready else "not ready\n"
        return web.Response(status=200 if ready else 503, text=text)

    async def metrics(request: web.Request) -> web.Response:
        if not _is_loopback(request.remote):
            return web.Response(status=403, text="metrics are for loopback only\n")
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def show_version(request: web.Request) -> web.Response:
        return web.Response(
            body=orjson.dumps({"version": release()}), content_type="application/json"
        )

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/version", show_version)


async def _outcome(check: Check) -> str:
    try:
        return await check()
    except Exception as error:  # noqa: BLE001  # a check that fails is an answer, not an accident
        return f"{type(error).__name__}: {error}"


def _is_loopback(remote: str | None) -> bool:
    try:
        return ipaddress.ip_address(remote or "").is_loopback
    except ValueError:
        return False
