"""Requests that come by aiohttp: any of them, whole or not. Carries them through the pipeline, and
no rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from services.api.http import errors
from services.api.http.guards.costly import while_connected
from services.api.http.messages import Request, Response
from services.api.http.pipeline import Pipeline
from services.api.http.transports.wire import head_of, is_chunked

WRITE_SECONDS_MAX = 60.0
"""A client takes so long for a piece of an answer at most: what waits for it takes space that
others need."""


class RequestObserver(Protocol):
    """A connection that is told when a request of it is under way."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


class Handler(web.RequestHandler):
    """aiohttp's side of one connection. A request that cannot be parsed is refused in the standard
    shape."""

    def __init__(
        self,
        server: web.Server,
        *,
        observer: RequestObserver | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(server, **settings)
        self.observer = observer

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError(
                "An answer has begun: the connection is all that can end."
            )
        return Written(_error(status, exc).response(), request, parsed=False)


class Adapter:
    """aiohttp's handler of all requests."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """Read the body within its bounds, and write what the pipeline answers."""
        observer = getattr(incoming.protocol, "observer", None)
        if observer is None:
            return await self._respond(incoming)
        observer.begin()
        response = await self._respond(incoming)
        response.observer = observer  # until it is written
        return response

    async def _respond(self, incoming: web.BaseRequest) -> Written:
        pipeline, request = self._pipeline, request_of(incoming)
        try:
            response = pipeline.admit(request)
            if response is None:
                response = await self._read_and_answer(incoming, request)
        finally:
            pipeline.admission.release(request)
        return Written(response, incoming)

    async def _read_and_answer(
        self, incoming: web.BaseRequest, request: Request
    ) -> Response:
        pipeline = self._pipeline
        try:
            await _expect(incoming)
            bytes_max = pipeline.bytes_max(request)
            if bytes_max is not None and incoming.can_read_body:
                await pipeline.admission.receive(
                    request, incoming.content, incoming.content_length, bytes_max
                )
        except (HttpProcessingError, web.RequestPayloadError) as error:
            return pipeline.refuse(request, _error(400, error))
        except Exception as error:  # noqa: BLE001  # ours, or the last line of defence
            return pipeline.refuse(request, error)
        answer = pipeline.answer(request)
        return answer if isinstance(answer, Response) else await answer


class Written(web.StreamResponse):
    """A response that is written as the front writes it."""

    def __init__(
        self, response: Response, incoming: web.BaseRequest, *, parsed: bool = True
    ) -> None:
        super().__init__(status=response.status)
        self._response = response
        self._incoming = incoming
        self._version = "1.0" if parsed and incoming.version < (1, 1) else "1.1"
        sized = isinstance(response.body, bytes) or "Content-Length" in response.headers
        upgrades = (
            incoming.headers.get("Upgrade", "").lower() == "websocket"
        )  # aiohttp reads no further then
        self._keeps = (
            parsed
            and incoming.keep_alive
            and not upgrades
            and (sized or self._version == "1.1")
        )
        self.observer: RequestObserver | None = None

    @property
    def keep_alive(self) -> bool:
        return self._keeps

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        try:
            await self._write(self._incoming.writer)
        finally:
            if self.observer is not None:
                self.observer.end()

    async def _write(self, writer: AbstractStreamWriter) -> None:
        response = self._response
        body = response.body
        connection = "" if self._keeps else "close"
        if self._version == "1.0":
            connection = "keep-alive" if self._keeps else ""
        head = head_of(response, version=self._version, connection=connection)
        is_head = self._incoming.method == "HEAD"
        if isinstance(body, bytes):
            await writer.write(head if is_head else head + body)
            return
        try:
            await writer.write(head)
            if not is_head:
                chunked = is_chunked(response, self._version)
                await while_connected(
                    self._is_connected, self._write_parts(writer, body, chunked=chunked)
                )
        except Exception as error:  # noqa: BLE001  # the status is sent: the connection ends
            structlog.get_logger().error(
                "an answer broke off",
                route=self._incoming.path,
                error=type(error).__name__,
            )
            if self._incoming.transport is not None:
                self._incoming.transport.abort()
        finally:
            await body.aclose()

    async def _write_parts(
        self,
        writer: AbstractStreamWriter,
        body: AsyncGenerator[bytes, None],
        *,
        chunked: bool,
    ) -> None:
        """Send a body as it comes. What goes wrong ends the connection: half a body never looks
        whole."""
        async for chunk in body:
            if chunk:
                async with asyncio.timeout(WRITE_SECONDS_MAX):
                    await writer.write(
                        b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk
                    )
                    await writer.drain()
        if chunked:
            await writer.write(b"0\r\n\r\n")

    def _is_connected(self) -> bool:
        return is_connected(self._incoming)


def request_of(incoming: web.BaseRequest) -> Request:
    """The same request as the pipeline knows it."""
    url = incoming.rel_url
    return Request(
        method=incoming.method,
        path=url.path_safe,
        path_sent=url.raw_path,
        query_string=url.raw_query_string,
        headers=incoming.headers,
        authority=incoming.host,
        remote=incoming.remote,
        is_connected=lambda: is_connected(incoming),
    )


def is_connected(incoming: web.BaseRequest) -> bool:
    transport = incoming.transport
    return transport is not None and not transport.is_closing()


async def _expect(incoming: web.BaseRequest) -> None:
    """Tell a client that waits for it to send its body. 417 for anything else that it expects."""
    expectation = incoming.headers.get("Expect")
    if expectation is None or incoming.version < (1, 1):
        return
    if expectation.lower() != "100-continue":
        raise errors.expectation_failed(expectation)
    await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    incoming.writer.output_size = 0  # the response has not begun


def _error(status: int, error: BaseException | None) -> errors.ApiError:
    if status == 400:
        return errors.parse_error(
            f"The request cannot be read: {type(error).__name__}."
        )
    return errors.refusal_of(error or RuntimeError(), "unknown")
