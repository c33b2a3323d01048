"""Values as cells of CSV, which has only text: one writing and one reading for export and import.

Pure. A cell becomes a number only where the number is written back the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from shared.inputs.values import INTEGER_MAX, INTEGER_MIN

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would run a text for that begins so."""

_BOOLEANS = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-][0-9]{1,3})?")


def cell_of(value: Any) -> str:
    """Write a scalar as a cell: null is empty; text that is a formula gets an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return repr(value)


def value_of(cell: str) -> Any:
    """Give a cell its type: a boolean, a number that is written back the same, or a text."""
    if cell in _BOOLEANS:
        return _BOOLEANS[cell]
    if not _NUMBER.fullmatch(cell):
        return cell
    number: int | float = float(cell) if "." in cell or "e" in cell else int(cell)
    if isinstance(number, int):
        is_storable = INTEGER_MIN <= number <= INTEGER_MAX
    else:
        is_storable = math.isfinite(number)
    return number if is_storable and repr(number) == cell else cell


def inexact(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Select the properties that cells of their own cannot hold without loss.

    Lists and objects, null, and texts that read as something else or are guarded.
    """
    return {name: value for name, value in properties.items() if not _is_exact(value)}


def _is_exact(value: Any) -> bool:
    if value is None or value == "" or isinstance(value, dict | list):
        return False
    copy = value_of(cell_of(value))
    return type(copy) is type(value) and bool(copy == value)
