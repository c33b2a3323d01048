"""Bodies: JSON and CSV (docs/contract.md §3), NDJSON and archives. Lists of any length in constant
memory."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import msgspec
import orjson

from services.api.http.guards.costly import Place, stepped
from services.api.http.messages import Response
from services.api.http.negotiation import NDJSON, Format
from services.api.http.spool import Spools
from shared.inputs.cells import cell_of, inexact

JSON, CSV, ZIP = "application/json", "text/csv; charset=utf-8", "application/zip"

WRITE_BYTES = 262_144
"""Bytes given to the connection at once."""


class RowStream:
    """A list that is made while it is sent: rows in batches, fields before them, and fields known
    only after them."""

    def __init__(
        self,
        batches: AsyncIterator[list[Any]],
        head: Mapping[str, Any],
        tail: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._batches, self.head, self.tail = batches, head, tail
        self._first: list[list[Any]] = []
        self.whole = False

    async def start(self) -> None:
        """Read the first two batches: most lists have no more, and what goes wrong so far is a
        proper error."""
        async for batch in self._batches:
            self._first.append(batch)
            if len(self._first) == 2:
                return
        self.whole = True

    def step_by(self, place: Place) -> None:
        """Make each further batch while such a place is held."""
        self._batches = stepped(self._batches, place)

    async def batches(self) -> AsyncIterator[list[Any]]:
        for batch in self._first:
            yield batch
        if not self.whole:
            async for batch in self._batches:
                yield batch

    def body(self) -> dict[str, Any]:
        """All of it, where it is `whole`."""
        return {
            **self.head,
            "results": [row for batch in self._first for row in batch],
            **self.tail(),
        }


class Lines:
    """NDJSON that is made while it is sent."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts, self._first = parts, b""

    async def start(self) -> None:
        """Read the first part: what goes wrong so far is a proper error."""
        self._first = await anext(self._parts, b"")

    def step_by(self, place: Place) -> None:
        """Make each further part while such a place is held."""
        self._parts = stepped(self._parts, place)

    async def parts(self) -> AsyncGenerator[bytes, None]:
        yield self._first
        async for chunk in self._parts:
            yield chunk


class Archive(msgspec.Struct):
    """A ZIP that is made while its rows are read: NDJSON files, each of batches of rows, and a
    manifest about them."""

    filename: str
    about: dict[str, Any]
    files: dict[str, AsyncIterator[list[Any]]]

    def step_by(self, place: Place) -> None:
        """Read each batch while such a place is held."""
        self.files = {
            name: stepped(batches, place) for name, batches in self.files.items()
        }


async def streamed(
    body: Archive | Lines | RowStream,
    headers: dict[str, str],
    spools: Spools,
    *,
    form: Format,
) -> Response:
    """An answer of any length. What goes wrong before its first byte is raised here."""
    if isinstance(body, Lines):
        return Response(headers=headers | {"Content-Type": NDJSON}, body=body.parts())
    if isinstance(body, Archive):
        disposition = f'attachment; filename="{body.filename}"'
        headers = headers | {"Content-Type": ZIP, "Content-Disposition": disposition}
        parts = await _begin(_archive_parts(body, spools, headers))
        return Response(headers=headers, body=parts)
    if form == "csv":
        return Response(
            headers=headers | {"Content-Type": CSV},
            body=await _begin(_csv_parts(body, spools)),
        )
    if form == "ndjson":
        return Response(headers=headers | {"Content-Type": NDJSON}, body=_lines(body))
    headers = headers | {"Content-Type": JSON}
    if body.whole:
        return Response(headers=headers, body=json_body(body.body()))
    return Response(headers=headers, body=_json_parts(body))


