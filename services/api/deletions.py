"""Deletion requests over REST: make them and list them. Never deletes anything itself."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid5

import orjson

from services.api import errors
from services.api.bodies import Bulk, BulkDelete, DeletionRequest, DeletionRequests, DeletionStatus, DryRun
from services.api.calls import Answer, Call, Route
from services.api.dry_run import preview
from services.api.outcomes import REPLAYED, Keyed, carry_out, earlier, envelope, keyed
from services.api.parameters import DRY_RUN, LIMIT, OFFSET, Choice, Flag, Uuid
from shared.domain.commands import Command, Delete, Request, Scope
from shared.domain.errors import BadInput, NotFound
from shared.domain.ids import DELETIONS, IDENTITY, fragment_id, hash64
from shared.store.person import Person, iso

_ANY = UUID(int=0)

STATUSES = {"pending": 1, "completed": 2, "all": 0}
STATUS = Choice("status", "Only requests that are not done yet, or done.", absent="all", choices=tuple(STATUSES))
PERSON_UUID = Uuid("person_uuid", "Only requests for this person.")
DELETE_EVENTS = Flag("delete_events", "The captured events as well.")
DELETE_RECORDINGS = Flag("delete_recordings", "The recordings as well.")
KEEP_PERSON = Flag("keep_person", "Only what the other flags name.")


async def delete(call: Call) -> Answer:
    """DELETE :id: gone when this answers, the erasure is asked for. What is sent afterwards is a new life."""
    events, recordings = call.asked(DELETE_EVENTS), call.asked(DELETE_RECORDINGS)
    keep = call.asked(KEEP_PERSON)
    if call.asked(DRY_RUN):
        scope = Scope(profile=not keep, events=events, recordings=recordings)
        return await _preview_of(call, scope)
    sent = keyed(call, await call.fragment(), "delete", events, recordings, keep)
    if keep and not events and not recordings:
        await call.holder(sent.fragment)
        return Answer(status=204)
    if keep:
        answer = await _request(call, sent, Scope(events=events, recordings=recordings))
        return Answer(
            status=answer.status if answer.status == 202 else 204, positions=answer.positions, headers=answer.headers
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
            scope=Scope(profile=True, events=events, recordings=recordings),
        )
        outcome = await carry_out(call, sent, [command], [person.uuid] if sent.key else [])
    return Answer(
        status=204 if outcome.visible else 202,
        positions=outcome.positions,
        headers=outcome.headers | location(call, request),
    )


async def bulk_delete(call: Call) -> Answer:
    """POST bulk_delete: the persons of up to 1,000 ids or distinct ids; each makes a deletion request of its own."""
    body = await call.read(BulkDelete)
    asked, fragments = await _named(call, body)
    scope = Scope(profile=not body.keep_person, events=body.delete_events, recordings=body.delete_recordings)
    if call.asked(DRY_RUN):
        found, unmatched = await _persons_named(call, asked, fragments)
        return await preview(call, found, scope, unmatched)
    text = call.request.headers.get("Idempotency-Key")
    key = hash64(f"{call.project.id}:bulk_delete:{text}") if text is not None else 0
    if key and (before := await _bulk_before(call, list(fragments.values()), key)):
        if any((row[5], row[6], row[7]) != (scope.profile, scope.events, scope.recordings) for row in before):
            raise errors.key_reused()
        covered = {member for row in before for member in (row[4], *row[9])}
        unmatched = [one for one in asked if fragments.get(str(one)) not in covered]
        told = _bulk_answer(scope, len(before), [str(row[0]) for row in before], unmatched)
        return Answer(status=202, body=told, headers=REPLAYED)
    found, unmatched = await _persons_named(call, asked, fragments)
    nothing = not (scope.profile or scope.events or scope.recordings)
    at = call.context.stamps.reserve(len(found))
    commands: list[Command] = []
    requests: list[str] = []
    for index, person in enumerate([] if nothing else found):
        request = uuid5(person.uuid, f"bulk {key}") if key else call.context.mint()
        requests.append(str(request))
        common: dict[str, Any] = {
            "id": call.context.mint(), "project": call.project.id, "at": at + index, "actor": call.actor,
            "request": request, "person": person.uuid, "scope": scope,
        }  # fmt: skip
        members = tuple(member.fragment for member in person.members)
        if scope.profile:
            commands.append(Delete(**common, key=key, digest=key))
        else:
            commands.append(Request(**common, members=members))
    positions = (await call.write(commands))[0] if commands else None
    return Answer(status=202, positions=positions, body=_bulk_answer(scope, len(found), requests, unmatched))


async def delete_events(call: Call) -> Answer:
    """POST :id/delete_events: the captured events go, the person stays."""
    return await _delete_of(call, "delete_events", Scope(events=True))


async def delete_recordings(call: Call) -> Answer:
    """POST :id/delete_recordings: the recordings go, the person stays."""
    return await _delete_of(call, "delete_recordings", Scope(recordings=True))


async def requests(call: Call) -> Answer:
    """GET deletion_requests: all of this project, newest first."""
    limit, offset = call.asked(LIMIT), call.asked(OFFSET)
    await recorded(call)
    rows = await _rows(call, limit=limit, offset=offset)
    return Answer(body={"results": await _shown(call, rows)})


async def request(call: Call) -> Answer:
    """GET deletion_requests/:id: one of them."""
    return Answer(body=(await _shown(call, [await found(call)]))[0])


async def status(call: Call) -> Answer:
    """GET deletion_status: the requests that include events, as the original lists them."""
    asked = call.asked(STATUS)
    limit, offset = call.asked(LIMIT), call.asked(OFFSET)
    await recorded(call)
    rows = await call.context.store.rows(
        call.context.reads.queries["deletion_status"],
        project=call.project.id,
        state=STATUSES[asked],
        person=call.asked(PERSON_UUID),
        limit=limit,
        offset=offset,
    )
    total = rows[0][4] if rows else 0
    results = [
        {
            "person_uuid": str(row[0]),
            "created_at": iso(row[1]),
            "status": "completed" if row[2] == "verified" else "pending",
            "delete_verified_at": iso(row[3]) if row[2] == "verified" else None,
        }
        for row in rows
    ]
    url = call.request.url
    following = str(url.update_query(offset=offset + limit)) if offset + limit < total else None
    previous = str(url.update_query(offset=max(0, offset - limit))) if offset else None
    return Answer(body={"count": total, "next": following, "previous": previous, "results": results})


ROUTES = (
    Route(
        "DELETE", "/{id}", "person:write", delete, (DELETE_EVENTS, DELETE_RECORDINGS, KEEP_PERSON, DRY_RUN), status=204,
        errors=(412,), preview=DryRun,
    ),
    Route(
        "POST", "/{id}/delete_events", "person:write", delete_events, (DRY_RUN,), answers=(DeletionRequest, DryRun),
        errors=(412,),
    ),
    Route(
        "POST", "/{id}/delete_recordings", "person:write", delete_recordings, (DRY_RUN,),
        answers=(DeletionRequest, DryRun), errors=(412,),
    ),
)  # fmt: skip
COLLECTION_ROUTES = (
    Route("POST", "/bulk_delete", "person:write", bulk_delete, (DRY_RUN,), BulkDelete, Bulk, 202, preview=DryRun),
    Route(
        "GET", "/deletion_status", "person:read", status, (STATUS, PERSON_UUID, LIMIT, OFFSET), answers=DeletionStatus
    ),
    Route("GET", "/deletion_requests", "person:read", requests, (LIMIT, OFFSET), answers=DeletionRequests),
    Route("GET", "/deletion_requests/{request}", "person:read", request, answers=DeletionRequest),
)


async def _preview_of(call: Call, scope: Scope) -> Answer:
    person = await call.person()
    call.tags(person)
    return await preview(call, [person], scope)


async def _delete_of(call: Call, action: str, scope: Scope) -> Answer:
    if call.asked(DRY_RUN):
        return await _preview_of(call, scope)
    return await _request(call, keyed(call, await call.fragment(), action), scope)


async def _persons_named(call: Call, asked: list[Any], fragments: dict[str, UUID]) -> tuple[list[Person], list[Any]]:
    """(the persons that hold these fragments, each once; what was asked for and is nobody)."""
    held = await call.context.reads.by_fragments(call.project.id, list(fragments.values())) if fragments else []
    holders = dict(zip(fragments, held, strict=True))
    found = {person.uuid: person for person in held if person is not None}
    return list(found.values()), [one for one in asked if holders.get(str(one)) is None]


async def _named(call: Call, body: BulkDelete) -> tuple[list[Any], dict[str, UUID]]:
    """(what was asked for, the fragment of each that can be one), of `ids` or of `distinct_ids`, never both."""
    if (body.ids is None) == (body.distinct_ids is None):
        raise BadInput("Either ids or distinct_ids.", attr="ids")
    if body.distinct_ids is not None:
        return body.distinct_ids, {one: fragment_id(call.project.id, one) for one in body.distinct_ids}
    asked = body.ids or []
    texts = list(dict.fromkeys(map(str, asked)))
    found = await asyncio.gather(*(call.fragment(one or "-") for one in texts), return_exceptions=True)
    for one, fragment in zip(texts, found, strict=True):
        if isinstance(fragment, BadInput):
            raise BadInput(f"Not an id: {one[:100]}", attr="ids")
        if isinstance(fragment, BaseException) and not isinstance(fragment, NotFound):
            raise fragment
    return asked, {one: fragment for one, fragment in zip(texts, found, strict=True) if isinstance(fragment, UUID)}


def _bulk_answer(scope: Scope, found: int, requests: list[str], unmatched: list[Any]) -> dict[str, Any]:
    deleted = found if scope.profile else 0
    return {
        "persons_found": found,
        "persons_deleted": deleted,
        "events_queued_for_deletion": bool(requests and scope.events),
        "recordings_queued_for_deletion": bool(requests and scope.recordings),
        "deletion_errors": [],
        "persons_queued_for_deletion": deleted,
        "unmatched": unmatched,
        "deletion_request": requests[0] if requests else None,
        "deletion_requests": requests,
    }


async def _bulk_before(call: Call, fragments: list[UUID], key: int) -> list[tuple[Any, ...]]:
    """The requests that an earlier bulk_delete with this key made for these fragments: their ids are made of it."""
    await recorded(call)
    query = call.context.reads.queries["requests_of"]
    rows = await call.context.store.rows(query, project=call.project.id, fragments=fragments)
    return [row for row in reversed(rows) if row[0] == uuid5(row[4], f"bulk {key}")]


async def _request(call: Call, sent: Keyed, scope: Scope) -> Answer:
    """Make a deletion request for the person that holds the addressed fragment. The ledger takes each id once."""
    request = _request_id(call, sent)
    if sent.key and (rows := await _rows(call, request=request)):
        if tuple(rows[0][5:8]) != (scope.profile, scope.events, scope.recordings):
            raise errors.key_reused()
        return Answer(body=(await _shown(call, rows))[0], headers=REPLAYED | location(call, request))
    person = await call.holder(sent.fragment)
    call.tags(person)
    command = Request(
        id=call.context.mint(),
        project=call.project.id,
        at=call.context.stamps.reserve(1),
        actor=call.actor,
        request=request,
        person=person.uuid,
        members=tuple(member.fragment for member in person.members),
        scope=scope,
    )
    positions, visible = await call.write([command])
    if not visible:
        return Answer(status=202, positions=positions, headers=location(call, request))
    rows = await _rows(call, request=request)
    return Answer(body=(await _shown(call, rows))[0], positions=positions, headers=location(call, request))


def _request_id(call: Call, sent: Keyed) -> UUID:
    """A new id, or the one that belongs to the Idempotency-Key."""
    return uuid5(sent.fragment, f"deletion {sent.key}") if sent.key else call.context.mint()


async def requests_of(call: Call, fragments: list[UUID]) -> list[dict[str, Any]]:
    """The deletion requests that name any of these fragments, newest first."""
    await recorded(call)
    query = call.context.reads.queries["requests_of"]
    rows = await call.context.store.rows(query, project=call.project.id, fragments=fragments)
    return await _shown(call, rows)


async def recorded(call: Call) -> None:
    """Wait until the ledger has every request that was made: the deleter writes it, some tens of milliseconds later."""
    heads = await call.context.log.heads(DELETIONS)
    await call.context.watermarks.wait([head for head in heads if head.offset >= 0])


async def found(call: Call) -> tuple[Any, ...]:
    """The ledger's row of the request that the path names, or NotFound."""
    try:
        request = UUID(call.request.match_info["request"])
    except ValueError:
        raise NotFound("Not found.") from None
    rows = await _rows(call, request=request)
    if not rows:
        await recorded(call)
        rows = await _rows(call, request=request)
    if not rows:
        raise NotFound("Not found.")
    return rows[0]


