"""POST bulk_delete: many persons in one call, and the remains of ids without a person."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any
from uuid import UUID, uuid5

from services.api.calls import RestCall
from services.api.deletions.dry_run import preview
from services.api.deletions.ledger import LedgerRow, requests_naming
from services.api.deletions.remains import covering, remains, without_profile
from services.api.deletions.schemas import Bulk, BulkDelete, DryRun
from services.api.http import errors
from services.api.http.guards.costly import with_any
from services.api.http.parameters import DRY_RUN
from services.api.http.routing import EndpointResult, Route
from services.api.reads.lookup import fragment_of, fragments_named
from services.api.writes.idempotency import REPLAYED
from services.api.writes.submission import append_and_wait
from shared.domain.commands import Delete, RequestDeletion, Scope
from shared.domain.errors import BadInput, NotFound
from shared.domain.ids import DELETIONS, hash64
from shared.store.person import Person

Fragments = Mapping[str, Sequence[UUID]]
"""By identifier, the fragments that it means; none for one that is nobody's."""

_PERSON, _STRAY = "bulk", "bulk stray"
"""What the requests of a call with a key are named by: of persons, and of ids that nobody is."""


async def bulk_delete(call: RestCall) -> EndpointResult:
    """Delete up to 1,000 persons by id or distinct id, each with its own deletion request."""
    body = call.read(BulkDelete)
    identifiers, fragments = await _fragments_of(call, body)
    request_scope = Scope(
        profile=not body.keep_person,
        events=body.delete_events,
        recordings=body.delete_recordings,
    )
    scope = covering(call, request_scope)
    text = call.request.headers.get("Idempotency-Key")
    key = hash64(f"{call.project.id}:bulk_delete:{text}") if text is not None else 0
    dry = call.parameter(DRY_RUN)
    if (
        key
        and not dry
        and (rows := await _bulk_requests(call, _all_of(fragments), key))
    ):
        return _bulk_replay(
            rows,
            key,
            (request_scope, scope),
            [
                (identifier, fragments.get(str(identifier), ()))
                for identifier in identifiers
            ],
        )
    persons, unowned = await _persons_of(call, fragments)
    strays = await remains(call, unowned, scope)
    matchless = set(unowned).difference(strays)
    unmatched = [
        identifier
        for identifier in identifiers
        if matchless.issuperset(fragments.get(str(identifier), ()))
    ]
    if dry:
        return await preview(call, persons, scope, unmatched, strays)
    commands = _commands(call, scope, persons, strays, key)
    positions, visible = (
        await append_and_wait(call, commands) if commands else (None, True)
    )
    requests = [str(command.request) for command in commands]
    return EndpointResult(
        status=202,
        positions=positions,
        body=_bulk_answer(scope, len(persons), requests, unmatched, visible=visible),
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
        costly=with_any(DRY_RUN.name),
        name="bulk_delete_persons",
    ),
)


async def _persons_of(
    call: RestCall, fragments: Fragments
) -> tuple[list[Person], list[UUID]]:
    """(the persons that hold these fragments, each once; the fragments without a person)."""
    every = _all_of(fragments)
    holders = (
        await call.context.reads.by_fragments(call.project.id, every) if every else []
    )
    holdings = list(zip(every, holders, strict=True))
    persons = {person.uuid: person for _, person in holdings if person is not None}
    return list(persons.values()), [
        fragment for fragment, person in holdings if person is None
    ]


def _all_of(fragments: Fragments) -> list[UUID]:
    """All fragments that the identifiers mean, each once."""
    return list(dict.fromkeys(chain.from_iterable(fragments.values())))


