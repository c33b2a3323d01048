"""Amplitude's export: an event with the user's properties as they were then. Pure, but for the
index of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clients.importing.formats.fields import id_of, object_of, time_of, uuid_of
from clients.importing.formats.links import link_of
from clients.importing.formats.posthog import operations_of

if TYPE_CHECKING:
    from clients.importing.index import SourceIndex

_PROPERTIES = {
    "ip_address": "$ip",
    "os_name": "$os",
    "os_version": "$os_version",
    "device_type": "$device_type",
    "version_name": "$app_version",
    "city": "$geoip_city_name",
    "region": "$geoip_subdivision_1_name",
    "country": "$geoip_country_name",
}
"""Columns of an event, and the properties that PostHog has for the same."""

_SET = "$identify"
"""Amplitude's name of an event that only sets properties; PostHog's of one that merges."""


def is_event(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of the Export API."""
    return "event_type" in row and bool(row.keys() & {"user_id", "device_id"})


def events_of(row: Mapping[str, Any], index: SourceIndex) -> list[dict[str, Any]]:
    """Build the event, and a link where it first names the user of a device."""
    user, device = id_of(row, "user_id"), id_of(row, "device_id")
    when = time_of(row, "event_time", "client_event_time")
    columns = {
        name: row[column]
        for column, name in _PROPERTIES.items()
        if row.get(column) not in (None, "")
    }
    properties = columns | object_of(row, "event_properties")
    event: dict[str, Any] = {
        "event": "$set" if row["event_type"] == _SET else row["event_type"],
        "distinct_id": user or device,
        "timestamp": when.isoformat(),
        "uuid": uuid_of(row.get("uuid") or row.get("$insert_id"), "amplitude"),
        "properties": properties,
    }
    user_properties = object_of(row, "user_properties")
    if user_properties:
        person = id_of(row, "amplitude_id") or user or device
        event |= operations_of(event, (properties, user_properties), person, index)
    return [event, *link_of(user, device, when, index)]
