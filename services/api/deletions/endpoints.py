"""Deletion requests over REST: make them and list them. The deleter carries them out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from services.api.calls import RestCall
from services.api.deletions.dry_run import preview
from services.api.deletions.ledger import (
    LedgerRow,
    documents_of,
    location,
    requests_in,
    requests_naming,
)
from services.api.deletions.remains import covering
from services.api.deletions.schemas import (
    DeletionRequestBody,
    DeletionRequests,
    DeletionStatus,
    DryRun,
)
from services.api.http import errors
from services.api.http.guards.costly import always, with_any
from services.api.http.parameters import DRY_RUN, LIMIT, OFFSET, Choice, Flag, Uuid
from services.api.http.routing import EndpointResult, Route
from services.api.reads.lookup import fragment_of, holder_of, person_of
from services.api.writes.idempotency import (
    REPLAYED,
    Keyed,
    carry_out,
    earlier,
    envelope,
    keyed,
)
from services.api.writes.preconditions import check_if_match
from services.api.writes.submission import append_and_wait
from shared.domain.commands import Command, Delete, Request, Scope
from shared.domain.errors import NotFound
from shared.domain.ids import DELETIONS, IDENTITY
from shared.store.person import iso

STAYS = "Deletion-Stays"
"""The header of a DELETE's answer that says what it leaves."""

STATUSES = {"pending": 1, "completed": 2, "all": 0}
STATUS = Choice(
    "status",
    "Only requests that are open, or completed.",
    absent="all",
    choices=tuple(STATUSES),
)
PERSON_UUID = Uuid("person_uuid", "Only requests for this person.")
DELETE_EVENTS = Flag("delete_events", "Delete the captured events as well.")
DELETE_RECORDINGS = Flag("delete_recordings", "Delete the session recordings as well.")
KEEP_PERSON = Flag(
    "keep_person", "Keep the person; delete only what the other flags name."
)


class StatusRow(NamedTuple):
    """A row of the query `deletion_status`. Times in microseconds."""

    person: UUID
    created_at: int
    state: str
    updated_at: int
    total: int

    @property
    def is_verified(self) -> bool:
        return self.state == "verified"


async def delete(call: RestCall) -> EndpointResult:
    """Delete a person. Reads no longer return it; rows are erased in the next deletion window."""
    events = call.parameter(DELETE_EVENTS)
    recordings = call.parameter(DELETE_RECORDINGS)
    keep = call.parameter(KEEP_PERSON)
    scope = covering(
        call, Scope(profile=not keep, events=events, recordings=recordings)
    )
    if call.parameter(DRY_RUN):
        return await _preview_of(call, scope)
    keyed_write = keyed(
        call, await fragment_of(call), "delete", events, recordings, keep
    )
    if keep and not events and not recordings:
        await holder_of(call, keyed_write.fragment)
        return EndpointResult(status=204)
    if keep:
        answer = await _request(call, keyed_write, scope)
        answer.headers |= _staying(scope)
        return EndpointResult(
            status=answer.status if answer.status == 202 else 204,
            positions=answer.positions,
            headers=answer.headers,
        )
    request = _request_id(call, keyed_write)
    outcome = await earlier(call, IDENTITY, keyed_write)
    if outcome is None:
        person = await holder_of(call, keyed_write.fragment)
        check_if_match(call.request, person)
        command = Delete(
            **envelope(call, keyed_write),
            person=keyed_write.fragment,
            request=request,
            scope=scope,
        )
        outcome = await carry_out(
            call, keyed_write, [command], [person.uuid] if keyed_write.key else []
        )
    return EndpointResult(
        status=204 if outcome.visible else 202,
        positions=outcome.positions,
        headers=outcome.headers | location(call, request) | _staying(scope),
    )


async def delete_events(call: RestCall) -> EndpointResult:
    """Delete the captured events of a person, and keep the person."""
    return await _delete_of(call, "delete_events", Scope(events=True))


async def delete_recordings(call: RestCall) -> EndpointResult:
    """Delete the session recordings of a person, and keep the person."""
    return await _delete_of(call, "delete_recordings", Scope(recordings=True))


async def requests(call: RestCall) -> EndpointResult:
    """List all deletion requests of the project, newest first."""
    limit, offset = call.parameter(LIMIT), call.parameter(OFFSET)
    await call.context.wait_for_heads(DELETIONS)
    rows = await requests_in(call, limit=limit, offset=offset)
    return EndpointResult(body={"results": await documents_of(call, rows)})


async def request(call: RestCall) -> EndpointResult:
    """Get one deletion request, with its receipt once it is verified."""
    return EndpointResult(body=(await documents_of(call, [await request_row(call)]))[0])


async def status(call: RestCall) -> EndpointResult:
    """List deletion requests that include captured events, newest first."""
    state = call.parameter(STATUS)
    limit, offset = call.parameter(LIMIT), call.parameter(OFFSET)
    await call.context.wait_for_heads(DELETIONS)
    ledger = await call.context.store.rows(
        call.context.reads.queries["deletion_status"],
        project=call.project.id,
        state=STATUSES[state],
        person=call.parameter(PERSON_UUID),
        limit=limit,
        offset=offset,
    )
    rows = [StatusRow._make(row) for row in ledger]
    total = rows[0].total if rows else 0
    results = [
        {
            "person_uuid": str(row.person),
            "created_at": iso(row.created_at),
            "status": "completed" if row.is_verified else "pending",
            "delete_verified_at": iso(row.updated_at) if row.is_verified else None,
        }
        for row in rows
    ]
    url = call.request.url
    following = (
        str(url.update_query(offset=offset + limit)) if offset + limit < total else None
    )
    previous = str(url.update_query(offset=max(0, offset - limit))) if offset else None
    return EndpointResult(
        body={
            "count": total,
            "next": following,
            "previous": previous,
            "results": results,
        }
    )


