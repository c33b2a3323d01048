"""Cells: what one operation does to one name of a fragment. Pure.

A name holds at most a *hard* cell (its newest set or unset) and a *once* cell. A cell is (kind, hard stamp, once
stamp); the value that shows lies in `properties`, and there is never more than one to keep: a non-null hard cell
leaves no room for a once cell. Stamps are microseconds; 0 means none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from shared.domain.commands import Properties

SET, NULL, UNSET, ONCE = 1, 2, 3, 4
"""Kinds of operation; a hard cell holds one of the first three, or 0."""

LIFTED = 5
"""A set that has no effect when the value shows already. It becomes SET or NULL: nothing stored has this kind."""

Cell = tuple[int, int, int]
EMPTY: Cell = (0, 0, 0)

Operation = tuple[str, int, Any]
"""A name, one of the kinds of operation, and its value."""

NOTHING = msgspec.UNSET
"""What a name shows that shows nothing; null is a value."""

NOTHING_PURGED: Mapping[str, int] = MappingProxyType({})


class Changes(NamedTuple):
    """The operations that took effect, as columns, and what each name showed before."""

    names: Sequence[str]
    kinds: Sequence[int]
    values: Sequence[Any]
    before: Sequence[Any]


NO_CHANGES = Changes((), (), (), ())


def apply(
    cells: dict[str, Cell],
    properties: Properties,
    operations: Iterable[Operation],
    stamp: int,
    purged: Mapping[str, int] = NOTHING_PURGED,
    admits: Callable[[Operation], bool] | None = None,
) -> Changes:
    """Do operations with one stamp, at most one of a name, in their order; return those that took effect.

    The only place that says what an operation does: commands and replayed facts pass here alike. `purged` are the
    stamps up to which names take nothing; `admits` says for which operation there is room, asked of those alone that
    would have an effect. A lifted value that shows already has none.

    Written for stamps in any order (imports carry their own time): the result is that of the same operations
    done in the order of their stamps. One case is beyond a single once cell: an imported set_once replaced a newer
    one, and then an unset or a null is imported that lies between the two; the newer set_once is not revived.
    """
    names: list[str] = []
    kinds: list[int] = []
    values: list[Any] = []
    before: list[Any] = []
    cell_of, shown_of = cells.get, properties.get
    for operation in operations:
        name, kind, value = operation
        hard_kind, hard, once = cell_of(name, EMPTY)
        shown = shown_of(name, NOTHING)
        if kind == ONCE:
            if hard_kind == SET or hard >= stamp or (once and once <= stamp):
                continue
        elif hard_kind and hard >= stamp:
            continue
        elif kind == LIFTED:
            if shown is not NOTHING and same(shown, value):
                continue
            kind = NULL if value is None else SET
        if purged and purged.get(name, 0) >= stamp:
            continue
        if admits is not None and not admits(operation):
            continue
        if kind == ONCE:
            cells[name] = (hard_kind, hard, stamp)
            properties[name] = value
        elif kind == SET:
            cells[name] = (SET, stamp, 0)
            properties[name] = value
        else:
            later = once if once > stamp else 0
            cells[name] = (kind, stamp, later)
            if not later:
                _show_nothing(properties, name, kind)
        names.append(name)
        kinds.append(kind)
        values.append(value)
        before.append(shown)
    return Changes(names, kinds, values, before)


def _show_nothing(properties: Properties, name: str, kind: int) -> None:
    """Of a name that holds no value any more: null after a null, nothing after an unset."""
    if kind == NULL:
        properties[name] = None
    else:
        properties.pop(name, None)


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


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values, in lists and objects too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict | list):
        return bool(msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted"))
    return bool(one == other)
