"""JSON values made storable: numbers, depth and NUL. Pure; nothing is ever refused."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from shared.inputs.repairs import Repairs

DEPTH_MAX = 32
"""Nesting, the properties object counted as 1: every reader of the log must manage it without
recursion trouble."""

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
"""What ClickHouse and orjson can hold without turning it into a float."""


class NumberText(str):
    """The text of a number that no float can hold, as it was decoded."""

    __slots__ = ()


def decode_lenient(text: str) -> Any:
    """JSON in which numbers may be beyond every float, or NaN: those become NumberText. Raises
    ValueError and RecursionError."""
    return LENIENT.decode(text)


def storable(value: Any, field: str, repairs: Repairs, depth: int = 1) -> Any:
    """A value as it can be stored for ever; what had to be changed is noted. `depth` is that of
    the value, the properties object counted as 1."""
    if isinstance(value, str):
        if isinstance(value, NumberText):
            repairs.add("number_as_text", field)
            return str(value)
        return text_without_nul(value, field, repairs)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if INTEGER_MIN <= value <= INTEGER_MAX:
            return value
        return _big(value, field, repairs)
    if isinstance(value, dict | list):
        if depth > DEPTH_MAX:
            repairs.add("too_deep", field)
            return msgspec.json.encode(value).decode()
        if isinstance(value, dict):
            return {
                text_without_nul(name, field, repairs): storable(
                    item, field, repairs, depth + 1
                )
                for name, item in value.items()
            }
        return [storable(item, field, repairs, depth + 1) for item in value]
    return value


def text_without_nul(text: str, field: str, repairs: Repairs) -> str:
    """A text, or the text of a number, with NUL replaced: no store of texts takes it."""
    if "\x00" not in text:
        return str(text)
    repairs.add("nul_replaced", field)
    return text.replace("\x00", "\ufffd")


def _big(value: int, field: str, repairs: Repairs) -> float | str:
    try:
        number = float(value)
    except OverflowError:
        repairs.add("number_as_text", field)
        return str(value)
    repairs.add("integer_rounded", field)
    return number


def _float(text: str) -> float | NumberText:
    number = float(text)
    return number if math.isfinite(number) else NumberText(text)


def _integer(text: str) -> int | NumberText:
    """Python refuses to read integers of more than some thousand digits."""
    return int(text) if len(text) <= 400 else NumberText(text)


LENIENT = json.JSONDecoder(
    parse_float=_float, parse_int=_integer, parse_constant=NumberText
)
"""What `decode_lenient` decodes with, for a text that holds more than one value."""
