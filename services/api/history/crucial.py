"""Parameters that choose the crucial properties of a timeline: filters and a breakdown, as the
original sends them (docs/contract.md §5)."""

from __future__ import annotations

from typing import Any

from services.api.http.parameters import Json
from shared.domain.errors import BadInput

DEPTH_MAX = 32
"""Groups of filters within groups."""

BREAKDOWN_TYPES = (
    "person",
    "event",
    "group",
    "session",
    "cohort",
    "hogql",
    "event_metadata",
    "data_warehouse",
    "data_warehouse_person_property",
    "revenue_analytics",
)
"""What the original breaks down by."""


class Series(Json):
    """A JSON list of objects, each with an id and filters of its own."""

    def checked(self, value: Any) -> Any:
        if not isinstance(value, list) or not all(
            isinstance(entry, dict) for entry in value
        ):
            raise self.wrong("must be a JSON list of objects.")
        try:
            leaves_of([entry.get("properties", []) for entry in value])
        except BadInput as error:
            raise self.wrong(error.detail) from None
        return value


class PersonFilters(Json):
    """A JSON list of filters, or groups of them with AND and OR."""

    def checked(self, value: Any) -> Any:
        try:
            leaves_of(value)
        except BadInput as error:
            raise self.wrong(error.detail) from None
        return value


class Breakdown(Json):
    """The name of a property, or a JSON list of names."""

    def decode(self, text: str) -> list[str]:
        if text and not text.startswith("["):
            return [text]
        names: list[str] = super().decode(text)
        return names

    def checked(self, value: Any) -> list[str]:
        if not all(isinstance(name, str | int) for name in value):
            raise self.wrong("must be a name, or a JSON list of names.")
        return [str(name) for name in value]


def leaves_of(filters: Any) -> list[dict[str, Any]]:
    """The filters of a list or of an AND/OR group. BadInput for what is neither."""
    level: list[Any] = [filters]
    leaves: list[dict[str, Any]] = []
    for _ in range(DEPTH_MAX):
        deeper: list[Any] = []
        for node in level:
            if isinstance(node, list):
                deeper += node
            elif node is None:
                continue
            elif not isinstance(node, dict):
                raise BadInput("must hold filters, which are objects.")
            elif isinstance(node.get("values"), list):
                deeper += node["values"]
            elif "key" in node:
                leaves.append(node)
        if not deeper:
            return leaves
        level = deeper
    raise BadInput(f"may be nested {DEPTH_MAX} deep.")
