"""One person over REST: get, update, unset. Writes are commands; the projector folds them."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import orjson

from services.api.calls import RestCall
from services.api.http import errors
from services.api.http.decoding import struct_of
from services.api.http.guards.costly import with_any
from services.api.http.messages import Deferred
from services.api.http.parameters import AS_OF, Text
from services.api.http.property_limits import check_properties
from services.api.http.routing import EndpointResult, Route
from services.api.reads.lookup import addressed_by, person_until, uuid_in
from services.api.writes.idempotency import (
    Keyed,
    WriteOutcome,
    carry_out,
    earlier,
    keyed,
    person_after,
)
from services.api.writes.preconditions import check_if_match
from services.api.writes.schemas import (
    DeleteProperty,
    PersonBody,
    Success,
    Update,
    Updated,
    UpdatedProperty,
    UpdateProperty,
)
from services.api.writes.size_warnings import warnings_of
from services.api.writes.submission import ANSWER_SECONDS_MAX, patience
from shared.domain.commands import Write
from shared.domain.errors import BadInput
from shared.domain.ids import COMMANDS, Position
from shared.domain.person.view import Member
from shared.inputs.names import NAME_CHARS_MAX
from shared.runtime import telemetry
from shared.store.person import living_of

UNSET = Text(
    "$unset",
    "The name to unset, for requests without a body.",
    chars_max=NAME_CHARS_MAX,
)


def retrieve(call: RestCall) -> EndpointResult | Awaitable[EndpointResult]:
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
            return EndpointResult(body=rendered.body, headers={"ETag": rendered.etag})
    return _retrieve(call)


async def _retrieve(call: RestCall) -> EndpointResult:
    person, until = await person_until(call)
    headers = {"ETag": person.etag} if until is None else {}
    return EndpointResult(body=person.to_json(), headers=headers)


def update(
    call: RestCall,
) -> Deferred[list[Position], EndpointResult] | Awaitable[EndpointResult]:
    """Set properties of a person. The answer is the person after the write."""
    body = call.body()
    if "properties" not in body:
        raise errors.field_required("properties")
    properties = struct_of(body, Update).properties
    check_properties(properties, "properties")
    return _submit(call, properties) or _update(call, properties)


def _submit(
    call: RestCall, properties: dict[str, Any]
) -> Deferred[list[Position], EndpointResult] | None:
    """Submit a write that need not be visible when it is answered. None when the client prefers to
    wait, or something must be read first."""
    headers = call.request.headers
    if (
        "Idempotency-Key" in headers
        or "If-Match" in headers
        or patience(call.request, ANSWER_SECONDS_MAX) is not None
    ):
        return None
    fragment = uuid_in(call.request.parameters["id"])
    rows = (
        call.context.reads.cached_rows(call.project.id, fragment)
        if fragment is not None
        else None
    )
    members = living_of(rows[1]) if rows is not None else []
    if fragment is None or not members:
        return None
    member = member_named(members, fragment)
    command = update_of(call, member, Keyed(fragment=fragment), properties)
    future = call.context.log.submit(call.context.entries([command]))
    return Deferred(
        future, lambda done: EndpointResult(status=202, positions=done.result())
    )


async def _update(call: RestCall, properties: dict[str, Any]) -> EndpointResult:
    outcome, fragment = await _set(call, properties)
    if not outcome.visible:
        return _answer(outcome, None)
    after = await person_after(call, fragment, outcome)
    etag = {} if outcome.first else {"ETag": after.etag}
    warnings = await warnings_of(
        call, fragment, outcome, properties, member_named(after.members, fragment)
    )
    return EndpointResult(
        body=after.to_json() | warnings,
        positions=outcome.positions,
        headers=outcome.headers | etag,
    )


async def update_property(call: RestCall) -> EndpointResult:
    """Set one property of a person. `null` is a value."""
    fields = call.body()
    for field in ("value", "key"):
        if field not in fields:
            raise errors.field_required(field)
    body = struct_of(fields, UpdateProperty)
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


async def delete_property(call: RestCall) -> EndpointResult:
    """Unset properties on every distinct id of a person that shows them."""
    body = call.read(DeleteProperty)
    unset = (
        call.parameter(UNSET)
        if isinstance(body.unset, msgspec.UnsetType)
        else body.unset
    )
    if not unset:
        raise BadInput("This field is required.", attr="$unset", slug="required")
    names = unset if isinstance(unset, list) else [unset]
    addressed = await addressed_by(call)
    keyed_write = keyed(call, addressed.fragment, "delete_property", names)
    outcome = await earlier(call, COMMANDS, keyed_write)
    if outcome is None:
        person = addressed.person
        check_if_match(call.request, person)
        showing = [member for member in person.members if _may_show(member, names)]
        targets = {
            member.fragment: member
            for member in (member_named(person.members, keyed_write.fragment), *showing)
        }
        at = call.context.stamps.reserve(len(targets))
        command = call.context.mint()  # one id: it is one act
        commands = [
            write_of(
                call,
                member,
                keyed_write,
                id=command,
                at=at + index,
                unset=tuple(names),
                reason="delete_property",
            )
            for index, member in enumerate(targets.values())
        ]
        outcome = await carry_out(call, keyed_write, commands)
    return _answer(outcome, {"success": True})


ROUTES = (
    Route(
        "GET",
        "/{id}",
        "person:read",
        retrieve,
        (AS_OF,),
        answers=PersonBody,
        costly=with_any(AS_OF.name),
        name="get_person",
    ),
    Route(
        "PATCH",
        "/{id}",
        "person:write",
        update,
        body=Update,
        answers=Updated,
        errors=(412,),
        name="update_person",
    ),
    Route(
        "POST",
        "/{id}/update_property",
        "person:write",
        update_property,
        body=UpdateProperty,
        answers=UpdatedProperty,
        errors=(412,),
        name="update_property",
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
        name="delete_property",
    ),
)
COLLECTION_ROUTES = ()


async def _set(call: RestCall, properties: dict[str, Any]) -> tuple[WriteOutcome, UUID]:
    """Set properties on the addressed fragment. Of several requests with one Idempotency-Key the
    first counts."""
    addressed = await addressed_by(call)
    keyed_write = keyed(call, addressed.fragment, "update", properties)
    outcome = await earlier(call, COMMANDS, keyed_write)
    if outcome is None:
        person = addressed.person
        member = member_named(person.members, addressed.fragment)
        expect = member.effect if check_if_match(call.request, person) else None
        command = update_of(call, member, keyed_write, properties, expect)
        outcome = await carry_out(
            call,
            keyed_write,
            [command],
            [keyed_write.fragment] if expect is not None else [],
        )
    return outcome, keyed_write.fragment


def update_of(
    call: RestCall,
    member: Member,
    keyed_write: Keyed,
    properties: dict[str, Any],
    expect: int | None = None,
) -> Write:
    """Build the command of a PATCH, received now."""
    at = call.context.stamps.reserve(1)
    return write_of(
        call,
        member,
        keyed_write,
        id=call.context.mint(),
        at=at,
        set=properties,
        expect=expect,
        reason="update",
    )


def write_of(
    call: RestCall, member: Member, keyed_write: Keyed, **changes: Any
) -> Write:
    """Build the command that changes one member of a person."""
    return Write(
        key=keyed_write.key,
        digest=keyed_write.digest,
        project=call.project.id,
        actor=call.actor,
        fragment=member.fragment,
        distinct_id=member.distinct_id,
        **changes,
    )


def member_named(members: Sequence[Member], fragment: UUID) -> Member:
    """The member that a write goes to: the addressed one while it lives, else the first."""
    return next(
        (
            member
            for member in members
            if member.fragment is fragment or member.fragment == fragment
        ),
        members[0],
    )


def _may_show(member: Member, names: Sequence[str]) -> bool:
    """Whether a member may show any of these names. True when the person has no room for its
    properties, for they are not read then."""
    return not member.properties or not orjson.loads(
        member.properties
    ).keys().isdisjoint(names)


def _answer(outcome: WriteOutcome, body: Any) -> EndpointResult:
    """The body once reads see the write; 202 without one before."""
    visible = outcome.visible
    return EndpointResult(
        status=200 if visible else 202,
        body=body if visible else None,
        positions=outcome.positions,
        headers=outcome.headers,
    )
