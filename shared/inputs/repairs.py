"""What was repaired or left out of an input, to be told to the sender. Never holds a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

REASONS = {
    "cookieless": "Cookieless events are stored without a person and never merge.",
    "id_cut": "The id is too long; it was cut, with a hash of the whole as its end.",
    "id_missing": "It is no distinct id, so nothing was merged.",
    "integer_rounded": "Integers beyond 64 bits are kept as floats.",
    "list_for_object": "An empty list stands for an object without names.",
    "merge_not_allowed": "This project's public token may not merge dangerously.",
    "name_cut": "The event's name is too long; it was cut.",
    "name_left_out": "A property's name must have 1 to 400 characters; it was left out.",
    "names_left_out": "More than 1,000 properties at once; those beyond were left out.",
    "not_a_list": "It must be a list of names; it was left out.",
    "not_an_object": "It must be an object; it was left out.",
    "number_as_text": "Numbers that no float can hold are kept as text.",
    "nul_replaced": "NUL characters were replaced.",
    "server_only": "Only a personal key may change this property in this project.",
    "text_for_list": "A text stands for a list of one name.",
    "time_ignored": "It is no time that could be read; the time of arrival counts.",
    "too_deep": "What is nested deeper than 32 levels is kept as JSON text.",
    "uuid_replaced": "The uuid is malformed; the event was given another.",
}
"""Each kind of repair, and why, in words for senders."""

REPAIRS_MAX = 50
"""Repairs told of one event; further ones are made all the same."""


class Repair(NamedTuple):
    """One repair: its kind, and the field of the event that it was made in."""

    kind: str
    field: str

    @property
    def why(self) -> str:
        return REASONS[self.kind]


class Repairs:
    """The repairs of one event, each kind once for each field."""

    __slots__ = ("_repairs",)

    def __init__(self) -> None:
        self._repairs: dict[Repair, None] = {}

    def add(self, kind: str, field: str) -> None:
        """Note a repair of one of the REASONS' kinds."""
        if len(self._repairs) < REPAIRS_MAX:
            self._repairs[Repair(kind, field)] = None

    def __iter__(self) -> Iterator[Repair]:
        return iter(self._repairs)

    def __bool__(self) -> bool:
        return bool(self._repairs)
