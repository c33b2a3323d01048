"""One captured event to commands: whose it is, when it was, what it sets, whom it merges. Pure;
never appends."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import msgspec
import orjson

from services.api.capture.payload import TOKEN_PLACES, clean, clean_text
from services.api.http.property_limits import DEPTH_MAX, NAME_CHARS_MAX, PROPERTIES_MAX
from shared.domain.commands import (
    Capture,
    Command,
    Merge,
    MergeMode,
    Properties,
    Write,
    imported_at,
)
from shared.domain.errors import BadInput
from shared.domain.ids import (
    CAPTURED_ID_CHARS_MAX,
    DISTINCT_ID_CHARS_MAX,
    fragment_id,
    hash64,
)
from shared.domain.legal_ids import is_legal
from shared.domain.person.lifted import LIFTED

EVENT_NAME_CHARS_MAX = 200

AHEAD_US_MAX = 23 * 3_600_000_000
"""A clock that is wrong by more than that is not believed."""

NUMBER_MAX = 1e18
"""A number above is no time in any unit, and would overflow on the way to microseconds."""

MILLISECONDS_FROM = 100_000_000_000
"""A numeric time at or above is in milliseconds: as seconds it would lie past the year 5138."""

STORED_US_MIN, STORED_US_MAX = -2_208_988_800_000_000, 10_413_791_999_000_000
"""1900 to 2299: what the store's times hold."""

TIME_CHARS_MAX = 64
"""No time is longer, and RFC 2822's parser is slow."""

_NUL = b"\\u0000"
"""NUL in JSON (or, seldom, a backslash and the text behind it)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[0-9]{1,17}(\.[0-9]{1,9})?")
_MERGES: dict[str, tuple[str, MergeMode]] = {
    "$identify": ("$anon_distinct_id", "identify"),
    "$create_alias": ("alias", "alias"),
    "$merge_dangerously": ("alias", "dangerous"),
}


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all events of a request share. Times in microseconds; `skew` is sender's clock minus
    ours; `unnamed` is what an event without a name is called."""

    project: int
    received_at: int
    skew: int
    historical: bool
    mint: Callable[[], UUID]
    unnamed: str | None = None


def token_of(event: Any) -> str | None:
    """The project token that an event carries itself."""
    if not isinstance(event, dict):
        return None
    for place in TOKEN_PLACES:
        token = event.get(place)
        if isinstance(token, str) and token:
            return token
    properties = event.get("properties")
    token = properties.get("token") if isinstance(properties, dict) else None
    return token if isinstance(token, str) and token else None


def commands_of(event: Any, at: int, context: RequestContext) -> list[Command]:
    """The commands of one event, in the order of the log; BadInput, with `attr` below the event,
    when it is wrong."""
    if not isinstance(event, dict):
        raise BadInput("An event must be an object.", attr="")
    sent_properties = event.get("properties")
    if sent_properties is None:
        sent_properties = {}
    if not isinstance(sent_properties, dict):
        raise BadInput("properties must be an object.", attr="properties")
    properties, raw = _clean_properties(sent_properties)
    name = context.unnamed if event.get("event") is None else event["event"]
    if not isinstance(name, str) or not name.strip():
        raise BadInput("An event needs a name.", attr="event")
    name = clean_text(name)[:EVENT_NAME_CHARS_MAX]
    sent_id = sent_id_of(event, sent_properties)
    distinct_id = kept_id(sent_id)
    uuid = uuid_of(event.get("uuid"), context)
    person = properties.get("$process_person_profile") is not False
    if not person and (name in _MERGES or name == "$groupidentify"):
        return []  # dropped, as the original does: a merge without a person means nothing
    capture = Capture(
        id=context.mint(),
        project=context.project,
        at=at,
        actor="capture",
        fragment=fragment_id(context.project, distinct_id),
        distinct_id=distinct_id,
        uuid=uuid,
        event=name,
        timestamp=event_time(event, properties, context),
        properties=msgspec.Raw(raw),
        person=person,
        historical=context.historical,
        **(_operations(event, properties, name) if person else {}),
    )
    return (
        [capture, *_merge(capture, sent_id, sent_properties, context)]
        if name in _MERGES
        else [capture]
    )


def _clean_properties(properties: Properties) -> tuple[Properties, bytes]:
    """Properties that can be stored, and their JSON. Nearly all are as they came, and their JSON
    shows it."""
    try:
        raw = orjson.dumps(properties)
    except (
        orjson.JSONEncodeError
    ):  # an integer beyond 64 bits, or deeper than any that we take
        raw = _NUL
    if _NUL in raw or raw.count(b"{") + raw.count(b"[") > DEPTH_MAX:
        properties = clean(properties, "properties")
        raw = orjson.dumps(properties)
    return properties, raw


def time_of(value: Any) -> int | None:
    """Microseconds of an RFC 3339 or 2822 text or of a number of seconds or milliseconds; None when
    it is no time."""
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text) is None:
            return _iso(text)
        value = float(text)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) < NUMBER_MAX
    ):
        return None
    return round(value * (1_000 if abs(value) >= MILLISECONDS_FROM else 1_000_000))