async def _fragments_of(
    call: RestCall, body: BulkDelete
) -> tuple[list[Any], Fragments]:
    """(the identifiers of the body, the fragments of each that is an id), of `ids` or of
    `distinct_ids`, never both. A distinct id means all that may be stored under it: what is to be
    erased is erased."""
    if (body.ids is None) == (body.distinct_ids is None):
        raise BadInput("Give either ids or distinct_ids.", attr="ids")
    if body.distinct_ids is not None:
        return body.distinct_ids, {
            identifier: fragments_named(call.project.id, identifier)
            for identifier in body.distinct_ids
        }
    identifiers = body.ids or []
    texts = list(dict.fromkeys(map(str, identifiers)))
    outcomes = await asyncio.gather(
        *(fragment_of(call, identifier or "-") for identifier in texts),
        return_exceptions=True,
    )
    for identifier, fragment in zip(texts, outcomes, strict=True):
        if isinstance(fragment, BadInput):
            raise BadInput(f"Not an id: {identifier[:100]}", attr="ids")
        if isinstance(fragment, BaseException) and not isinstance(fragment, NotFound):
            raise fragment
    return identifiers, {
        identifier: (fragment,)
        for identifier, fragment in zip(texts, outcomes, strict=True)
        if isinstance(fragment, UUID)
    }


def _commands(
    call: RestCall, scope: Scope, persons: list[Person], strays: list[UUID], key: int
) -> list[Delete | RequestDeletion]:
    """One command for each person, and one for each fragment without a person of which something
    remains."""
    at = call.context.stamps.reserve(len(persons) + len(strays))
    commands: list[Delete | RequestDeletion] = []
    for person in persons if scope != Scope() else ():
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
    return commands


def _bulk_envelope(
    call: RestCall, at: int, person: UUID, key: int, kind: str = _PERSON
) -> dict[str, Any]:
    """Fields that all commands of a bulk_delete have. With an Idempotency-Key the request's id is
    derived from it."""
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
    scope: Scope,
    persons: int,
    requests: list[str],
    unmatched: list[Any],
    *,
    visible: bool = True,
) -> dict[str, Any]:
    """The answer. Each person counts once: as deleted, or as queued while reads still return
    it."""
    deleted = persons if scope.profile else 0
    return {
        "persons_found": persons,
        "persons_deleted": deleted if visible else 0,
        "events_queued_for_deletion": bool(requests and scope.events),
        "recordings_queued_for_deletion": bool(requests and scope.recordings),
        "deletion_errors": [],
        "persons_queued_for_deletion": 0 if visible else deleted,
        "stays": scope.stays,
        "unmatched": unmatched,
        "deletion_request": requests[0] if requests else None,
        "deletion_requests": requests,
    }


async def _bulk_requests(
    call: RestCall, fragments: list[UUID], key: int
) -> list[LedgerRow]:
    """The requests that an earlier bulk_delete with this key made for these fragments, by their
    derived ids."""
    await call.context.wait_for_heads(DELETIONS)
    rows = await requests_naming(call, fragments, former=True)
    return [
        row
        for row in reversed(rows)
        if _is_made_of(row, _PERSON, key) or _is_made_of(row, _STRAY, key)
    ]


def _is_made_of(row: LedgerRow, kind: str, key: int) -> bool:
    """Whether a request's id was derived from this key."""
    return row.request == uuid5(row.person, f"{kind} {key}")


def _bulk_replay(
    rows: list[LedgerRow],
    key: int,
    scopes: tuple[Scope, Scope],
    identifiers: list[tuple[Any, Sequence[UUID]]],
) -> EndpointResult:
    """The answer to the first request with this key. `scopes`: the repeat's own, and what that
    covers now."""
    persons = [row for row in rows if _is_made_of(row, _PERSON, key)]
    strays = [row for row in rows if row not in persons]
    covered = {row.scope for row in persons}
    alone = {without_profile(row.scope) for row in strays}
    if not covered <= {*scopes} or not alone <= {
        without_profile(allowed) for allowed in scopes
    }:
        raise errors.key_reused()
    scope = next(iter(covered), scopes[1])
    fragments = {member for row in rows for member in (row.person, *row.members)}
    unmatched = [
        identifier for identifier, named in identifiers if fragments.isdisjoint(named)
    ]
    body = _bulk_answer(
        scope, len(persons), [str(row.request) for row in rows], unmatched
    )
    return EndpointResult(status=202, body=body, headers=REPLAYED)
