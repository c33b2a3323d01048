"""The ledger: deletion requests, durable from the moment they are read from the log. Never deletes
anything.

A row is one version of one request, and the version counts its events, so whatever is written twice
collapses. The position is written after the rows it vouches for: a crash between the two replays
records, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from services.deleter.window import Window
from shared.domain.commands import Cancel, DeletionCommand, RequestDeletion
from shared.domain.deletion import OPEN, DeletionRequest, RequestState, load
from shared.domain.ids import DELETIONS, Position, position_of
from shared.log.evidence import Standing
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries
from shared.store.person import iso

REQUESTS_MAX = 10_000
"""Requests of one run: the cost of erasing does not depend on their number, and their documents
take some 20 MB."""

MEMBERS_MAX = 200_000
"""Fragments of one run, however many requests name them; each hides 10,000 at a time."""


class Ledger:
    """The table deletion_requests. Whoever changes a pending request holds the ledger's lock (see
    `app`)."""

    def __init__(self, store: Store, window: Window) -> None:
        self._store, self._window = store, window
        self._queries = load_queries(Path(__file__).with_suffix(".sql"))

    async def take(self, commands: Sequence[DeletionCommand], now_us: int) -> None:
        """Take commands over from the log. Twice is as good as once."""
        if not commands:
            return
        present = await self.find(
            {(command.project, command.request) for command in commands}
        )
        changed = decide(commands, present)
        await self.save(changed, now_us)

    async def find(
        self, keys: Iterable[tuple[int, UUID]]
    ) -> dict[UUID, DeletionRequest]:
        projects, requests = zip(*keys, strict=True)
        rows = await self._store.rows(
            self._queries["find_requests"],
            projects=sorted(set(projects)),
            requests=list(requests),
        )
        return {request: load(request, document) for request, document in rows}

    async def open(self, *states: RequestState) -> list[DeletionRequest]:
        """The oldest requests in these states, as many as one run may hold."""
        rows = await self._store.rows(
            self._queries["open_requests"],
            states=list(states),
            requests=REQUESTS_MAX,
            members=MEMBERS_MAX,
        )
        return [load(request, document) for request, document in rows]

    async def purges(self) -> list[DeletionRequest]:
        """The purges that are not ended, oldest first."""
        rows = await self._store.rows(self._queries["open_purges"], states=list(OPEN))
        return [load(request, document) for request, document in rows]

    async def save(self, requests: Sequence[DeletionRequest], now_us: int) -> None:
        """Write the requests as they are now, their new events included."""
        next_run = self._next_run(now_us)
        columns: dict[str, list[Any]] = {
            "project": [request.project for request in requests],
            "request": [request.id for request in requests],
            "version": [request.version for request in requests],
            "state": [request.state for request in requests],
            "created_at": [request.cutoff for request in requests],
            "updated_at": [request.updated_at for request in requests],
            "person": [request.person for request in requests],
            "members": [list(request.members) for request in requests],
            "profile": [int(request.scope.profile) for request in requests],
            "events": [int(request.scope.events) for request in requests],
            "recordings": [int(request.scope.recordings) for request in requests],
            "purge": [request.scope.purge for request in requests],
            "cutoff": [request.cutoff for request in requests],
            "actor": [request.actor for request in requests],
            "document": [request.document(next_run).decode() for request in requests],
        }
        await self._store.insert("deletion_requests", columns)

    async def states(self) -> dict[str, int]:
        return dict(await self._store.rows(self._queries["states"]))

    async def oldest(self) -> int | None:
        """When the oldest request that is not ended was made; None without one."""
        ((requested_at,),) = await self._store.rows(
            self._queries["oldest"], states=list(OPEN)
        )
        return int(requested_at) or None

    async def position(self, partition: int) -> Position:
        """Where to go on reading the deletions topic."""
        return (await self.vouched(partition)).position

    async def vouched(self, partition: int) -> Standing:
        """The same with the hash of the last record."""
        ((version, record),) = await self._store.rows(
            self._queries["position"], partition=partition
        )
        return Standing(position_of(DELETIONS, partition, version), record)

    async def stand(self, topic: str, partitions: Sequence[int]) -> dict[int, Standing]:
        """Where it is in these partitions."""
        assert topic == DELETIONS
        return {partition: await self.vouched(partition) for partition in partitions}

    async def advance(self, position: Position, record: int) -> None:
        """Everything up to here is in the ledger, and the record there has this hash. Call it after
        `take`."""
        await self._store.insert(
            "deletion_positions",
            {
                "partition": [position.partition],
                "version": [position.version],
                "record": [record],
            },
        )

    def _next_run(self, now_us: int) -> str | None:
        opening = (
            now_us
            if self._window.open_at(now_us)
            else self._window.next_opening(now_us)
        )
        if opening is None:
            return None
        return iso(opening - opening % 1_000_000)


def decide(
    commands: Sequence[DeletionCommand], present: Mapping[UUID, DeletionRequest]
) -> list[DeletionRequest]:
    """The requests that the commands make or change. A cancel that comes too late, or for nobody,
    changes nothing."""
    requests, changed = dict(present), {}
    for command in commands:
        request = requests.get(command.request)
        if isinstance(command, RequestDeletion):
            if request is not None:
                continue
            request = requests[command.request] = DeletionRequest.of(command)
        elif isinstance(command, Cancel):
            if (
                request is None
                or request.project != command.project
                or not request.cancellable
            ):
                continue
            request.cancel(command.actor, command.at)
        changed[command.request] = request
    return [request for request in changed.values() if request is not None]
