"""Names of properties: which can be stored, and how many. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shared.inputs.repairs import Repairs

PROPERTIES_MAX = 1_000
"""Names in one command."""

NAME_CHARS_MAX = 400
"""Characters of a property's name."""


class NameBudget:
    """The room for names that one event's operations share."""

    __slots__ = ("room",)

    def __init__(self) -> None:
        self.room = PROPERTIES_MAX

    def select(self, names: Iterable[str], field: str, repairs: Repairs) -> list[str]:
        """The names that can be stored, in their order, as long as there is room."""
        selected: list[str] = []
        for name in names:
            if not 0 < len(name) <= NAME_CHARS_MAX:
                repairs.add("name_left_out", field)
            elif self.room == 0:
                repairs.add("names_left_out", field)
            else:
                self.room -= 1
                selected.append(name)
        return selected
