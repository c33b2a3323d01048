"""What one API process takes on at once: bytes of bodies, and time of the loop. Never waits for the log.

Beyond a bound the client is told 503 with Retry-After, before memory grows or others wait.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from services.api.http import errors
from services.api.http.decompression import INFLATE_RATIO_MAX
from shared.domain.errors import Transient
from shared.runtime import telemetry

RECEIVED_BYTES_MAX = 64 * 1_048_576
"""Bodies, as sent, of all requests that are not answered yet: three of the largest, or 20,000 as SDKs send them."""

SMALL_BYTES = 8_192
"""A plain body up to this is handled within half a millisecond."""

SLICE_SECONDS = 0.05
"""Bodies are handled for so long between two looks at the sockets; the largest takes 0.5 s by itself."""

TURN_SECONDS_MAX = 1.5
"""A body waits so long to be handled; the largest takes 0.5 s, an append 7 s, and 10 s is what a client waits."""

BODY = web.RequestKey("body", bytes)
"""Where a request keeps its body for whoever asks again, until it is answered."""

_HELD = web.RequestKey("held", int)


class Load:
    """The bodies that are held, and whose turn it is."""

    def __init__(self) -> None:
        self.bytes = 0
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order of coming
        self._began: float | None = None

    async def receive(self, request: web.Request, most: int) -> None:
        """Keep the body in the request. Too large above `most`; Transient when it does not fit beside the others."""
        self._judge(request.content_length or 0)
        if request.content.is_eof() and request.content.total_bytes <= most:  # nearly all: no more comes
            self._judge(request.content.total_bytes)  # in chunks it told no length
            request[BODY] = request.content.read_nowait()
            request[_HELD] = len(request[BODY])
            self.bytes += request[_HELD]
            return
        chunks: list[bytes] = []
        size = 0
        while chunk := await request.content.readany():
            size += len(chunk)
            if size > most:
                raise errors.too_large(most)
            self._judge(len(chunk))
            self.bytes += len(chunk)
            request[_HELD] = size
            chunks.append(chunk)
        request[BODY] = b"".join(chunks)

    def spare(self, size: int) -> bool:
        """Whether a body of so many bytes may be handled at once: nobody waits for that, and the sockets were looked at
        a while ago. What takes no time is not counted: to hear of the loop's next round costs 7 µs of a GET's 42."""
        if size <= SMALL_BYTES:
            return not self._waiting
        if self._began is None:
            self._begin()
            return True
        return not self._waiting and asyncio.get_running_loop().time() - self._began <= SLICE_SECONDS

    async def turn(self, size: int) -> None:
        """Return when this body may be handled, in the order of coming; Transient when that takes too long.

        What follows is one piece without an await, so only the loop's next round can look at the sockets.
        """
        if self.spare(size):
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            async with asyncio.timeout(TURN_SECONDS_MAX):
                await future
        except TimeoutError:
            raise _busy("turn", "Too many requests wait to be handled.") from None
        finally:
            self._waiting.pop(future, None)

    def forget(self, request: web.Request) -> None:
        """The request is answered. aiohttp holds it until the connection's next one, so its body must go by itself."""
        self.bytes -= request.pop(_HELD, 0)
        request.pop(BODY, None)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        """Let one of the waiting ones go on in each round of the loop."""
        self._began = None
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
                break
        if self._waiting:
            self._begin()

    def _judge(self, coming: int) -> None:
        if self.bytes + coming > RECEIVED_BYTES_MAX:
            raise _busy("bytes", f"The bodies being handled have more than {RECEIVED_BYTES_MAX} bytes together.")


def unfolded(body: bytes) -> int:
    """How many bytes there may be to handle: what does not begin as JSON may be compressed, up to 200 times."""
    return len(body) if body[:1] in (b"", b"{", b"[") else INFLATE_RATIO_MAX * len(body)


def _busy(reason: str, detail: str) -> Transient:
    telemetry.REFUSED.labels(reason).inc()
    return Transient(detail)
