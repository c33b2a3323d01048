"""The operator's endpoints of every process: /livez, /readyz, /metrics, /version; no secrets."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.runtime.release import release

Check = Callable[[], Awaitable[str]]
"""Returns the trouble, or an empty text."""

TEXT = "text/plain; charset=utf-8"


class Reply(NamedTuple):
    """An answer to an operator."""

    body: bytes
    status: int = 200
    content_type: str = TEXT


class OperatorEndpoints:
    """The answers of one process, which is ready when all `checks` pass."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    def livez(self) -> Reply:
        """Answer that the process runs."""
        return Reply(b"ok\n")

    async def readyz(self, *, verbose: bool) -> Reply:
        """Answer 200 when every check passes, else 503; `verbose` lists all."""
        outcomes = {name: await _outcome(check) for name, check in self._checks.items()}
        ready = not any(outcomes.values())
        text = "ok\n" if ready else "not ready\n"
        if verbose:
            text = "".join(
                f"[{'-' if trouble else '+'}] {name} {trouble or 'ok'}\n"
                for name, trouble in outcomes.items()
            )
        return Reply(text.encode(), 200 if ready else 503)

    def metrics(self, remote: str | None) -> Reply:
        """Answer with Prometheus's text, for this machine only."""
        if not _is_loopback(remote):
            return Reply(b"metrics are for loopback only\n", 403)
        return Reply(generate_latest(), content_type=CONTENT_TYPE_LATEST)

    def version(self) -> Reply:
        """Answer with the version."""
        return Reply(
            orjson.dumps({"version": release()}), content_type="application/json"
        )


def add_ops(app: web.Application, checks: Mapping[str, Check]) -> None:
    """Add the endpoints to a process that serves nothing else."""
    operations = OperatorEndpoints(checks)

    async def livez(request: web.Request) -> web.Response:
        return _response(operations.livez())

    async def readyz(request: web.Request) -> web.Response:
        return _response(await operations.readyz(verbose="verbose" in request.query))

    async def metrics(request: web.Request) -> web.Response:
        return _response(operations.metrics(request.remote))

    async def version(request: web.Request) -> web.Response:
        return _response(operations.version())

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/version", version)


def _response(reply: Reply) -> web.Response:
    headers = {"Content-Type": reply.content_type}
    return web.Response(status=reply.status, body=reply.body, headers=headers)


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
