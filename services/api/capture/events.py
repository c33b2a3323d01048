"""One captured event to commands: whose it is, when it was, what it sets, whom it merges. Pure;
never appends."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import orjson
from msgspec.structs import replace

from services.api.capture.event_times import event_time
from services.api.capture.payload import TOKEN_PLACES
from services.api.capture.property_operations import (
    Operations,
    within_limits,
    without,
)
from services.api.capture.request_context import RequestContext
from shared.domain.commands import (
    Capture,
    Command,
    MergeMode,
    MergePersons,
    PropertyMap,
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
from shared.inputs.ids import COOKIELESS, id_text, stored_id
from shared.inputs.repairs import Repairs
from shared.inputs.values import DEPTH_MAX, storable, text_without_nul

EVENT_NAME_CHARS_MAX = 200

_NUL = b"\\u0000"
"""NUL in JSON (or, seldom, a backslash and the text behind it)."""

_MERGES: dict[str, tuple[str, MergeMode]] = {
    "$identify": ("$anon_distinct_id", "identify"),
    "$create_alias": ("alias", "alias"),
    "$merge_dangerously": ("alias", "dangerous"),
}


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


def commands_of(
    event: Any, at: int, context: RequestContext, repairs: Repairs
) -> list[Command]:
    """The commands of one event, in the order of the log; what had to be changed is noted.

    Raises BadInput, with `attr` below the event, for one without a name or a distinct id.
    """
    if not isinstance(event, dict):
        raise BadInput("An event must be an object.", attr="")
    sent_properties = object_of(event.get("properties"), "properties", repairs)
    properties, raw = _clean_properties(sent_properties, context, repairs)
    name = event_name(event, context, repairs)
    sent_id = sent_id_of(event, sent_properties)
    distinct_id = stored_id(sent_id)
    if len(sent_id) > CAPTURED_ID_CHARS_MAX:
        repairs.add("id_cut", "distinct_id")
    person = properties.get("$process_person_profile") is not False
    if distinct_id == COOKIELESS or properties.get("$cookieless_mode") is True:
        repairs.add("cookieless", "distinct_id")
        person = False
    elif not person and (name in _MERGES or name == "$groupidentify"):
        return []  # dropped, as the original does: a merge without a person means nothing
    capture = Capture(
        id=context.mint(),
        project=context.project,
        at=at,
        actor="capture",
        fragment=fragment_id(context.project, distinct_id),
        distinct_id=distinct_id,
        uuid=event_uuid(event, (sent_id, name, raw), context, repairs),
        event=name,
        timestamp=event_time(event, properties, context, repairs, at),
        properties=msgspec.Raw(raw),
        person=person,
        historical=context.historical,
        **(_operations(event, properties, name, context, repairs) if person else {}),
    )
    merge = (
        _merge(capture, sent_id, sent_properties, context, repairs)
        if person and name in _MERGES
        else []
    )
    if capture.event == "$merge_dangerously" and not context.merge_dangerously:
        repairs.add("merge_not_allowed", "event")
        merge = []
    if repairs:
        made = tuple(f"{repair.kind} {repair.field}" for repair in repairs)
        capture = replace(capture, repairs=made)
    return [capture, *merge]


def event_name(event: dict[str, Any], context: RequestContext, repairs: Repairs) -> str:
    """The event's name, cut to what is stored."""
    name = context.unnamed if event.get("event") is None else event["event"]
    if not isinstance(name, str) or not name.strip():
        raise BadInput("An event needs a name.", attr="event")
    if len(name) > EVENT_NAME_CHARS_MAX:
        repairs.add("name_cut", "event")
    return text_without_nul(name[:EVENT_NAME_CHARS_MAX], "event", repairs)


def object_of(value: Any, field: str, repairs: Repairs) -> PropertyMap:
    """The object in a field: an empty list stands for an empty one, anything else for none."""
    if value is None or isinstance(value, dict):
        return value or {}
    repairs.add("list_for_object" if value == [] else "not_an_object", field)
    return {}


def _clean_properties(
    properties: PropertyMap, context: RequestContext, repairs: Repairs
) -> tuple[PropertyMap, bytes]:
    """Properties that can be stored, and their JSON. Nearly all are as they came, and their JSON
    shows it."""
    try:
        raw = orjson.dumps(properties)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, or deeper than any
        raw = _NUL
    if context.lenient or _NUL in raw or raw.count(b"{") + raw.count(b"[") > DEPTH_MAX:
        properties = storable(properties, "properties", repairs)
        raw = orjson.dumps(properties)
    return properties, raw


