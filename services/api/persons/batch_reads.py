"""Batch reads: many persons by distinct ids or uuids, in one call."""

from __future__ import annotations

from uuid import UUID

from services.api.calls import RestCall
from services.api.http.guards.costly import with_any
from services.api.http.parameters import AS_OF
from services.api.http.routing import EndpointResult, Route
from services.api.reads.lookup import persons_until, until_of
from services.api.writes.schemas import DistinctIds, PersonBatch, Uuids
from shared.domain.errors import BadInput
from shared.domain.ids import fragment_id
from shared.store.person import Person


async def batch_by_distinct_ids(call: RestCall) -> EndpointResult:
    """Look up to 200 persons by distinct id. Unknown ids are omitted."""
    distinct_ids = call.read(DistinctIds).distinct_ids
    return await _batch_answer(
        call,
        {
            distinct_id: fragment_id(call.project.id, distinct_id)
            for distinct_id in distinct_ids
        },
    )


async def batch_by_uuids(call: RestCall) -> EndpointResult:
    """Look up to 200 persons by uuid. Unknown ids are omitted."""
    uuids = call.read(Uuids).uuids
    try:
        fragments = {text: UUID(text) for text in uuids}
    except ValueError:
        raise BadInput("uuids must be a list of uuids.", attr="uuids") from None
    return await _batch_answer(call, fragments)


COLLECTION_ROUTES = (
    Route(
        "POST",
        "/batch_by_distinct_ids",
        "person:read",
        batch_by_distinct_ids,
        (AS_OF,),
        DistinctIds,
        PersonBatch,
        costly=with_any(AS_OF.name),
        name="batch_by_distinct_ids",
    ),
    Route(
        "POST",
        "/batch_by_uuids",
        "person:read",
        batch_by_uuids,
        (AS_OF,),
        Uuids,
        PersonBatch,
        costly=with_any(AS_OF.name),
        name="batch_by_uuids",
    ),
)
ROUTES = ()


async def _batch_answer(call: RestCall, fragments: dict[str, UUID]) -> EndpointResult:
    persons: list[Person | None] = []
    if fragments:
        until = await until_of(call)
        persons = await persons_until(call, list(fragments.values()), until)
    pairs = zip(fragments, persons, strict=True)
    return EndpointResult(
        body={
            "results": {
                identifier: person.shown()
                for identifier, person in pairs
                if person is not None
            }
        }
    )
