"""Connections without sockets: what a server's protocol is fed, and the bytes that it writes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

ROUNDS = 12
"""Rounds of the loop in which a server that waits for nothing else has done all that it will."""

SECONDS_MAX = 60.0


class Wire(asyncio.Transport):
    """The transport of a server's protocol: it keeps what is written, and gives pieces as long as it is read."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self._protocol = protocol
        self._pieces: deque[bytes] = deque()
        self._closing = False
        self._paused = False
        protocol.connection_made(self)

    async def send(self, pieces: Sequence[bytes]) -> None:
        """Give the pieces one by one, each once the server has done with the one before what it can."""
        for piece in (*pieces, b""):
            if piece:
                self._pieces.append(piece)
                self._give()
            for _ in range(ROUNDS):
                await asyncio.sleep(0)

    async def closed(self, seconds: float) -> bool:
        """Whether the server closes the connection within so many seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not self._closing and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.001)
        return self._closing

    def _give(self) -> None:
        while self._pieces and not self._paused and not self._closing:
            self._protocol.data_received(self._pieces.popleft())

    def write(self, data: Any) -> None:
        if not self._closing:
            self.written += data

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        asyncio.get_running_loop().call_soon(self._give)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()
