"""properties_timeline: how a person's crucial properties went while it did things (docs/contract.md
§5). Never guesses: every point is the fold of the person's own timeline, stopped at that event.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import orjson

from services.api.calls import Call
from services.api.history.changes import KEYS, STEP, changes
from services.api.http.guards.costly import always
from services.api.http.parameters import (
    AS_OF,
    DATE_FROM,
    DATE_TO,
    DISTINCT_ID,
    EVENTS,
    JSON_CHARS_MAX,
    LIMIT,
    Choice,
    Text,
)
from services.api.http.routing import Answer, Route
from services.api.reads.as_of import check_size, facts, moment, persons_at
from services.api.writes.schemas import PersonAtTime, Timeline
from shared.domain.errors import BadInput, NotFound
from shared.domain.ids import fragment_id
from shared.domain.person.fragment_events import FragmentEvent
from shared.domain.person.replay import FOREVER, Replay
from shared.store.person import Person, iso, shown_of, size_of
from shared.store.timeline import Fact, event_of

FACTS_MAX = 100_000
"""Rows of one person's timeline that one request replays."""

EVENTS_MAX = 100_000
"""Captured events that one request walks over."""

DAYS_DEFAULT = 7

SOURCE = Choice(
    "source",
    "Points of captured events, or of all effective changes.",
    absent="events",
    choices=("events", "changes"),
)
ACTIONS = Text("actions", "JSON: a list of `{id}`.", most=JSON_CHARS_MAX, form="series")
PROPERTIES = Text(
    "properties",
    "JSON: filters. Those of type `person` choose the crucial properties.",
    most=JSON_CHARS_MAX,
    example='[{"key": "plan", "value": "pro", "type": "person"}]',
    form="filters",
)
BREAKDOWN = Text(
    "breakdown",
    "A property, or a JSON list of them.",
    most=JSON_CHARS_MAX,
    form="breakdown",
)
BREAKDOWN_TYPE = Text(
    "breakdown_type", "With `person`, the breakdown chooses crucial properties."
)
INTERVAL = Text(
    "interval", "How far equal dates are moved apart: `hour`, `day` or `month`."
)
DISPLAY = Text("display", "Accepted, without effect.")
PERSON_ID = Text("person_id", "An integer id or a uuid.", form="person-id")
TIMESTAMP = Text(
    "timestamp",
    "A time (ISO 8601), or a `Position`.",
    example="2026-11-20T10:00:00Z",
    required=True,
    form="moment",
)

_RELATIVE = re.compile(r"-(\d{1,4})([hdwmy])(Start|End)?")


class CapturedEvent(NamedTuple):
    """A row of the query `captured_events`. Times in microseconds."""

    fragment: UUID
    uuid: UUID
    name: str
    timestamp: int
    version: int
    received_at: int


async def properties_timeline(call: Call) -> Answer:
    """Show how selected properties of a person changed over time."""
    if call.asked(SOURCE) == "changes":
        return await changes(call, _span(call))
    person = await call.person_seen()
    until_stamp = await call.as_of()
    series, actions = (
        _list(call.asked(EVENTS), "events"),
        _list(call.asked(ACTIONS), "actions"),
    )
    crucial = _crucial(call, [*series, *actions])
    names = sorted({str(one["id"]) for one in series if one.get("id") is not None})
    zone = ZoneInfo(call.project.zone)
    seen_from = call.context.clock.now_us() if until_stamp is None else until_stamp
    since, until = _range(call, zone, datetime.fromtimestamp(seen_from / 1e6, zone))
    fragments = [member.fragment for member in person.members]
    only_actions = not names and bool(actions)
    events = (
        []
        if only_actions
        else await call.context.store.rows(
            call.context.reads.queries["captured_events"],
            project=call.project.id,
            fragments=fragments,
            since=_micros(since),
            until=_micros(until),
            names=names,
            received=FOREVER if until_stamp is None else until_stamp,
            limit=EVENTS_MAX,
        )
    )
    cut = FOREVER if until_stamp is None else until_stamp
    effects: list[Fact] = []
    size = 0
    async for page in facts(call.context, call.project.id, fragments, cut):
        effects += [fact for fact in page if fact.stamp <= cut]
        size = check_size(page, size)
        if len(effects) > FACTS_MAX:
            raise BadInput(f"More than {FACTS_MAX} changes: too many for one timeline.")
    return Answer(
        body={
            "points": points(
                person,
                [CapturedEvent._make(row) for row in events],
                effects,
                crucial,
                cut,
            ),
            "crucial_property_keys": crucial,
            "effective_date_from": since.isoformat(),
            "effective_date_to": until.isoformat(),
        }
    )


