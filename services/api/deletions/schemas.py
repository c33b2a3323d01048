"""Bodies of requests and answers of deletions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from services.api.writes.schemas import DistinctId, PersonId, PropertyName

BULK_MAX = 1_000
"""Persons of one bulk_delete; more is refused, never cut."""

ScopeName = Literal["profile", "events", "recordings"]


class PurgeProperty(Struct):
    """The property whose values are erased, past values included."""

    key: Annotated[PropertyName, Meta(examples=["ssn"])]


class BulkDelete(Struct):
    """Exactly one of `ids` and `distinct_ids`. The flags choose what is deleted, and whether the
    person stays."""

    ids: Annotated[list[PersonId], Meta(min_length=1, max_length=BULK_MAX)] | None = (
        None
    )
    distinct_ids: (
        Annotated[
            list[DistinctId],
            Meta(min_length=1, max_length=BULK_MAX, examples=[["ada@example.com"]]),
        ]
        | None
    ) = None
    delete_events: bool = False
    delete_recordings: bool = False
    keep_person: bool = False


class Bulk(Struct):
    """The persons that a bulk delete found, and its deletion requests. A person is counted as
    deleted when reads no longer return it, and before that as queued."""

    persons_found: int
    persons_deleted: int
    events_queued_for_deletion: bool
    recordings_queued_for_deletion: bool
    deletion_errors: list[Any]
    persons_queued_for_deletion: int
    stays: list[ScopeName]
    unmatched: list[Any]
    deletion_request: UUID | None
    deletion_requests: list[UUID]


class DryRunTarget(Struct):
    """The rows of one target that a deletion reaches; `bytes` are those of the partitions that
    erasing rewrites."""

    rows: int
    months: int
    bytes: int
    objects: int


class DryRun(Struct):
    """The result of a dry run. Nothing was deleted."""

    dry_run: Literal[True]
    persons_found: int
    unmatched: list[Any]
    rows: int
    targets: dict[str, DryRunTarget]


class DeletionScope(Struct):
    """What a request covers; a purge covers one property's values."""

    profile: bool
    events: bool
    recordings: bool
    purge: str | UnsetType = UNSET


class DeletionRequestBody(Struct):
    """A row of the ledger; `person_uuid` is null for a purge of all persons."""

    id: UUID
    state: Literal[
        "pending", "hidden", "erasing", "verified", "cancelling", "cancelled", "failed"
    ]
    created_at: datetime
    updated_at: datetime
    person_uuid: UUID | None
    scope: DeletionScope
    stays: list[ScopeName]
    phases: dict[str, Any]
    partition: Any
    window: Any
    cancel_refused: str | None
    receipt: Any


class DeletionRequests(Struct):
    results: list[DeletionRequestBody]


class DeletionState(Struct):
    person_uuid: UUID
    created_at: datetime
    status: Literal["pending", "completed"]
    delete_verified_at: datetime | None


class DeletionStatus(Struct):
    count: int
    next: str | None
    previous: str | None
    results: list[DeletionState]
