"""Turn one row of a source, a person or a captured event, into events for capture. Pure.

An export does not say when a person's values were set. They get a time that is not later: `at` if
given, else `last_seen_at`, else `created_at`. So an import never replaces newer values.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from clients.importing.formats.csv_columns import TOTAL
from clients.importing.formats.fields import (
    derived_uuid,
    flag_of,
    id_of,
    initial_of,
    moment,
    object_of,
    time_of,
)
from shared.domain.errors import BadInput
from shared.domain.legal_ids import is_legal
from shared.inputs.ids import id_text, stored_id

NAMES_MAX = 500
"""Properties of one event; a person with more becomes several events. Capture takes 1,000."""

RowKind = Literal["persons", "events"]

_EVENT_FIELDS = ("event", "distinct_id", "$distinct_id", "uuid", "$unset")
_OBJECTS = ("properties", "$set", "$set_once")


class Parcel(msgspec.Struct, kw_only=True):
    """The events and merges of one row.

    `merges` are pairs (into, source) for REST, which mark no person as identified; their time is
    `when`. `refusals` are reasons why parts of the row are left out.
    """

    events: list[bytes]
    lane: str = ""  # the distinct id; events of one lane are sent in order
    merges: list[tuple[str, str]] = []
    when: str = ""
    refusals: list[str] = []
    unmarked: bool = False  # an identified person of one id: only a merge marks it


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How to import all rows: their kind (None: detected per row), time, and kind of merge."""

    kind: RowKind | None = None
    at: datetime | None = None
    by_rest: bool = False


def parcel_of(kind: RowKind, row: Mapping[str, Any], manner: Manner) -> Parcel:
    """Build the parcel of a row; raise BadInput for a row without any event."""
    return _person(row, manner) if kind == "persons" else _event(row)


def _person(row: Mapping[str, Any], manner: Manner) -> Parcel:
    ids = row.get("distinct_ids")
    ids = ids if isinstance(ids, list) else []
    texts = [id_text(value) for value in ids]
    unique = list(dict.fromkeys(text for text in texts if text is not None))
    if not unique or None in texts:
        raise BadInput(
            "distinct_ids must be a list of texts, at least one.", attr="distinct_ids"
        )
    illegal = [text for text in unique if not is_legal(text)]
    legal = [stored_id(text) for text in unique if is_legal(text)]
    into = legal[0] if legal else stored_id(illegal.pop(0))
    created = moment(row.get("created_at"), "created_at")
    last_seen = moment(row.get("last_seen_at"), "last_seen_at")
    when = manner.at or last_seen or created
    if when is None:
        reason = (
            "Neither created_at nor last_seen_at: --at can say when the values are of."
        )
        raise BadInput(reason, attr="created_at")
    created = created or when
    when = max(when, created)  # last_seen_at is a whole hour
    identified = flag_of(row, "is_identified", default=len(legal) > 1)
    quiet = manner.by_rest and not identified
    sources = legal[1:]
    properties = object_of(row, "properties")
    initial = _groups(initial_of(properties, once=True))
    latest = _groups(initial_of(properties, once=False))
    births: list[dict[str, Any]] = [] if latest and when == created else [{}]
    visits: list[dict[str, Any]] = [{}] if when > created else []
    events = [_set_event(into, created, set_once=group) for group in initial or births]
    events += [_set_event(into, when, set=group) for group in latest or visits]
    if quiet:
        events += [_set_event(source, created) for source in sources]
    else:
        events += [_merge_event(into, source, when) for source in sources]
    return Parcel(
        events=[_encoded(event) for event in events],
        lane=into,
        merges=[(into, source) for source in sources] if quiet else [],
        when=when.isoformat(),
        refusals=[f"distinct_ids: {text} never merges" for text in illegal]
        + _left_out(row),
        unmarked=identified and not sources,
    )


def _event(row: Mapping[str, Any]) -> Parcel:
    """Keep the fields of a past event; its `timestamp` holds the sender's clock and offset."""
    event = {name: row[name] for name in _EVENT_FIELDS if row.get(name) is not None}
    event |= {
        name: object_of(row, name) for name in _OBJECTS if row.get(name) is not None
    }
    when = time_of(row, "timestamp")
    return Parcel(
        events=[_encoded(event | {"timestamp": when.isoformat()})],
        lane=id_of(row, "distinct_id", "$distinct_id") or "",
    )


def _left_out(row: Mapping[str, Any]) -> list[str]:
    """What PostHog's screen export left out of a person: all ids but the first ten."""
    total = row.get(TOTAL)
    return [] if total is None else [f"distinct_ids: not all are in the file ({total})"]


def _groups(properties: dict[str, Any]) -> list[dict[str, Any]]:
    """Split properties into groups that fit one event each."""
    names = list(properties)
    return [
        {name: properties[name] for name in names[start : start + NAMES_MAX]}
        for start in range(0, len(names), NAMES_MAX)
    ]


def _set_event(
    distinct_id: str, when: datetime, **operations: dict[str, Any]
) -> dict[str, Any]:
    sets = {
        f"${name}": properties for name, properties in operations.items() if properties
    }
    return {
        "event": "$set",
        "distinct_id": distinct_id,
        "timestamp": when.isoformat(),
        **sets,
    }


def _merge_event(into: str, source: str, when: datetime) -> dict[str, Any]:
    return {
        "event": "$merge_dangerously",
        "distinct_id": into,
        "timestamp": when.isoformat(),
        "properties": {"alias": source},
    }


def _encoded(event: dict[str, Any]) -> bytes:
    if not event.get("uuid"):
        event["uuid"] = derived_uuid(event)
    try:
        return msgspec.json.encode(event)
    except (TypeError, ValueError, RecursionError):
        raise BadInput("It has content that JSON cannot hold.") from None
