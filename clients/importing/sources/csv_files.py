"""Read the records of a CSV in bounded memory.

CRLF, LF or CR; comma, semicolon or tab, or what `sep=` says. A header that cannot be read is a
wrong use; a broken record names its lines, and the next line goes on.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from clients.importing.formats.csv_columns import CsvColumns
from clients.importing.sources.lines import (
    ROW_BYTES_MAX,
    TOO_LONG,
    cr_lines_of,
    lines_of,
)
from shared.domain.errors import BadInput
from shared.runtime.settings import SettingsError

HEADER_CHARS_MAX = 4 * 1_048_576
"""Characters of a header: 10,000 columns with names of 400."""

DELIMITERS: tuple[str, ...] = (",", ";", "\t")

_LINE_END = re.compile(r'"[^"]*"|\r\n|\r|\n')
_SEPARATOR = re.compile(r"sep=([^\r\n\"])[\r\n]*", re.IGNORECASE)


def records(stream: io.BufferedReader[Any], head: str) -> Iterator[tuple[int, Any]]:
    """Yield the records with their numbers; `head` is the beginning of the file."""
    csv.field_size_limit(ROW_BYTES_MAX)
    lines = _texts(stream, head)
    header, delimiters = _header(lines)
    if not header:
        return
    columns, delimiter = _columns(header, delimiters)
    reader = csv.reader(chain(header, lines), delimiter=delimiter, strict=True)
    next(reader)
    number = 0
    while True:
        number, before = number + 1, reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            text = f"Lines {before + 1} to {reader.line_num}: {error}."
            yield number, BadInput(text)
            continue
        if not cells:
            number -= 1
            continue
        try:
            value: Any = columns.row(cells)
        except BadInput as error:
            value = error
        yield number, value


def _texts(stream: io.BufferedReader[Any], head: str) -> Iterator[str]:
    """Yield the lines, with the line end that the first one outside quotes has."""
    ends = (match[0] for match in _LINE_END.finditer(head) if match[0][0] != '"')
    for line in cr_lines_of(stream) if next(ends, "") == "\r" else lines_of(stream):
        if line is None:
            raise BadInput(TOO_LONG)
        yield line.decode(errors="surrogateescape")


def _header(lines: Iterator[str]) -> tuple[list[str], tuple[str, ...]]:
    """Take the header from the lines: it ends where its quotes do. Also, what may separate."""
    header: list[str] = []
    delimiters = DELIMITERS
    quotes = chars = 0
    for line in lines:
        separator = None if header else _SEPARATOR.fullmatch(line)
        if separator is not None:
            delimiters = (separator[1],)
        elif header or line.strip():
            header.append(line)
            quotes, chars = quotes + line.count('"'), chars + len(line)
            if quotes % 2 == 0:
                return header, delimiters
        if chars > HEADER_CHARS_MAX:
            break
    if header:
        raise SettingsError("A quote in the header of the CSV is not closed.")
    return header, delimiters


def _columns(header: list[str], delimiters: tuple[str, ...]) -> tuple[CsvColumns, str]:
    """Find the delimiter that makes columns of ids or events."""
    for delimiter in delimiters:
        try:
            names = next(csv.reader(header, delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise SettingsError(f"The header of the CSV is broken: {error}.") from None
        columns = CsvColumns(names)
        if columns.has_ids:
            return columns, delimiter
    raise SettingsError(
        "The source is no JSON, and no CSV with a column"
        " distinct_ids.0, distinct_id or event."
    )
