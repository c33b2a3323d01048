"""The open connections of a server, with bounds on their number and idle time.

At the bound the connection that has been without a request for the longest time is closed for a new
one. The new one is refused only when all have a request under way. Not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar, cast

from shared.runtime import telemetry

CONNECTIONS_MAX = 1_000
"""Of one process. Each may hold half a megabyte of unread data."""

HEAD_SECONDS_MAX = 20.0
"""Time until a request's head is whole, from its first byte, or from the connection's begin."""

KEEPALIVE_SECONDS = 75.0
"""Time after its last request until an idle connection is closed."""

_DETAIL = (
    b'{"type":"server_error","code":"unavailable","detail":"Too many connections are open.",'
    b'"attr":null}'
)

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\n"
    b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_DETAIL), _DETAIL)


class Closable(Protocol):
    """A connection that can be closed at once."""

    def abort(self) -> None: ...


C = TypeVar("C")


class ConnectionTimeouts(Generic[C]):
    """Connections in one state, with its begin; after `seconds` in it a connection expires."""

    def __init__(self, seconds: float, expire: Callable[[C], None]) -> None:
        self._seconds = seconds
        self._expire = expire
        self._since: OrderedDict[C, float] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._since)

    def add(self, connection: C) -> None:
        """Add a connection; restart its time when it is here already."""
        now = self._loop.time()
        self._since[connection] = now
        self._since.move_to_end(connection)
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._seconds, self._look)

    def begin(self, connection: C) -> None:
        """Add a connection, unless it is here already."""
        if connection not in self._since:
            self.add(connection)

    def discard(self, connection: C) -> None:
        self._since.pop(connection, None)

    def oldest(self) -> tuple[float, C] | None:
        """Return the first connection, with the begin of its state."""
        for connection, since in self._since.items():
            return since, connection
        return None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        due = self._loop.time() - self._seconds
        while (first := self.oldest()) is not None and first[0] <= due:
            del self._since[first[1]]
            self._expire(first[1])
        if first is not None:
            self._timer = self._loop.call_at(first[0] + self._seconds, self._look)


class Connections:
    """All open connections of one server."""

    def __init__(self) -> None:
        self._open: set[Closable] = set()
        self._all_closed: asyncio.Event = asyncio.Event()
        self.heads: ConnectionTimeouts[Closable] = ConnectionTimeouts(
            HEAD_SECONDS_MAX, self._end
        )
        self.idle: ConnectionTimeouts[Closable] = ConnectionTimeouts(
            KEEPALIVE_SECONDS, self._end
        )

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: Closable) -> bool:
        """Count a new connection; whether it has a place, for which an older one may be closed."""
        if len(self._open) >= CONNECTIONS_MAX:
            oldest = (self.heads.oldest(), self.idle.oldest())
            candidates = [candidate for candidate in oldest if candidate is not None]
            if not candidates:
                telemetry.REFUSED.labels("connections").inc()
                return False
            _, longest = min(candidates, key=lambda candidate: candidate[0])
            self._end(longest)
        self._open.add(connection)
        self.heads.add(connection)
        return True

    def receives(self, connection: Closable) -> None:
        """Note that a part of a head has come."""
        self.idle.discard(connection)
        self.heads.begin(connection)

    def begins(self, connection: Closable) -> None:
        """Note that a request is under way."""
        self.idle.discard(connection)
        self.heads.discard(connection)

    def rests(self, connection: Closable) -> None:
        """Note that the request is answered."""
        if connection in self._open:
            self.idle.add(connection)

    def closed(self, connection: Closable) -> None:
        self._open.discard(connection)
        self.begins(connection)
        if not self._open:
            self._all_closed.set()

    def close_idle(self) -> None:
        """Close the connections without a request under way."""
        for waiting in (self.heads, self.idle):
            while (first := waiting.oldest()) is not None:
                self._end(first[1])

    async def ended(self, seconds: float) -> None:
        """Wait until all are closed, at most `seconds`."""
        self._all_closed.clear()
        if self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_closed.wait()

    def close(self) -> None:
        """Close all connections, and stop all timers."""
        self.heads.close()
        self.idle.close()
        for connection in list(self._open):
            self._end(connection)

    def _end(self, connection: Closable) -> None:
        self.closed(connection)
        connection.abort()


class Guarded(asyncio.Protocol):
    """A protocol whose connection is counted; it is idle while the client sends nothing."""

    def __init__(self, protocol: asyncio.Protocol, connections: Connections) -> None:
        self._protocol = protocol
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._has_place = False

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from it
        self._transport = transport = cast(asyncio.Transport, transport)
        self._has_place = self._connections.opened(self)
        if self._has_place:
            self._protocol.connection_made(transport)
        else:
            transport.write(FULL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        if self._has_place:
            self._connections.begins(self)
            self._connections.rests(self)
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received() if self._has_place else None

    def pause_writing(self) -> None:
        if self._has_place:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._has_place:
            self._protocol.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.closed(self)
        if self._has_place:
            self._protocol.connection_lost(error)
