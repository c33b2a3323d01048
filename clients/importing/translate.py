"""Turn the rows of every export into rows of two kinds: persons, and events of the past."""

from __future__ import annotations

from typing import Any, NamedTuple

from clients.importing.formats import amplitude, mixpanel, posthog, segment
from clients.importing.index import SourceIndex
from clients.importing.parcels import RowKind
from shared.domain.errors import BadInput

Rows = list[tuple[RowKind, dict[str, Any]]]


class Translation(NamedTuple):
    """What a row is, for the summary, and the persons and events that it says."""

    label: str
    rows: Rows


def translate(
    row: Any, number: int, kind: RowKind | None, index: SourceIndex
) -> Translation:
    """Translate a row; `kind` None when the row tells what it is. BadInput for none of both."""
    if not isinstance(row, dict):
        raise BadInput("A row must be an object.")
    if posthog.is_deleted(row):
        return Translation("deleted, left out", [])
    if kind != "events":
        if posthog.is_mapping(row):
            person = posthog.person_of(row, number, index)
            if person is None:
                return Translation("further ids of a person", [])
            return Translation("persons", [("persons", person)])
        if mixpanel.is_profile(row):
            person = mixpanel.person_of(row)
            return Translation("Mixpanel profiles", [("persons", person)])
        if kind == "persons" or "distinct_ids" in row:
            return Translation("persons", [("persons", row)])
    return _event(row, kind, index)


def _event(
    row: dict[str, Any], kind: RowKind | None, index: SourceIndex
) -> Translation:
    if segment.is_call(row):
        events = segment.events_of(row, index)
        label = "Segment calls" if events else "Segment groups, left out"
        return Translation(label, _as_rows(events))
    if amplitude.is_event(row):
        events = amplitude.events_of(row, index)
        return Translation("Amplitude events", _as_rows(events))
    if mixpanel.is_event(row):
        events = mixpanel.events_of(row, index)
        return Translation("Mixpanel events", _as_rows(events))
    if kind != "events" and "event" not in row:
        raise BadInput("Neither a person (distinct_ids) nor an event (event).")
    return Translation("events", _as_rows([posthog.event_of(row, index)]))


def _as_rows(events: list[dict[str, Any]]) -> Rows:
    return [("events", event) for event in events]
