"""Cursors of lists: the place of a row, as `next` and `previous` have it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from shared.domain.errors import BadInput

Cursor = tuple[int, str]
"""The place of a row: its time, and its name as text."""

CURSOR_START = (2**63 - 1, "g")
"""Before the newest person: the highest time, and a text above every uuid."""


def format_cursor(cursor: Cursor, *, backwards: bool = False) -> str:
    """The text of a cursor, for the page after it or (`backwards`) before it."""
    text = f"{'<' if backwards else ''}{cursor[0]}:{cursor[1]}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_cursor(
    text: str, start: Cursor, name: Callable[[str], Any] = str
) -> tuple[Cursor, bool]:
    """(cursor, whether the page before it is meant). `name` raises ValueError for a text that can
    name no row."""
    if not text:
        return start, False
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        time, _, row = plain.removeprefix("<").partition(":")
        if not -(2**63) <= int(time) < 2**63:
            raise ValueError
        return (int(time), str(name(row))), plain.startswith("<")
    except ValueError:
        raise BadInput(
            "The cursor is broken; take `next` as it is.", attr="cursor"
        ) from None