ROUTES = (
    Route(
        "DELETE",
        "/{id}",
        "person:write",
        delete,
        (DELETE_EVENTS, DELETE_RECORDINGS, KEEP_PERSON, DRY_RUN),
        status=204,
        errors=(412,),
        preview=DryRun,
        costly=with_any(DRY_RUN.name),
        headers=(
            ("Location", "The deletion request."),
            (
                STAYS,
                "The parts that stay, of `profile`, `events` and `recordings`. "
                "Absent when nothing stays.",
            ),
        ),
        name="delete_person",
    ),
    Route(
        "POST",
        "/{id}/delete_events",
        "person:write",
        delete_events,
        (DRY_RUN,),
        answers=(DeletionRequestBody, DryRun),
        errors=(412,),
        costly=with_any(DRY_RUN.name),
        name="delete_person_events",
    ),
    Route(
        "POST",
        "/{id}/delete_recordings",
        "person:write",
        delete_recordings,
        (DRY_RUN,),
        answers=(DeletionRequestBody, DryRun),
        errors=(412,),
        costly=with_any(DRY_RUN.name),
        name="delete_person_recordings",
    ),
)
COLLECTION_ROUTES = (
    Route(
        "GET",
        "/deletion_status",
        "person:read",
        status,
        (STATUS, PERSON_UUID, LIMIT, OFFSET),
        answers=DeletionStatus,
        costly=always,
        name="get_deletion_status",
    ),
    Route(
        "GET",
        "/deletion_requests",
        "person:read",
        requests,
        (LIMIT, OFFSET),
        answers=DeletionRequests,
        costly=always,
        name="list_deletion_requests",
    ),
    Route(
        "GET",
        "/deletion_requests/{request}",
        "person:read",
        request,
        answers=DeletionRequestBody,
        name="get_deletion_request",
    ),
)


async def _preview_of(call: RestCall, scope: Scope) -> EndpointResult:
    person = await person_of(call)
    check_if_match(call.request, person)
    return await preview(call, [person], scope)


async def _delete_of(call: RestCall, action: str, scope: Scope) -> EndpointResult:
    if call.parameter(DRY_RUN):
        return await _preview_of(call, scope)
    return await _request(call, keyed(call, await fragment_of(call), action), scope)


async def _request(call: RestCall, keyed_write: Keyed, scope: Scope) -> EndpointResult:
    """Make a deletion request for the person that holds the addressed fragment."""

    async def commands_of(request: UUID) -> tuple[list[Command], bool]:
        person = await holder_of(call, keyed_write.fragment)
        check_if_match(call.request, person)
        members = tuple(member.fragment for member in person.members)
        at = call.context.stamps.reserve(1)
        return [
            request_of(call, request, at, scope, person=person.uuid, members=members)
        ], True

    return await make_request(call, keyed_write, scope, commands_of)


def request_of(
    call: RestCall, request: UUID, at: int, scope: Scope, **fields: Any
) -> Request:
    """The command that makes a deletion request with the cut-off `at`."""
    return Request(
        id=call.context.mint(),
        project=call.project.id,
        at=at,
        actor=call.actor,
        request=request,
        scope=scope,
        **fields,
    )


async def make_request(
    call: RestCall,
    keyed_write: Keyed,
    scope: Scope,
    commands_of: Callable[[UUID], Awaitable[tuple[list[Command], bool]]],
) -> EndpointResult:
    """Make a deletion request with the commands that `commands_of` builds for its id, and answer
    with its row. `commands_of` also says whether they are complete; the answer is 202 if not. The
    ledger takes each id once."""
    request = _request_id(call, keyed_write)
    if keyed_write.key and (rows := await requests_in(call, request=request)):
        if any(row.scope != scope for row in rows):
            raise errors.key_reused()
        return EndpointResult(
            body=(await documents_of(call, rows))[0],
            headers=REPLAYED | location(call, request),
        )
    commands, whole = await commands_of(request)
    positions, visible = await append_and_wait(call, commands)
    if not visible or not whole:
        return EndpointResult(
            status=202, positions=positions, headers=location(call, request)
        )
    rows = await requests_in(call, request=request)
    return EndpointResult(
        body=(await documents_of(call, rows))[0],
        positions=positions,
        headers=location(call, request),
    )


def _request_id(call: RestCall, keyed_write: Keyed) -> UUID:
    """A new id, or the one derived from the Idempotency-Key."""
    return (
        uuid5(keyed_write.fragment, f"deletion {keyed_write.key}")
        if keyed_write.key
        else call.context.mint()
    )


async def requests_of(call: RestCall, fragments: list[UUID]) -> list[dict[str, Any]]:
    """The deletion requests that name any of these fragments in its present life, newest first."""
    await call.context.wait_for_heads(DELETIONS)
    return await documents_of(
        call, await requests_naming(call, fragments, former=False)
    )


async def request_row(call: RestCall) -> LedgerRow:
    """The ledger's row of the request that the path names, or NotFound."""
    try:
        request = UUID(call.request.parameters["request"])
    except ValueError:
        raise NotFound("Not found.") from None
    rows = await requests_in(call, request=request)
    if not rows:
        await call.context.wait_for_heads(DELETIONS)
        rows = await requests_in(call, request=request)
    for row in rows:
        return row
    raise NotFound("Not found.")


def _staying(scope: Scope) -> dict[str, str]:
    """The header that names the parts that a deletion leaves."""
    return {STAYS: ", ".join(scope.stays)} if scope.stays else {}