async def properties_at_time(call: Call) -> Answer:
    """Get a person as of a past time or position."""
    fragment, until = await _asked_past(call)
    person = (await persons_at(call.context, call.project.id, [fragment], until))[0]
    if person is None:
        raise NotFound("No person with this id at that time.")
    by_id = bool(call.asked(DISTINCT_ID))
    metadata = {
        "queried_timestamp": iso(until),
        "include_set_once": True,
        "distinct_id_used": call.asked(DISTINCT_ID) if by_id else None,
        "person_id_used": None if by_id else call.asked(PERSON_ID),
        "query_mode": "distinct_id" if by_id else "person_id",
        "distinct_ids_queried": person.distinct_ids,
        "distinct_ids_count": len(person.distinct_ids),
    }
    return Answer(body=person.to_json() | {"point_in_time_metadata": metadata})


COLLECTION_ROUTES = (
    Route(
        "GET",
        "/properties_at_time",
        "person:read",
        properties_at_time,
        (DISTINCT_ID, PERSON_ID, TIMESTAMP),
        answers=PersonAtTime,
        plain_errors=True,
        costly=always,
    ),
)
ROUTES = (
    Route(
        "GET",
        "/{id}/properties_timeline",
        "person:read",
        properties_timeline,
        answers=Timeline,
        query=(
            SOURCE,
            EVENTS,
            ACTIONS,
            PROPERTIES,
            BREAKDOWN,
            BREAKDOWN_TYPE,
            DATE_FROM,
            DATE_TO,
            INTERVAL,
            DISPLAY,
            KEYS,
            LIMIT,
            STEP,
            AS_OF,
        ),
        costly=always,
    ),
)


async def _asked_past(call: Call) -> tuple[UUID, int]:
    """(fragment, stamp): exactly one of distinct_id and person_id, and a timestamp."""
    distinct_id, person_id = call.asked(DISTINCT_ID), call.asked(PERSON_ID)
    if bool(distinct_id) == bool(person_id):
        raise BadInput("Exactly one of distinct_id and person_id is required.")
    if not call.asked(TIMESTAMP):
        raise BadInput("timestamp is required: ISO 8601.")
    until = await moment(
        call.context, call.project.id, call.asked(TIMESTAMP), "timestamp"
    )
    return fragment_id(
        call.project.id, distinct_id
    ) if distinct_id else await call.fragment(person_id), until


def _span(call: Call) -> tuple[int, int]:
    """The stamps that date_from and date_to allow; without them all."""
    zone = ZoneInfo(call.project.zone)
    now = datetime.fromtimestamp(call.context.clock.now_us() / 1e6, zone)
    since, until = _date(call, DATE_FROM, now), _date(call, DATE_TO, now)
    if until is not None and _is_day(call.asked(DATE_TO)):
        until = _day_end(until)
    if since is not None and until is not None and until < since:
        raise BadInput("date_to lies before date_from.", attr="date_to")
    return -FOREVER if since is None else _micros(
        since
    ), FOREVER if until is None else _micros(until)


def points(
    person: Person,
    events: list[CapturedEvent],
    effects: list[Fact],
    crucial: list[str],
    until: int = FOREVER,
) -> list[dict[str, Any]]:
    """One point for the first event, and one for each whose crucial values differ from the previous
    one's.

    Effects are facts up to the stamp `until`; both are in the order of arrival. Within a fragment
    that order is the version; a fact precedes the event that it came from.
    """
    replays = {
        member.fragment: Replay(person.project, member.fragment, until)
        for member in person.members
    }
    sizes: dict[UUID, int] = {}
    steps: list[Fact | CapturedEvent] = [
        fact for fact in effects if fact.topic.startswith("fragment.")
    ]
    steps += events
    steps.sort(key=_arrival)
    found: list[dict[str, Any]] = []
    previous: Any = None
    shown: dict[str, Any] | None = None
    for step in steps:
        if isinstance(step, Fact):
            event, past = event_of(step), replays[step.fragment]
            if (
                isinstance(event, FragmentEvent)
                and event.originator_version > past.fragment.version
            ):
                past.apply(event)
                sizes[step.fragment] = size_of(past.fragment)
                shown = None
            continue
        if shown is None:
            shown = shown_of(
                (one.fragment for one in replays.values() if one.fragment.alive), sizes
            )
        values = [shown.get(key, msgspec.UNSET) for key in crucial]
        if not found or values != previous:
            found.append(
                {
                    "timestamp": iso(step.timestamp),
                    "properties": shown,
                    "relevant_event_count": 0,
                }
            )
        previous = values
        found[-1]["relevant_event_count"] += 1
    return found


