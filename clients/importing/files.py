"""Read a file's rows in bounded memory: NDJSON, a JSON list or page, or CSV; gzipped or not.

A row that cannot be read is yielded as a BadInput with the reason. Values are not judged here.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from clients.importing.rows import row_of_cells
from shared.domain.errors import BadInput
from shared.runtime.settings import SettingsError

ROW_BYTES_MAX = 8 * 1_048_576
"""Bytes of one row in memory. The API takes less: a change has at most 1 MB."""

CHUNK_BYTES = 1_048_576
"""Bytes of a list that are read at once."""

HEAD_BYTES = 65_536
"""Bytes at the beginning that identify a file and show its format."""

ROWS_BETWEEN = 64
"""Rows that are read before the event loop can send."""

ID_COLUMNS = re.compile(r"distinct_ids?(\.0)?|event")
"""A CSV has at least one of these columns."""

_PAGE = re.compile(
    r'\s*\{\s*(?:"(?:next|previous|count)"\s*:\s*(?:null|[0-9]+|"(?:[^"\\]|\\.)*")\s*,\s*)*'
    r'"results"\s*:\s*\['
)
_LIST = re.compile(r"\s*\[")
_BETWEEN = re.compile(r"[\s,]*")
_TOO_LONG = f"A row of more than {ROW_BYTES_MAX} bytes."


class SourceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row: its number from 1, its value or BadInput, and the source's position behind it."""

    number: int
    value: Any
    done: int = 0  # bytes of the file read so far
    page: str = ""  # the address of the row's page
    index: int = 0  # the row's place on that page, from 1


class File:
    """A file of rows.

    A row's number is its line in NDJSON, its place in a list, or its record in CSV, without the
    header.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._raw = io.BufferedReader(io.FileIO(path), HEAD_BYTES)
            head = self._raw.peek(HEAD_BYTES)
            self.total = path.stat().st_size
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None
        self.fingerprint = f"{self.total}:{blake2b(head, digest_size=16).hexdigest()}"
        self._file = self._raw
        if head.startswith(b"\x1f\x8b"):
            unzipped = gzip.GzipFile(fileobj=self._raw)
            self._file = io.BufferedReader(
                unzipped,  # type: ignore[arg-type]  # typed too narrowly
                HEAD_BYTES,
            )

    async def rows(self, skip: int = 0) -> AsyncIterator[SourceRow]:
        """Yield the rows behind number `skip`. An error that ends the reading is the last row."""
        number = 0
        try:
            for number, value in self._values():
                if number > skip:
                    yield SourceRow(number=number, value=value, done=self._raw.tell())
                if number % ROWS_BETWEEN == 0:
                    await asyncio.sleep(0)
        except (BadInput, EOFError, OSError, zlib.error) as error:
            reason = (
                error.detail
                if isinstance(error, BadInput)
                else f"The file is broken: {error}"
            )
            yield SourceRow(
                number=max(number, skip) + 1,
                value=BadInput(f"{reason} Nothing behind it is read."),
            )

    async def close(self) -> None:
        self._raw.close()

    def _values(self) -> Iterator[tuple[int, Any]]:
        if self._file.peek(HEAD_BYTES).startswith(codecs.BOM_UTF8):
            self._file.read(len(codecs.BOM_UTF8))
        head = self._file.peek(HEAD_BYTES)[:HEAD_BYTES].decode(errors="surrogateescape")
        if opening := _LIST.match(head) or _PAGE.match(head):
            self._file.read(len(opening[0].encode(errors="surrogateescape")))
            return enumerate(self._elements(), 1)
        return self._lines() if head.lstrip().startswith("{") else self._records()

    def _lines(self) -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(self._bounded(), 1):
            if line is None or line.strip():
                yield number, BadInput(_TOO_LONG) if line is None else _decoded(line)

    def _bounded(self) -> Iterator[bytes | None]:
        """Yield the lines; None for a line that is too long."""
        while line := self._file.readline(ROW_BYTES_MAX):
            if len(line) < ROW_BYTES_MAX or line.endswith(b"\n"):
                yield line
                continue
            while (chunk := self._file.readline(CHUNK_BYTES)) and not chunk.endswith(
                b"\n"
            ):
                pass
            yield None

    def _elements(self) -> Iterator[Any]:
        """Yield a list's elements as they are read; a partial one doubles the bytes to read."""
        decoder = json.JSONDecoder(parse_constant=_no_value)
        utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        text, at, ended = "", 0, False
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # matches no text too
            if text.startswith("]", at):
                return
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                end = len(text)
            if end < len(text):  # a number at the end may have more digits
                yield value
                at = end
                continue
            if ended or len(text) - at > ROW_BYTES_MAX:
                raise BadInput(
                    "The list is malformed or cut off,"
                    f" or has a row of more than {ROW_BYTES_MAX} bytes."
                )
            chunk = self._file.read(max(CHUNK_BYTES, len(text) - at))
            text, at, ended = text[at:] + utf8.decode(chunk, not chunk), 0, not chunk

    def _records(self) -> Iterator[tuple[int, Any]]:
        """Yield the records of a CSV; a broken one names its lines, and the next line goes on."""
        csv.field_size_limit(ROW_BYTES_MAX)
        reader = csv.reader(self._text(), strict=True)
        header = next((cells for cells in reader if any(map(str.strip, cells))), [])
        if header and not any(ID_COLUMNS.fullmatch(name) for name in header):
            raise SettingsError(
                "The source is no JSON, and no CSV with a column"
                " distinct_ids.0, distinct_id or event."
            )
        number = 0
        while True:
            number, before = number + 1, reader.line_num
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield (
                    number,
                    BadInput(f"Lines {before + 1} to {reader.line_num}: {error}."),
                )
                continue
            if not cells:
                number -= 1
                continue
            try:
                value: Any = row_of_cells(header, cells)
            except BadInput as error:
                value = error
            yield number, value

    def _text(self) -> Iterator[str]:
        for line in self._bounded():
            if line is None:
                raise BadInput(_TOO_LONG)
            yield line.decode(errors="surrogateescape")


def _decoded(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return BadInput(f"The row is not JSON: {error}"[:300])


def _no_value(name: str) -> object:
    """Stand-in for NaN and Infinity, which JSON lacks: encoding it refuses the row."""
    return object()
