"""The front of HTTP before a few routes of a test's own: no key, no log, no store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from services.api.calls import CaptureCall
from services.api.http.guards.admission import AdmissionControl
from services.api.http.guards.costly import Gate
from services.api.http.guards.rate_limit import RateLimiter
from services.api.http.messages import Deferred, Request, Response
from services.api.http.pipeline import Guards, Pipeline
from services.api.http.routing import Route, Router
from services.api.http.spool import Spools
from services.api.http.transports.front import Front
from shared.domain.ids import Position
from shared.runtime.process.lifecycle import Listener, listen

SECONDS_MAX = 60.0


class NoPositions:
    """Of a log that is always right, and of which nothing is ever read."""

    def mismatch(self) -> bool:
        return False

    def reflected(self) -> str:
        return ""

    async def wait_for(self, positions: Sequence[Position]) -> None:
        return None


class Endpoints:
    """Answers with the body that was sent, at once or when told to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.waiting: list[asyncio.Future[bytes]] = []

    def at_once(self, call: CaptureCall) -> Response:
        self.bodies.append(call.request.body)
        return self._response(call.request)

    def deferred(self, call: CaptureCall) -> Deferred[bytes, Response]:
        request = call.request
        self.bodies.append(request.body)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return Deferred(future, lambda done: Response(body=done.result()))

    async def awaited(self, call: CaptureCall) -> Response:
        await asyncio.sleep(0)
        return self.at_once(call)

    def failing(self, call: CaptureCall) -> Response:
        raise RuntimeError("inside")

    def _response(self, request: Request) -> Response:
        return Response(headers={"X-Query": request.query_string}, body=b"got:" + request.body)

    def routes(self) -> tuple[Route, ...]:
        def row(path: str, endpoint: Any, *, streams: bool = False) -> Route:
            return Route("POST", path, "", endpoint, access="open", streams=streams, body_bytes_max=1_000_000)

        return (
            row("/in", self.at_once),
            row("/later", self.deferred),
            row("/task", self.awaited),
            row("/fails", self.failing),
            row("/indirect", self.at_once, streams=True),
            Route("GET", "/livez", "", lambda call: Response(body=b"ok\n"), access="open"),
        )


def pipeline_of(endpoints: Endpoints) -> Pipeline:
    absent: Any = None
    guards = Guards(
        access=absent,
        limits=RateLimiter(0, 1),
        gate=Gate(),
        admission=AdmissionControl(),
        spools=Spools(),
        clock=absent,
    )
    router = Router((), endpoints.routes())
    return Pipeline(router, guards, NoPositions(), lambda request: CaptureCall(request=request, context=absent))


class Served:
    """A front that listens, and its port."""

    def __init__(self, front: Front, listener: Listener, endpoints: Endpoints) -> None:
        self.front = front
        self.listener = listener
        self.endpoints = endpoints
        self.port: int = listener.addresses[0][1]


@asynccontextmanager
async def fronting() -> AsyncIterator[Served]:
    endpoints = Endpoints()
    front = Front(pipeline_of(endpoints))
    listener = await listen(front.connect, front.end, "127.0.0.1", 0)
    try:
        yield Served(front, listener, endpoints)
    finally:
        for future in endpoints.waiting:
            future.cancel()
        await listener.cleanup()


def post(path: str, body: bytes = b"", more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (path.encode(), len(body), more, body)


async def responses(reader: asyncio.StreamReader, count: int = 1) -> list[tuple[int, bytes]]:
    """Status and body of the next answers."""
    found = []
    async with asyncio.timeout(SECONDS_MAX):
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            found.append((int(head.split()[1]), await reader.readexactly(length)))
    return found
