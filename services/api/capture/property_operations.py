"""Operations of an event on its person's properties: which names may stay. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from shared.inputs.names import NAME_CHARS_MAX, PROPERTIES_MAX, NameBudget
from shared.inputs.repairs import Repairs

Operations = dict[str, Any]
"""`set`, `lifted` and `set_once`, objects, and `unset`, names; those that there are."""


def within_limits(operations: Operations, repairs: Repairs) -> Operations:
    """The operations on names that can be stored; nearly always all."""
    names = [name for operands in operations.values() for name in operands]
    if names and (
        len(names) > PROPERTIES_MAX
        or "" in names
        or len(max(names, key=len)) > NAME_CHARS_MAX
    ):
        return _limited(operations, repairs)
    return operations


def without(
    operations: Operations, server_only: Collection[str], repairs: Repairs
) -> Operations:
    """The operations on names that the public token may change."""
    allowed: Operations = {}
    for operation, operands in operations.items():
        names = [name for name in operands if name not in server_only]
        if len(names) < len(operands):
            repairs.add("server_only", _field(operation))
        allowed |= _only(operation, operands, names)
    return allowed


def _limited(operations: Operations, repairs: Repairs) -> Operations:
    """The operations without the names that cannot be stored: `$set` has room first, what is
    lifted last."""
    budget = NameBudget()
    limited: Operations = {}
    for operation in ("set", "unset", "set_once", "lifted"):
        operands = operations.get(operation)
        if operands:
            names = budget.select(operands, _field(operation), repairs)
            limited |= _only(operation, operands, names)
    return limited


def _only(operation: str, operands: Any, names: Sequence[str]) -> Operations:
    if not names:
        return {}
    if isinstance(operands, dict):
        return {operation: {name: operands[name] for name in names}}
    return {operation: tuple(names)}


def _field(operation: str) -> str:
    return "properties" if operation == "lifted" else f"${operation}"
