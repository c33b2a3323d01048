"""Provenance of a property: all its values, the cause of each, and why the visible one is
visible."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.api.calls import RestCall
from services.api.http.guards.costly import always
from services.api.http.parameters import AS_OF, LIMIT, OFFSET
from services.api.http.routing import EndpointResult, Route
from services.api.reads.lookup import person_until
from services.api.writes.schemas import PropertyHistory
from shared.domain.errors import BadInput
from shared.domain.ids import format_positions
from shared.domain.person.cells import NULL, ONCE, SET, UNSET
from shared.domain.person.identity import MEMBERS_MAX
from shared.domain.person.identity_events import (
    FragmentJoined,
    FragmentLeft,
    FragmentRerooted,
    PersonDeleted,
)
from shared.domain.person.replay import FOREVER
from shared.domain.person.view import Decisive, decisive
from shared.inputs.names import NAME_CHARS_MAX
from shared.store.person import Person, cells_of, iso

STEPS_MAX = 4 * MEMBERS_MAX
"""Memberships read for the merge paths: the largest person with a few moves each."""

OPERATIONS = {SET: "set", NULL: "set", UNSET: "unset", ONCE: "set_once"}
_REASONS = {
    SET: "It is the newest set of all distinct ids of the person.",
    NULL: "The newest operation sets it to null, and no set_once came after that.",
    UNSET: "The newest operation unsets it, and no set_once came after that.",
    ONCE: "It is the oldest set_once, and no newer set or unset overrules it.",
}


class ValueRow(NamedTuple):
    """A row of the query `property_history`. Times in microseconds; the texts are JSON, empty for
    nothing."""

    fragment: UUID
    version: int
    at: int
    stamp: int
    command: UUID
    actor: str
    source: str
    kind: int
    before: str
    after: str
    total: int
    purged: int


class StepRow(NamedTuple):
    """A row of the query `memberships`: a fragment comes to a person, or leaves it. `at` in
    microseconds."""

    fragment: UUID
    version: int
    topic: str
    at: int
    command: UUID
    actor: str
    root: UUID
    peer: UUID


async def of_property(call: RestCall) -> EndpointResult:
    """List all values of a property, newest first, each with its cause and merge path."""
    key = call.request.parameters["key"]
    if len(key) > NAME_CHARS_MAX:
        raise BadInput(
            f"A property's name has 1 to {NAME_CHARS_MAX} characters.", attr="key"
        )
    limit = call.parameter(LIMIT)
    offset = call.parameter(OFFSET)
    person, until = await person_until(call)
    scope: dict[str, Any] = {
        "project": call.project.id,
        "fragments": [member.fragment for member in person.members],
        "until": FOREVER if until is None else until,
    }
    rows, queries = call.context.store.rows, call.context.reads.queries
    history = await rows(
        queries["property_history"], key=key, limit=limit, offset=offset, **scope
    )
    values = [ValueRow._make(row) for row in history]
    steps = [
        StepRow._make(row)
        for row in await rows(queries["memberships"], limit=STEPS_MAX, **scope)
    ]
    total = values[0].total if values else 0
    winner = decisive(cells_of(person.members)).get(key)
    shows = winner is not None and winner.kind != UNSET
    url = call.request.url
    return EndpointResult(
        body={
            "key": key,
            "shows": shows,
            "value": winner.value if winner is not None and shows else None,
            "why": _REASONS[winner.kind] if winner is not None else None,
            "count": total,
            "next": str(url.update_query(offset=offset + limit))
            if offset + limit < total
            else None,
            "results": [
                _value(call, person, value)
                | {
                    "wins": _is_of(value, winner),
                    "merge_path": _path(call, steps, value.fragment),
                }
                for value in values
            ],
        }
    )


COLLECTION_ROUTES = ()
ROUTES = (
    Route(
        "GET",
        "/{id}/properties/{key}/history",
        "person:read",
        of_property,
        query=(LIMIT, OFFSET, AS_OF),
        answers=PropertyHistory,
        costly=always,
        name="get_property_history",
    ),
)


def _value(call: RestCall, person: Person, value: ValueRow) -> dict[str, Any]:
    return {
        "operation": "purge" if value.purged else OPERATIONS[value.kind],
        "value": orjson.loads(value.after) if value.after else None,
        "before": orjson.loads(value.before) if value.before else None,
        "distinct_id": next(
            member.distinct_id
            for member in person.members
            if member.fragment == value.fragment
        ),
        "timestamp": iso(value.stamp),
        "received_at": iso(value.at),
        "position": format_positions(
            [call.context.generations.of_fragment(value.fragment, value.version)]
        ),
        "command": str(value.command),
        "actor": call.context.access.name_of(value.actor),
        "source": value.source,
    }


def _is_of(value: ValueRow, winner: Decisive | None) -> bool:
    """Whether a value is that of the cell that shows."""
    return winner is not None and (value.fragment, value.stamp) == (
        winner.fragment,
        winner.stamp,
    )


def _path(call: RestCall, steps: list[StepRow], fragment: UUID) -> list[dict[str, Any]]:
    """The merges that brought a fragment to its person, since it last stood alone."""
    generations = call.context.generations
    path: list[dict[str, Any]] = []
    for step in [step for step in steps if step.fragment == fragment]:
        if step.topic in (FragmentLeft.TOPIC, PersonDeleted.TOPIC):
            path = []
        elif step.topic in (FragmentJoined.TOPIC, FragmentRerooted.TOPIC):
            path.append(
                {
                    "how": "merged"
                    if step.topic == FragmentJoined.TOPIC
                    else "root_left",
                    "from": str(step.peer),
                    "into": str(step.root),
                    "at": iso(step.at),
                    "position": format_positions(
                        [generations.of_project(call.project.id, step.version)]
                    ),
                    "command": str(step.command),
                    "actor": call.context.access.name_of(step.actor),
                }
            )
    return path
