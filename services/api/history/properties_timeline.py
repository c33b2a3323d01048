"""properties_timeline: the crucial properties of a person at its captured events (docs/contract.md
§5). Every point is the fold of the person's own timeline up to that event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from services.api.calls import RestCall
from services.api.history.changes import KEYS, STEP, changes
from services.api.history.crucial import (
    BREAKDOWN_TYPES,
    Breakdown,
    PersonFilters,
    Series,
    leaves_of,
)
from services.api.history.date_range import INTERVAL, date_range, span_of
from services.api.http.guards.costly import always
from services.api.http.parameters import (
    AS_OF,
    DATE_FROM,
    DATE_TO,
    DISTINCT_ID,
    JSON_CHARS_MAX,
    LIMIT,
    Choice,
    Text,
)
from services.api.http.routing import EndpointResult, Route
from services.api.reads.as_of import check_size, facts, moment, persons_at
from services.api.reads.lookup import fragment_of, fragments_named, person_until
from services.api.writes.schemas import PersonAtTime, Timeline
from shared.domain.errors import BadInput, NotFound
from shared.domain.person.fragment_events import FragmentEvent
from shared.domain.person.replay import FOREVER, Replay
from shared.inputs.dates import micros
from shared.store.person import Person, iso, shown_of, size_of
from shared.store.timeline import Fact, event_of

FACTS_MAX = 100_000
"""Rows of one person's timeline that one request replays."""

EVENTS_MAX = 100_000
"""Captured events that one request walks over."""

SOURCE = Choice(
    "source",
    "Points of captured events, or of all effective changes.",
    absent="events",
    choices=("events", "changes"),
)
EVENTS = Series(
    "events",
    "JSON: a list of `{id, properties?}`, the captured events that count.",
    chars_max=JSON_CHARS_MAX,
    example='[{"id": "sign up"}]',
    form="series",
)
ACTIONS = Series(
    "actions", "JSON: a list of `{id}`.", chars_max=JSON_CHARS_MAX, form="series"
)
PROPERTIES = PersonFilters(
    "properties",
    "JSON: filters. Those of type `person` choose the crucial properties.",
    chars_max=JSON_CHARS_MAX,
    example='[{"key": "plan", "value": "pro", "type": "person"}]',
    form="filters",
)
BREAKDOWN = Breakdown(
    "breakdown",
    "A property, or a JSON list of them.",
    chars_max=JSON_CHARS_MAX,
    form="breakdown",
)
BREAKDOWN_TYPE = Choice(
    "breakdown_type",
    "With `person`, the breakdown chooses crucial properties.",
    absent="",
    choices=BREAKDOWN_TYPES,
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


class CapturedEvent(NamedTuple):
    """A row of the query `captured_events`. Times in microseconds."""

    fragment: UUID
    uuid: UUID
    name: str
    timestamp: int
    version: int
    received_at: int


async def properties_timeline(call: RestCall) -> EndpointResult:
    """Show how selected properties of a person changed over time."""
    if call.parameter(SOURCE) == "changes":
        return await changes(call, span_of(call))
    person, until_stamp = await person_until(call)
    series = EVENTS.decode(call.parameter(EVENTS))
    actions = ACTIONS.decode(call.parameter(ACTIONS))
    crucial = _crucial(call, [*series, *actions])
    names = sorted(
        {str(entry["id"]) for entry in series if entry.get("id") is not None}
    )
    end = call.context.clock.now_us() if until_stamp is None else until_stamp
    since, until = date_range(call, end, person.created_at)
    fragments = [member.fragment for member in person.members]
    only_actions = not names and bool(actions)
    events = (
        []
        if only_actions
        else await call.context.store.rows(
            call.context.reads.queries["captured_events"],
            project=call.project.id,
            fragments=fragments,
            since=micros(since),
            until=micros(until),
            names=names,
            received=FOREVER if until_stamp is None else until_stamp,
            limit=EVENTS_MAX,
        )
    )
    cut = FOREVER if until_stamp is None else until_stamp
    effects = await _effects(call, fragments, cut)
    return EndpointResult(
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


async def properties_at_time(call: RestCall) -> EndpointResult:
    """Get a person as of a past time or position."""
    fragments, until = await _fragments_and_moment(call)
    persons = await persons_at(call.context, call.project.id, fragments, until)
    person = next((person for person in persons if person is not None), None)
    if person is None:
        raise NotFound("No person with this id at that time.")
    by_id = bool(call.parameter(DISTINCT_ID))
    metadata = {
        "queried_timestamp": iso(until),
        "include_set_once": True,
        "distinct_id_used": call.parameter(DISTINCT_ID) if by_id else None,
        "person_id_used": None if by_id else call.parameter(PERSON_ID),
        "query_mode": "distinct_id" if by_id else "person_id",
        "distinct_ids_queried": person.distinct_ids,
        "distinct_ids_count": len(person.distinct_ids),
    }
    return EndpointResult(body=person.to_json() | {"point_in_time_metadata": metadata})


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
        name="get_properties_at_time",
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
        name="get_properties_timeline",
    ),
)


