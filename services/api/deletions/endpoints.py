"""Deletion requests over REST: make them and list them. Never deletes anything itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import orjson

from services.api.calls import Call
from services.api.deletions.dry_run import preview
from services.api.deletions.ledger import ANY, LedgerRow, requests_in, requests_naming
from services.api.deletions.remains import covering
from services.api.deletions.schemas import (
    DeletionRequest,
    DeletionRequests,
    DeletionStatus,
    DryRun,
)
from services.api.http import errors
from services.api.http.guards.costly import always, given
from services.api.http.parameters import DRY_RUN, LIMIT, OFFSET, Choice, Flag, Uuid
from services.api.http.routing import Answer, Route
from services.api.writes.idempotency import (
    REPLAYED,
    Keyed,
    carry_out,
    earlier,
    envelope,
    keyed,
)
from shared.domain.commands import Command, Delete, RequestDeletion, Scope
from shared.domain.errors import NotFound
from shared.domain.ids import IDENTITY
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


async def delete(call: Call) -> Answer:
    """Delete a person. Reads no longer return it; its rows are erased in the next deletion
    window."""
    events, recordings = call.asked(DELETE_EVENTS), call.asked(DELETE_RECORDINGS)
    keep = call.asked(KEEP_PERSON)
    scope = covering(
        call, Scope(profile=not keep, events=events, recordings=recordings)
    )
    if call.asked(DRY_RUN):
        return await _preview_of(call, scope)
    sent = keyed(call, await call.fragment(), "delete", events, recordings, keep)
    if keep and not events and not recordings:
        await call.holder(sent.fragment)
        return Answer(status=204)
    if keep:
        answer = await _request(call, sent, scope)
        answer.headers |= _staying(scope)
        return Answer(
            status=answer.status if answer.status == 202 else 204,
            positions=answer.positions,
            headers=answer.headers,
        )
    request = _request_id(call, sent)
    outcome = await earlier(call, IDENTITY, sent)
    if outcome is None:
        person = await call.holder(sent.fragment)
        call.tags(person)
        command = Delete(
            **envelope(call, sent),
            person=sent.fragment,
            request=request,
            scope=scope,
        )
        outcome = await carry_out(
            call, sent, [command], [person.uuid] if sent.key else []
        )
    return Answer(
        status=204 if outcome.visible else 202,
        positions=outcome.positions,
        headers=outcome.headers | location(call, request) | _staying(scope),
    )


async def delete_events(call: Call) -> Answer:
    """Delete the captured events of a person, and keep the person."""
    return await _delete_of(call, "delete_events", Scope(events=True))


async def delete_recordings(call: Call) -> Answer:
    """Delete the session recordings of a person, and keep the person."""
    return await _delete_of(call, "delete_recordings", Scope(recordings=True))


async def requests(call: Call) -> Answer:
    """List all deletion requests of the project, newest first."""
    limit, offset = call.asked(LIMIT), call.asked(OFFSET)
    await call.until_recorded()
    rows = await requests_in(call, limit=limit, offset=offset)
    return Answer(body={"results": await _shown(call, rows)})


async def request(call: Call) -> Answer:
    """Get one deletion request, with its receipt once it is verified."""
    return Answer(body=(await _shown(call, [await found(call)]))[0])


async def status(call: Call) -> Answer:
    """List deletion requests that include captured events, newest first."""
    asked = call.asked(STATUS)
    limit, offset = call.asked(LIMIT), call.asked(OFFSET)
    await call.until_recorded()
    ledger = await call.context.store.rows(
        call.context.reads.queries["deletion_status"],
        project=call.project.id,
        state=STATUSES[asked],
        person=call.asked(PERSON_UUID),
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
    return Answer(
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
        costly=given(DRY_RUN.name),
        headers=(
            ("Location", "The deletion request."),
            (
                STAYS,
                "The parts that stay, of `profile`, `events` and `recordings`. Absent when nothing stays.",
            ),
        ),
    ),
    Route(
        "POST",
        "/{id}/delete_events",
        "person:write",
        delete_events,
        (DRY_RUN,),
        answers=(DeletionRequest, DryRun),
        errors=(412,),
        costly=given(DRY_RUN.name),
    ),
    Route(
        "POST",
        "/{id}/delete_recordings",
        "person:write",
        delete_recordings,
        (DRY_RUN,),
        answers=(DeletionRequest, DryRun),
        errors=(412,),
        costly=given(DRY_RUN.name),
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
    ),
    Route(
        "GET",
        "/deletion_requests",
        "person:read",
        requests,
        (LIMIT, OFFSET),
        answers=DeletionRequests,
        costly=always,
    ),
    Route(
        "GET",
        "/deletion_requests/{request}",
        "person:read",
        request,
        answers=DeletionRequest,
    ),
)


async def _preview_of(call: Call, scope: Scope) -> Answer:
    person = await call.person()
    call.tags(person)
    return await preview(call, [person], scope)


async def _delete_of(call: Call, action: str, scope: Scope) -> Answer:
    if call.asked(DRY_RUN):
        return await _preview_of(call, scope)
    return await _request(call, keyed(call, await call.fragment(), action), scope)


async def _request(call: Call, sent: Keyed, scope: Scope) -> Answer:
    """Make a deletion request for the person that holds the addressed fragment."""

    async def addressed(request: UUID) -> tuple[list[Command], bool]:
        person = await call.holder(sent.fragment)
        call.tags(person)
        members = tuple(member.fragment for member in person.members)
        at = call.context.stamps.reserve(1)
        return [
            request_of(call, request, at, scope, person=person.uuid, members=members)
        ], True

    return await ask(call, sent, scope, addressed)


def request_of(
    call: Call, request: UUID, at: int, scope: Scope, **whom: Any
) -> RequestDeletion:
    """The command that makes a deletion request with the cut-off `at`."""
    return RequestDeletion(
        id=call.context.mint(),
        project=call.project.id,
        at=at,
        actor=call.actor,
        request=request,
        scope=scope,
        **whom,
    )


async def ask(
    call: Call,
    sent: Keyed,
    scope: Scope,
    commands_of: Callable[[UUID], Awaitable[tuple[list[Command], bool]]],
) -> Answer:
    """Make a deletion request, by the commands that its id is turned into; with them stands whether
    they are all that there is to do. The ledger takes each id once."""
    request = _request_id(call, sent)
    if sent.key and (rows := await requests_in(call, request=request)):
        if any(row.scope != scope for row in rows):
            raise errors.key_reused()
        return Answer(
            body=(await _shown(call, rows))[0],
            headers=REPLAYED | location(call, request),
        )
    commands, whole = await commands_of(request)
    positions, visible = await call.write(commands)
    if not visible or not whole:
        return Answer(status=202, positions=positions, headers=location(call, request))
    rows = await requests_in(call, request=request)
    return Answer(
        body=(await _shown(call, rows))[0],
        positions=positions,
        headers=location(call, request),
    )


def _request_id(call: Call, sent: Keyed) -> UUID:
    """A new id, or the one that belongs to the Idempotency-Key."""
    return (
        uuid5(sent.fragment, f"deletion {sent.key}")
        if sent.key
        else call.context.mint()
    )


async def requests_of(call: Call, fragments: list[UUID]) -> list[dict[str, Any]]:
    """The deletion requests that name any of these fragments in its present life, newest first."""
    await call.until_recorded()
    return await _shown(call, await requests_naming(call, fragments, former=False))


async def found(call: Call) -> LedgerRow:
    """The ledger's row of the request that the path names, or NotFound."""
    try:
        request = UUID(call.request.parameters["request"])
    except ValueError:
        raise NotFound("Not found.") from None
    rows = await requests_in(call, request=request)
    if not rows:
        await call.until_recorded()
        rows = await requests_in(call, request=request)
    for row in rows:
        return row
    raise NotFound("Not found.")


