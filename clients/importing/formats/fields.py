"""Fields of rows as exports write them: objects as JSON text, flags in many words, times. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec

from shared.domain.errors import BadInput
from shared.inputs.ids import id_text
from shared.inputs.times import time_us_of

NAMESPACE = UUID("7010de18-b884-498e-b575-eab6e59cd95b")
"""Namespace of the uuid that an event without one gets from its content: a retry repeats it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLAGS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def object_of(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read an object, which some exports hold as its JSON text."""
    value = row.get(name)
    value = json_of(value, name) if isinstance(value, str) and value.strip() else value
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{name} must be an object.", attr=name)
    return value


def json_of(text: str, name: str) -> Any:
    """Decode the JSON of a field."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadInput(f"{name} is not JSON.", attr=name) from None


def flag_of(row: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Read a boolean in the words of databases and spreadsheets."""
    value = row.get(name)
    if value in (None, ""):
        return default
    flag = _FLAGS.get(str(value).lower())
    if flag is None or isinstance(value, float):
        raise BadInput(f"{name} must be true or false.", attr=name)
    return flag


def id_of(row: Mapping[str, Any], *names: str) -> str | None:
    """Read the first of these fields that is an id; a number is its text."""
    return next((text for name in names if (text := id_text(row.get(name)))), None)


def moment(value: Any, name: str) -> datetime | None:
    """Parse a time of a row: None for none, BadInput for no time. Without a zone it is UTC."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    time_us = time_us_of(value)
    if time_us is None:
        raise BadInput(f"{name} is not a time.", attr=name)
    return moment_of(time_us)


def time_of(row: Mapping[str, Any], *names: str) -> datetime:
    """Read the first of these fields that holds a time; BadInput when none does."""
    for name in names:
        when = moment(row.get(name), name)
        if when is not None:
            return when
    raise BadInput(f"An event of the past needs a {names[0]}.", attr=names[0])


def moment_of(time_us: int) -> datetime:
    """The time that is so many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=time_us)


def micros_of(when: datetime) -> int:
    """Microseconds since 1970."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def derived_uuid(content: Any) -> str:
    """Derive a uuid from what tells an event from every other."""
    try:
        text = msgspec.json.encode(content, order="sorted").decode()
        return str(uuid5(NAMESPACE, text))
    except (TypeError, ValueError, RecursionError):  # of broken text, too
        raise BadInput(
            "It has content that JSON cannot hold: NaN, broken text, or too deep a nesting."
        ) from None


def uuid_of(value: Any, source: str) -> str | None:
    """Read an event's own id: as it is where it is a uuid, else derive one; None for none."""
    if not isinstance(value, str) or not value:
        return None
    try:
        return str(UUID(value))
    except ValueError:
        return derived_uuid([source, value])


def initial_of(properties: Mapping[str, Any], *, once: bool) -> dict[str, Any]:
    """Select the properties to set once (`$initial_…`), or the others; null is never set once."""
    return {
        name: value
        for name, value in properties.items()
        if (name.startswith("$initial_") and value is not None) is once
    }
