"""The search table's documents: how a person's properties are written into it, and how a name is
found again. Pure."""

from __future__ import annotations

from typing import Any

import orjson


def path_of(name: str) -> str:
    """A property's name as a path of one step: dots would make it several, and no name may be
    empty."""
    return name.replace("%", "%25").replace(".", "%2E") or "%"


def document_of(properties: dict[str, Any]) -> dict[str, Any]:
    """Properties for the JSON column: plain values as they are, lists and objects as JSON text,
    nulls left out.

    The column would take an object apart and lose empty ones; a filter compares it as a whole.
    """
    return {
        path_of(name): orjson.dumps(value).decode()
        if isinstance(value, dict | list)
        else value
        for name, value in properties.items()
        if value is not None
    }
