"""The front of HTTP: an asyncio protocol on httptools that answers whole plain requests of direct
routes.

Anything else goes to aiohttp, with all bytes that have come, and the connection for good. A request
is ours only when its head is plain, its route direct, and nothing lies behind it. Carries requests
through the pipeline, and no rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any, cast

import structlog
from aiohttp import web
from yarl import URL

from services.api.http import errors
from services.api.http.guards.admission import BODY_SECONDS_MAX
from services.api.http.messages import Deferred, Request, Response
from services.api.http.pipeline import Pipeline
from services.api.http.transports.aiohttp_adapter import Adapter, Handler
from services.api.http.transports.headers import Headers
from services.api.http.transports.message_parser import (
    HEAD_BYTES_MAX,
    MessageParser,
)
from services.api.http.transports.wire import head_of
from shared.domain.errors import Transient
from shared.runtime.process.connections import (
    FULL,
    KEEPALIVE_SECONDS,
    Connections,
    Waiting,
)
from shared.runtime.process.lifecycle import (
    AIOHTTP,
    SHUTDOWN_SECONDS_MAX,
    Listener,
    listen,
)


class Front:
    """What all connections of one server share."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.loop = asyncio.get_running_loop()
        self.connections = Connections()
        self.bodies: Waiting[Connection] = Waiting(BODY_SECONDS_MAX, Connection.give_up)
        self.answered = 0
        """Requests that were answered here."""

        self.handed_over = 0
        """Connections that went to aiohttp."""

        self.ending = False
        self.tasks: set[asyncio.Task[Response]] = set()
        self.fixed = frozenset(
            resource.template.encode()
            for resource in pipeline.router.resources
            if resource.is_fixed
        )
        self._adapter = web.Server(Adapter(pipeline).handle)

    def connect(self) -> Connection:
        return Connection(self)

    def handler(self, connection: Connection) -> Handler:
        """aiohttp's side of a connection."""
        settings: dict[str, Any] = {
            "loop": self.loop,
            "keepalive_timeout": KEEPALIVE_SECONDS,
            **AIOHTTP,
        }
        return Handler(self._adapter, observer=connection, **settings)

    async def end(self) -> None:
        """Let requests under way end, and close all connections."""
        self.ending = True
        self._adapter.pre_shutdown()
        self.connections.close_idle()
        await self._adapter.shutdown(SHUTDOWN_SECONDS_MAX)
        await self.connections.ended(SHUTDOWN_SECONDS_MAX)
        self.connections.close()
        self.bodies.close()


