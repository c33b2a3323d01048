"""Mixpanel's exports: profiles (Engage) and raw events. Pure, but for the index of the file.

Mixpanel's times without a zone are those of its project; here they are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clients.importing.formats.fields import derived_uuid, id_of, object_of, time_of
from clients.importing.formats.links import link_of
from shared.domain.errors import BadInput

if TYPE_CHECKING:
    from clients.importing.index import SourceIndex

DEVICE = "$device:"
"""What stands before the id of a device where it is a distinct id."""

MERGED_IDS_MAX = 100
"""Ids of one `$merge`; Mixpanel takes two."""

_MERGES = ("$merge", "$identify", "$create_alias")


def is_profile(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of the Engage export."""
    return "$distinct_id" in row and "$properties" in row


def is_event(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of the raw events export: all but its name is in its properties."""
    properties = row.get("properties")
    return (
        "event" in row
        and isinstance(properties, dict)
        and "time" in properties
        and not row.keys() & {"distinct_id", "$distinct_id", "timestamp", "uuid"}
    )


def person_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Build the person of a profile, its properties under Mixpanel's names."""
    properties = object_of(row, "$properties")
    return {
        "distinct_ids": [row.get("$distinct_id")],
        "properties": properties,
        "created_at": properties.get("$created"),
        "last_seen_at": properties.get("$last_seen"),
        "is_identified": False,
    }


def events_of(row: Mapping[str, Any], index: SourceIndex) -> list[dict[str, Any]]:
    """Build the event, and a link where it first names the user of a device."""
    properties = object_of(row, "properties")
    when = time_of(properties, "time")
    content = (row.get("event"), properties.get("time"), properties.get("$insert_id"))
    if row.get("event") in _MERGES:
        return _merges(row, properties, when.isoformat())
    user, device = id_of(properties, "$user_id"), id_of(properties, "$device_id")
    device_id = None if device is None else DEVICE + device
    distinct_id = id_of(properties, "distinct_id") or user or device_id
    event = {
        "event": row.get("event"),
        "distinct_id": distinct_id,
        "timestamp": when.isoformat(),
        "properties": properties,
    }
    if properties.get("$insert_id") is not None:
        # Mixpanel exports duplicates, and tells them by these
        event["uuid"] = derived_uuid(["mixpanel", distinct_id, *content])
    return [event, *link_of(user, device_id, when, index)]


def _merges(
    row: Mapping[str, Any], properties: Mapping[str, Any], when: str
) -> list[dict[str, Any]]:
    """Build the merges of Mixpanel's identity events."""
    ids = properties.get("$distinct_ids")
    if row["event"] == "$create_alias":
        pairs = [(properties.get("distinct_id"), "alias", properties.get("alias"))]
    elif row["event"] == "$identify":
        user = properties.get("$identified_id") or properties.get("distinct_id")
        anonymous = properties.get("$anon_id") or properties.get("$anon_distinct_id")
        pairs = [(user, "$anon_distinct_id", anonymous)]
    elif not isinstance(ids, list) or not 2 <= len(ids) <= MERGED_IDS_MAX:
        raise BadInput("A $merge needs its $distinct_ids.", attr="properties")
    else:
        pairs = [(ids[0], "alias", other) for other in ids[1:]]
    name = "$merge_dangerously" if row["event"] == "$merge" else row["event"]
    return [
        {
            "event": name,
            "distinct_id": into,
            "timestamp": when,
            "properties": {field: source},
        }
        for into, field, source in pairs
    ]
