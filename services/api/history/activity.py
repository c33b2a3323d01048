"""Activity: edits, merges, splits and deletions of persons (docs/contract.md §6). Captured events make no items."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from services.api.calls import Call
from services.api.http.guards.costly import always
from services.api.http.parameters import PAGE_MAX, Integer
from services.api.http.routing import Answer, Route
from services.api.writes.schemas import ActivityPage
from services.api.writes.size_warnings import told
from shared.domain.cells import UNSET
from shared.store.person import iso
from shared.store.timeline import PURGE

LIMIT = Integer("limit", "Items on a page.", absent=10, most=PAGE_MAX)
PAGE = Integer("page", "The number of the page, from 1.", absent=1, most=10_000)

_ACTIVITIES = {
    "person.merged": "merged",
    "person.merge_refused": "merge_refused",
    "person.split": "split_person",
    "person.deleted": "deleted",
    "person.restored": "restored",
}

_EDITS = {"update": "updated", "delete_property": "delete_property"}


async def of_person(call: Call) -> Answer:
    """List edits, merges, splits and deletions of a person, newest first."""
    person = await call.person()
    return await _activity(call, [member.fragment for member in person.members])


async def of_project(call: Call) -> Answer:
    """List edits, merges, splits and deletions of all persons, newest first."""
    return await _activity(call, [])


COLLECTION_ROUTES = (
    Route("GET", "/activity", "activity_log:read", of_project, (LIMIT, PAGE), answers=ActivityPage, costly=always),
)
ROUTES = (
    Route("GET", "/{id}/activity", "activity_log:read", of_person, (LIMIT, PAGE), answers=ActivityPage, costly=always),
)


async def _activity(call: Call, fragments: list[UUID]) -> Answer:
    limit = call.asked(LIMIT)
    page = call.asked(PAGE)
    await call.until_recorded()
    rows = await call.context.store.rows(
        call.context.reads.queries["activity"],
        project=call.project.id,
        fragments=fragments,
        limit=limit,
        offset=(page - 1) * limit,
    )
    persons = await call.context.reads.by_fragments(call.project.id, [row[0] for row in rows]) if rows else []
    names = [person.name() if person is not None else "" for person in persons]
    numbers = await call.context.reads.numbers_of(call.project.id, [row[0] for row in rows])
    total = rows[0][14] if rows else 0
    url = call.request.url
    return Answer(
        body={
            "results": [_item(call, *each) for each in zip(rows, names, numbers, strict=True)],
            "next": str(url.update_query(page=page + 1)) if page * limit < total else None,
            "previous": str(url.update_query(page=page - 1)) if page > 1 else None,
            "total_count": total,
        }
    )


def _item(call: Call, row: tuple[Any, ...], name: str, number: int | None) -> dict[str, Any]:
    fragment, version, topic, at, command, actor, source, keys, kinds, before, after, members, peer, reason = row[:14]
    activity = _ACTIVITIES.get(topic) or (topic if source == "request" else _EDITS[source])
    left_out = told(row[15])
    changes = []
    if keys:
        change = _change(
            "changed",
            {key: orjson.loads(text) for key, text in zip(keys, before, strict=True) if text},
            {key: orjson.loads(text) for key, kind, text in zip(keys, kinds, after, strict=True) if kind != UNSET},
        )
        changes.append(change)
    elif left_out is None:
        change = _change(activity, None, {"with": str(peer), "members": [str(one) for one in members]})
        if reason:
            change["after"]["key" if topic == PURGE else "reason"] = reason
        changes.append(change)
    if left_out is not None:
        changes.append(_change("left_out", None, left_out))
    return {
        "id": f"{command}-{version:x}-{str(fragment)[:8]}",
        "user": {"first_name": call.context.access.name_of(actor), "email": ""},
        "activity": activity,
        "scope": "Person",
        "item_id": str(number if number is not None else fragment),
        "detail": {"name": name, "changes": changes},
        "created_at": iso(at),
    }


def _change(action: str, before: Any, after: Any) -> dict[str, Any]:
    return {"type": "Person", "action": action, "field": "properties", "before": before, "after": after}
