"""Cells: what one operation does to one name of a fragment. Pure.

A name holds at most a *hard* cell (its newest set or unset) and a *once* cell. A cell is (kind, hard stamp, once
stamp); the value that shows lies in `properties`, and there is never more than one to keep: a non-null hard cell
leaves no room for a once cell. Stamps are microseconds; 0 means none.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared.domain.commands import Properties

SET, NULL, UNSET, ONCE = 1, 2, 3, 4
"""Kinds of operation; a hard cell holds one of the first three, or 0."""

Cell = tuple[int, int, int]
EMPTY: Cell = (0, 0, 0)


def moved(cell: Cell, kind: int, stamp: int) -> Cell | None:
    """The cell after an operation; None when it has no effect.

    Written for stamps in any order (imports carry their own time): the result is that of the same operations
    done in the order of their stamps. One case is beyond a single once cell: an imported set_once replaced a newer
    one, and then an unset or a null is imported that lies between the two; the newer set_once is not revived.
    """
    held, hard, once = cell
    if kind == ONCE:
        if held == SET or hard >= stamp or (once and once <= stamp):
            return None
        return held, hard, stamp
    if held and hard >= stamp:
        return None
    return kind, stamp, once if once > stamp and kind != SET else 0


def once_above(cells: dict[str, Cell], properties: Properties, name: str, stamp: int) -> tuple[int, Any] | None:
    """The stamp and the value of a name's set_once that is newer than a stamp; None without one."""
    once = cells.get(name, EMPTY)[2]
    return (once, properties[name]) if once > stamp else None


def bury(cells: dict[str, Cell], properties: Properties, name: str, stamp: int, left: tuple[int, Any] | None) -> None:
    """Leave of a name a hard cell that is not older than a stamp, and the set_once `left`. The cell goes to the end."""
    held, hard, _ = cells.pop(name, EMPTY)
    value = properties.pop(name, None)
    if hard <= stamp:
        held, hard = UNSET, stamp
    cells[name] = held, hard, left[0] if left else 0
    if left:
        properties[name] = left[1]
    elif held in (SET, NULL):
        properties[name] = value if held == SET else None


def put(cells: dict[str, Cell], properties: Properties, name: str, cell: Cell, kind: int, value: Any) -> None:
    """A cell as an operation has moved it, and what shows of it."""
    cells[name] = cell
    if kind in (ONCE, SET):
        properties[name] = value
    elif cell[2] == 0:
        if kind == NULL:
            properties[name] = None
        else:
            properties.pop(name, None)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values, in lists and objects too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict | list):
        return bool(msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted"))
    return bool(one == other)
