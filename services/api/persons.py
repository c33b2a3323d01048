"""Persons: retrieve, list, update, delete_property, split. Never folds anything: writes are commands."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import orjson

from services.api import errors
from services.api.calls import Answer, Call, Route
from services.api.reads import CURSOR_START, Person
from services.api.values import check_properties
from shared.domain.commands import Split, Write
from shared.domain.errors import BadInput, PreconditionFailed
from shared.domain.ids import Position, fragment_id, hash64

PAGE_DEFAULT, PAGE_MAX = 100, 1_000
"""Rows of a page; the documented limits."""

OFFSET_MAX = 100_000
"""`offset` walks over what it skips; whoever needs more follows `next`."""

NAME_CHARS_MAX = 400
"""A property's name."""


async def retrieve(call: Call) -> Answer:
    """GET :id."""
    person = await call.person()
    return Answer(body=person.shown(), headers={"ETag": person.etag})


async def page(call: Call) -> Answer:
    """GET: persons, newest first; filters are ANDed."""
    query = call.request.query
    limit = call.number("limit", PAGE_DEFAULT, PAGE_MAX)
    skip = call.number("offset", 0, OFFSET_MAX, least=0)
    cursor = _parse_cursor(query["cursor"]) if "cursor" in query else CURSOR_START
    keep = _filters(query.get("email"), query.get("search"), query.get("distinct_id"))
    if query.get("distinct_id"):
        named = await call.context.reads.by_fragment(
            call.project.id, fragment_id(call.project.id, query["distinct_id"])
        )
        found = [named] if named is not None and keep(named) else []
        return Answer(body=_page_body(call, found[skip:], None))
    narrow = (_email_text(query.get("email", "")), query.get("search", ""))
    while skip:
        passed, after = await call.context.reads.page(call.project.id, cursor, min(skip, PAGE_MAX), narrow, keep)
        skip -= len(passed)
        if after is None:
            return Answer(body=_page_body(call, [], None))
        cursor = after
    persons, after = await call.context.reads.page(call.project.id, cursor, limit, narrow, keep)
    return Answer(body=_page_body(call, persons, after))


async def update(call: Call) -> Answer:
    """PATCH :id: set properties. The body is judged first, then the id, then existence."""
    body = await call.body()
    if "properties" not in body:
        raise errors.field_required("properties")
    properties = body["properties"]
    if not isinstance(properties, dict):
        raise BadInput("properties must be an object.", attr="properties")
    check_properties(properties, "properties")
    return await _write(call, "update", changes={"set": properties})


async def update_property(call: Call) -> Answer:
    """POST :id/update_property: set one property. `value` is asked for before `key`; null is a value."""
    body = await call.body()
    for field in ("value", "key"):
        if field not in body:
            raise errors.field_required(field)
    key = _property_name(body["key"], "key")
    check_properties({key: body["value"]}, "value")
    answer = await _write(call, "update", changes={"set": {key: body["value"]}})
    return _success(answer)


async def delete_property(call: Call) -> Answer:
    """POST :id/delete_property: unset a property on every fragment that shows it, so that no split brings it back."""
    body = await call.body()
    sent = body.get("$unset", call.request.query.get("$unset"))
    if sent is None:
        raise BadInput("This field is required.", attr="$unset", slug="required")
    names = [_property_name(name, "$unset") for name in (sent if isinstance(sent, list) else [sent])]
    person = await call.person()
    addressed = call.addressed(person)
    targets = [
        member
        for member in person.members
        if member.fragment == addressed or any(name in orjson.loads(member.properties) for name in names)
    ]
    first = call.context.stamps.reserve(len(targets))
    commands = [
        Write(
            id=call.context.mint(),
            key=_idempotency(call, person),
            project=call.project.id,
            at=first + index,
            actor=call.actor,
            fragment=member.fragment,
            distinct_id=member.distinct_id,
            unset=tuple(names),
            reason="delete_property",
        )
        for index, member in enumerate(targets)
    ]
    positions, visible = await call.write(commands)
    return Answer(status=200 if visible else 202, body={"success": True} if visible else None, positions=positions)


async def split(call: Call) -> Answer:
    """POST :id/split: move distinct ids out; every one gets back what was set through it."""
    body = await call.body()
    person = await call.person()
    keep, leave = _split_of(body, person)
    command = Split(
        id=call.context.mint(),
        key=_idempotency(call, person),
        project=call.project.id,
        at=call.context.stamps.reserve(1),
        actor=call.actor,
        person=person.uuid,
        keep=keep,
        leave=leave,
    )
    positions, visible = await call.write([command])
    if not visible:
        return Answer(status=202, positions=positions)
    after = await call.context.reads.by_fragments(call.project.id, [member.fragment for member in person.members])
    persons = {found.uuid: found for found in after if found is not None}
    stays = keep or next((member.fragment for member in person.members if member.fragment not in leave), None)
    involved = sorted(persons.values(), key=lambda one: all(member.fragment != stays for member in one.members))
    shown = [{"uuid": str(one.uuid), "id": one.number, "distinct_ids": one.distinct_ids} for one in involved]
    return Answer(body={"success": True, "persons": shown}, positions=positions)


