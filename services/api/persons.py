"""Persons: retrieve, batch reads, update, delete_property. Never folds anything: writes are commands."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from services.api import errors
from services.api.calls import Answer, Call, Route
from services.api.outcomes import Keyed, Outcome, carry_out, earlier, keyed, person_after
from services.api.values import check_properties
from shared.domain.commands import Write
from shared.domain.errors import BadInput, PreconditionFailed
from shared.domain.ids import COMMANDS, fragment_id
from shared.domain.view import Member
from shared.store.person import Person

NAME_CHARS_MAX = 400
"""A property's name."""

BATCH_MAX = 200
"""Persons of one batch read; more is refused, never cut."""


async def retrieve(call: Call) -> Answer:
    """GET :id, now or `as_of` a moment."""
    person = await call.person_seen()
    return Answer(body=person.shown(), headers={} if "as_of" in call.request.query else {"ETag": person.etag})


async def batch_by_distinct_ids(call: Call) -> Answer:
    """POST batch_by_distinct_ids: the persons of up to 200 distinct ids; who is nobody is absent."""
    asked = await _batch(call, "distinct_ids")
    return await _batch_answer(call, {one: fragment_id(call.project.id, one) for one in asked})


async def batch_by_uuids(call: Call) -> Answer:
    """POST batch_by_uuids: the same by uuid."""
    try:
        fragments = {one: UUID(one) for one in await _batch(call, "uuids")}
    except ValueError:
        raise BadInput("Each must be a uuid.", attr="uuids") from None
    return await _batch_answer(call, fragments)


async def update(call: Call) -> Answer:
    """PATCH :id: set properties. The body is judged first, then the id, then existence."""
    body = await call.body()
    if "properties" not in body:
        raise errors.field_required("properties")
    properties = body["properties"]
    if not isinstance(properties, dict):
        raise BadInput("properties must be an object.", attr="properties")
    check_properties(properties, "properties")
    outcome, fragment = await _set(call, properties)
    if not outcome.visible:
        return _answer(outcome, None)
    after = await person_after(call, fragment, outcome)
    etag = {} if outcome.first else {"ETag": after.etag}
    return Answer(body=after.shown(), positions=outcome.positions, headers=outcome.headers | etag)


async def update_property(call: Call) -> Answer:
    """POST :id/update_property: set one property. `value` is asked for before `key`; null is a value."""
    body = await call.body()
    for field in ("value", "key"):
        if field not in body:
            raise errors.field_required(field)
    key = _property_name(body["key"], "key")
    check_properties({key: body["value"]}, "value")
    outcome, _ = await _set(call, {key: body["value"]})
    return _answer(outcome, {"success": True})


async def delete_property(call: Call) -> Answer:
    """POST :id/delete_property: unset a property on every fragment that shows it, so that no split brings it back."""
    body = await call.body()
    unset = body.get("$unset", call.request.query.get("$unset"))
    if unset is None:
        raise BadInput("This field is required.", attr="$unset", slug="required")
    names = [_property_name(name, "$unset") for name in (unset if isinstance(unset, list) else [unset])]
    sent = keyed(call, await call.fragment(), "delete_property", names)
    outcome = await earlier(call, COMMANDS, sent)
    if outcome is None:
        person = await call.holder(sent.fragment)
        showing = [
            member for member in person.members if any(name in orjson.loads(member.properties) for name in names)
        ]
        targets = {one.fragment: one for one in (_member(person, sent.fragment), *showing)}
        at = call.context.stamps.reserve(len(targets))
        commands = [
            _write(call, sent, member, at=at + index, unset=tuple(names), reason="delete_property")
            for index, member in enumerate(targets.values())
        ]
        outcome = await carry_out(call, sent, commands)
    return _answer(outcome, {"success": True})


async def not_created_here(call: Call) -> Answer:
    """POST: persons are made by capturing an event."""
    detail = "Persons are made by capturing an event: POST /capture/ with the project's token."
    raise errors.ApiError(405, "invalid_request", "method_not_allowed", detail, Allow="GET")


ROUTES = (
    Route("GET", "/{id}", "person:read", retrieve),
    Route("PATCH", "/{id}", "person:write", update),
    Route("POST", "/{id}/update_property", "person:write", update_property),
    Route("POST", "/{id}/delete_property", "person:write", delete_property),
)
COLLECTION_ROUTES = (
    Route("POST", "", "person:write", not_created_here),
    Route("POST", "/batch_by_distinct_ids", "person:read", batch_by_distinct_ids),
    Route("POST", "/batch_by_uuids", "person:read", batch_by_uuids),
)


async def _set(call: Call, properties: dict[str, Any]) -> tuple[Outcome, UUID]:
    """Set properties on the addressed fragment; the first that came with the Idempotency-Key counts."""
    sent = keyed(call, await call.fragment(), "update", properties)
    outcome = await earlier(call, COMMANDS, sent)
    if outcome is None:
        person = await call.holder(sent.fragment)
        matching = call.request.headers.get("If-Match")
        if matching not in (None, "*", person.etag):
            raise PreconditionFailed
        member = _member(person, sent.fragment)
        expect = member.effect if matching not in (None, "*") else None
        at = call.context.stamps.reserve(1)
        command = _write(call, sent, member, at=at, set=properties, expect=expect, reason="update")
        outcome = await carry_out(call, sent, [command], [sent.fragment] if expect is not None else [])
    return outcome, sent.fragment


def _write(call: Call, sent: Keyed, member: Member, **changes: Any) -> Write:
    return Write(
        id=call.context.mint(),
        key=sent.key,
        digest=sent.digest,
        project=call.project.id,
        actor=call.actor,
        fragment=member.fragment,
        distinct_id=member.distinct_id,
        **changes,
    )


def _member(person: Person, fragment: UUID) -> Member:
    return next((member for member in person.members if member.fragment == fragment), person.members[0])


def _answer(outcome: Outcome, body: Any) -> Answer:
    """The body once reads see the write; 202 before."""
    visible = outcome.visible
    return Answer(
        status=200 if visible else 202,
        body=body if visible else None,
        positions=outcome.positions,
        headers=outcome.headers,
    )


async def _batch(call: Call, field: str) -> list[str]:
    asked = (await call.body()).get(field)
    if asked is None:
        raise BadInput("This field is required.", attr=field, slug="required")
    if not isinstance(asked, list) or not all(isinstance(one, str) for one in asked):
        raise BadInput("A list of texts.", attr=field)
    if len(asked) > BATCH_MAX:
        raise BadInput(f"At most {BATCH_MAX}.", attr=field)
    return asked


async def _batch_answer(call: Call, fragments: dict[str, UUID]) -> Answer:
    persons = await call.seen(list(fragments.values())) if fragments else []
    found = zip(fragments, persons, strict=True)
    return Answer(body={"results": {asked: person.shown() for asked, person in found if person is not None}})


def _property_name(value: Any, attr: str) -> str:
    if not isinstance(value, str) or not value or len(value) > NAME_CHARS_MAX:
        raise BadInput(f"A property's name is a text of 1 to {NAME_CHARS_MAX} characters.", attr=attr)
    return value