def _iso(text: str) -> int | None:
    if len(text) > TIME_CHARS_MAX:
        return None
    try:
        parsed = datetime.fromisoformat(text.upper())
    except ValueError:
        try:
            parsed = parsedate_to_datetime(text)
        except (
            ValueError,
            TypeError,
            IndexError,
            OverflowError,
        ):  # the library raises them all
            return None
    aware = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def event_time(
    event: dict[str, Any], properties: Properties, context: RequestContext
) -> int:
    """offset beats timestamp; a timestamp is corrected by the sender's skew; what cannot be, is
    now."""
    now, offset = context.received_at, event.get("offset")
    if (
        isinstance(offset, int | float)
        and not isinstance(offset, bool)
        and 0 <= offset < 1e12
    ):
        return now - int(offset * 1_000)
    timestamp = time_of(event.get("timestamp"))
    if timestamp is None:
        return now
    own = time_of(
        event.get("sent_at")
    )  # of an event outside a batch, such as an element of an array
    skew = context.skew if own is None else own - now
    time = timestamp - (0 if properties.get("$ignore_sent_at") is True else skew)
    if time > now + AHEAD_US_MAX:
        return now
    return min(max(time, STORED_US_MIN), STORED_US_MAX)


def sent_id_of(event: dict[str, Any], properties: Properties) -> str:
    """The distinct id of an event, as it was sent."""
    for value in (
        event.get("distinct_id"),
        event.get("$distinct_id"),
        properties.get("distinct_id"),
    ):
        if value is not None and (text := _id_text(value, "distinct_id")).strip():
            return text
    raise BadInput("An event needs a distinct_id.", attr="distinct_id")


def _id_text(value: Any, attr: str) -> str:
    """A distinct id as it was sent; its JSON text when it was none."""
    return (
        value
        if isinstance(value, str)
        else orjson.dumps(clean({"": value}, attr)[""]).decode()
    )


def kept_id(sent_id: str) -> str:
    """A distinct id as it is stored."""
    return clean_text(sent_id[:CAPTURED_ID_CHARS_MAX])


def uuid_of(value: Any, context: RequestContext) -> UUID:
    """The uuid of an event; one that has none gets one."""
    if value is None or value == "":
        return context.mint()
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise BadInput("uuid is malformed.", attr="uuid") from None


def _operations(
    event: dict[str, Any], properties: Properties, name: str
) -> dict[str, Any]:
    """set, lifted, set_once and unset, those that there are; top level beats properties, explicit
    beats lifted."""
    if name == "$groupidentify":
        return {}
    operations: dict[str, Any] = {}
    sets = _object(event, properties, "$set")
    once = _object(event, properties, "$set_once")
    if not LIFTED.keys().isdisjoint(properties):
        lifted = {key: properties[key] for key in properties if key in LIFTED}
        initial = {
            name: value
            for key, value in lifted.items()
            if value is not None and (name := LIFTED[key]) not in once
        }
        once = once | initial
        operations["lifted"] = {
            key: value for key, value in lifted.items() if key not in sets
        }
    if "$unset" in event or "$unset" in properties:
        operations["unset"] = _unset(event, properties)
    if sets:
        operations["set"] = sets
    if once:
        operations["set_once"] = once
    names = [name for operands in operations.values() for name in operands]
    if names and (
        len(names) > PROPERTIES_MAX
        or "" in names
        or len(max(names, key=len)) > NAME_CHARS_MAX
    ):
        raise BadInput(
            f"At most {PROPERTIES_MAX} properties, "
            f"with names of 1 to {NAME_CHARS_MAX} characters.",
            attr="properties",
        )
    return operations


def _unset(event: dict[str, Any], properties: Properties) -> tuple[str, ...]:
    unset: list[str] = []
    for place in (event, properties):
        value = place.get("$unset")
        if isinstance(value, list | dict):
            unset += [
                clean_text(name) for name in value if isinstance(name, str) and name
            ]
        elif value is not None:
            raise BadInput("$unset must be a list of names.", attr="$unset")
    return tuple(dict.fromkeys(unset))


def _object(event: dict[str, Any], properties: Properties, key: str) -> Properties:
    """The object under this name: of the properties, which are clean by now, and of the event."""
    inner, outer = properties.get(key), event.get(key)
    if inner is not None and not isinstance(inner, dict):
        raise BadInput(f"{key} must be an object.", attr=f"properties.{key}")
    if outer is None:
        return inner or {}
    if not isinstance(outer, dict):
        raise BadInput(f"{key} must be an object.", attr=key)
    return {**(inner or {}), **clean(outer, key)}


def _merge(
    capture: Capture, sent_id: str, properties: Properties, context: RequestContext
) -> list[Command]:
    """An empty write, so that an id known only from a merge is born, and the merge.

    The merge carries both ids as sent, because one with NUL or over 400 characters is illegal
    although what is kept of it would not be; one character more than is legal says enough.
    """
    field, mode = _MERGES.get(capture.event, ("", "identify"))
    other = properties.get(field)
    if not field or other is None:
        return []
    from_id = _id_text(other, f"properties.{field}")
    source_id = kept_id(from_id)
    if source_id == capture.distinct_id:
        return []
    source = fragment_id(context.project, source_id)
    key = hash64(f"merge:{capture.uuid}")
    common: dict[str, Any] = {
        "project": context.project,
        "at": capture.at,
        "actor": "capture",
        "key": key,
    }
    enough = DISTINCT_ID_CHARS_MAX + 1
    since = imported_at(capture)
    merge = Merge(
        id=context.mint(),
        into=capture.fragment,
        source=source,
        into_id=sent_id[:enough],
        source_id=from_id[:enough],
        mode=mode,
        since=since,
        **common,
    )
    if not is_legal(from_id):
        return [merge]
    birth = Write(
        id=context.mint(),
        fragment=source,
        distinct_id=source_id,
        since=since,
        reason="merge",
        **common,
    )
    return [birth, merge]
