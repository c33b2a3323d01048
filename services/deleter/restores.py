"""What is being cancelled: give the person back, or say why not. Driven by the ledger alone, so a
crash resumes.

A request that includes the profile is `cancelling`, and closed for runs, from the moment that it is
cancelled. A round goes on from there: `restore` to the identity topic, wait for its fact, and when
all that follows from it is projected, `cancelled`; or `pending` again, with the reason. The command
is the same however often it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID, uuid5

from services.deleter.ledger import Ledger
from services.deleter.sweep.planner import Tombstone, delete_of
from shared.domain.commands import Restore, Restored, encode, route
from shared.domain.deletion import DeletionRequest
from shared.domain.ids import COMMANDS, IDENTITY, Position, hash64, partition_of
from shared.domain.person.identity_events import PersonRestored
from shared.log.port import Entry, Log
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries

AT_ONCE_MAX = 20
"""Requests that are waited for together: a command may name 2,500 members, in 200 KB."""

DELETE_NOT_FOUND = "delete_not_found"
"""Why a request goes on whose delete has no fact: nobody knows what was before."""

Before = tuple[bool, int, int]
"""An identity as it was: identified, erase, erased_at."""

ALONE: Before = (False, 0, 0)
"""Of a fragment without a fact."""


class RestoreOutcome(NamedTuple):
    """What the identity fold said of a restore: the fact's topic, and why it was refused."""

    topic: str
    reason: str


class IdentityHistory(Protocol):
    """What restores read of the timeline; `TimelineHistory` keeps it."""

    async def tombstones(self, request: DeletionRequest) -> list[Tombstone]:
        """Those of the request's members."""

    async def before(self, request: DeletionRequest, iver: int) -> dict[UUID, Before]:
        """The members' identities before the delete of this version, of those that had one."""

    async def outcome(
        self, request: DeletionRequest, command: UUID
    ) -> RestoreOutcome | None:
        """What became of a restore; None while nothing has."""


class Restores:
    """`projected` waits, as long as a round may, until the projector has passed positions, and says
    whether it has."""

    def __init__(
        self,
        *,
        log: Log,
        history: IdentityHistory,
        ledger: Ledger,
        lock: Callable[[], AbstractAsyncContextManager[None]],
        projected: Callable[[Sequence[Position]], Awaitable[bool]],
        now_us: Callable[[], int],
    ) -> None:
        self._log, self._history, self._ledger = log, history, ledger
        self._lock, self._projected, self._now_us = lock, projected, now_us
        self._positions: dict[UUID, Position] = {}

    async def round(self) -> bool:
        """Go on with everything that is being cancelled; whether some of it is left. Raises
        Transient."""
        remaining, requests = False, await self._ledger.open("cancelling")
        for start in range(0, len(requests), AT_ONCE_MAX):
            chunk = requests[start : start + AT_ONCE_MAX]
            for done in await asyncio.gather(
                *map(self._settle, chunk), return_exceptions=True
            ):
                if isinstance(done, BaseException):
                    raise done
                remaining |= not done
        return remaining

    async def _settle(self, request: DeletionRequest) -> bool:
        """As far as it goes now; whether the request has come to its end, or goes on."""
        here = request.project % self._log.partitions()[IDENTITY]
        if not await self._caught_up(
            IDENTITY, [here]
        ):  # else its delete may not be told yet
            return False
        identity = uuid5(request.id, f"restore {request.cancels}")
        outcome = await self._history.outcome(request, identity)
        if outcome is None:
            command = await self._command(request, identity)
            if command is None:
                return await self._end(request, RestoreOutcome("", DELETE_NOT_FOUND))
            if not await self._projected([await self._send(command)]):
                return False
            outcome = await self._history.outcome(request, identity)
        self._positions.pop(identity, None)
        if outcome is None:  # it was set aside: try again
            return False
        commands = self._log.partitions()[COMMANDS]
        touched = {
            partition_of(member, commands) for member in request.members
        }  # what follows is in the log by now
        if not (
            await self._caught_up(IDENTITY, [here])
            and await self._caught_up(COMMANDS, touched)
        ):
            return False
        return await self._end(request, outcome)

    async def _command(
        self, request: DeletionRequest, identity: UUID
    ) -> Restore | None:
        iver = delete_version(request, await self._history.tombstones(request))
        return (
            restore(request, identity, iver, await self._history.before(request, iver))
            if iver
            else None
        )

    async def _send(self, command: Restore) -> Position:
        if command.id not in self._positions:
            entry = Entry(*route(command, self._log.partitions()), encode(command))
            (self._positions[command.id],) = await self._log.append([entry])
        return self._positions[command.id]

    async def _caught_up(self, topic: str, partitions: Iterable[int]) -> bool:
        """Whether all that these partitions hold now is projected."""
        chosen = set(partitions)
        return await self._projected(
            [head for head in await self._log.heads(topic) if head.partition in chosen]
        )

    async def _end(self, request: DeletionRequest, outcome: RestoreOutcome) -> bool:
        async with self._lock():
            current = (await self._ledger.find([(request.project, request.id)]))[
                request.id
            ]
            if (
                current.state == "cancelling" and current.cancels == request.cancels
            ):  # else another deleter was here
                if outcome.topic == PersonRestored.TOPIC:
                    current.restored(self._now_us())
                else:
                    current.refuse(outcome.reason, self._now_us())
                await self._ledger.save([current], self._now_us())
        return True


def delete_version(request: DeletionRequest, tombstones: Sequence[Tombstone]) -> int:
    """The identity version of the delete that made a request, which all its members share; 0 when
    it is not there."""
    ends: dict[UUID, list[Tombstone]] = {member: [] for member in request.members}
    for tombstone in tombstones:
        ends[tombstone.fragment].append(tombstone)
    versions = {delete_of(request, member_ends) for member_ends in ends.values()}
    return versions.pop() if len(versions) == 1 else 0


def restore(
    request: DeletionRequest, identity: UUID, iver: int, before: dict[UUID, Before]
) -> Restore:
    """The command that takes a request's delete back. Its key makes a second one of it a
    repetition."""
    key = hash64(identity.hex)
    members = tuple(
        Restored(member, *before.get(member, ALONE)) for member in request.members
    )
    return Restore(
        id=identity,
        key=key,
        digest=key,
        project=request.project,
        at=request.updated_at,
        actor=request.canceller,
        person=request.person,
        request=request.id,
        iver=iver,
        members=members,
    )


class TimelineHistory:
    """The port on the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queries = {
            **load_queries(Path(__file__).with_name("sweep") / "sweep.sql"),
            **load_queries(Path(__file__).with_suffix(".sql")),
        }

    async def tombstones(self, request: DeletionRequest) -> list[Tombstone]:
        rows = await self._store.rows(
            self._queries["tombstones"],
            projects=[request.project],
            fragments=list(request.members),
        )
        return [Tombstone(*row) for row in rows]

    async def before(self, request: DeletionRequest, iver: int) -> dict[UUID, Before]:
        rows = await self._store.rows(
            self._queries["identities_before"],
            project=request.project,
            fragments=list(request.members),
            iver=iver,
        )
        return {
            fragment: (bool(identity[0]), identity[1], identity[2])
            for fragment, identity in rows
        }

    async def outcome(
        self, request: DeletionRequest, command: UUID
    ) -> RestoreOutcome | None:
        rows = await self._store.rows(
            self._queries["outcome"],
            project=request.project,
            fragment=request.person,
            command=command,
        )
        for row in rows:
            return RestoreOutcome(*row)
        return None
