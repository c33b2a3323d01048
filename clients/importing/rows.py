"""One row of a source, a person or a captured event, to what capture is sent. Pure; never reads or sends anything.

An export does not say when a person's values were set. They get a time that is not later than that: `at` if given, else
`last_seen_at`, else `created_at`. So an import never replaces what has been set here since.
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
"""Properties in one event; a person with more is sent as several. Capture takes 1,000."""

NAMESPACE = UUID("7010de18-b884-498e-b575-eab6e59cd95b")
"""An event without a uuid gets one of what it says: sent again, it is the same event."""

Kind = Literal["persons", "events"]

_EVENT_FIELDS = ("event", "distinct_id", "$distinct_id", "uuid", "$unset")
_OBJECTS = ("properties", "$set", "$set_once")
_PLAIN = ("event", "distinct_id", "timestamp", "uuid", "created_at", "last_seen_at", "is_identified")
_APOSTROPHE = re.compile(r"'[=+\-@\t\r]")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")


class Parcel(msgspec.Struct, kw_only=True):
    """What one row becomes. `merges` are (into, source) for REST, which mark nobody as identified, all of `when`."""

    events: list[bytes]
    lane: str = ""  # whoever it is about: what has one lane is sent in order
    merges: list[tuple[str, str]] = []
    when: str = ""
    refused: list[str] = []
    unmarked: bool = False  # an identified person of one id: only a merge marks


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How all rows are taken: as what (None: each as what it looks like), at what time, with which kind of merge."""

    kind: Kind | None = None
    at: datetime | None = None
    by_rest: bool = False


def parcel_of(row: Any, manner: Manner) -> Parcel:
    """What is sent for a row; BadInput when nothing can be."""
    if not isinstance(row, dict):
        raise BadInput("A row must be an object.")
    kind = manner.kind or ("persons" if "distinct_ids" in row else "events" if "event" in row else None)
    if kind is None:
        raise BadInput("Neither a person (distinct_ids) nor an event (event).")
    return _person(row, manner) if kind == "persons" else _event(row)


def moment(value: Any, attr: str) -> datetime | None:
    """A time of a row, None where there is none; BadInput for what is no time. Without a zone it is UTC."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1_000 if value >= 100_000_000_000 else value, UTC)
        parsed = datetime.fromisoformat(value)
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise BadInput(f"{attr} is not a time.", attr=attr) from None


def row_of_cells(header: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    """A row of CSV as PostHog and personlog write it. Empty cells are absent, unknown columns are left out."""
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
            properties[name.removeprefix("properties.")] = _typed(text) if text is cell else text
        elif name.startswith("distinct_ids.") or (name == "distinct_id" and "event" not in header):
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
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) and one.strip() for one in ids):
        raise BadInput("distinct_ids must be a list of texts, at least one.", attr="distinct_ids")
    for one in ids:
        _check_id(one, "distinct_ids")
    legal = [one for one in dict.fromkeys(ids) if is_legal(one)]
    into = (legal or ids)[0]
    created, seen = moment(row.get("created_at"), "created_at"), moment(row.get("last_seen_at"), "last_seen_at")
    when = manner.at or seen or created
    if when is None:
        raise BadInput("Neither created_at nor last_seen_at: --at can say when the values are of.", attr="created_at")
    created = created or when
    when = max(when, created)  # last_seen_at is a whole hour
    identified = _flag(row.get("is_identified"), default=len(legal) > 1)
    quiet = manner.by_rest and not identified
    sources = legal[1:]
    once, rest = _parts(_initial(row, once=True)), _parts(_initial(row, once=False))
    births: list[dict[str, Any]] = [] if rest and when == created else [{}]
    events = [_set_event(into, created, set_once=part) for part in once or births]
    events += [_set_event(into, when, set=part) for part in rest or ([{}] if when > created else [])]
    if quiet:
        events += [_set_event(one, created) for one in sources]
    else:
        events += [_merge_event(into, one, when) for one in sources]
    return Parcel(
        events=[_encoded(event) for event in events],
        lane=into,
        merges=[(into, one) for one in sources] if quiet else [],
        when=when.isoformat(),
        refused=[f"distinct_ids: {one} never merges" for one in dict.fromkeys(ids) if one not in legal and one != into],
        unmarked=identified and not sources,
    )


def _event(row: Mapping[str, Any]) -> Parcel:
    """What of an event tells of the past; sender's clock and offset are in an exported `timestamp` already."""
    event = {name: row[name] for name in _EVENT_FIELDS if row.get(name) is not None}
    event |= {name: _object(row, name) for name in _OBJECTS if row.get(name) is not None}
    distinct_id = event.get("distinct_id", "")
    if isinstance(distinct_id, str):
        _check_id(distinct_id, "distinct_id")
    when = moment(row.get("timestamp"), "timestamp")
    if when is None:
        raise BadInput("An event of the past needs a timestamp.", attr="timestamp")
    return Parcel(events=[_encoded(event | {"timestamp": when.isoformat()})], lane=str(distinct_id))


def _initial(row: Mapping[str, Any], *, once: bool) -> dict[str, Any]:
    """The properties that count once (`$initial_…`), or the others; null cannot be set once."""
    return {
        name: value
        for name, value in _object(row, "properties").items()
        if (name.startswith("$initial_") and value is not None) is once
    }


def _parts(properties: dict[str, Any]) -> list[dict[str, Any]]:
    names = list(properties)
    return [
        {name: properties[name] for name in names[start : start + NAMES_MAX]}
        for start in range(0, len(names), NAMES_MAX)
    ]


def _set_event(distinct_id: str, when: datetime, **operations: dict[str, Any]) -> dict[str, Any]:
    said = {f"${name}": properties for name, properties in operations.items() if properties}
    return {"event": "$set", "distinct_id": distinct_id, "timestamp": when.isoformat(), **said}


def _merge_event(into: str, source: str, when: datetime) -> dict[str, Any]:
    properties = {"alias": source}
    return {
        "event": "$merge_dangerously", "distinct_id": into, "timestamp": when.isoformat(), "properties": properties
    }  # fmt: skip


def _encoded(event: dict[str, Any]) -> bytes:
    try:
        if not event.get("uuid"):
            event["uuid"] = str(uuid5(NAMESPACE, msgspec.json.encode(event, order="sorted").decode()))
        return msgspec.json.encode(event)
    except (TypeError, ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        raise BadInput("It has content that JSON cannot hold: NaN, broken text, or too deep a nesting.") from None


def _check_id(distinct_id: str, attr: str) -> None:
    if len(distinct_id) > CAPTURED_ID_CHARS_MAX:
        raise BadInput(f"A distinct id of more than {CAPTURED_ID_CHARS_MAX} characters would be cut.", attr=attr)


def _object(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object, which some exports have as its JSON text."""
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
    """CSV has no types: what reads as a number of JSON, true or false is one."""
    if text in ("true", "false"):
        return text == "true"
    return msgspec.json.decode(text) if _NUMBER.fullmatch(text) else text


