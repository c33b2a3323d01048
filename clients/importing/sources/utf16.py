"""UTF-16 with a byte order mark, as spreadsheets write it, read as UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import Any

_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Utf8(io.RawIOBase):
    """The bytes of a stream in another encoding, as UTF-8; broken ones become U+FFFD."""

    def __init__(self, stream: io.BufferedReader[Any], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        while not self._pending:
            chunk = self._stream.read1(len(view))
            self._pending = self._decoder.decode(chunk, not chunk).encode()
            if not chunk:
                break
        size = min(len(view), len(self._pending))
        view[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size


def as_utf8(
    stream: io.BufferedReader[Any], buffer_bytes: int
) -> io.BufferedReader[Any]:
    """The stream as UTF-8, whatever its mark says."""
    if not stream.peek(2).startswith(_MARKS):
        return stream
    return io.BufferedReader(_Utf8(stream, "utf-16"), buffer_bytes)
