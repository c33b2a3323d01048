"""Bodies: JSON, and CSV as CONTRACT §3 has it. Never knows what it renders."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import orjson

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def json_body(value: Any) -> bytes:
    return orjson.dumps(value, default=str)


def csv_body(value: Any) -> bytes:
    """One row per result; the header is the sorted union of flattened keys. A person is its own one result."""
    plain = orjson.loads(orjson.dumps(value, default=str))
    results = plain
    if isinstance(plain, dict):
        results = next((plain[key] for key in ("results", "points") if isinstance(plain.get(key), list)), [plain])
    rows = [dict(_flatten("", row)) for row in results]
    names = sorted({name for row in rows for name in row})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([_cell(name) for name in names])
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    return out.getvalue().encode()


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(f"{name}.{key}" if name else key, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _flatten(f"{name}.{index}" if name else str(index), item)
    else:
        yield name, value


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula is prefixed with an apostrophe; numbers never are."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