ROUTES = (
    Route("GET", "", "person:read", page),
    Route("GET", "/{id}", "person:read", retrieve),
    Route("PATCH", "/{id}", "person:write", update),
    Route("POST", "/{id}/update_property", "person:write", update_property),
    Route("POST", "/{id}/delete_property", "person:write", delete_property),
    Route("POST", "/{id}/split", "person:write", split),
)


async def _write(call: Call, reason: str, *, changes: dict[str, Any]) -> Answer:
    person = await call.person()
    addressed = call.addressed(person)
    member = next((member for member in person.members if member.fragment == addressed), person.members[0])
    matching = call.request.headers.get("If-Match")
    if matching is not None and matching not in ("*", person.etag):
        raise PreconditionFailed
    command = Write(
        id=call.context.mint(),
        key=_idempotency(call, person),
        project=call.project.id,
        at=call.context.stamps.reserve(1),
        actor=call.actor,
        fragment=member.fragment,
        distinct_id=member.distinct_id,
        expect=member.effect if matching not in (None, "*") else None,
        reason=reason,
        **changes,
    )
    positions, visible = await call.write([command])
    if not visible:
        return Answer(status=202, positions=positions)
    if command.expect is not None and await _refused(call, member.fragment, positions[0]):
        raise PreconditionFailed
    after = await call.context.reads.by_fragment(call.project.id, member.fragment)
    if after is None:  # deleted in between: the write was done, and then undone by somebody else
        raise errors.not_found("Not found.")
    return Answer(body=after.shown(), positions=positions, headers={"ETag": after.etag})


async def _refused(call: Call, fragment: UUID, position: Position) -> bool:
    rows = await call.context.store.rows(
        call.context.reads.queries["refusals"],
        project=call.project.id,
        fragment=fragment,
        version=position.version,
    )
    return bool(rows)


def _success(answer: Answer) -> Answer:
    return Answer(
        status=answer.status, body={"success": True} if answer.status == 200 else None, positions=answer.positions
    )


def _idempotency(call: Call, person: Person) -> int:
    sent = call.request.headers.get("Idempotency-Key")
    return hash64(f"{call.project.id}:{person.uuid}:{sent}") if sent else 0


def _property_name(value: Any, attr: str) -> str:
    if not isinstance(value, str) or not value or len(value) > NAME_CHARS_MAX:
        raise BadInput(f"A property's name is a text of 1 to {NAME_CHARS_MAX} characters.", attr=attr)
    return value


def _split_of(body: dict[str, Any], person: Person) -> tuple[UUID | None, tuple[UUID, ...]]:
    """(the fragment that stays alone or None, the fragments that leave)."""
    fragments = {member.distinct_id: member.fragment for member in person.members}
    main, chosen = body.get("main_distinct_id"), body.get("distinct_ids_to_split")
    if chosen is not None:
        if main is not None:
            raise BadInput("Not together with main_distinct_id.", attr="distinct_ids_to_split")
        if not isinstance(chosen, list) or not chosen or not all(isinstance(one, str) for one in chosen):
            raise BadInput("A list of at least one distinct id.", attr="distinct_ids_to_split")
        if unknown := [one for one in chosen if one not in fragments]:
            raise BadInput(f"Not of this person: {unknown[0][:400]}", attr="distinct_ids_to_split")
        if len(set(chosen)) == len(fragments):
            raise BadInput("At least one distinct id must stay.", attr="distinct_ids_to_split")
        return None, tuple(fragments[one] for one in dict.fromkeys(chosen))
    if main is None:
        return fragments[person.distinct_ids[0]], ()
    if not isinstance(main, str) or main not in fragments:
        raise BadInput("Not a distinct id of this person.", attr="main_distinct_id")
    return fragments[main], ()


def _filters(email: str | None, search: str | None, distinct_id: str | None) -> Callable[[Person], bool]:
    """What the merged view must satisfy."""

    def keep(person: Person) -> bool:
        document = person.document() if email or search else {}
        if email and document.get("email") != email:
            return False
        if distinct_id and distinct_id not in person.distinct_ids:
            return False
        if search:
            texts: Iterable[Any] = (
                document.get("email"),
                document.get("name"),
                str(person.uuid),
                *person.distinct_ids,
            )
            return any(isinstance(text, str) and search.lower() in text.lower() for text in texts)
        return True

    return keep


def _email_text(email: str) -> str:
    return f'"email":{orjson.dumps(email).decode()}' if email else ""


def _page_body(call: Call, persons: list[Person], after: tuple[int, str] | None) -> dict[str, Any]:
    url = call.request.url
    following = None
    if after is not None:
        following = str(url.without_query_params("offset").update_query(cursor=_format_cursor(after)))
    rows = [
        person.shown() | {"type": "person", "matched_recordings": [], "value_at_data_point": None} for person in persons
    ]
    return {"results": rows, "next": following, "previous": None}


def _format_cursor(cursor: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(f"{cursor[0]}:{cursor[1]}".encode()).decode().rstrip("=")


def _parse_cursor(text: str) -> tuple[int, str]:
    try:
        created, _, root = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
        return int(created), str(UUID(root))
    except ValueError:
        raise BadInput("The cursor is broken; take `next` as it is.", attr="cursor") from None
