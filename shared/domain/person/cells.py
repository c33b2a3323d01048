"""Cells: what one operation does to one name of a fragment. Pure.

A name holds at most a *hard* cell (its newest set or unset) and a *once* cell. A cell is (kind,
hard stamp, once stamp); the value that shows lies in `properties`, and there is never more than
one to keep: a non-null hard cell leaves no room for a once cell. Stamps are microseconds; 0
means none.

`apply` is the only place that says what an operation does: commands and replayed facts pass there
alike. Stamps may come in any order, for imports carry their own time: the result is that of the
same operations done in the order of their stamps. One case is beyond a single once cell: an
imported set_once replaced a newer one, and then an unset or a null is imported that lies between
the two; the newer set_once is not revived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from shared.domain.commands import PropertyMap

SET, NULL, UNSET, ONCE = 1, 2, 3, 4
"""Kinds of operation; a hard cell holds one of the first three, or 0."""

LIFTED = 5
"""A set that has no effect when the value shows already. It becomes SET or NULL: nothing stored has
this kind."""

Cell = tuple[int, int, int]
EMPTY: Cell = (0, 0, 0)

Operations = Sequence[tuple[int, Mapping[str, Any]]]
"""Kinds of operation in their order, each with its names and values; no name twice. NULL is a SET
of null."""

NOTHING = msgspec.UNSET
"""What a name shows that shows nothing; null is a value."""

NOTHING_PURGED: Mapping[str, int] = MappingProxyType({})


class Changes(NamedTuple):
    """The operations that took effect, as columns, and what each name showed before."""

    names: list[str]
    kinds: list[int]
    values: list[Any]
    before: list[Any]


def apply(
    cells: dict[str, Cell],
    properties: PropertyMap,
    operations: Operations,
    stamp: int,
    purged: Mapping[str, int] = NOTHING_PURGED,
    admits: Callable[[int, str, Any], bool] | None = None,
) -> Changes:
    """Do operations with one stamp; return those that took effect.

    `purged` are the stamps up to which names take nothing; `admits` says for which operation (kind,
    name, value) there is room, asked of those alone that would have an effect.
    """
    names, kinds, values, before = changes = Changes([], [], [], [])
    cell_of, shown_of = cells.get, properties.get
    guarded = bool(purged) or admits is not None
    for kind, group in operations:
        for name, value in group.items():
            latest, hard, once = cell_of(name, EMPTY)
            if kind == ONCE:
                if value is None or latest == SET or hard >= stamp or 0 < once <= stamp:
                    continue
            elif latest and hard >= stamp:
                continue
            current = shown_of(name, NOTHING)
            if kind == LIFTED and same(current, value):
                continue
            if guarded and (
                purged.get(name, 0) >= stamp
                or not (admits is None or admits(kind, name, value))
            ):
                continue
            names.append(name)
            values.append(value)
            before.append(current)
            if kind == ONCE:
                cells[name] = (latest, hard, stamp)
                properties[name] = value
                kinds.append(ONCE)
            elif value is not None:
                cells[name] = (SET, stamp, 0)
                properties[name] = value
                kinds.append(SET)
            else:
                kinds.append(_clear(cells, properties, name, kind, stamp))
    return changes


def _clear(
    cells: dict[str, Cell], properties: PropertyMap, name: str, kind: int, stamp: int
) -> int:
    """Unset a name, or set it to null; a set_once that is newer goes on showing. Returns the
    cell's kind."""
    kind = UNSET if kind == UNSET else NULL
    once = cells.get(name, EMPTY)[2]
    if once > stamp:
        cells[name] = (kind, stamp, once)
        return kind
    cells[name] = (kind, stamp, 0)
    if kind == NULL:
        properties[name] = None
    else:
        properties.pop(name, None)
    return kind


def once_above(
    cells: dict[str, Cell], properties: PropertyMap, name: str, stamp: int
) -> tuple[int, Any] | None:
    """The stamp and the value of a name's set_once that is newer than a stamp; None without one."""
    once = cells.get(name, EMPTY)[2]
    return (once, properties[name]) if once > stamp else None


def bury(
    cells: dict[str, Cell],
    properties: PropertyMap,
    name: str,
    stamp: int,
    once: tuple[int, Any] | None,
) -> None:
    """Leave of a name a hard cell that is not older than a stamp, and the set_once `once`. The cell
    goes to the end."""
    kind, hard, _ = cells.pop(name, EMPTY)
    value = properties.pop(name, None)
    if hard <= stamp:
        kind, hard = UNSET, stamp
    cells[name] = kind, hard, once[0] if once else 0
    if once:
        properties[name] = once[1]
    elif kind in (SET, NULL):
        properties[name] = value if kind == SET else None


def same(value: Any, other: Any) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values, in lists and objects too."""
    if type(value) is not type(other):
        return False
    if isinstance(value, dict | list):
        return bool(
            msgspec.json.encode(value, order="sorted")
            == msgspec.json.encode(other, order="sorted")
        )
    return bool(value == other)