def _arrival(step: Fact | CapturedEvent) -> tuple[int, int, bool]:
    if isinstance(step, Fact):
        return step.at, step.version, False
    return step.received_at, step.version, True


def _crucial(call: Call, series: list[dict[str, Any]]) -> list[str]:
    """Keys of person filters, global and per series, and of a person breakdown."""
    filters = _flat(_json(call.asked(PROPERTIES), "properties"))
    for one in series:
        filters += _flat(one.get("properties"))
    keys = {
        str(one["key"])
        for one in filters
        if one.get("type") == "person" and one.get("key") is not None
    }
    breakdown = call.asked(BREAKDOWN)
    if breakdown and call.asked(BREAKDOWN_TYPE) == "person":
        if breakdown.startswith("["):
            keys |= {str(key) for key in _json(breakdown, "breakdown")}
        else:
            keys.add(breakdown)
    return sorted(keys)


def _flat(filters: Any) -> list[dict[str, Any]]:
    """The leaves of a list of filters, or of an AND/OR group object."""
    level, leaves = [filters], []
    for _ in range(32):
        deeper: list[Any] = []
        for one in level:
            if isinstance(one, list):
                deeper += one
            elif isinstance(one, dict):
                if isinstance(one.get("values"), list):
                    deeper += one["values"]
                elif "key" in one:
                    leaves.append(one)
        if not deeper:
            return leaves
        level = deeper
    raise BadInput("Nested too deep.", attr="properties")


def _json(text: str, attr: str) -> Any:
    if not text:
        return []
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadInput(f"{attr} must be JSON.", attr=attr) from None


def _list(text: str, attr: str) -> list[dict[str, Any]]:
    value = _json(text, attr)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadInput(f"{attr} must be a JSON list of objects.", attr=attr)
    return value


def _range(call: Call, zone: ZoneInfo, now: datetime) -> tuple[datetime, datetime]:
    """From the start of the first day to the end of the last; equal dates are moved apart by the
    interval."""
    since = _date(call, DATE_FROM, now) or _midnight(now - timedelta(days=DAYS_DEFAULT))
    until = _date(call, DATE_TO, now)
    if until is None:
        return since, _day_end(now)
    if until == since:
        interval = call.asked(INTERVAL)
        if interval == "hour":
            return since, until + timedelta(hours=1)
        if interval == "month":
            following = (until.replace(day=1) + timedelta(days=32)).replace(day=1)
            return since, _day_end(following - timedelta(days=1))
        return since, _day_end(until)
    if _is_day(call.asked(DATE_TO)):
        until = _day_end(until)
    if until < since:
        raise BadInput("date_to lies before date_from.", attr="date_to")
    return since, until


def _is_day(text: str) -> bool:
    """Whether a date means all of its day."""
    return len(text) == len("2026-01-01") or text.startswith("-")


def _date(call: Call, parameter: Text, now: datetime) -> datetime | None:
    text = call.asked(parameter)
    if not text:
        return None
    match = _RELATIVE.fullmatch(text)
    try:
        if match is not None:
            count, unit = int(match[1]), match[2]
            if unit == "h":
                return now - timedelta(hours=count)
            if unit in "dw":
                return _midnight(
                    now - timedelta(days=count * (7 if unit == "w" else 1))
                )
            months = now.year * 12 + now.month - 1 - count * (12 if unit == "y" else 1)
            first = now.replace(year=months // 12, month=months % 12 + 1, day=1)
            last = ((first + timedelta(days=32)).replace(day=1) - timedelta(days=1)).day
            return _midnight(first.replace(day=min(now.day, last)))
        parsed = datetime.fromisoformat(text)
        return (
            parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=now.tzinfo)
        )
    except (ValueError, OverflowError):
        raise parameter.wrong(
            "must be a date (2026-01-31), a time (ISO 8601) or relative (-7d)."
        ) from None


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _day_end(moment: datetime) -> datetime:
    return moment.replace(hour=23, minute=59, second=59, microsecond=999_999)


def _micros(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
