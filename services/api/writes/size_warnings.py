"""What a write had no room for: the fold's fact, as warnings for who waits and as an item of lists.
Reads only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from services.api.calls import RestCall
from services.api.writes.idempotency import WriteOutcome
from shared.domain.person.cells import same
from shared.domain.person.view import Member

WHY = "This distinct id holds as much as one can: 512 KiB of properties, 2,000 names."


def left_out_of(text: str) -> dict[str, Any] | None:
    """What a fact left out; None for nothing."""
    return orjson.loads(text) if text else None


async def warnings_of(
    call: RestCall,
    fragment: UUID,
    outcome: WriteOutcome,
    properties: dict[str, Any],
    member: Member | None,
) -> dict[str, Any]:
    """`warnings` for the answer of a write that set properties; nothing when there was room for
    all.

    `member` is the fragment afterwards: where it shows what was sent, nobody needs to be asked.
    """
    if outcome.first is None and member is not None:
        visible = orjson.loads(member.properties) if member.properties else {}
        if all(
            name in visible and same(visible[name], value)
            for name, value in properties.items()
        ):
            return {}
    rows = await call.context.store.rows(
        call.context.reads.queries["left_out"],
        project=call.project.id,
        fragment=fragment,
        version=outcome.positions[0].version,
    )
    for (left_out,) in rows:
        return {
            "warnings": [{"field": "properties", "why": WHY, **orjson.loads(left_out)}]
        }
    return {}
