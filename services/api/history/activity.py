"""Activity: edits, merges, splits and deletions of persons (docs/contract.md §6). Captured events
make no items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.api.calls import RestCall
from services.api.history.moved_ids import MOVES, MovedIds, moved_ids
from services.api.http.guards.costly import always
from services.api.http.parameters import PAGE_MAX, Integer
from services.api.http.routing import EndpointResult, Route
from services.api.reads.lookup import person_of
from services.api.writes.schemas import ActivityPage
from services.api.writes.size_warnings import left_out_of
from shared.domain.ids import DELETIONS
from shared.domain.person.cells import UNSET
from shared.store.person import iso
from shared.store.timeline import PURGE

LIMIT = Integer("limit", "Items on a page.", absent=10, maximum=PAGE_MAX)
PAGE = Integer("page", "The number of the page, from 1.", absent=1, maximum=10_000)

_ACTIVITIES = {
    "person.merged": "merged",
    "person.merge_refused": "merge_refused",
    "person.split": "split_person",
    "person.deleted": "deleted",
    "person.restored": "restored",
}

_EDITS = {"update": "updated", "delete_property": "delete_property"}


class ActivityRow(NamedTuple):
    """A row of the query `activity`: a fact, or a deletion request that keeps the person. `at` in
    microseconds."""

    fragment: UUID
    version: int
    topic: str
    at: int
    command: UUID
    actor: str
    source: str
    keys: Sequence[str]
    kinds: Sequence[int]
    before: Sequence[str]
    after: Sequence[str]
    members: Sequence[UUID]
    peer: UUID
    reason: str
    total: int
    left_out: str


async def of_person(call: RestCall) -> EndpointResult:
    """List edits, merges, splits and deletions of a person, newest first."""
    person = await person_of(call)
    return await _activity(call, [member.fragment for member in person.members])


async def of_project(call: RestCall) -> EndpointResult:
    """List edits, merges, splits and deletions of all persons, newest first."""
    return await _activity(call, [])


COLLECTION_ROUTES = (
    Route(
        "GET",
        "/activity",
        "activity_log:read",
        of_project,
        (LIMIT, PAGE),
        answers=ActivityPage,
        costly=always,
        name="list_project_activity",
    ),
)
ROUTES = (
    Route(
        "GET",
        "/{id}/activity",
        "activity_log:read",
        of_person,
        (LIMIT, PAGE),
        answers=ActivityPage,
        costly=always,
        name="list_person_activity",
    ),
)


async def _activity(call: RestCall, fragments: list[UUID]) -> EndpointResult:
    limit = call.parameter(LIMIT)
    page = call.parameter(PAGE)
    await call.context.wait_for_heads(DELETIONS)
    facts = await call.context.store.rows(
        call.context.reads.queries["activity"],
        project=call.project.id,
        fragments=fragments,
        limit=limit,
        offset=(page - 1) * limit,
    )
    items = [ActivityRow._make(row) for row in facts]
    subjects = [row.fragment for row in items]
    persons = (
        await call.context.reads.by_fragments(call.project.id, subjects)
        if items
        else []
    )
    moved = await moved_ids(call, [row for row in items if row.topic in MOVES])
    names = [person.name() if person is not None else "" for person in persons]
    numbers = await call.context.reads.numbers_of(call.project.id, subjects)
    total = items[0].total if items else 0
    url = call.request.url
    return EndpointResult(
        body={
            "results": [
                _item(call, row, name, number, moved.get((row.command, row.fragment)))
                for row, name, number in zip(items, names, numbers, strict=True)
            ],
            "next": str(url.update_query(page=page + 1))
            if page * limit < total
            else None,
            "previous": str(url.update_query(page=page - 1)) if page > 1 else None,
            "total_count": total,
        }
    )


def _item(
    call: RestCall,
    row: ActivityRow,
    name: str,
    number: int | None,
    moved: MovedIds | None,
) -> dict[str, Any]:
    activity = _ACTIVITIES.get(row.topic) or (
        row.topic if row.source == "request" else _EDITS[row.source]
    )
    left_out = left_out_of(row.left_out)
    changes = []
    if row.keys:
        after = zip(row.keys, row.kinds, row.after, strict=True)
        change = _change(
            "changed",
            {
                key: orjson.loads(text)
                for key, text in zip(row.keys, row.before, strict=True)
                if text
            },
            {key: orjson.loads(text) for key, kind, text in after if kind != UNSET},
        )
        changes.append(change)
    elif left_out is None:
        changes.append(_change(activity, None, _after(row, moved)))
    if left_out is not None:
        changes.append(_change("left_out", None, left_out))
    return {
        "id": f"{row.command}-{row.version:x}-{str(row.fragment)[:8]}",
        "user": {"first_name": call.context.access.name_of(row.actor), "email": ""},
        "activity": activity,
        "scope": "Person",
        "item_id": str(number if number is not None else row.fragment),
        "detail": {"name": name, "changes": changes},
        "created_at": iso(row.at),
    }


def _after(row: ActivityRow, moved: MovedIds | None) -> dict[str, Any]:
    """What a merge, a split or a deletion left, with the reason of a refusal or the key of a
    purge."""
    after: dict[str, Any] = {
        "with": str(row.peer),
        "members": [str(member) for member in row.members],
    }
    if moved is not None and row.topic in MOVES:
        after["distinct_ids"] = moved.stayed
        if moved.departed is not None:
            after["split_off"] = moved.departed
    if row.reason:
        after["key" if row.topic == PURGE else "reason"] = row.reason
    return after


def _change(action: str, before: Any, after: Any) -> dict[str, Any]:
    return {
        "type": "Person",
        "action": action,
        "field": "properties",
        "before": before,
        "after": after,
    }
