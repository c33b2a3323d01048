"""Requests and responses as the pipeline knows them. No transport's type."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from yarl import URL

if TYPE_CHECKING:
    from services.api.http.guards.authorisation import Caller
    from services.api.http.negotiation import Format
    from services.api.http.routing import Route

NO_QUERY: Mapping[str, str] = {}

T = TypeVar("T")
R = TypeVar("R")


def always_connected() -> bool:
    return True


class Request(msgspec.Struct, kw_only=True, eq=False):
    """One request. `route`, `parameters` and `caller` are filled in by the pipeline, `body` by the
    transport."""

    method: str
    path: str
    """The path, percent-decoded but for slashes and percent signs."""

    headers: Mapping[str, str]
    query_string: str = ""
    """The query as it was sent."""

    authority: str = ""
    """Host and port that the client names."""

    body: bytes = b""
    remote: str | None = None
    is_connected: Callable[[], bool] = always_connected
    """Whether the client is still there."""

    route: Route | None = None
    template: str = "unknown"
    """The route's path as metrics name it."""

    parameters: dict[str, str] = {}
    """Values of the path's parameters."""

    cross_origin: bool = False
    """Whether pages of any origin may read the answer."""

    caller: Caller | None = None
    format: Format = "json"
    """Of the answer."""

    limits: dict[str, str] = {}
    """The RateLimit headers of the answer, whatever that will be."""

    arrived: float = msgspec.field(default_factory=time.perf_counter)
    """When its head was there: what a sender's clock is compared with, however slow the body."""

    began: float = 0.0
    body_bytes: int = 0
    """Bytes that the bodies' guard counts for this request."""

    _query: Mapping[str, str] | None = None

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the query, decoded; of several with one name the first."""
        if not self.query_string:
            return NO_QUERY
        if self._query is None:
            self._query = self._relative_url.query
        return self._query

    @property
    def url(self) -> URL:
        """The whole URL, as links in answers begin."""
        return URL.build(scheme="http", authority=self.authority).join(
            self._relative_url
        )

    @property
    def content_type(self) -> str:
        """The media type of the body, without parameters."""
        return (
            self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            or "application/octet-stream"
        )

    @property
    def _relative_url(self) -> URL:
        return URL.build(
            path=self.path_sent, query_string=self.query_string, encoded=True
        )

    path_sent: str = ""
    """The path as it was sent."""


class Response(msgspec.Struct, kw_only=True, eq=False):
    """An answer. A body that is a generator is sent in pieces; it is closed however the sending
    ends."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes | AsyncGenerator[bytes, None] = b""


class Deferred(Generic[T, R]):
    """A result that waits for one future, and needs no task for it.

    `finish` is called once the future is done, and raises what that failed with.
    """

    __slots__ = ("finish", "future")

    def __init__(
        self, future: asyncio.Future[T], finish: Callable[[asyncio.Future[T]], R]
    ) -> None:
        self.future = future
        self.finish = finish

    def __await__(self) -> Generator[Any, None, R]:
        return self._wait().__await__()

    async def _wait(self) -> R:
        await asyncio.wait((self.future,))
        return self.finish(self.future)
