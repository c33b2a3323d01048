"""Property values that the store can keep for ever: checked at the edge, so that no record ever
fails for one."""

from __future__ import annotations

from typing import Any

from shared.domain.errors import BadInput

DEPTH_MAX = 32
"""Nesting, the properties object counted as 1: every reader of the log must manage it without
recursion trouble."""

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
"""What ClickHouse and orjson can hold without turning it into a float."""

PROPERTIES_MAX = 1_000
"""Names in one command."""

NAME_CHARS_MAX = 400
"""Characters of a property's name."""


def check_properties(properties: dict[str, Any], attr: str) -> None:
    """Raise BadInput, naming `attr`, unless every name and value can be stored."""
    if len(properties) > PROPERTIES_MAX:
        raise BadInput(f"At most {PROPERTIES_MAX} properties at once.", attr=attr)
    for name in properties:
        if not name or len(name) > NAME_CHARS_MAX:
            raise BadInput(
                f"A property's name has 1 to {NAME_CHARS_MAX} characters.", attr=attr
            )
    level: list[Any] = [properties]
    for _ in range(DEPTH_MAX):
        deeper: list[Any] = []
        for value in level:
            for item in value.values() if isinstance(value, dict) else value:
                if isinstance(item, dict | list):
                    deeper.append(item)
                elif isinstance(item, int) and not INTEGER_MIN <= item <= INTEGER_MAX:
                    raise BadInput("Integers must fit into 64 bits.", attr=attr)
        if not deeper:
            return
        level = deeper
    raise BadInput(f"Nested deeper than {DEPTH_MAX}.", attr=attr)
