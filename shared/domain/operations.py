"""The operations of a command: which have an effect on a fragment, and for which of those it has room. Pure.

What a fragment holds is bounded, or one sender of names without end could make one person so large that nobody is
served. What goes over a bound is left out, operation by operation; facts hold only what took effect, so a replay never
decides again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from shared.domain.cells import EMPTY, NULL, ONCE, SET, UNSET, Cell, moved, put, same
from shared.domain.commands import Capture, Properties, Write

FRAGMENT_BYTES_MAX = 512 * 1_024
"""Of names and shown values, as JSON. A person of a thousand properties has a tenth of it."""

FRAGMENT_NAMES_MAX = 2_000
"""Of one fragment, tombstones included: an unset of a name that was never there makes one too."""

NAMED_MAX, NAMED_CHARS_MAX = 5, 100
"""Of the names that were left out, so many are told, and so much of each: a sender may send 400 kB of them."""

UNWEIGHED = 1 << 60
"""At most so many bytes: it is not known, and will be counted at the next change."""

Asked = tuple[str, int, Any]
"""A name, one of the kinds of operation, and its value."""

_encode = msgspec.json.Encoder().encode


class LeftOut(msgspec.Struct, frozen=True):
    """What a fragment had no room for: how many names, their bytes with the values, and the first few, cut."""

    names: int
    bytes: int
    first: tuple[str, ...]


class Weight:
    """How much a fragment holds: `bytes` exactly, or at most that while it is small.

    Exact counting encodes what an operation replaces. A small fragment is spared that: an upper bound is enough to
    know that everything fits.
    """

    __slots__ = ("bytes", "exact")

    def __init__(self, most: int = 0) -> None:
        self.bytes, self.exact = most, False


def effective(
    cells: Mapping[str, Cell], properties: Properties, purged: Mapping[str, int], command: Capture | Write, stamp: int
) -> list[Asked]:
    """The operations that change a cell, one a name: within a command unset beats set beats set_once."""
    gone, sets = dict.fromkeys(command.unset), command.set
    lifted = command.lifted if isinstance(command, Capture) else {}
    asked: list[Asked] = [(name, UNSET, None) for name in gone]
    asked += [(name, NULL if value is None else SET, value) for name, value in sets.items() if name not in gone]
    if lifted:
        asked += [
            (name, NULL if value is None else SET, value)
            for name, value in lifted.items()
            if name not in gone and name not in sets and not shows(properties, name, value)
        ]
    asked += [
        (name, ONCE, value)
        for name, value in command.set_once.items()
        if value is not None and name not in gone and name not in sets and name not in lifted
    ]
    if purged:
        asked = [one for one in asked if purged.get(one[0], 0) < stamp]
    cell_of = cells.get
    return [one for one in asked if moved(cell_of(one[0], EMPTY), one[1], stamp) is not None]


def fitting(
    weight: Weight, cells: Mapping[str, Cell], properties: Properties, asked: list[Asked], stamp: int
) -> tuple[list[Asked], LeftOut | None]:
    """Those of the effective operations that there is room for, in their order, and what is left out.

    What takes no more than it replaces always has room: an unset of a name, a smaller value, in a fragment of before
    the bounds too. `weight` is then that of the fragment with the operations applied.
    """
    if not weight.exact or weight.bytes < FRAGMENT_BYTES_MAX // 4:
        most = weight.bytes + len(_encode(asked))
        if most <= FRAGMENT_BYTES_MAX // 2 and len(cells) + len(asked) <= FRAGMENT_NAMES_MAX:  # nearly always
            weight.bytes, weight.exact = most, False
            return asked, None
    if not weight.exact:
        weight.bytes, weight.exact = bytes_of(cells, properties), True
    kept: list[Asked] = []
    left: list[Asked] = []
    names = len(cells)
    for one in asked:
        new = one[0] not in cells
        if new and names >= FRAGMENT_NAMES_MAX:
            left.append(one)
            continue
        growth = _growth(cells, properties, one, stamp)
        if growth > 0 and weight.bytes + growth > FRAGMENT_BYTES_MAX:
            left.append(one)
            continue
        kept.append(one)
        weight.bytes += growth
        names += new
    return kept, _told(left) if left else None


def bytes_of(cells: Collection[str], properties: Properties) -> int:
    """What a fragment holds: the JSON of what shows, and the names that do not show any more."""
    shown = len(_encode(properties)) - 1 if properties else 0
    return shown + sum(_bytes_of_name(name) for name in cells if name not in properties)


def shows(properties: Properties, name: str, value: Any) -> bool:
    """Whether a fragment shows this very value."""
    return name in properties and same(properties[name], value)


def _growth(cells: Mapping[str, Cell], properties: Properties, asked: Asked, stamp: int) -> int:
    """By how many bytes an operation makes the fragment larger; negative for smaller."""
    name, kind, value = asked
    if name not in cells:
        return _bytes_of_name(name) if kind == UNSET else _bytes_shown(name, value)
    shown = {name: properties[name]} if name in properties else {}
    before = bytes_of((name,), shown)
    cell = moved(cells[name], kind, stamp)
    assert cell is not None, "only operations with an effect are weighed"
    put({}, shown, name, cell, kind, value)
    return bytes_of((name,), shown) - before


def _bytes_of_name(name: str) -> int:
    return len(_encode(name)) + 1


def _bytes_shown(name: str, value: Any) -> int:
    """Of `"name":value,`: encoded as a list it has one byte more."""
    return len(_encode((name, value))) - 1


def _told(left: list[Asked]) -> LeftOut:
    size = sum(_bytes_shown(name, value) for name, _, value in left)
    return LeftOut(len(left), size, tuple(name[:NAMED_CHARS_MAX] for name, _, _ in left[:NAMED_MAX]))
