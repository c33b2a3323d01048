"""The columns of a CSV of PostHog or personlog, and its records as rows. Pure.

`properties.plan` is a cell of one property; a column `properties` or `distinct_ids` is JSON, and
says exactly what cells cannot.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from clients.importing.formats.fields import json_of
from shared.domain.errors import BadInput
from shared.inputs.cells import value_of
from shared.runtime.settings import SettingsError

TOTAL = "distinct_ids.total"
"""PostHog writes 10 ids of a person at most, and here how many there are."""

_PREFIXES = {"person.": "person.distinct_ids.0", "*.": "*.event"}
"""What stands before all names of a row in PostHog's screen exports, and the column that tells."""

_TEXTS = frozenset(
    "event distinct_id timestamp uuid created_at last_seen_at is_identified person_id"
    " person_version person_distinct_id_version is_deleted deleted".split()
) | {TOTAL}
_JSON = frozenset(
    "distinct_ids properties $set $set_once $unset set set_once person_properties".split()
)
_ID = re.compile(r"distinct_ids\.([0-9]{1,6})")
_PROPERTY = "properties."
_PIECE = re.compile(r"\\[\\.]|.", re.DOTALL)


class CsvColumns:
    """The columns of one file."""

    def __init__(self, header: Sequence[str]) -> None:
        stripped = [name.strip() for name in header]
        prefix = next(
            (prefix for prefix, name in _PREFIXES.items() if name in stripped), ""
        )
        self._names = [
            _column(name, prefix) for name in (stripped if prefix else header)
        ]
        self._steps = {
            name: _steps(name.removeprefix(_PROPERTY))
            for name in self._names
            if name.startswith(_PROPERTY)
        }
        counts = Counter(header) | Counter(self._names)
        for name, count in counts.items():
            if count > 1 and name.strip():
                raise SettingsError(f"The CSV has two columns {name.strip()!r}.")
        names = {name for name in self._names if name}
        self.has_ids = bool(names & {"distinct_ids", "distinct_id", "event"}) or any(
            map(_ID.fullmatch, names)
        )
        self._is_id_list = not names & {"event", "person_id"}

    def row(self, cells: Sequence[str]) -> dict[str, Any]:
        """Build a row, without empty cells and undocumented columns."""
        if len(cells) != len(self._names):
            raise BadInput(f"{len(cells)} cells under {len(self._names)} columns.")
        row: dict[str, Any] = {}
        properties: dict[str, Any] = {}
        ids: dict[int, str] = {}
        for name, cell in zip(self._names, cells, strict=True):
            if cell == "" or not name:
                continue
            if name.startswith(_PROPERTY):
                properties[name] = value_of(cell)
            elif (place := _ID.fullmatch(name)) is not None:
                ids[int(place[1])] = cell
            elif name == "distinct_id" and self._is_id_list:
                ids.setdefault(-1, cell)
            elif name in _JSON:
                row[name] = json_of(cell, name)
            else:
                row[name] = cell
        if ids and "distinct_ids" not in row:
            row["distinct_ids"] = [ids[place] for place in sorted(ids)]
        if properties:
            row["properties"] = self._overlaid(properties, row.get("properties") or {})
        return row

    def _overlaid(self, cells: dict[str, Any], exact: Any) -> dict[str, Any]:
        """The properties of cells but those that the JSON column has, and parts of those."""
        if not isinstance(exact, dict):
            raise BadInput("properties must be an object.", attr="properties")
        return {
            ".".join(steps): value
            for name, value in cells.items()
            if (steps := self._steps[name])[0] not in exact
        } | exact


def _column(name: str, prefix: str) -> str:
    """The documented name of a column; none for any other, and for those of another row."""
    stripped = name.strip()
    if stripped == TOTAL:
        return stripped
    if not stripped.startswith(prefix):
        return ""
    stripped = stripped.removeprefix(prefix)
    if stripped.startswith(_PROPERTY):
        # blanks may be a part of a property's name
        return name.lstrip().removeprefix(prefix)
    is_documented = stripped in _TEXTS or stripped in _JSON or _ID.fullmatch(stripped)
    return stripped if is_documented else ""


def _steps(path: str) -> list[str]:
    """The keys on the way to a value. A backslash before a dot makes it a part of a key."""
    steps = [""]
    for piece in _PIECE.findall(path):
        if piece == ".":
            steps.append("")
        else:
            steps[-1] += piece.removeprefix("\\") if len(piece) == 2 else piece
    return steps
