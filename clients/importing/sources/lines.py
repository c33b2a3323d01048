"""Lines of a file in bounded memory, with any of the three line ends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

ROW_BYTES_MAX = 8 * 1_048_576
"""Bytes of one row in memory. The API takes less: a change has at most 1 MB."""

TOO_LONG = f"A row of more than {ROW_BYTES_MAX} bytes."

SKIP_BYTES = 1_048_576
"""Bytes of a line that is too long, or of one that ends with CR, that are read at once."""


def lines_of(stream: io.BufferedReader[Any]) -> Iterator[bytes | None]:
    """Yield the lines that end with LF; None for a line that is too long."""
    while line := stream.readline(ROW_BYTES_MAX):
        if len(line) < ROW_BYTES_MAX or line.endswith(b"\n"):
            yield line
            continue
        while (chunk := stream.readline(SKIP_BYTES)) and not chunk.endswith(b"\n"):
            pass
        yield None


def cr_lines_of(stream: io.BufferedReader[Any]) -> Iterator[bytes | None]:
    """Yield the lines that end with CR, as old spreadsheets write them; None for one too long."""
    line, is_long = b"", False
    while chunk := stream.read(SKIP_BYTES):
        *ended, rest = (line + chunk).split(b"\r")
        for text in ended:
            yield None if is_long else text + b"\r"
            is_long = False
        line = rest
        if len(line) > ROW_BYTES_MAX:
            line, is_long = b"", True
    if line or is_long:
        yield None if is_long else line