async def _shown(call: Call, rows: list[LedgerRow]) -> list[dict[str, Any]]:
    """Requests as readers see them, each with its receipt once there is one."""
    query = call.context.reads.queries["receipts"]
    verified = [row.request for row in rows if row.state == "verified"]
    held: dict[UUID, str] = {}
    if verified:
        held = dict(
            await call.context.store.rows(
                query, project=call.project.id, requests=verified
            )
        )
    receipts = {request: orjson.loads(body) for request, body in held.items()}
    return [_row(row) | {"receipt": receipts.get(row.request)} for row in rows]


def _row(row: LedgerRow) -> dict[str, Any]:
    document, scope = row.document, row.scope
    return {
        "id": str(row.request),
        "state": row.state,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
        "person_uuid": str(row.person) if row.person != ANY else None,
        "scope": {
            "profile": scope.profile,
            "events": scope.events,
            "recordings": scope.recordings,
        }
        | ({"purge": row.purge} if row.purge else {}),
        "stays": [] if row.purge else scope.stays,
        "phases": document.get("phases", {}),
        "partition": document.get("partition"),
        "window": document.get("window"),
        "cancel_refused": document.get("cancels", {}).get("refusal") or None,
    }


def _staying(scope: Scope) -> dict[str, str]:
    """The header that says what a deletion leaves."""
    return {STAYS: ", ".join(scope.stays)} if scope.stays else {}


def location(call: Call, request: UUID) -> dict[str, str]:
    """Where the request is shown."""
    return {
        "Location": f"/api/environments/{call.project.id}/persons/deletion_requests/{request}/"
    }