async def _effects(call: RestCall, fragments: list[UUID], cut: int) -> list[Fact]:
    """The facts of these fragments up to a stamp. BadInput when they are too many."""
    effects: list[Fact] = []
    size = 0
    async for page in facts(call.context, call.project.id, fragments, cut):
        effects += [fact for fact in page if fact.stamp <= cut]
        size = check_size(page, size)
        if len(effects) > FACTS_MAX:
            raise BadInput(f"More than {FACTS_MAX} changes: too many for one timeline.")
    return effects


async def _fragments_and_moment(call: RestCall) -> tuple[Sequence[UUID], int]:
    """(fragments, the one to prefer first; stamp): exactly one of distinct_id and person_id, and a
    timestamp."""
    distinct_id, person_id = call.parameter(DISTINCT_ID), call.parameter(PERSON_ID)
    if bool(distinct_id) == bool(person_id):
        raise BadInput("Exactly one of distinct_id and person_id is required.")
    if not call.parameter(TIMESTAMP):
        raise BadInput("timestamp is required: ISO 8601.")
    until = await moment(
        call.context, call.project.id, call.parameter(TIMESTAMP), "timestamp"
    )
    if distinct_id:
        return fragments_named(call.project.id, distinct_id), until
    return [await fragment_of(call, person_id)], until


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
    timeline: list[dict[str, Any]] = []
    previous: Any = None
    properties: dict[str, Any] | None = None
    for step in _steps(events, effects):
        if isinstance(step, Fact):
            event, past = event_of(step), replays[step.fragment]
            if (
                isinstance(event, FragmentEvent)
                and event.originator_version > past.fragment.version
            ):
                past.apply(event)
                sizes[step.fragment] = size_of(past.fragment)
                properties = None
            continue
        if properties is None:
            fragments = (past.fragment for past in replays.values())
            group = [fragment for fragment in fragments if fragment.alive]
            properties = shown_of(group, sizes)
        values = [properties.get(key, msgspec.UNSET) for key in crucial]
        if not timeline or values != previous:
            timeline.append(
                {
                    "timestamp": iso(step.timestamp),
                    "properties": properties,
                    "relevant_event_count": 0,
                }
            )
        previous = values
        timeline[-1]["relevant_event_count"] += 1
    return timeline


def _steps(
    events: list[CapturedEvent], effects: list[Fact]
) -> list[Fact | CapturedEvent]:
    """Events and the facts of fragments, in the order of arrival."""
    steps: list[Fact | CapturedEvent] = [
        fact for fact in effects if fact.topic.startswith("fragment.")
    ]
    steps += events
    steps.sort(key=_arrival)
    return steps


def _arrival(step: Fact | CapturedEvent) -> tuple[int, int, bool]:
    if isinstance(step, Fact):
        return step.at, step.version, False
    return step.received_at, step.version, True


def _crucial(call: RestCall, series: list[dict[str, Any]]) -> list[str]:
    """Keys of person filters, global and per series, and of a person breakdown."""
    filters = leaves_of(PROPERTIES.decode(call.parameter(PROPERTIES)))
    for entry in series:
        filters += leaves_of(entry.get("properties"))
    keys = {
        str(entry["key"])
        for entry in filters
        if entry.get("type") == "person" and entry.get("key") is not None
    }
    if call.parameter(BREAKDOWN_TYPE) == "person":
        keys |= set(BREAKDOWN.decode(call.parameter(BREAKDOWN)))
    return sorted(keys)
