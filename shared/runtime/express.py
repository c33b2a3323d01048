"""Small requests answered without a task each: aiohttp's way through one costs more than what is done with it.

A request that comes whole, in one piece, with a head as any client sends it, is offered to a `Taker`; all else, and
what it does not take, goes aiohttp's way. aiohttp's own parser judges headers, once for each wording: those of one
client differ in the length of the body at most.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple, Protocol

import structlog
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy

HEADS_MAX = 4_096
"""Wordings of headers that are kept, of some 300 bytes each; all are forgotten above."""

HEAD_BYTES_MAX = 4_096
"""A longer head is judged for each request, by aiohttp."""

BODY_BYTES_MAX = 262_144
"""What a socket gives in one piece at most."""

UNKNOWN_IN_A_ROW_MAX = 8
"""A connection whose headers are new each time (with a trace id, say) gains nothing here: it goes aiohttp's way."""


class Head(NamedTuple):
    """What a head says: whose it is, the length of its body, and what its taker wants to know of line and headers."""

    taker: Taker
    length: int
    line: Any
    headers: Any


class Taken(NamedTuple):
    """A request that is being answered: `future` is what it waits for, `note` what the taker wants to know then."""

    future: asyncio.Future[Any]
    note: Any


class Taker(Protocol):
    """Who takes requests of a kind."""

    def line(self, line: bytes) -> Any:
        """What it wants to know of a request with this first line; None when it is not of its kind, or not HTTP/1.1."""

    def headers(self, headers: CIMultiDictProxy[str]) -> Any:
        """What it wants to know of these headers, once for each wording; None when they ask for more than it does."""

    def take(self, head: Head, body: bytes) -> Taken | bytes | None:
        """Begin with a request, without waiting, or answer it. None when it must go aiohttp's way: nothing has been
        done then."""

    def answer(self, head: Head, taken: Taken, seconds: float) -> bytes:
        """The whole answer, now that the future is done; the request came so long ago."""


class Express:
    """What the connections of a server share."""

    def __init__(self, *takers: Taker) -> None:
        self._takers = takers
        self._judged: dict[bytes, tuple[int, dict[Taker, Any]] | None] = {}

    def known(self, headers: bytes) -> bool:
        return headers in self._judged

    def head(self, line: bytes, headers: bytes) -> Head | None:
        """What these bytes say, headers from the line's end to the empty line; None when aiohttp must see them."""
        for taker in self._takers:
            asked = taker.line(line)
            if asked is not None:
                break
        else:
            return None
        if headers not in self._judged:
            if len(self._judged) >= HEADS_MAX:
                self._judged.clear()
            self._judged[headers] = self._judge(headers)
        judged = self._judged[headers]
        note = judged[1][taker] if judged is not None else None
        return Head(taker, judged[0], asked, note) if judged is not None and note is not None else None

    def _judge(self, text: bytes) -> tuple[int, dict[Taker, Any]] | None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, HEAD_BYTES_MAX)
        try:
            messages, upgraded, rest = parser.feed_data(b"POST / HTTP/1.1" + text)
        except HttpProcessingError:
            return None
        if len(messages) != 1 or upgraded or rest:
            return None
        message = messages[0][0]
        headers = message.headers
        lengths = headers.getall("Content-Length", ["0"])
        if (
            message.should_close
            or message.upgrade
            or message.chunked
            or any(name in headers for name in ("Origin", "Expect", "Transfer-Encoding"))
            or len(lengths) != 1
            or not lengths[0].isdecimal()
            or int(lengths[0]) > BODY_BYTES_MAX
        ):
            return None
        return int(lengths[0]), {taker: taker.headers(headers) for taker in self._takers}


class Connection(web.RequestHandler):
    """One client's connection. At each moment either aiohttp has it or a request of ours is being answered.

    aiohttp's parser must be between two requests when it is passed by, so that is counted: once something has come
    whose end is not known for certain, the connection is aiohttp's for good.
    """

    __slots__ = ("_began", "_express", "_later", "_ordinary", "_rest", "_taken", "_unknown")

    def __init__(self, manager: web.Server, *, express: Express, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._express = express
        self._ordinary = False
        self._rest = 0  # bytes of a body that aiohttp is still getting
        self._unknown = 0
        self._taken: tuple[Head, Taken] | None = None
        self._began = 0.0
        self._later: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        if self._ordinary:
            super().data_received(data)
        elif self._taken is not None:  # it sends on before it was answered
            self._later.append(data)
            self._pause_transport_reading()
        elif self._rest:
            self._rest -= len(data)
            self._ordinary = self._rest < 0
            super().data_received(data)
        elif not data or not self._take(data):
            super().data_received(data)

    def _take(self, data: bytes) -> bool:
        """Whether this is a request that is being answered; else aiohttp gets it, and it is known where it ends, or
        the connection is ordinary from now on."""
        begin, end = data.find(b"\r\n"), data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX) + 4
        headers = data[begin:end]
        self._unknown = 0 if self._express.known(headers) else self._unknown + 1
        whole = end > 4 and self._unknown <= UNKNOWN_IN_A_ROW_MAX
        head = self._express.head(data[:begin], headers) if whole else None
        rest = end + head.length - len(data) if head is not None else -1
        self._ordinary = rest < 0
        self._rest = max(rest, 0)
        waiter = self._waiter
        waits = waiter is not None and not waiter.done() and not self._messages
        idle = waits or self._request_count == 0  # aiohttp has answered what came before, or got nothing yet
        if rest or not idle or self._paused or self._close or self._force_close:
            return False
        assert head is not None
        began = time.perf_counter()
        try:
            taken = head.taker.take(head, data[end:])
        except Exception:  # noqa: BLE001  # aiohttp's way meets it again, and tells
            return False
        if taken is None:
            return False
        if isinstance(taken, bytes):
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self.transport is not None:
                self.transport.write(taken)
            return True
        self._began = began
        self._taken = head, taken
        self._request_in_progress = True  # a shutdown waits for it
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        taken.future.add_done_callback(self._answer)
        return True

    def _answer(self, future: asyncio.Future[Any]) -> None:
        assert self._taken is not None
        (head, taken), self._taken = self._taken, None
        try:
            answer = head.taker.answer(head, taken, time.perf_counter() - self._began)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # who has no answer must not wait for one
            if not future.cancelled():
                structlog.get_logger().exception("unexpected", error=type(error).__name__)
            self.force_close()
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._request_in_progress = False
        if self.transport is not None:
            self.transport.write(answer)
        if self._handler_waiter is not None:
            self._handler_waiter.set_result(None)
        if self._later:
            later, self._later = b"".join(self._later), []
            self._resume_transport_reading()
            self.data_received(later)


class Server(web.Server):
    """A server whose connections offer their requests to a taker first."""

    def __init__(self, like: web.Server, express: Express) -> None:
        super().__init__(like.request_handler, request_factory=like.request_factory, **like._kwargs)  # noqa: SLF001  # aiohttp has no way to name the class of its connections
        self._express = express

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, express=self._express, **self._kwargs)
