"""Turn one row of a source, a person or a captured event, into events for capture. Pure.

An export does not say when a person's values were set. They get a time that is not later: `at` if
given, else `last_seen_at`, else `created_at`. So an import never replaces newer values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid5

import msgspec

from shared.domain.errors import BadInput
from shared.domain.ids import CAPTURED_ID_CHARS_MAX
from shared.domain.legal_ids import is_legal

NAMES_MAX = 500
"""Properties of one event; a person with more becomes several events. Capture takes 1,000."""

NAMESPACE = UUID("7010de18-b884-498e-b575-eab6e59cd95b")
"""Namespace of the uuid that an event without one gets from its content: a retry repeats it."""

RowKind = Literal["persons", "events"]

_EVENT_FIELDS = ("event", "distinct_id", "$distinct_id", "uuid", "$unset")
_OBJECTS = ("properties", "$set", "$set_once")
_PLAIN = (
    "event",
    "distinct_id",
    "timestamp",
    "uuid",
    "created_at",
    "last_seen_at",
    "is_identified",
)
_APOSTROPHE = re.compile(r"'[=+\-@\t\r]")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")


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


def parcel_of(row: Any, manner: Manner) -> Parcel:
    """Build the parcel of a row; raise BadInput for a row without any event."""
    if not isinstance(row, dict):
        raise BadInput("A row must be an object.")
    kind = manner.kind or (
        "persons" if "distinct_ids" in row else "events" if "event" in row else None
    )
    if kind is None:
        raise BadInput("Neither a person (distinct_ids) nor an event (event).")
    return _person(row, manner) if kind == "persons" else _event(row)


def moment(value: Any, attr: str) -> datetime | None:
    """Parse a time of a row: None for none, BadInput for no time. Without a zone it is UTC."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value / 1_000 if value >= 100_000_000_000 else value
            return datetime.fromtimestamp(seconds, UTC)
        parsed = datetime.fromisoformat(value)
        return (
            parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
        ).astimezone(UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise BadInput(f"{attr} is not a time.", attr=attr) from None


def row_of_cells(header: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    """Build a row of a CSV of PostHog or personlog, without empty cells and unknown columns."""
    if len(cells) != len(header):
        raise BadInput(f"{len(cells)} cells under {len(header)} columns.")
    row: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    ids: list[str] = []
    for name, cell in zip(header, cells, strict=True):
        if cell == "":
            continue
        text = cell[1:] if _APOSTROPHE.match(cell) else cell
        if name.startswith("properties."):
            properties[name.removeprefix("properties.")] = (
                _typed(text) if text is cell else text
            )
        elif name.startswith("distinct_ids.") or (
            name == "distinct_id" and "event" not in header
        ):
            ids.append(text)
        elif name in ("distinct_ids", *_OBJECTS, "$unset"):
            row[name] = _json(text, name)
        elif name in _PLAIN:
            row[name] = text
    if ids:
        row["distinct_ids"] = ids
    if properties:
        row["properties"] = _object(row, "properties") | properties
    return row


def _person(row: Mapping[str, Any], manner: Manner) -> Parcel:
    ids = row.get("distinct_ids")
    if not isinstance(ids, list) or not ids or not all(_is_text(name) for name in ids):
        raise BadInput(
            "distinct_ids must be a list of texts, at least one.", attr="distinct_ids"
        )
    for distinct_id in ids:
        _check_id(distinct_id, "distinct_ids")
    unique = dict.fromkeys(ids)
    legal = [distinct_id for distinct_id in unique if is_legal(distinct_id)]
    into = (legal or ids)[0]
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
    identified = _flag(row.get("is_identified"), default=len(legal) > 1)
    quiet = manner.by_rest and not identified
    sources = legal[1:]
    initial = _groups(_initial(row, once=True))
    latest = _groups(_initial(row, once=False))
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
        refusals=[
            f"distinct_ids: {distinct_id} never merges"
            for distinct_id in unique
            if distinct_id not in legal and distinct_id != into
        ],
        unmarked=identified and not sources,
    )


def _event(row: Mapping[str, Any]) -> Parcel:
    """Keep the fields of a past event; its `timestamp` holds the sender's clock and offset."""
    event = {name: row[name] for name in _EVENT_FIELDS if row.get(name) is not None}
    event |= {
        name: _object(row, name) for name in _OBJECTS if row.get(name) is not None
    }
    distinct_id = event.get("distinct_id", "")
    if isinstance(distinct_id, str):
        _check_id(distinct_id, "distinct_id")
    when = moment(row.get("timestamp"), "timestamp")
    if when is None:
        raise BadInput("An event of the past needs a timestamp.", attr="timestamp")
    return Parcel(
        events=[_encoded(event | {"timestamp": when.isoformat()})],
        lane=str(distinct_id),
    )


def _initial(row: Mapping[str, Any], *, once: bool) -> dict[str, Any]:
    """Select the properties to set once (`$initial_…`), or the others; null is never set once."""
    return {
        name: value
        for name, value in _object(row, "properties").items()
        if (name.startswith("$initial_") and value is not None) is once
    }


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
    try:
        if not event.get("uuid"):
            content = msgspec.json.encode(event, order="sorted").decode()
            event["uuid"] = str(uuid5(NAMESPACE, content))
        return msgspec.json.encode(event)
    except (
        TypeError,
        ValueError,
        RecursionError,
    ):  # UnicodeEncodeError is a ValueError
        text = "It has content that JSON cannot hold: NaN, broken text, or too deep a nesting."
        raise BadInput(text) from None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _check_id(distinct_id: str, attr: str) -> None:
    if len(distinct_id) > CAPTURED_ID_CHARS_MAX:
        raise BadInput(
            f"A distinct id of more than {CAPTURED_ID_CHARS_MAX} characters would be cut.",
            attr=attr,
        )


def _object(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read an object, which some exports hold as its JSON text."""
    value = row.get(name)
    value = _json(value, name) if isinstance(value, str) and value else value
    if value in (None, ""):
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{name} must be an object.", attr=name)
    return value


def _flag(value: Any, *, default: bool) -> bool:
    if value in (None, ""):
        return default
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise BadInput("is_identified must be true or false.", attr="is_identified")
    return value


def _json(text: str, attr: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadInput(f"{attr} is not JSON.", attr=attr) from None


def _typed(text: str) -> Any:
    """Give a cell its type, which CSV lacks: a JSON number, true, false, or a text."""
    if text in ("true", "false"):
        return text == "true"
    return msgspec.json.decode(text) if _NUMBER.fullmatch(text) else text
