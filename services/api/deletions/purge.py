"""Purges over REST: the values of one property are gone from every read at once, and from the disk
in the next window.

A command to each fragment makes its tombstone; a deletion request has the rows erased.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any
from uuid import UUID

from services.api.calls import RestCall
from services.api.deletions.endpoints import make_request, request_of
from services.api.deletions.schemas import DeletionRequestBody, DryRun, PurgeProperty
from services.api.http.guards.costly import always, with_any
from services.api.http.parameters import DRY_RUN
from services.api.http.routing import EndpointResult, Route
from services.api.reads.lookup import fragment_of, holder_of, person_of
from services.api.writes.idempotency import Keyed, keyed
from services.api.writes.preconditions import check_if_match
from shared.domain.commands import Command, Purge, Scope
from shared.domain.errors import Transient
from shared.domain.ids import COMMANDS
from shared.domain.person.lifted import copies
from shared.store.person import Person
from shared.store.purging import NOBODY, PURGED, showing, unpurged
from shared.store.search import path_of
from shared.store.targets import bytes_of

AT_ONCE = 1_000
"""Distinct ids of a project that a call purges itself, so that its answer means gone; the deleter
does the rest."""

EVERYTHING = "all"
"""The partition of a table that is not divided into months."""


async def of_person(call: RestCall) -> EndpointResult:
    """Erase the values of a property from one person, past values and captured events included."""
    key = call.read(PurgeProperty).key
    if call.parameter(DRY_RUN):
        person = await person_of(call)
        check_if_match(call.request, person)
        return await _preview(call, key, person)
    keyed_write = keyed(call, await fragment_of(call), "purge_property", key)
    return await make_request(
        call, keyed_write, Scope(purge=key), partial(_of_person, call, keyed_write, key)
    )


async def of_project(call: RestCall) -> EndpointResult:
    """Erase the values of a property from all persons, past values included."""
    key = call.read(PurgeProperty).key
    if call.parameter(DRY_RUN):
        return await _preview(call, key, None)
    keyed_write = keyed(call, NOBODY, "purge_property", key)
    return await make_request(
        call, keyed_write, Scope(purge=key), partial(_of_project, call, key)
    )


ROUTES = (
    Route(
        "POST",
        "/{id}/purge_property",
        "person:write",
        of_person,
        (DRY_RUN,),
        PurgeProperty,
        (DeletionRequestBody, DryRun),
        errors=(412,),
        costly=with_any(DRY_RUN.name),
        name="purge_person_property",
    ),
)
COLLECTION_ROUTES = (
    Route(
        "POST",
        "/purge_property",
        "person:write",
        of_project,
        (DRY_RUN,),
        PurgeProperty,
        (DeletionRequestBody, DryRun),
        costly=always,
        name="purge_property",
    ),
)


async def _of_person(
    call: RestCall, keyed_write: Keyed, key: str, request: UUID
) -> tuple[list[Command], bool]:
    person = await holder_of(call, keyed_write.fragment)
    check_if_match(call.request, person)
    cutoff = await _cutoff(call)
    members = tuple(member.fragment for member in person.members)
    deletion = request_of(
        call, request, cutoff, Scope(purge=key), person=person.uuid, members=members
    )
    return [*_purges(call, key, cutoff, request, members), deletion], True


async def _of_project(
    call: RestCall, key: str, request: UUID
) -> tuple[list[Command], bool]:
    cutoff = await _cutoff(call)
    try:
        fragments = await unpurged(
            call.context.store.rows, call.project.id, key, cutoff, limit=AT_ONCE + 1
        )
        whole = len(fragments) <= AT_ONCE
    except (
        Transient
    ):  # more events than can be looked through now: the deleter has the time
        fragments, whole = [], False
    deletion = request_of(
        call, request, cutoff, Scope(purge=key), person=NOBODY, members=()
    )
    return [*_purges(call, key, cutoff, request, fragments[:AT_ONCE]), deletion], whole


async def _cutoff(call: RestCall) -> int:
    """A stamp above those of all records in the log now, whatever the clocks of other hosts say."""
    await call.context.wait_for_heads(COMMANDS)
    return call.context.stamps.reserve(1)


def _purges(
    call: RestCall, key: str, cutoff: int, request: UUID, fragments: Iterable[UUID]
) -> list[Command]:
    common: dict[str, Any] = {
        "id": call.context.mint(),
        "project": call.project.id,
        "at": cutoff,
        "actor": call.actor,
        "names": copies(key),
        "before": cutoff,
        "request": request,
    }
    return [Purge(fragment=fragment, **common) for fragment in fragments]


async def _preview(call: RestCall, key: str, person: Person | None) -> EndpointResult:
    """Rows, months and bytes by target, as a deletion's dry run has them."""
    names = list(copies(key))
    paths = [path_of(name) for name in names]
    reach: dict[str, Any] = {
        "projects": [call.project.id],
        "names": names,
        "paths": paths,
    }
    if person is not None:
        reach["fragments"] = [member.fragment for member in person.members]
    targets: dict[str, dict[str, Any]] = {}
    for target in PURGED:
        query = target.preview(everybody=person is None)
        ((rows, partitions),) = await call.context.store.rows(query, **reach)
        size = await bytes_of(call.context.store, target.table, partitions)
        months = len(set(partitions) - {EVERYTHING})
        targets[target.name] = {
            "rows": rows,
            "months": months,
            "bytes": size,
            "objects": 0,
        }
    return EndpointResult(
        body={
            "dry_run": True,
            "persons_found": 1
            if person is not None
            else await showing(call.context.store, call.project.id, paths),
            "unmatched": [],
            "rows": sum(reach["rows"] for reach in targets.values()),
            "targets": targets,
        }
    )
