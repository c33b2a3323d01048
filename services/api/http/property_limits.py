"""Property values that the store can keep for ever: checked at the edge, so that no record ever
fails for one."""

from __future__ import annotations

from typing import Any

from shared.domain.errors import BadInput
from shared.inputs.names import NAME_CHARS_MAX, PROPERTIES_MAX
from shared.inputs.values import DEPTH_MAX, INTEGER_MAX, INTEGER_MIN


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