class Connection(asyncio.Protocol):
    """One client's connection, either here or aiohttp's."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport | None = None
        self._handler: Handler | None = None
        self._remote: str | None = None
        self._under_way = False
        self._later: list[bytes] = []
        self._reading_paused = False
        self._writing_paused = False
        self._closing = False
        self._message = MessageParser()
        self._request: Request | None = None

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(
            asyncio.Transport, transport
        )  # uvloop's is none by inheritance
        peer = transport.get_extra_info("peername")
        self._remote = str(peer[0]) if isinstance(peer, list | tuple) else None
        if not self._front.connections.opened(self):
            transport.write(FULL)
            transport.close()
            self._closing = True

    def data_received(self, data: bytes) -> None:
        handler = self._handler
        if handler is not None:
            if not self._under_way:
                self._front.connections.receives(self)
            handler.data_received(data)
        elif (
            self._under_way or self._writing_paused
        ):  # it sends on before it was answered, or does not read
            self._later.append(data)
            self._pause_reading()
        elif not self._closing:
            self._feed(data)

    def eof_received(self) -> bool | None:
        if self._handler is not None:
            self._handler.eof_received()
        return None  # as aiohttp: the connection is closed

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        was_paused, self._writing_paused = self._writing_paused, False
        if self._handler is not None:
            if was_paused:
                self._handler.resume_writing()
        elif not self._under_way:
            self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        front = self._front
        front.connections.closed(self)
        front.bodies.discard(self)
        self._transport = None
        if self._handler is not None:
            self._handler.connection_lost(error)
        elif self._request is not None and not self._under_way:
            front.pipeline.admission.release(self._request)

    # what aiohttp's side calls

    def begin(self) -> None:
        self._under_way = True
        self._front.connections.begins(self)

    def end(self) -> None:
        self._under_way = False
        self._front.connections.rests(self)

    # what limits call

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def is_connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _feed(self, data: bytes) -> None:
        message = self._message
        if not message.feed(data):  # aiohttp says what is wrong
            self._hand_over()
            return
        if message.head_is_whole and self._request is None:
            self._request = self._plain_request()
            if self._request is None:
                self._hand_over()
                return
        if message.count > 1:
            self._hand_over()
        elif message.is_whole:
            self._answer()
        elif message.head_is_whole:
            self._front.connections.begins(self)
            self._front.bodies.begin(self)
        elif message.bytes > HEAD_BYTES_MAX:
            self._hand_over()
        else:
            self._front.connections.receives(self)

    def _plain_request(self) -> Request | None:
        """The request that begins with this head; None when it is not ours."""
        front, message = self._front, self._message
        if not message.is_plain(front.fixed):
            return None
        path, _, query = message.target.decode().partition("?")
        method = message.method.decode()
        plain = (
            path if "%" not in path else URL.build(path=path, encoded=True).path_safe
        )
        match = front.pipeline.router.find(method, plain)
        if match is None or match.route is None or not match.route.is_direct:
            return None
        request = Request(
            method=method,
            path=plain,
            path_sent=path,
            query_string=query,
            headers=Headers(message.headers),
            authority=message.headers[b"host"].decode("utf-8", "surrogateescape"),
            remote=self._remote,
            is_connected=self.is_connected,
            route=match.route,
            template=match.resource.template,
            parameters=match.parameters,
        )
        try:
            front.pipeline.admission.hold(request, message.length)
        except Transient:  # aiohttp's way says so
            return None
        return request

    def _hand_over(self) -> None:
        """Give the connection to aiohttp, for good, with all that has come of this request."""
        front = self._front
        front.handed_over += 1
        front.bodies.discard(self)
        front.connections.receives(self)
        if self._request is not None:
            front.pipeline.admission.release(self._request)
        chunks = self._message.chunks
        assert self._transport is not None
        handler = self._handler = front.handler(self)
        self._message.close()
        del self._message
        self._request = None
        handler.connection_made(self._transport)
        if self._writing_paused:
            handler.pause_writing()
        # one by one: of a chunk whose end is broken aiohttp answers no request
        for chunk in chunks:
            handler.data_received(chunk)

    def _answer(self) -> None:
        request, front = self._request, self._front
        assert request is not None
        request.body = self._message.body
        front.connections.begins(self)
        front.bodies.discard(self)
        self._under_way = True
        answer = front.pipeline.respond(request)
        if isinstance(answer, Response):
            self._write(answer)
        elif isinstance(answer, Deferred):
            if answer.future.done():
                self._finish(answer, answer.future)
            else:
                answer.future.add_done_callback(partial(self._finish, answer))
        else:
            task = front.loop.create_task(_await_response(answer))
            front.tasks.add(task)
            task.add_done_callback(front.tasks.discard)
            task.add_done_callback(self._finish_task)

    def _finish(
        self, answer: Deferred[Any, Response], future: asyncio.Future[Any]
    ) -> None:
        try:
            self._write(answer.finish(future))
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise

    def _finish_task(self, task: asyncio.Task[Response]) -> None:
        try:
            self._write(task.result())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # see _fail
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End a connection whose answer cannot be made: who has none must not wait for it."""
        if not isinstance(error, asyncio.CancelledError):
            structlog.get_logger().error(
                "unexpected", error=type(error).__name__, exc_info=error
            )
        if self._request is not None:
            self._front.pipeline.admission.release(self._request)
        self.abort()

    def _write(self, response: Response) -> None:
        front = self._front
        front.answered += 1
        closes = self._closing or front.ending or not self._message.keeps_alive
        is_head = self._message.method == b"HEAD"
        self._under_way = False
        self._message.expect_message()
        self._request = None
        if self._transport is None:
            return
        body = response.body
        assert isinstance(body, bytes), "a direct route never streams"
        head = head_of(response, connection="close" if closes else "")
        self._transport.write(head if is_head else head + body)
        if closes:
            self._closing = True
            self._transport.close()
        else:
            front.connections.rests(self)
            self._go_on()

    def _go_on(self) -> None:
        """Take what has come while a request was answered."""
        if self._writing_paused or self._closing or self._transport is None:
            return
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        if self._later:
            data = b"".join(self._later)
            self._later.clear()
            self._feed(data)

    def give_up(self) -> None:
        """Answer a request whose body did not arrive in time."""
        request = self._request
        assert request is not None
        pipeline = self._front.pipeline
        self._closing = True
        self._write(
            pipeline.admit(request) or pipeline.refuse(request, errors.timeout())
        )

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()


async def _await_response(answer: Awaitable[Response]) -> Response:
    return await answer


async def serve(
    pipeline: Pipeline, host: str, port: int, *, reuse_port: bool = False
) -> Listener:
    """Start answering; the caller owns the server and calls `cleanup`."""
    front = Front(pipeline)
    return await listen(front.connect, front.end, host, port, reuse_port=reuse_port)
