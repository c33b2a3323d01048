"""Admission control of one API process: bytes of bodies, and time of the loop. Never waits for the
log.

Beyond a bound the client is told 503 with Retry-After, before memory grows or others wait.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from services.api.http import errors
from services.api.http.decompression import INFLATE_RATIO_MAX
from services.api.http.messages import Request
from shared.domain.errors import Transient
from shared.runtime import telemetry

RECEIVED_BYTES_MAX = 64 * 1_048_576
"""Bodies, as sent, of all requests that are not answered yet: three of the largest, or 20,000 as
SDKs send them."""

SMALL_BYTES = 8_192
"""A plain body up to this is handled within half a millisecond."""

SLICE_SECONDS = 0.05
"""Bodies are handled for so long between two looks at the sockets; the largest takes 0.5 s by
itself."""

TURN_SECONDS_MAX = 1.5
"""A body waits so long to be handled; the largest takes 0.5 s, an append 7 s, and 10 s is what a
client waits."""

BODY_SECONDS_MAX = 10.0
"""A body must have arrived by then: half a body held a connection open for over 40 s."""


class Incoming(Protocol):
    """A body that is still arriving."""

    total_bytes: int
    """What has arrived so far."""

    def is_eof(self) -> bool:
        """Whether all of it is here."""

    def read_nowait(self) -> bytes:
        """What is here."""

    async def readany(self) -> bytes:
        """The next piece; nothing at the end."""


class AdmissionControl:
    """The bodies in memory, and whose turn it is. Not thread-safe."""

    def __init__(self) -> None:
        self.bytes = 0
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order of coming
        self._began: float | None = None

    def hold(self, request: Request, size: int) -> None:
        """Count bytes of a request's body until it is answered. Transient when they do not fit
        beside the others."""
        self._judge(size)
        self.bytes += size
        request.body_bytes += size

    def release(self, request: Request) -> None:
        """The request is answered."""
        self.bytes -= request.body_bytes
        request.body_bytes = 0
        request.body = b""

    async def receive(
        self, request: Request, content: Incoming, length: int | None, bytes_max: int
    ) -> None:
        """Read the body into the request. Too large above `bytes_max`, 408 when it takes too long,
        Transient when it does not fit beside the others."""
        if length is not None and length > bytes_max:
            raise errors.too_large(bytes_max)
        if (
            content.is_eof() and content.total_bytes <= bytes_max
        ):  # nearly all: no timer is needed
            self.hold(request, content.total_bytes)
            request.body = content.read_nowait()
            return
        self._judge(length or 0)
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                request.body = await self._pieces(request, content, bytes_max)
        except TimeoutError:
            raise errors.timeout() from None

    async def _pieces(
        self, request: Request, content: Incoming, bytes_max: int
    ) -> bytes:
        pieces: list[bytes] = []
        while piece := await content.readany():
            if request.body_bytes + len(piece) > bytes_max:
                raise errors.too_large(bytes_max)
            self.hold(request, len(piece))
            pieces.append(piece)
        return b"".join(pieces)

    def spare(self, size: int) -> bool:
        """Whether a body of so many bytes may be handled at once: nobody waits for that, and the
        sockets were looked at a while ago. What takes no time is not counted: to hear of the loop's
        next round costs 7 µs of a GET's 42."""
        if size <= SMALL_BYTES:
            return not self._waiting
        if self._began is None:
            self._begin()
            return True
        return (
            not self._waiting
            and asyncio.get_running_loop().time() - self._began <= SLICE_SECONDS
        )

    async def turn(self, size: int) -> None:
        """Return when this body may be handled, in the order of coming; Transient when that takes
        too long.

        What follows is one piece without an await, so only the loop's next round can look at the
        sockets.
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
            raise _busy(
                "bytes",
                f"The bodies being handled have more than {RECEIVED_BYTES_MAX} bytes together.",
            )


def unfolded(body: bytes) -> int:
    """How many bytes there may be to handle: what does not begin as JSON may be compressed, up to
    200 times."""
    return len(body) if body[:1] in (b"", b"{", b"[") else INFLATE_RATIO_MAX * len(body)


def _busy(reason: str, detail: str) -> Transient:
    telemetry.REFUSED.labels(reason).inc()
    return Transient(detail)
