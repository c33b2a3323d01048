"""POST bulk_delete: many persons by one call, and what is held of ids that nobody is. Never deletes
anything itself."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid5

from services.api.calls import Call
from services.api.deletions.dry_run import preview
from services.api.deletions.ledger import LedgerRow, requests_naming
from services.api.deletions.remains import covering, remains, without_profile
from services.api.deletions.schemas import Bulk, BulkDelete, DryRun
from services.api.http import errors
from services.api.http.guards.costly import given
from services.api.http.parameters import DRY_RUN
from services.api.http.routing import Answer, Route
from services.api.writes.idempotency import REPLAYED
from shared.domain.commands import Command, Delete, RequestDeletion, Scope
from shared.domain.errors import BadInput, NotFound
from shared.domain.ids import fragment_id, hash64
from shared.store.person import Person

_PERSON, _STRAY = "bulk", "bulk stray"
"""What the requests of a call with a key are named by: of persons, and of ids that nobody is."""


async def bulk_delete(call: Call) -> Answer:
    """Delete up to 1,000 persons by id or distinct id, each with its own deletion request."""
    body = call.read(BulkDelete)
    asked, fragments = await _named(call, body)
    sent = Scope(
        profile=not body.keep_person,
        events=body.delete_events,
        recordings=body.delete_recordings,
    )
    scope = covering(call, sent)
    text = call.request.headers.get("Idempotency-Key")
    key = hash64(f"{call.project.id}:bulk_delete:{text}") if text is not None else 0
    dry = call.asked(DRY_RUN)
    if (
        key
        and not dry
        and (before := await _bulk_before(call, list(fragments.values()), key))
    ):
        return _bulk_again(
            before,
            key,
            (sent, scope),
            [(one, fragments.get(str(one))) for one in asked],
        )
    found, nobody = await _persons_named(call, asked, fragments)
    named = {
        one: fragment
        for one in map(str, nobody)
        if (fragment := fragments.get(one)) is not None
    }
    strays = await remains(call, list(named.values()), scope)
    reached = set(strays)
    unmatched = [one for one in nobody if named.get(str(one)) not in reached]
    if dry:
        return await preview(call, found, scope, unmatched, strays)
    at = call.context.stamps.reserve(len(found) + len(strays))
    commands: list[Command] = []
    for person in found if scope != Scope() else ():
        common = _bulk_envelope(call, at + len(commands), person.uuid, key)
        members = tuple(member.fragment for member in person.members)
        if scope.profile:
            commands.append(Delete(**common, scope=scope, key=key, digest=key))
        else:
            commands.append(RequestDeletion(**common, scope=scope, members=members))
    for fragment in strays:
        common = _bulk_envelope(call, at + len(commands), fragment, key, _STRAY)
        commands.append(
            RequestDeletion(**common, scope=without_profile(scope), members=(fragment,))
        )
    positions = (await call.write(commands))[0] if commands else None
    requests = [
        str(one.request)
        for one in commands
        if isinstance(one, Delete | RequestDeletion)
    ]
    return Answer(
        status=202,
        positions=positions,
        body=_bulk_answer(scope, len(found), requests, unmatched),
    )


ROUTES: tuple[Route, ...] = ()
COLLECTION_ROUTES = (
    Route(
        "POST",
        "/bulk_delete",
        "person:write",
        bulk_delete,
        (DRY_RUN,),
        BulkDelete,
        Bulk,
        202,
        preview=DryRun,
        costly=given(DRY_RUN.name),
    ),
)


async def _persons_named(
    call: Call, asked: list[Any], fragments: dict[str, UUID]
) -> tuple[list[Person], list[Any]]:
    """(the persons that hold these fragments, each once; what was asked for and is nobody)."""
    held = (
        await call.context.reads.by_fragments(call.project.id, list(fragments.values()))
        if fragments
        else []
    )
    holders = dict(zip(fragments, held, strict=True))
    found = {person.uuid: person for person in held if person is not None}
    return list(found.values()), [one for one in asked if holders.get(str(one)) is None]


async def _named(call: Call, body: BulkDelete) -> tuple[list[Any], dict[str, UUID]]:
    """(what was asked for, the fragment of each that can be one), of `ids` or of `distinct_ids`,
    never both."""
    if (body.ids is None) == (body.distinct_ids is None):
        raise BadInput("Give either ids or distinct_ids.", attr="ids")
    if body.distinct_ids is not None:
        return body.distinct_ids, {
            one: fragment_id(call.project.id, one) for one in body.distinct_ids
        }
    asked = body.ids or []
    texts = list(dict.fromkeys(map(str, asked)))
    found = await asyncio.gather(
        *(call.fragment(one or "-") for one in texts), return_exceptions=True
    )
    for one, fragment in zip(texts, found, strict=True):
        if isinstance(fragment, BadInput):
            raise BadInput(f"Not an id: {one[:100]}", attr="ids")
        if isinstance(fragment, BaseException) and not isinstance(fragment, NotFound):
            raise fragment
    return asked, {
        one: fragment
        for one, fragment in zip(texts, found, strict=True)
        if isinstance(fragment, UUID)
    }


def _bulk_envelope(
    call: Call, at: int, person: UUID, key: int, kind: str = _PERSON
) -> dict[str, Any]:
    """What each command of a bulk_delete says; with an Idempotency-Key its request's id is made of
    it."""
    request = uuid5(person, f"{kind} {key}") if key else call.context.mint()
    return {
        "id": call.context.mint(),
        "project": call.project.id,
        "at": at,
        "actor": call.actor,
        "request": request,
        "person": person,
    }


def _bulk_answer(
    scope: Scope, found: int, requests: list[str], unmatched: list[Any]
) -> dict[str, Any]:
    deleted = found if scope.profile else 0
    return {
        "persons_found": found,
        "persons_deleted": deleted,
        "events_queued_for_deletion": bool(requests and scope.events),
        "recordings_queued_for_deletion": bool(requests and scope.recordings),
        "deletion_errors": [],
        "persons_queued_for_deletion": deleted,
        "stays": scope.stays,
        "unmatched": unmatched,
        "deletion_request": requests[0] if requests else None,
        "deletion_requests": requests,
    }


async def _bulk_before(call: Call, fragments: list[UUID], key: int) -> list[LedgerRow]:
    """The requests that an earlier bulk_delete with this key made for these fragments: their ids
    are made of it."""
    await call.until_recorded()
    rows = await requests_naming(call, fragments, former=True)
    return [
        row
        for row in reversed(rows)
        if _is_made_of(row, _PERSON, key) or _is_made_of(row, _STRAY, key)
    ]


def _is_made_of(row: LedgerRow, kind: str, key: int) -> bool:
    """Whether a request's id was made of this key."""
    return row.request == uuid5(row.person, f"{kind} {key}")


def _bulk_again(
    before: list[LedgerRow],
    key: int,
    scopes: tuple[Scope, Scope],
    asked: list[tuple[Any, UUID | None]],
) -> Answer:
    """What the first request with this key was told. `scopes`: what the repeat asks for, and what
    that covers now."""
    persons = [row for row in before if _is_made_of(row, _PERSON, key)]
    strays = [row for row in before if row not in persons]
    covered = {row.scope for row in persons}
    alone = {without_profile(row.scope) for row in strays}
    if not covered <= {*scopes} or not alone <= {
        without_profile(one) for one in scopes
    }:
        raise errors.key_reused()
    scope = next(iter(covered), scopes[1])
    reached = {member for row in before for member in (row.person, *row.members)}
    unmatched = [one for one, fragment in asked if fragment not in reached]
    told = _bulk_answer(
        scope, len(persons), [str(row.request) for row in before], unmatched
    )
    return Answer(status=202, body=told, headers=REPLAYED)