async def _begin(parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same parts, once all that can go wrong has been done: the first one is empty, and says
    so."""
    await anext(parts)
    return parts


async def _json_parts(rows: RowStream) -> AsyncGenerator[bytes, None]:
    yield json_body(rows.head)[:-1] + (b"," if rows.head else b"") + b'"results":['
    comma = b""
    async for batch in rows.batches():
        yield comma + json_body(batch)[1:-1]
        comma = b","
    yield b"]," + json_body(rows.tail())[1:]


async def _lines(rows: RowStream) -> AsyncGenerator[bytes, None]:
    """The rows alone, each a line."""
    async for batch in rows.batches():
        yield lines_body(batch)


async def _csv_parts(rows: RowStream, spools: Spools) -> AsyncGenerator[bytes, None]:
    """All rows are there before the first byte is sent: an error is a proper answer, and the header
    knows them all."""
    names: set[str] = set()
    with spools.open() as spool:
        async for batch in rows.batches():
            for row in _flat_rows(batch):
                names |= row.keys()
                spool.file.write(orjson.dumps(row) + b"\n")
            spool.check()
        spool.file.seek(0)
        yield b""
        header = sorted(names)
        yield _csv([header])
        while lines := spool.file.readlines(WRITE_BYTES):
            yield _csv(_cells(header, orjson.loads(line)) for line in lines)


async def _archive_parts(
    archive: Archive, spools: Spools, headers: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    """All of it is there before the first byte is sent: an error is a proper answer. Its length
    goes to `headers`."""
    with spools.open() as spool:
        counts: dict[str, int] = {}
        with ZipFile(spool.file, "w", ZIP_DEFLATED) as zipped:
            for name, batches in archive.files.items():
                counts[name] = 0
                with zipped.open(f"{name}.ndjson", "w", force_zip64=True) as file:
                    async for batch in batches:
                        counts[name] += len(batch)
                        await asyncio.to_thread(
                            file.write,
                            b"".join(json_body(row) + b"\n" for row in batch),
                        )
                        spool.check()
            manifest = orjson.dumps(
                archive.about | {"rows": counts}, option=orjson.OPT_INDENT_2
            )
            zipped.writestr("manifest.json", manifest)
        headers["Content-Length"] = str(spool.file.tell())
        spool.file.seek(0)
        yield b""
        while chunk := spool.file.read(WRITE_BYTES):
            yield chunk


def json_body(value: Any) -> bytes:
    return orjson.dumps(value, default=str)


def lines_body(value: Any) -> bytes:
    """One line per result."""
    return b"".join(json_body(row) + b"\n" for row in _results(value))


def _results(value: Any) -> Any:
    """The rows of an answer. A person is its own one result."""
    if not isinstance(value, dict):
        return value
    lists = (value.get(key) for key in ("results", "points"))
    return next((rows for rows in lists if isinstance(rows, list)), [value])


def csv_body(value: Any) -> bytes:
    """One row per result; the header is the sorted union of flattened keys."""
    rows = list(_flat_rows(_results(value)))
    header = sorted({name for row in rows for name in row})
    return _csv([header, *(_cells(header, row) for row in rows)])


def _flat_rows(rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for row in rows:
        value = orjson.loads(json_body(row))
        yield dict(_flatten("", value)) | _exact(value)


def _exact(row: Any) -> dict[str, str]:
    """What cells cannot hold of a person, as JSON: properties, and ids that look like formulas."""
    if not (isinstance(row, dict) and isinstance(row.get("distinct_ids"), list)):
        return {}
    ids, properties = row["distinct_ids"], row.get("properties")
    lossy = inexact(properties) if isinstance(properties, dict) else {}
    values = {"properties": lossy} if lossy else {}
    if any(cell_of(distinct_id) != distinct_id for distinct_id in ids):
        values["distinct_ids"] = ids
    return {name: json_body(value).decode() for name, value in values.items()}


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Columns of a value: a dot between steps. In a key a dot has a backslash before it, so that
    `{"a.b": 1}` and `{"a": {"b": 1}}` are two columns."""
    if isinstance(value, dict):
        for key, item in value.items():
            step = key.replace("\\", "\\\\").replace(".", "\\.")
            yield from _flatten(f"{name}.{step}" if name else step, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _flatten(f"{name}.{index}" if name else str(index), item)
    else:
        yield name, value


def _cells(header: list[str], row: Mapping[str, Any]) -> list[Any]:
    return [row.get(name) for name in header]


def _csv(rows: Iterable[list[Any]]) -> bytes:
    """RFC 4180: CRLF, quotes where they are needed."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(
        [cell_of(value) for value in row] for row in rows
    )
    return out.getvalue().encode()


BODIES: dict[Format, tuple[str, Callable[[Any], bytes]]] = {
    "json": (JSON, json_body),
    "csv": (CSV, csv_body),
    "ndjson": (NDJSON, lines_body),
}
"""The type of a whole answer in each format, and how it is rendered."""
