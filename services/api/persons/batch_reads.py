"""Batch reads: many persons by distinct ids or uuids, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from services.api.calls import RestCall
from services.api.http.guards.costly import with_any
from services.api.http.parameters import AS_OF
from services.api.http.routing import EndpointResult, Route
from services.api.reads.lookup import named_until, persons_until, until_of
from services.api.writes.schemas import DistinctIds, PersonBatch, Uuids
from shared.domain.errors import BadInput
from shared.store.person import Person


async def batch_by_distinct_ids(call: RestCall) -> EndpointResult:
    """Look up to 200 persons by distinct id. Unknown ids are omitted."""
    distinct_ids = list(dict.fromkeys(call.read(DistinctIds).distinct_ids))
    persons = await named_until(call, distinct_ids, await until_of(call))
    return _batch_answer(
        {
            distinct_id: named[0] if named else None
            for distinct_id, named in zip(distinct_ids, persons, strict=True)
        }
    )


async def batch_by_uuids(call: RestCall) -> EndpointResult:
    """Look up to 200 persons by uuid. Unknown ids are omitted."""
    uuids = call.read(Uuids).uuids
    try:
        fragments = {text: UUID(text) for text in uuids}
    except ValueError:
        raise BadInput("uuids must be a list of uuids.", attr="uuids") from None
    until = await until_of(call)
    persons = await persons_until(call, list(fragments.values()), until)
    return _batch_answer(dict(zip(fragments, persons, strict=True)))


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


def _batch_answer(persons: Mapping[str, Person | None]) -> EndpointResult:
    return EndpointResult(
        body={
            "results": {
                identifier: person.to_json()
                for identifier, person in persons.items()
                if person is not None
            }
        }
    )
