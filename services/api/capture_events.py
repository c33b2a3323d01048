"""One captured event to commands: whose it is, when it was, what it sets, whom it merges. Pure; never appends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import orjson

from services.api.capture_body import clean, clean_text
from services.api.values import NAME_CHARS_MAX, PROPERTIES_MAX
from shared.domain.commands import Capture, Command, Merge, MergeMode, Properties, Write
from shared.domain.errors import BadInput
from shared.domain.identity import is_legal
from shared.domain.ids import fragment_id, hash64

DISTINCT_ID_CHARS_MAX = 200
"""Capture v0 cuts there, as the original does."""

EVENT_NAME_CHARS_MAX = 200

AHEAD_US_MAX = 23 * 3_600_000_000
"""A clock that is wrong by more than that is not believed."""

MILLISECONDS_FROM = 100_000_000_000
"""A numeric time at or above is in milliseconds: as seconds it would lie past the year 5138."""

STORED_US_MIN, STORED_US_MAX = -2_208_988_800_000_000, 10_413_791_999_000_000
"""1900 to 2299: what the store's times hold."""

TOKEN_PLACES = ("token", "api_key", "$token")

_LIFTED = tuple(
    "$app_build $app_name $app_namespace $app_version $browser $browser_version $device_type $current_url $pathname $os"
    " $os_name $os_version $referring_domain $referrer $screen_height $screen_width $viewport_height $viewport_width"
    " $raw_user_agent utm_source utm_medium utm_campaign utm_content utm_name utm_term gclid gad_source gclsrc dclid"
    " gbraid wbraid fbclid msclkid twclid li_fat_id mc_cid igshid ttclid rdt_cid irclid _kx epik qclid sccid".split()
)
_MERGES: dict[str, tuple[str, MergeMode]] = {
    "$identify": ("$anon_distinct_id", "identify"),
    "$create_alias": ("alias", "alias"),
    "$merge_dangerously": ("alias", "dangerous"),
}


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What all events of a request share. Times in microseconds; `skew` is sender's clock minus ours."""

    project: int
    received_at: int
    skew: int
    historical: bool
    mint: Callable[[], UUID]


def token_of(event: Any) -> str | None:
    """The project token that an event carries itself."""
    if not isinstance(event, dict):
        return None
    properties = event.get("properties")
    places = [event.get(place) for place in TOKEN_PLACES]
    places.append(properties.get("token") if isinstance(properties, dict) else None)
    return next((place for place in places if isinstance(place, str) and place), None)


def commands_of(event: Any, at: int, scene: Scene) -> list[Command]:
    """The commands of one event, in the order of the log; BadInput, with `attr` below the event, when it is wrong."""
    if not isinstance(event, dict):
        raise BadInput("An event must be an object.", attr="")
    sent = event.get("properties")
    if sent is None:
        sent = {}
    if not isinstance(sent, dict):
        raise BadInput("properties must be an object.", attr="properties")
    properties = clean(sent, "properties")
    name = event.get("event")
    if not isinstance(name, str) or not name.strip():
        raise BadInput("An event needs a name.", attr="event")
    name = clean_text(name)[:EVENT_NAME_CHARS_MAX]
    distinct_id = _distinct_id(event, properties)
    uuid = _uuid(event.get("uuid"), scene)
    person = properties.get("$process_person_profile") is not False
    if not person and (name in _MERGES or name == "$groupidentify"):
        return []  # dropped, as the original does: a merge without a person means nothing
    capture = Capture(
        id=scene.mint(),
        project=scene.project,
        at=at,
        actor="capture",
        fragment=fragment_id(scene.project, distinct_id),
        distinct_id=distinct_id,
        uuid=uuid,
        event=name,
        timestamp=_time(event, properties, scene),
        properties=msgspec.Raw(orjson.dumps(properties)),
        person=person,
        historical=scene.historical,
        **(_operations(event, properties, name) if person else {}),
    )
    return [capture, *_merge(capture, properties, at, scene)]


