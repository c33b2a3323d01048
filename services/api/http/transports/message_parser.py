"""The parser of messages that the front may answer: httptools, and what it has found so far.

The parser tells no offsets, so of two requests in one piece neither can be taken.
"""

from __future__ import annotations

import re
from collections.abc import Set

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

HEAD_BYTES_MAX = 8_190
"""A longer head is aiohttp's: it bounds each field by that."""

HEADERS_MAX = 100
"""Fields of a head; with more it is aiohttp's, which allows a few more."""

BODY_BYTES_MAX = 262_144
"""What is gathered of a body here; a longer one is aiohttp's, which reads it piece by piece."""

ODD = frozenset((b"expect", b"transfer-encoding", b"upgrade", b"sec-websocket-key1"))
"""Headers that ask for more than an answer."""

_PLAIN_TARGET = re.compile(rb"/(?!/)[!-\"$-~]*")
"""A path as all clients send it: no host, no fragment, ASCII."""


class MessageParser:
    """One message after the other, of one connection."""

    def __init__(self) -> None:
        self._parser = HttpRequestParser(self)
        self.expect_message()

    def expect_message(self) -> None:
        """Forget the message that was answered."""
        self.chunks: list[bytes] = []
        """All bytes of the message that is coming."""

        self.bytes = 0
        self.count = 0
        """Messages that have begun: two when another one lies behind the first."""

        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.head_is_whole = False
        self.method = b""
        self.keeps_alive = True
        self.is_whole = False
        self._version = ""
        self._fields = 0
        self._body_chunks: list[bytes] = []
        self._body_bytes = 0

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. False when they cannot be parsed, or ask for another protocol."""
        self.chunks.append(data)
        self.bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            return False
        return True

    def close(self) -> None:
        """Break the reference cycle with httptools' parser: what it holds is freed at once."""
        del self._parser, self.chunks, self.headers, self._body_chunks

    @property
    def body(self) -> bytes:
        chunks = self._body_chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def length(self) -> int:
        """The body's length as a plain head has it."""
        return int(self.headers.get(b"content-length", b"0"))

    def is_plain(self, fixed_targets: Set[bytes]) -> bool:
        """Whether the head is one that the front may take."""
        headers, target = self.headers, self.target
        length = headers.get(b"content-length", b"0")
        return (
            self.bytes - self._body_bytes <= HEAD_BYTES_MAX
            and self._fields <= HEADERS_MAX
            and self._fields == len(headers)
            and ODD.isdisjoint(headers)
            and b"host" in headers
            and self._version == "1.1"
            and (target in fixed_targets or _PLAIN_TARGET.fullmatch(target) is not None)
            and length.isdigit()
            and len(length) < 8
            and int(length) <= BODY_BYTES_MAX
        )

    # what httptools calls

    def on_message_begin(self) -> None:
        self.count += 1

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value
        self._fields += 1

    def on_headers_complete(self) -> None:
        parser = self._parser
        self.head_is_whole = True
        self.method = parser.get_method()
        self._version = parser.get_http_version()
        self.keeps_alive = parser.should_keep_alive()

    def on_body(self, chunk: bytes) -> None:
        self._body_chunks.append(chunk)
        self._body_bytes += len(chunk)

    def on_message_complete(self) -> None:
        self.is_whole = True
