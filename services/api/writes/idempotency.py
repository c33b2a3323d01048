"""First outcomes: what a write did, told again to whoever repeats it with its Idempotency-Key.
Never decides anything.

The fold decides which record came first; the row of the fragment that the path names remembers its
version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from services.api.calls import RestCall
from services.api.http import errors
from services.api.reads.as_of import persons_at, stamp_of
from services.api.writes.submission import append_and_wait
from shared.domain.commands import Command
from shared.domain.errors import BadInput, NotFound, PreconditionFailed
from shared.domain.ids import COMMANDS, Position, hash64
from shared.domain.person.identity import DELETED
from shared.domain.retries import KEY_REUSED
from shared.store.person import Person

REPLAYED = {"Idempotency-Replayed": "true"}
"""Beside the first outcome of an earlier request."""

_REFUSALS = {
    "too_many_members": "Together these persons would have too many distinct ids.",
    "not_a_member": "Not a distinct id of this person any more.",
    "nobody_would_stay": "At least one distinct id must stay.",
}


class Keyed(msgspec.Struct, frozen=True, kw_only=True):
    """A write's Idempotency-Key and what it asks of the addressed fragment, as hashes; 0 without
    one."""

    fragment: UUID
    key: int = 0
    digest: int = 0


class WriteOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a write did. `visible` is False while reads do not see it; `first` is another request's
    position."""

    positions: Sequence[Position]
    visible: bool
    first: Position | None = None

    @property
    def headers(self) -> dict[str, str]:
        return REPLAYED if self.first is not None else {}


def keyed(call: RestCall, fragment: UUID, *operands: Any) -> Keyed:
    """The key of this call, whose scope is the project, the addressed fragment and the key.

    `operands` are what a repeat must ask for too.
    """
    text = call.request.headers.get("Idempotency-Key")
    if text is None:
        return Keyed(fragment=fragment)
    return Keyed(
        fragment=fragment,
        key=hash64(f"{call.project.id}:{fragment}:{text}"),
        digest=hash64(msgspec.json.encode(operands, order="sorted").decode()),
    )


def envelope(call: RestCall, write: Keyed) -> dict[str, Any]:
    """What a command says of the request that it comes with, received now."""
    return {
        "id": call.context.mint(),
        "key": write.key,
        "digest": write.digest,
        "project": call.project.id,
        "at": call.context.stamps.reserve(1),
        "actor": call.actor,
    }


async def earlier(call: RestCall, topic: str, write: Keyed) -> WriteOutcome | None:
    """The outcome of the request that came with this key before; None if there was none.

    Raises what that one was refused for, and 422 when it asked for something else.
    """
    position = await _first(call, topic, write)
    if position is None:
        return None
    await _check(call, position, [write.fragment] if topic == COMMANDS else [])
    return WriteOutcome(positions=[position], visible=True, first=position)


async def carry_out(
    call: RestCall,
    write: Keyed,
    commands: Sequence[Command],
    refusable: Sequence[UUID] = (),
) -> WriteOutcome:
    """Append, wait, and see whether it counted. `refusable` are the fragments that a refusal would
    be recorded on."""
    positions, visible = await append_and_wait(call, commands)
    if not visible:
        return WriteOutcome(positions=positions, visible=False)
    own = positions[0]
    counts = await _first(call, own.topic, write) or own
    if refusable or write.key:
        await _check(call, counts, [write.fragment, *refusable])
    return WriteOutcome(
        positions=[counts] if counts != own else positions,
        visible=True,
        first=counts if counts != own else None,
    )


async def person_after(call: RestCall, fragment: UUID, outcome: WriteOutcome) -> Person:
    """The person that holds a fragment: as it is now, or as it was right after the first request.
    NotFound if gone."""
    reads, project = call.context.reads, call.project.id
    if outcome.first is None:
        person = await reads.by_fragment(project, fragment)
    else:
        until = await stamp_of(call.context, project, [outcome.first])
        person = (await persons_at(call.context, project, [fragment], until))[0]
    if (
        person is None
    ):  # deleted in between: the write was done, and then undone by somebody else
        raise NotFound("Not found.")
    return person


async def _first(call: RestCall, topic: str, write: Keyed) -> Position | None:
    if not write.key:
        return None
    rows = await call.context.store.rows(
        call.context.reads.queries[
            "fragment_keys" if topic == COMMANDS else "identity_keys"
        ],
        project=call.project.id,
        fragment=write.fragment,
    )
    generations = call.context.generations
    recent = [each for columns in rows for each in zip(*columns, strict=False)]
    for key, digest, version in recent:
        if key == write.key:
            if digest != write.digest:
                raise errors.key_reused()
            if topic == COMMANDS:
                return generations.of_fragment(write.fragment, version)
            return generations.of_project(call.project.id, version)
    return None


async def _check(call: RestCall, position: Position, fragments: Sequence[UUID]) -> None:
    """Raise what the record at a position was refused for."""
    rows = await call.context.store.rows(
        call.context.reads.queries["refusals"],
        project=call.project.id,
        fragments=list(fragments),
        version=position.version,
        topics=["fragment.write_refused"]
        if position.topic == COMMANDS
        else ["person.merge_refused", "person.split_refused", "person.refused"],
    )
    for (reason,) in rows:
        raise_refusal(reason)


def raise_refusal(reason: str) -> None:
    """Raise what the fold refused a command for; nothing for no reason."""
    if reason == "precondition_failed":
        raise PreconditionFailed
    if reason == KEY_REUSED:
        raise errors.key_reused()
    if reason == DELETED:
        raise NotFound("Not found.")
    if reason:
        raise BadInput(_REFUSALS.get(reason, f"Refused: {reason}."))
