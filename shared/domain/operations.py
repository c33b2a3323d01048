"""The operations of a command: what it asks for, and for which of that a fragment has room. Pure.

What a fragment holds is bounded, or one sender of names without end could make one person so large
that nobody is served. What goes over a bound is left out, operation by operation; facts hold only
what took effect, so a replay never decides again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from shared.domain.commands import Capture, PropertyMap, Write
from shared.domain.person.cells import LIFTED, ONCE, SET, UNSET, Cell, Operations, apply

FRAGMENT_BYTES_MAX = 512 * 1_024
"""Of names and shown values, as JSON. A person of a thousand properties has a tenth of it."""

FRAGMENT_NAMES_MAX = 2_000
"""Of one fragment, tombstones included: an unset of a name that was never there makes one too."""

NAMED_MAX, NAMED_CHARS_MAX = 5, 100
"""Of the names that were left out, so many are told, and so much of each: a sender may send 400 kB
of them."""

UNWEIGHED = 1 << 60
"""At most so many bytes: it is not known, and will be counted at the next change."""

_encode = msgspec.json.Encoder().encode


class LeftOut(msgspec.Struct, frozen=True):
    """What a fragment had no room for: how many names, their bytes with the values, and the first
    few, cut."""

    names: int
    bytes: int
    first: tuple[str, ...]


class Weight:
    """How much a fragment holds: `bytes` exactly, or at most that while it is small.

    Exact counting encodes what an operation replaces. A small fragment is spared that: an upper
    bound is enough to know that everything fits.
    """

    __slots__ = ("bytes", "exact")

    def __init__(self, bytes_max: int = 0) -> None:
        self.bytes = bytes_max
        self.exact = False

    def bound_with(self, operations: Operations, names: int) -> int:
        """At most so many bytes are held with these operations, which surely have room, in a
        fragment of so many names; 0 when only counting tells."""
        if self.exact and self.bytes >= FRAGMENT_BYTES_MAX // 4:
            return 0
        bound = self.bytes + len(_encode(operations))
        if bound > FRAGMENT_BYTES_MAX // 2:
            return 0
        return (
            bound
            if names + sum([len(group) for _, group in operations])
            <= FRAGMENT_NAMES_MAX
            else 0
        )


class Room:
    """Admits the operations of one command for which a fragment has room, counting exactly while
    they are done.

    What takes no more than it replaces always has room: an unset of a name, a smaller value, in a
    fragment of before the bounds too.
    """

    def __init__(
        self,
        weight: Weight,
        cells: dict[str, Cell],
        properties: PropertyMap,
        stamp: int,
    ) -> None:
        self._weight = weight
        self._cells = cells
        self._properties = properties
        self._stamp = stamp
        self._refused: list[tuple[str, Any]] = []
        if not weight.exact:
            weight.bytes = bytes_of(cells, properties)
            weight.exact = True

    def admit(self, kind: int, name: str, value: Any) -> bool:
        """Whether there is room for an operation, which is done next if there is."""
        surplus = name not in self._cells and len(self._cells) >= FRAGMENT_NAMES_MAX
        growth = (
            0
            if surplus
            else _growth(
                self._cells, self._properties, (kind, name, value), self._stamp
            )
        )
        if surplus or (growth > 0 and self._weight.bytes + growth > FRAGMENT_BYTES_MAX):
            self._refused.append((name, value))
            return False
        self._weight.bytes += growth
        return True

    @property
    def left_out(self) -> LeftOut | None:
        """What there was no room for."""
        if not self._refused:
            return None
        size = sum(_bytes_shown(name, value) for name, value in self._refused)
        names = [name[:NAMED_CHARS_MAX] for name, _ in self._refused[:NAMED_MAX]]
        return LeftOut(len(self._refused), size, tuple(names))


def operations_of(command: Capture | Write) -> Operations:
    """What a command asks for. Of one name unset beats set beats lifted beats set_once."""
    operations: list[tuple[int, Mapping[str, Any]]] = []
    if command.unset:
        operations.append((UNSET, dict.fromkeys(command.unset)))
    if command.set:
        operations.append((SET, command.set))
    if isinstance(command, Capture) and command.lifted:
        operations.append((LIFTED, command.lifted))
    if command.set_once:
        operations.append((ONCE, command.set_once))
    return operations if len(operations) < 2 else _without_repeated(operations)


def _without_repeated(operations: Operations) -> Operations:
    """Each name where it comes first."""
    names: set[str] = set()
    distinct: list[tuple[int, Mapping[str, Any]]] = []
    for kind, group in operations:
        if not names.isdisjoint(group):
            group = {name: value for name, value in group.items() if name not in names}
        names.update(group)
        distinct.append((kind, group))
    return distinct


def bytes_of(cells: Collection[str], properties: PropertyMap) -> int:
    """What a fragment holds: the JSON of what shows, and the names that do not show any more."""
    size = len(_encode(properties)) - 1 if properties else 0
    return size + sum(_bytes_of_name(name) for name in cells if name not in properties)


def _growth(
    cells: Mapping[str, Cell],
    properties: PropertyMap,
    operation: tuple[int, str, Any],
    stamp: int,
) -> int:
    """By how many bytes an operation makes the fragment larger; negative for smaller."""
    kind, name, value = operation
    if name not in cells:
        return _bytes_of_name(name) if kind == UNSET else _bytes_shown(name, value)
    current = {name: properties[name]} if name in properties else {}
    before = bytes_of((name,), current)
    apply({name: cells[name]}, current, ((kind, {name: value}),), stamp)
    return bytes_of((name,), current) - before


def _bytes_of_name(name: str) -> int:
    return len(_encode(name)) + 1


def _bytes_shown(name: str, value: Any) -> int:
    """Of `"name":value,`: encoded as a list it has one byte more."""
    return len(_encode((name, value))) - 1