def time_of(value: Any, default: int | None = None) -> int | None:
    """Microseconds of an RFC 3339 text or of a number of seconds or milliseconds; the default when unparsable."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * (1_000 if abs(value) >= MILLISECONDS_FROM else 1_000_000))
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value.strip())
        except ValueError:
            return default
        aware = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
        return int(aware.timestamp()) * 1_000_000 + aware.microsecond
    return default


def _time(event: dict[str, Any], properties: Properties, scene: Scene) -> int:
    """offset beats timestamp; a timestamp is corrected by the sender's skew; what cannot be, is now."""
    now, offset = scene.received_at, event.get("offset")
    if isinstance(offset, int | float) and not isinstance(offset, bool) and 0 <= offset < 1e12:
        return now - int(offset * 1_000)
    sent = time_of(event.get("timestamp", properties.get("timestamp")))
    if sent is None:
        return now
    skew = 0 if properties.get("$ignore_sent_at") is True else scene.skew
    time = sent - skew
    if time > now + AHEAD_US_MAX:
        return now
    return min(max(time, STORED_US_MIN), STORED_US_MAX)


def _distinct_id(event: dict[str, Any], properties: Properties) -> str:
    for value in (event.get("distinct_id"), event.get("$distinct_id"), properties.get("distinct_id")):
        if value is None or value == "":
            continue
        text = value if isinstance(value, str) else orjson.dumps(clean({"": value}, "distinct_id")[""]).decode()
        text = clean_text(text)[:DISTINCT_ID_CHARS_MAX]
        if text.strip():
            return text
    raise BadInput("An event needs a distinct_id.", attr="distinct_id")


def _uuid(value: Any, scene: Scene) -> UUID:
    if value is None or value == "":
        return scene.mint()
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise BadInput("uuid is malformed.", attr="uuid") from None


def _operations(event: dict[str, Any], properties: Properties, name: str) -> dict[str, Any]:
    """set, lifted, set_once and unset; top level beats properties, explicit beats lifted."""
    if name == "$groupidentify":
        return {}
    sets = _object(event, properties, "$set")
    once = _object(event, properties, "$set_once")
    lifted = {key: properties[key] for key in _LIFTED if key in properties}
    initial = {
        f"$initial_{key.lstrip('$')}": value
        for key, value in lifted.items()
        if value is not None and f"$initial_{key.lstrip('$')}" not in once
    }
    unset: list[str] = []
    for place in (event, properties):
        value = place.get("$unset")
        if isinstance(value, list | dict):
            unset += [clean_text(one) for one in value if isinstance(one, str) and one]
        elif value is not None:
            raise BadInput("$unset must be a list of names.", attr="$unset")
    operations = {
        "set": sets,
        "lifted": {key: value for key, value in lifted.items() if key not in sets},
        "set_once": once | initial,
        "unset": tuple(dict.fromkeys(unset)),
    }
    names = [one for part in operations.values() for one in part]
    if len(names) > PROPERTIES_MAX or any(not one or len(one) > NAME_CHARS_MAX for one in names):
        limits = f"At most {PROPERTIES_MAX} properties, with names of 1 to {NAME_CHARS_MAX} characters."
        raise BadInput(limits, attr="properties")
    return operations


def _object(event: dict[str, Any], properties: Properties, key: str) -> Properties:
    found: Properties = {}
    for place, attr in ((properties, f"properties.{key}"), (event, key)):
        value = place.get(key)
        if value is None:
            continue
        if not isinstance(value, dict):
            raise BadInput(f"{key} must be an object.", attr=attr)
        found |= clean(value, attr)
    return found


def _merge(capture: Capture, properties: Properties, at: int, scene: Scene) -> list[Command]:
    """An empty write, so that an id known only from a merge is born, and the merge."""
    if capture.event not in _MERGES:
        return []
    field, mode = _MERGES[capture.event]
    other = properties.get(field)
    if other is None or isinstance(other, bool | dict | list):
        return []
    source_id = clean_text(other if isinstance(other, str) else orjson.dumps(other).decode())[:DISTINCT_ID_CHARS_MAX]
    if source_id == capture.distinct_id:
        return []
    source = fragment_id(scene.project, source_id)
    key = hash64(f"merge:{capture.uuid}")
    common: dict[str, Any] = {"project": scene.project, "at": at, "actor": "capture", "key": key}
    merge = Merge(
        id=scene.mint(), into=capture.fragment, source=source, into_id=capture.distinct_id, source_id=source_id,
        mode=mode, **common,
    )  # fmt: skip
    if not is_legal(source_id):
        return [merge]
    return [Write(id=scene.mint(), fragment=source, distinct_id=source_id, reason="merge", **common), merge]
