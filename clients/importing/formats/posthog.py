"""PostHog's exports: persons and events batch exports, and the columns of its CSV files.

Only documented columns are read. Pure, but for the index of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from clients.importing.formats.fields import (
    flag_of,
    id_of,
    initial_of,
    micros_of,
    moment_of,
    object_of,
    time_of,
)
from shared.domain.errors import BadInput
from shared.inputs.values import INTEGER_MAX

if TYPE_CHECKING:
    from clients.importing.index import SourceIndex

_OPERATIONS = {"$set": "set", "$set_once": "set_once"}
"""Operations of an event, and the columns that older batch exports hold them in."""


class PersonMapping(NamedTuple):
    """Whose a distinct id is, by one row of a persons batch export."""

    distinct_id: str
    person: str
    id_version: int
    version: int
    deleted: bool


def is_mapping(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of a persons batch export."""
    return "person_id" in row and "distinct_id" in row and "event" not in row


def mapping_of(row: Mapping[str, Any]) -> PersonMapping | None:
    """Read whose the row's distinct id is; None for a row that says it of nobody."""
    distinct_id, person = id_of(row, "distinct_id"), id_of(row, "person_id")
    if distinct_id is None or person is None:
        return None
    return PersonMapping(
        distinct_id,
        person,
        _version(row.get("person_distinct_id_version")),
        _version(row.get("person_version")),
        is_deleted(row),
    )


def is_deleted(row: Mapping[str, Any]) -> bool:
    """Whether a row says that what it describes was deleted."""
    return any(flag_of(row, name, default=False) for name in ("is_deleted", "deleted"))


def person_of(
    row: Mapping[str, Any], number: int, index: SourceIndex
) -> dict[str, Any] | None:
    """Build the person of a batch export at the row that speaks for it; None at its others."""
    mapping = mapping_of(row)
    if mapping is None:
        raise BadInput("A person needs a distinct_id and a person_id.")
    distinct_ids = index.distinct_ids(mapping.person, number)
    if not distinct_ids:
        return None
    return {
        "distinct_ids": distinct_ids,
        "properties": object_of(row, "properties"),
        "created_at": row.get("created_at"),
    }


def event_of(row: Mapping[str, Any], index: SourceIndex) -> dict[str, Any]:
    """Give an event its operations where the export has columns for them, or only the person's
    properties as they were: what changed since the event before is what it set."""
    properties = object_of(row, "properties")
    event = dict(row)
    for operation, column in _OPERATIONS.items():
        if not row.get(operation) and not properties.get(operation) and row.get(column):
            event[operation] = object_of(row, column)
    person_properties = object_of(row, "person_properties")
    if person_properties and properties.get("$process_person_profile") is not False:
        event |= operations_of(
            event,
            (properties, person_properties),
            id_of(row, "person_id", "distinct_id"),
            index,
        )
    return event


def operations_of(
    event: Mapping[str, Any],
    states: tuple[Mapping[str, Any], Mapping[str, Any]],
    person: str | None,
    index: SourceIndex,
) -> dict[str, Any]:
    """Find the operations by which an event made the person's properties what they are after it.

    `states` are the properties of the event and those of its person; what the event says itself of
    a property goes before.
    """
    properties, person_properties = states
    distinct_id = id_of(event, "distinct_id", "$distinct_id")
    if distinct_id is None:
        return {}
    time_us = micros_of(time_of(event, "timestamp"))
    sets, unset, at = index.changes(
        person or distinct_id, distinct_id, time_us, person_properties
    )
    changes = {
        "$set": initial_of(sets, once=False),
        "$set_once": initial_of(sets, once=True),
    }
    operations: dict[str, Any] = {
        name: values | object_of(properties, name) | object_of(event, name)
        for name, values in changes.items()
        if values
    }
    if unset:
        operations["$unset"] = list(
            dict.fromkeys([*unset, *_texts(properties), *_texts(event)])
        )
    if operations and at != time_us:
        operations["timestamp"] = moment_of(at).isoformat()
    return operations


def _texts(place: Mapping[str, Any]) -> list[str]:
    names = place.get("$unset")
    if isinstance(names, str):
        return [names]
    if not isinstance(names, list | dict):
        return []
    return [name for name in names if isinstance(name, str)]


def _version(value: Any) -> int:
    """A version; 0 where there is none."""
    try:
        return min(max(int(value), 0), INTEGER_MAX // 2)
    except (TypeError, ValueError, OverflowError):
        return 0
