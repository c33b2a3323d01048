"""Read a file's rows in bounded memory: NDJSON, a JSON list or page, CSV or Parquet.

Gzipped or not, as an archive of several, in UTF-8 or UTF-16. A row that cannot be read is yielded
as a BadInput with the reason. Values are not judged here.
"""

from __future__ import annotations

import asyncio
import codecs
import gzip
import io
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import msgspec

from clients.importing.sources import csv_files, parquet
from clients.importing.sources.lines import ROW_BYTES_MAX, TOO_LONG, lines_of
from clients.importing.sources.utf16 import as_utf8
from shared.domain.errors import BadInput
from shared.inputs.repairs import Repairs
from shared.inputs.values import LENIENT, decode_lenient, storable
from shared.runtime.settings import SettingsError

CHUNK_BYTES = 1_048_576
"""Bytes of a list that are read at once."""

HEAD_BYTES = 65_536
"""Bytes at the beginning that identify a file and show its format."""

ROWS_BETWEEN = 64
"""Rows that are read before the event loop can send."""

_PAGE = re.compile(
    r'\s*\{\s*(?:"(?:next|previous|count|page|page_size|session_id|status|total)"'
    r'\s*:\s*(?:null|[0-9]+|"(?:[^"\\]|\\.)*")\s*,\s*)*'
    r'"results"\s*:\s*\['
)
_LIST = re.compile(r"\s*\[")
_BETWEEN = re.compile(r"[\s,]*")
_ZIPPED, _GZIPPED = b"PK\x03\x04", b"\x1f\x8b"
_PERSON = "person.ndjson"
"""The file of our own archive of a person that says what it is now."""

_MEMBER = re.compile(r"[^/].*\.(json|jsonl|ndjson|csv)(\.gz)?", re.IGNORECASE)
"""Files of an archive that are read; others are notes."""


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
    header; of an archive its place behind the rows of the files before.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._raw = io.BufferedReader(io.FileIO(path), HEAD_BYTES)
            head = self._raw.peek(HEAD_BYTES)
            self.total = path.stat().st_size
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None
        self.fingerprint = f"{self.total}:{blake2b(head, digest_size=16).hexdigest()}"

    async def rows(self, skip: int = 0) -> AsyncIterator[SourceRow]:
        """Yield the rows behind number `skip`, from the file's beginning.

        An error that ends the reading is the last row.
        """
        number = 0
        self._raw.seek(0)
        try:
            for number, value in self._values():
                if number > skip:
                    yield SourceRow(number=number, value=value, done=self._raw.tell())
                if number % ROWS_BETWEEN == 0:
                    await asyncio.sleep(0)
        except (BadInput, BadZipFile, EOFError, OSError, zlib.error) as error:
            reason = (
                error.detail
                if isinstance(error, BadInput)
                else f"The file is broken: {error}."
            )
            yield SourceRow(
                number=max(number, skip) + 1,
                value=BadInput(f"{reason} Nothing behind it is read."),
            )

    async def close(self) -> None:
        self._raw.close()

    def _values(self) -> Iterator[tuple[int, Any]]:
        head = self._raw.peek(HEAD_BYTES)
        if head.startswith(parquet.MAGIC):
            return enumerate(parquet.rows_of(self._raw), 1)
        if head.startswith(_ZIPPED):
            return self._members()
        return _values_of(self._raw)

    def _members(self) -> Iterator[tuple[int, Any]]:
        """Yield the rows of an archive's files; of a person's archive only the person."""
        with ZipFile(self._raw) as archive:
            names = [name for name in archive.namelist() if _MEMBER.fullmatch(name)]
            if not names:
                raise SettingsError("The archive has no file of JSON or CSV.")
            before = number = 0
            for name in [_PERSON] if _PERSON in names else names:
                with _opened(archive, name) as stream:
                    for place, value in _values_of(stream):
                        number = before + place
                        yield number, value
                before = number


def _opened(archive: ZipFile, name: str) -> io.BufferedReader[Any]:
    try:
        return io.BufferedReader(archive.open(name), HEAD_BYTES)
    except RuntimeError as error:  # encrypted, or compressed in another way
        raise BadInput(f"{name}: {error}.") from None


def _values_of(stream: io.BufferedReader[Any]) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a text, with their numbers."""
    if stream.peek(HEAD_BYTES).startswith(_GZIPPED):
        stream = io.BufferedReader(
            gzip.GzipFile(fileobj=stream),
            HEAD_BYTES,
        )
    stream = as_utf8(stream, HEAD_BYTES)
    if stream.peek(HEAD_BYTES).startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    head = stream.peek(HEAD_BYTES)[:HEAD_BYTES].decode(errors="surrogateescape")
    if opening := _LIST.match(head) or _PAGE.match(head):
        stream.read(len(opening[0].encode(errors="surrogateescape")))
        return enumerate(_elements(stream), 1)
    if head.lstrip().startswith("{"):
        return _objects(stream)
    return csv_files.records(stream, head)


def _objects(stream: io.BufferedReader[Any]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines_of(stream), 1):
        if line is None or line.strip():
            yield number, BadInput(TOO_LONG) if line is None else _decoded(line)


def _elements(stream: io.BufferedReader[Any]) -> Iterator[Any]:
    """Yield a list's elements as they are read; a partial one doubles the bytes to read."""
    utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text, at, ended = "", 0, False
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # matches no text too
        if text.startswith("]", at):
            return
        try:
            value, end = LENIENT.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = len(text)
        if end < len(text):  # a number at the end may have more digits
            yield _storable(value)
            at = end
            continue
        if ended or len(text) - at > ROW_BYTES_MAX:
            raise BadInput(
                "The list is malformed or cut off,"
                f" or has a row of more than {ROW_BYTES_MAX} bytes."
            )
        chunk = stream.read(max(CHUNK_BYTES, len(text) - at))
        text, at, ended = text[at:] + utf8.decode(chunk, not chunk), 0, not chunk


def _decoded(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        reason = f"The row is not JSON: {error}"[:300]
    try:
        return _storable(decode_lenient(line.decode()))
    except (ValueError, RecursionError):
        return BadInput(reason)


def _storable(value: Any) -> Any:
    """What capture makes of numbers that JSON readers differ about, and of deep nesting."""
    try:
        return storable(value, "", Repairs(), depth=0)
    except (ValueError, RecursionError):
        return BadInput("The row is nested too deeply.")
