"""Provenance: every value that a property had, where each came from, and why the one that shows does. Reads only."""

from __future__ import annotations

from typing import Any

import orjson

from services.api.calls import Call
from services.api.http.guards.costly import always
from services.api.http.parameters import AS_OF, LIMIT, OFFSET
from services.api.http.property_limits import NAME_CHARS_MAX
from services.api.http.routing import Answer, Route
from services.api.writes.schemas import PropertyHistory
from shared.domain.cells import NULL, ONCE, SET, UNSET
from shared.domain.errors import BadInput
from shared.domain.identity import MEMBERS_MAX, FragmentJoined, FragmentLeft, FragmentRerooted, PersonDeleted
from shared.domain.ids import format_positions
from shared.domain.replay import FOREVER
from shared.domain.view import decisive
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


async def of_property(call: Call) -> Answer:
    """List all values of a property, newest first, each with its cause and merge path."""
    key = call.request.parameters["key"]
    if len(key) > NAME_CHARS_MAX:
        raise BadInput(f"A property's name has 1 to {NAME_CHARS_MAX} characters.", attr="key")
    limit = call.asked(LIMIT)
    offset = call.asked(OFFSET)
    person = await call.person_seen()
    until = await call.as_of()
    scope: dict[str, Any] = {
        "project": call.project.id,
        "fragments": [member.fragment for member in person.members],
        "until": FOREVER if until is None else until,
    }
    rows, queries = call.context.store.rows, call.context.reads.queries
    values = await rows(queries["property_history"], key=key, limit=limit, offset=offset, **scope)
    steps = await rows(queries["memberships"], limit=STEPS_MAX, **scope)
    total = values[0][10] if values else 0
    winner = decisive(cells_of(person.members)).get(key)
    shows = winner is not None and winner.kind != UNSET
    url = call.request.url
    return Answer(
        body={
            "key": key,
            "shows": shows,
            "value": winner.value if winner is not None and shows else None,
            "why": _REASONS[winner.kind] if winner is not None else None,
            "count": total,
            "next": str(url.update_query(offset=offset + limit)) if offset + limit < total else None,
            "results": [
                _value(call, person, row)
                | {"wins": winner is not None and (row[0], row[3]) == (winner.fragment, winner.stamp)}
                | {"merge_path": _path(call, [step for step in steps if step[0] == row[0]])}
                for row in values
            ],
        }
    )


COLLECTION_ROUTES = ()
ROUTES = (
    Route(
        "GET", "/{id}/properties/{key}/history", "person:read", of_property,
        query=(LIMIT, OFFSET, AS_OF), answers=PropertyHistory, costly=always,
    ),
)  # fmt: skip


def _value(call: Call, person: Person, row: tuple[Any, ...]) -> dict[str, Any]:
    fragment, version, at, stamp, command, actor, source, kind, before, after, _, purged = row
    return {
        "operation": "purge" if purged else OPERATIONS[kind],
        "value": orjson.loads(after) if after else None,
        "before": orjson.loads(before) if before else None,
        "distinct_id": next(member.distinct_id for member in person.members if member.fragment == fragment),
        "timestamp": iso(stamp),
        "received_at": iso(at),
        "position": format_positions([call.context.generations.of_fragment(fragment, version)]),
        "command": str(command),
        "actor": call.context.access.name_of(actor),
        "source": source,
    }


def _path(call: Call, steps: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The merges that brought a fragment to its person, since it last stood alone."""
    generations = call.context.generations
    path: list[dict[str, Any]] = []
    for _, version, topic, at, command, actor, root, peer in steps:
        if topic in (FragmentLeft.TOPIC, PersonDeleted.TOPIC):
            path = []
        elif topic in (FragmentJoined.TOPIC, FragmentRerooted.TOPIC):
            path.append(
                {
                    "how": "merged" if topic == FragmentJoined.TOPIC else "root_left",
                    "from": str(peer),
                    "into": str(root),
                    "at": iso(at),
                    "position": format_positions([generations.of_project(call.project.id, version)]),
                    "command": str(command),
                    "actor": call.context.access.name_of(actor),
                }
            )
    return path
