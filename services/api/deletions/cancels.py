"""Cancelling a deletion request: the person is restored, or the answer says why not.

The deleter closes the request for its runs, has the person restored and writes the outcome into the
ledger; this waits for it, as long as for any write.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from services.api.calls import RestCall
from services.api.deletions.endpoints import request_row
from services.api.deletions.ledger import LedgerRow, location
from services.api.http import errors
from services.api.http.routing import EndpointResult, Route
from services.api.writes.submission import ANSWER_SECONDS_MAX, append_and_wait, patience
from shared.domain.commands import Cancel
from shared.domain.ids import IDENTITY

POLL_SECONDS, POLL_SECONDS_MAX = 0.05, 0.4
"""Between two looks at the ledger: a restore takes some tenths of a second."""

_STATES = {
    "cancelled": "The request is cancelled already.",
    "cancelling": "The request is being cancelled already.",
}
_TOO_LATE = "Hiding has begun: the request cannot be cancelled any more."
_PURGED = "A purge cannot be cancelled: the values are gone from every read."
_REFUSALS = {
    "belongs_to_another": "A distinct id of the person belongs to another person by now: "
    "the deletion goes on.",
    "deleted_again": "A distinct id of the person was deleted again since: the deletion goes on.",
}
_GOES_ON = "The person cannot be restored: the deletion goes on."
_REBORN = (
    "A distinct id of the person has begun a new life since: the deletion goes on."
)


async def cancel(call: RestCall) -> EndpointResult:
    """Cancel a deletion request before its rows are hidden. A deleted person is restored."""
    time = asyncio.get_running_loop().time
    began, row = time(), await request_row(call)
    is_repeat = "Idempotency-Key" in call.request.headers
    if is_repeat and row.state == "cancelled":
        return EndpointResult(status=204)  # what the first request was told
    if row.purge:
        raise errors.conflict(_PURGED)
    if row.state != "pending" and not (is_repeat and row.state == "cancelling"):
        raise errors.conflict(_STATES.get(row.state, _TOO_LATE))
    before, positions = _cancels(row)["count"], None
    if row.state == "pending":
        if row.profile:
            await _refuse_new_lives(call, row)
        command = Cancel(
            id=call.context.mint(),
            project=call.project.id,
            at=call.context.stamps.reserve(1),
            actor=call.actor,
            request=row.request,
        )
        positions, visible = await append_and_wait(call, [command])
        if not visible:
            return EndpointResult(
                status=202, positions=positions, headers=location(call, row.request)
            )
    seconds = patience(call.request, ANSWER_SECONDS_MAX - (time() - began))
    deadline, pause = time() + (seconds or 0.0), POLL_SECONDS
    while (row := await request_row(call)).state == "cancelling":
        if time() + pause > deadline:
            return EndpointResult(
                status=202, positions=positions, headers=location(call, row.request)
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS_MAX)
    if row.state == "cancelled":
        return EndpointResult(status=204, positions=positions)
    outcome = _cancels(row)
    is_refused = outcome["refusal"] and (is_repeat or outcome["count"] > before)
    raise errors.conflict(
        _REFUSALS.get(outcome["refusal"], _GOES_ON) if is_refused else _TOO_LATE
    )


ROUTES = ()
COLLECTION_ROUTES = (
    Route(
        "DELETE",
        "/deletion_requests/{request}",
        "person:write",
        cancel,
        status=204,
        errors=(409,),
        name="cancel_deletion_request",
    ),
)


async def _refuse_new_lives(call: RestCall, row: LedgerRow) -> None:
    """Raise a conflict when a member lives again. One that begins to live later joins the restored
    life."""
    partition = call.project.id % call.context.log.partitions()[IDENTITY]
    heads = await call.context.log.heads(IDENTITY)
    own_heads = [
        head for head in heads if head.partition == partition and head.offset >= 0
    ]
    await call.context.watermarks.wait(
        own_heads
    )  # before its delete is visible the person itself seems to live
    members = [UUID(member) for member in row.document["history"][0]["members"]]
    if any(
        person is not None
        for person in await call.context.reads.by_fragments(call.project.id, members)
    ):
        raise errors.conflict(_REBORN)


def _cancels(row: LedgerRow) -> dict[str, Any]:
    """How often the request was cancelled so far, and why the last one was refused."""
    cancels: dict[str, Any] = row.document.get(
        "cancels", {}
    )  # none in a ledger of before restores
    return {"count": 0, "refusal": ""} | cancels