def sent_id_of(event: dict[str, Any], properties: PropertyMap) -> str:
    """The distinct id of an event, as it was sent."""
    for value in (
        event.get("distinct_id"),
        event.get("$distinct_id"),
        properties.get("distinct_id"),
    ):
        text = id_text(value)
        if text is not None:
            return text
    raise BadInput("An event needs a distinct_id.", attr="distinct_id")


def event_uuid(
    event: dict[str, Any],
    content: tuple[str, str, bytes],
    context: RequestContext,
    repairs: Repairs,
) -> UUID:
    """The uuid of an event. One that has none, and a timestamp, gets one of its content (distinct
    id, name, properties), so that a resend is the same event; others get a new one."""
    value, timestamp = event.get("uuid"), event.get("timestamp")
    if value is not None and value != "":
        try:
            return UUID(value)
        except (ValueError, AttributeError, TypeError):
            repairs.add("uuid_replaced", "uuid")
    if timestamp is None:
        return context.mint()
    distinct_id, name, raw = content
    known = orjson.dumps([distinct_id, name, str(timestamp), _operands(event)])
    return context.derive(known + raw)


def _operands(event: dict[str, Any]) -> list[str]:
    """What an event says of its person at the top level, as text: it is part of its content."""
    return [repr(event[key]) for key in ("$set", "$set_once", "$unset") if key in event]


def _operations(
    event: dict[str, Any],
    properties: PropertyMap,
    name: str,
    context: RequestContext,
    repairs: Repairs,
) -> Operations:
    """set, lifted, set_once and unset, those that there are; top level beats properties, explicit
    beats lifted."""
    if name == "$groupidentify":
        return {}
    operations: Operations = {}
    sets = _object(event, properties, "$set", repairs)
    once = _object(event, properties, "$set_once", repairs)
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
    if sets:
        operations["set"] = sets
    if once:
        operations["set_once"] = once
    if "$unset" in event or "$unset" in properties:
        operations["unset"] = _unset(event, properties, repairs)
    if context.server_only:
        operations = without(operations, context.server_only, repairs)
    return within_limits(operations, repairs)


def _unset(
    event: dict[str, Any], properties: PropertyMap, repairs: Repairs
) -> tuple[str, ...]:
    unset: list[str] = []
    for place in (event, properties):
        value = place.get("$unset")
        if isinstance(value, str):
            repairs.add("text_for_list", "$unset")
            value = [value]
        if isinstance(value, list | dict):
            unset += [
                text_without_nul(name, "$unset", repairs)
                for name in value
                if isinstance(name, str) and name
            ]
        elif value is not None:
            repairs.add("not_a_list", "$unset")
    return tuple(dict.fromkeys(unset))


def _object(
    event: dict[str, Any], properties: PropertyMap, key: str, repairs: Repairs
) -> PropertyMap:
    """The object under this name: of the properties, which are clean by now, and of the event."""
    inner = object_of(properties.get(key), f"properties.{key}", repairs)
    outer = object_of(event.get(key), key, repairs)
    return {**inner, **storable(outer, key, repairs)} if outer else inner


def _merge(
    capture: Capture,
    sent_id: str,
    properties: PropertyMap,
    context: RequestContext,
    repairs: Repairs,
) -> list[Command]:
    """An empty write, so that an id known only from a merge is born, and the merge.

    The merge carries both ids as sent, because one with NUL or over 400 characters is illegal
    although what is kept of it would not be; one character more than is legal says enough.
    """
    field, mode = _MERGES[capture.event]
    from_id = _source_of(properties.get(field), f"properties.{field}", repairs)
    if from_id is None or stored_id(from_id) == capture.distinct_id:
        return []
    source_id = stored_id(from_id)
    common: dict[str, Any] = {
        "project": context.project,
        "at": capture.at,
        "actor": "capture",
        "key": hash64(f"merge:{capture.uuid}"),
        "since": imported_at(capture),
    }
    source = fragment_id(context.project, source_id)
    enough = DISTINCT_ID_CHARS_MAX + 1
    merge = MergePersons(
        id=context.mint(),
        into=capture.fragment,
        source=source,
        into_id=sent_id[:enough],
        source_id=from_id[:enough],
        mode=mode,
        **common,
    )
    if not is_legal(from_id):
        return [merge]
    birth = Write(
        id=context.mint(),
        fragment=source,
        distinct_id=source_id,
        reason="merge",
        **common,
    )
    return [birth, merge]


def _source_of(sent: Any, field: str, repairs: Repairs) -> str | None:
    """The id to be merged, as it was sent; None for what merges nothing."""
    if sent is None:
        return None
    source = str(sent) if isinstance(sent, str) else id_text(sent)
    if source is None:
        repairs.add("id_missing", field)
    elif source == COOKIELESS:
        repairs.add("cookieless", field)
        return None
    elif len(source) > CAPTURED_ID_CHARS_MAX:
        repairs.add("id_cut", field)
    return source