async def _rows(call: Call, *, request: UUID = _ANY, limit: int = 1, offset: int = 0) -> list[tuple[Any, ...]]:
    return await call.context.store.rows(
        call.context.reads.queries["deletion_requests"],
        project=call.project.id,
        request=request,
        limit=limit,
        offset=offset,
    )


async def _shown(call: Call, rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Requests as readers see them, each with its receipt once there is one."""
    query = call.context.reads.queries["receipts"]
    verified = [row[0] for row in rows if row[1] == "verified"]
    held: dict[UUID, str] = {}
    if verified:
        held = dict(await call.context.store.rows(query, project=call.project.id, requests=verified))
    return [_row(row) | {"receipt": orjson.loads(held[row[0]]) if row[0] in held else None} for row in rows]


def _row(row: tuple[Any, ...]) -> dict[str, Any]:
    document = orjson.loads(row[8]) if row[8] else {}
    return {
        "id": str(row[0]),
        "state": row[1],
        "created_at": iso(row[2]),
        "updated_at": iso(row[3]),
        "person_uuid": str(row[4]),
        "scope": {"profile": bool(row[5]), "events": bool(row[6]), "recordings": bool(row[7])},
        "phases": document.get("phases", {}),
        "partition": document.get("partition"),
        "window": document.get("window"),
        "cancel_refused": document.get("cancels", {}).get("refusal") or None,
    }


def location(call: Call, request: UUID) -> dict[str, str]:
    """Where the request is shown."""
    return {"Location": f"/api/environments/{call.project.id}/persons/deletion_requests/{request}/"}
