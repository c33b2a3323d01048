"""Persons: retrieve, batch reads, update, delete_property. Never folds anything: writes are
commands."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import orjson

from services.api.calls import ANSWER_SECONDS_MAX, Call, uuid_in
from services.api.context import Context
from services.api.http import errors
from services.api.http.guards.costly import given
from services.api.http.messages import Deferred
from services.api.http.parameters import AS_OF, Text
from services.api.http.property_limits import NAME_CHARS_MAX, check_properties
from services.api.http.routing import Answer, Route
from services.api.writes.idempotency import (
    Keyed,
    Outcome,
    carry_out,
    earlier,
    keyed,
    person_after,
)
from services.api.writes.schemas import (
    Batch,
    DeleteProperty,
    DistinctIds,
    Success,
    Update,
    Updated,
    UpdatedProperty,
    UpdateProperty,
    Uuids,
)
from services.api.writes.schemas import Person as PersonBody
from services.api.writes.size_warnings import warnings_of
from shared.domain.commands import Write
from shared.domain.errors import BadInput
from shared.domain.ids import COMMANDS, Position, fragment_id
from shared.domain.person.view import Member
from shared.runtime import telemetry
from shared.store.person import living_of

UNSET = Text(
    "$unset", "The name to unset, for requests without a body.", most=NAME_CHARS_MAX
)


def retrieve(call: Call) -> Answer | Awaitable[Answer]:
    """Get a person by integer id or uuid, now or `as_of` a moment."""
    if not call.request.query_string and call.request.format == "json":
        fragment = uuid_in(call.request.parameters["id"])
        rendered = (
            call.context.rendered.find(call.project.id, fragment)
            if fragment is not None
            else None
        )
        if rendered is not None:
            telemetry.KNOWN.inc()
            return Answer(body=rendered.body, headers={"ETag": rendered.etag})
    return _retrieve(call)


async def _retrieve(call: Call) -> Answer:
    person = await call.person_seen()
    return Answer(
        body=person.to_json(),
        headers={} if call.asked(AS_OF) else {"ETag": person.etag},
    )


async def batch_by_distinct_ids(call: Call) -> Answer:
    """Look up to 200 persons by distinct id. Unknown ids are omitted."""
    asked = call.read(DistinctIds).distinct_ids
    return await _batch_answer(
        call, {one: fragment_id(call.project.id, one) for one in asked}
    )


async def batch_by_uuids(call: Call) -> Answer:
    """Look up to 200 persons by uuid. Unknown ids are omitted."""
    asked = call.read(Uuids).uuids
    try:
        fragments = {one: UUID(one) for one in asked}
    except ValueError:
        raise BadInput("uuids must be a list of uuids.", attr="uuids") from None
    return await _batch_answer(call, fragments)


def update(call: Call) -> Deferred[list[Position], Answer] | Awaitable[Answer]:
    """Set properties of a person. The answer is the person after the write."""
    sent = call.body()
    if "properties" not in sent:
        raise errors.field_required("properties")
    properties = call.converted(sent, Update).properties
    check_properties(properties, "properties")
    return _submitted(call, properties) or _update(call, properties)


def _submitted(
    call: Call, properties: dict[str, Any]
) -> Deferred[list[Position], Answer] | None:
    """A write that nothing but the log is waited for; None when more is asked for, or more must be
    read."""
    headers = call.request.headers
    if (
        "Idempotency-Key" in headers
        or "If-Match" in headers
        or call.patience(ANSWER_SECONDS_MAX) is not None
    ):
        return None
    fragment = uuid_in(call.request.parameters["id"])
    known = (
        call.context.reads.rows_known(call.project.id, fragment)
        if fragment is not None
        else None
    )
    members = living_of(known[1]) if known is not None else []
    if fragment is None or not members:
        return None
    member = member_named(members, fragment)
    command = update_of(
        call.context,
        call.project.id,
        call.actor,
        member,
        Keyed(fragment=fragment),
        properties,
    )
    future = call.context.log.submit(call.context.entries([command]))
    return Deferred(future, lambda done: Answer(status=202, positions=done.result()))


async def _update(call: Call, properties: dict[str, Any]) -> Answer:
    outcome, fragment = await _set(call, properties)
    if not outcome.visible:
        return _answer(outcome, None)
    after = await person_after(call, fragment, outcome)
    etag = {} if outcome.first else {"ETag": after.etag}
    warned = await warnings_of(
        call, fragment, outcome, properties, member_named(after.members, fragment)
    )
    return Answer(
        body=after.to_json() | warned,
        positions=outcome.positions,
        headers=outcome.headers | etag,
    )


async def update_property(call: Call) -> Answer:
    """Set one property of a person. `null` is a value."""
    sent = call.body()
    for field in ("value", "key"):
        if field not in sent:
            raise errors.field_required(field)
    body = call.read(UpdateProperty)
    check_properties({body.key: body.value}, "value")
    properties = {body.key: body.value}
    outcome, fragment = await _set(call, properties)
    if not outcome.visible:
        return _answer(outcome, None)
    after = await call.context.reads.by_fragment(call.project.id, fragment)
    member = member_named(after.members, fragment) if after is not None else None
    return _answer(
        outcome,
        {"success": True}
        | await warnings_of(call, fragment, outcome, properties, member),
    )


async def delete_property(call: Call) -> Answer:
    """Unset properties on every distinct id of a person that shows them."""
    body = call.read(DeleteProperty)
    unset = (
        call.asked(UNSET) if isinstance(body.unset, msgspec.UnsetType) else body.unset
    )
    if not unset:
        raise BadInput("This field is required.", attr="$unset", slug="required")
    names = unset if isinstance(unset, list) else [unset]
    sent = keyed(call, await call.fragment(), "delete_property", names)
    outcome = await earlier(call, COMMANDS, sent)
    if outcome is None:
        person = await call.holder(sent.fragment)
        call.tags(person)
        showing = [member for member in person.members if _may_show(member, names)]
        targets = {
            one.fragment: one
            for one in (member_named(person.members, sent.fragment), *showing)
        }
        at, command = (
            call.context.stamps.reserve(len(targets)),
            call.context.mint(),
        )  # one id: it is one act
        commands = [
            write_of(
                call.project.id,
                call.actor,
                member,
                sent,
                id=command,
                at=at + index,
                unset=tuple(names),
                reason="delete_property",
            )
            for index, member in enumerate(targets.values())
        ]
        outcome = await carry_out(call, sent, commands)
    return _answer(outcome, {"success": True})


ROUTES = (
    Route(
        "GET",
        "/{id}",
        "person:read",
        retrieve,
        (AS_OF,),
        answers=PersonBody,
        costly=given(AS_OF.name),
    ),
    Route(
        "PATCH",
        "/{id}",
        "person:write",
        update,
        body=Update,
        answers=Updated,
        errors=(412,),
    ),
    Route(
        "POST",
        "/{id}/update_property",
        "person:write",
        update_property,
        body=UpdateProperty,
        answers=UpdatedProperty,
        errors=(412,),
    ),
    Route(
        "POST",
        "/{id}/delete_property",
        "person:write",
        delete_property,
        (UNSET,),
        DeleteProperty,
        Success,
        errors=(412,),
    ),
)
COLLECTION_ROUTES = (
    Route(
        "POST",
        "/batch_by_distinct_ids",
        "person:read",
        batch_by_distinct_ids,
        (AS_OF,),
        DistinctIds,
        Batch,
        costly=given(AS_OF.name),
    ),
    Route(
        "POST",
        "/batch_by_uuids",
        "person:read",
        batch_by_uuids,
        (AS_OF,),
        Uuids,
        Batch,
        costly=given(AS_OF.name),
    ),
)


async def _set(call: Call, properties: dict[str, Any]) -> tuple[Outcome, UUID]:
    """Set properties on the addressed fragment; the first that came with the Idempotency-Key
    counts."""
    sent = keyed(call, await call.fragment(), "update", properties)
    outcome = await earlier(call, COMMANDS, sent)
    if outcome is None:
        person = await call.holder(sent.fragment)
        tags = call.tags(person)
        member = member_named(person.members, sent.fragment)
        expect = None if "*" in tags else member.effect
        command = update_of(
            call.context, call.project.id, call.actor, member, sent, properties, expect
        )
        outcome = await carry_out(
            call, sent, [command], [sent.fragment] if expect is not None else []
        )
    return outcome, sent.fragment


def update_of(
    context: Context,
    project: int,
    actor: str,
    member: Member,
    sent: Keyed,
    properties: dict[str, Any],
    expect: int | None = None,
) -> Write:
    """The command of a PATCH, received now."""
    at, command = context.stamps.reserve(1), context.mint()
    return write_of(
        project,
        actor,
        member,
        sent,
        id=command,
        at=at,
        set=properties,
        expect=expect,
        reason="update",
    )


def write_of(
    project: int, actor: str, member: Member, sent: Keyed, **changes: Any
) -> Write:
    """The command of a change to one member of a person."""
    return Write(
        key=sent.key,
        digest=sent.digest,
        project=project,
        actor=actor,
        fragment=member.fragment,
        distinct_id=member.distinct_id,
        **changes,
    )


def member_named(members: Sequence[Member], fragment: UUID) -> Member:
    """Whom a write to a person goes to: the member that was named, while it lives."""
    return next(
        (
            one
            for one in members
            if one.fragment is fragment or one.fragment == fragment
        ),
        members[0],
    )


def _may_show(member: Member, names: Sequence[str]) -> bool:
    """Whether a member shows any of these names; of one that the person has no room to show it is
    not known."""
    return not member.properties or not orjson.loads(
        member.properties
    ).keys().isdisjoint(names)


def _answer(outcome: Outcome, body: Any) -> Answer:
    """The body once reads see the write; 202 before."""
    visible = outcome.visible
    return Answer(
        status=200 if visible else 202,
        body=body if visible else None,
        positions=outcome.positions,
        headers=outcome.headers,
    )


async def _batch_answer(call: Call, fragments: dict[str, UUID]) -> Answer:
    persons = await call.seen(list(fragments.values())) if fragments else []
    found = zip(fragments, persons, strict=True)
    return Answer(
        body={
            "results": {
                asked: person.to_json() for asked, person in found if person is not None
            }
        }
    )
