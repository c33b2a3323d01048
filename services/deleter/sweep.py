"""One run over all open requests together: hide, erase, verify. Never one mutation per person.

Each step reads the ledger anew and may be repeated: after a crash the next run goes on where this one stopped. Cost
is the bytes of the touched parts, however many the persons are: 1,000 persons one by one cost 360 times as much.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from services.deleter.ledger import Ledger
from services.deleter.planner import FRAGMENTS_PER_STATEMENT_MAX, Plan, Tombstone, plan
from shared.domain.deletion import Counts, DeletionRequest
from shared.domain.errors import StoreUnavailable
from shared.domain.ids import COMMANDS, IDENTITY, Position, position_key
from shared.store.client import Store
from shared.store.queries import load as load_queries
from shared.store.targets import TABLES, TARGETS, count

PROGRESS_SECONDS = 10.0
"""Between two notes of "partition i of n": each is a row for every request of the run."""

MUTATION_SECONDS_MAX = 60.0
"""How long a step waits for mutations that are not its own before the run stops and leaves the rest to the next."""

MUTATION_POLL_SECONDS = 0.2

Lock = Callable[[], AbstractAsyncContextManager[None]]

Issue = Callable[[Sequence[DeletionRequest], int], Awaitable[None]]
"""Makes the receipts of requests that were counted as erased, at a time in microseconds."""


async def no_receipts(requests: Sequence[DeletionRequest], now_us: int) -> None:
    """For a run that proves nothing to anybody."""


@asynccontextmanager
async def unlocked() -> AsyncIterator[None]:
    """For a ledger that nobody else can change."""
    yield


class Sweep:
    """Made for one run. `closes_at` is the window's end; None is no end. `lock` guards the ledger's pending rows."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        now_us: Callable[[], int],
        *,
        closes_at: int | None = None,
        lock: Lock = unlocked,
        issue: Issue = no_receipts,
    ) -> None:
        self._store, self._ledger, self._now_us = store, ledger, now_us
        self._closes_at, self._lock, self._issue = closes_at, lock, issue
        self._queries = load_queries(Path(__file__).with_suffix(".sql"))
        self._plan_id = uuid4()

    @property
    def in_time(self) -> bool:
        return self._closes_at is None or self._now_us() < self._closes_at

    async def projected(self, heads: Sequence[Position]) -> bool:
        """Whether the projector has passed these positions."""
        keys = {position_key(head.topic, head.partition): head for head in heads if head.topic in (COMMANDS, IDENTITY)}
        passed: dict[UUID, int] = dict(await self._store.rows(self._queries["positions"], keys=list(keys)))
        return all(passed.get(key, 0) >= head.version for key, head in keys.items())

    async def run(self, *, projected: bool) -> list[DeletionRequest]:
        """Every step, as far as the window allows; the requests that this run has brought to an end."""
        await self.hide(projected=projected)
        return await self.verify() if await self.erase() else []

    async def hide(self, *, projected: bool) -> list[DeletionRequest]:
        """Hide the rows of every request that is ready; the requests. Those that are not stay pending."""
        if not self.in_time:
            return []
        async with self._lock():
            ready = await self._plan(await self._ledger.open("pending", "failed"), projected=projected)
            for request in ready.requests:
                if request.state == "failed":
                    request.retry(self._now_us())
                request.begin(self._plan_id, self._now_us())
            await self._ledger.save(ready.requests, self._now_us())
        if not ready.requests:
            return []
        found = await self._remnants(ready)
        await self._settled()
        for parameters in ready.statements():
            for target in TARGETS:
                if found[target.name]:
                    reach = await self._reach(target.name, parameters)
                    await self._store.command(self._queries[f"hide_{target.name}"], plan=self._plan_id, **reach)
        for request in ready.requests:
            request.hide(_counts(request, found), self._now_us())
        await self._ledger.save(ready.requests, self._now_us())
        return ready.requests

    async def erase(self) -> bool:
        """Rewrite what hides rows, one partition at a time; whether there is none left."""
        requests = await self._ledger.open("hidden", "erasing")
        if not requests:
            return True
        partitions = await self._store.rows(self._queries["masked_partitions"], tables=list(TABLES))
        noted, done = float("-inf"), 0
        for table, partition in partitions:
            if not self.in_time:
                break
            if time.monotonic() - noted >= PROGRESS_SECONDS:
                await self._note(requests, done, len(partitions))
                noted = time.monotonic()
            await self._settled()
            await self._store.command(self._queries["erase_partition"], table=table, partition=partition)
            done += 1
        await self._note(requests, done, len(partitions))
        return done == len(partitions)

    async def verify(self) -> list[DeletionRequest]:
        """Count through the mask: verified or failed, each request for itself."""
        requests = await self._ledger.open("hidden", "erasing")
        reach = await self._plan(requests, projected=True)
        found = await self._remnants(reach)
        for request in reach.waiting:
            request.fail("its erase records cannot be found any more", self._now_us())
        for request in reach.requests:
            counts = _counts(request, found)
            if any(counts.values()):
                left = ", ".join(f"{rows} in {target}" for target, rows in counts.items() if rows)
                request.fail(f"rows are left: {left}", self._now_us())
            else:
                request.verify(counts, self._now_us())
        await self._issue([one for one in reach.requests if one.state == "verified"], self._now_us())
        await self._ledger.save(requests, self._now_us())
        return requests

    async def fail(self, reason: str) -> None:
        """The store refused a step: the requests that had begun say so, and the next run starts them again."""
        begun = [
            request for request in await self._ledger.open("pending", "hidden", "erasing") if request.plan is not None
        ]
        for request in begun:
            request.fail(reason, self._now_us())
        await self._ledger.save(begun, self._now_us())

    async def _plan(self, requests: Sequence[DeletionRequest], *, projected: bool) -> Plan:
        projects = {member: request.project for request in requests for member in request.members}
        everyone = list(projects)
        tombstones: list[Tombstone] = []
        erased: dict[UUID, int] = {}
        for start in range(0, len(everyone), FRAGMENTS_PER_STATEMENT_MAX):
            part = everyone[start : start + FRAGMENTS_PER_STATEMENT_MAX]
            names = {"projects": sorted({projects[member] for member in part}), "fragments": part}
            tombstones += [Tombstone(*row) for row in await self._store.rows(self._queries["tombstones"], **names)]
            erased |= dict(await self._store.rows(self._queries["erased"], **names))
        return plan(requests, tombstones, erased, projected=projected)

    async def _remnants(self, reach: Plan) -> dict[str, Counter[UUID]]:
        """Rows within reach by target and fragment, hidden ones too."""
        found: dict[str, Counter[UUID]] = {target.name: Counter() for target in TARGETS}
        for parameters in reach.statements():
            for target in TARGETS:
                of_target = await self._reach(target.name, parameters)
                for one in await count(self._store, target.name, of_target, hidden=True):
                    found[target.name][one.fragment] += one.rows
        return found

    async def _reach(self, target: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """A search row is a whole person's: what it held of a fragment lies under every root that the fragment had, in
        rows of before it left."""
        if target != "search":
            return parameters
        names = {name: parameters[name] for name in ("projects", "fragments")}
        bounds = dict(zip(parameters["fragments"], parameters["iver"], strict=True))
        for root, left in await self._store.rows_with_hidden(self._queries["former_roots"], **names):
            bounds[root] = max(bounds.get(root, 0), left)
        return {"projects": names["projects"], "keys": list(bounds), "bounds": list(bounds.values())}

    async def _settled(self) -> None:
        """Wait until no mutation runs: a step must not be taken for another's, nor pile up behind one."""
        deadline = time.monotonic() + MUTATION_SECONDS_MAX
        while True:
            ((unfinished, reason),) = await self._store.rows(self._queries["unfinished_mutations"], tables=list(TABLES))
            if not unfinished:
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"{unfinished} mutations do not end: {reason}")
            await asyncio.sleep(MUTATION_POLL_SECONDS)

    async def _note(self, requests: Sequence[DeletionRequest], done: int, of: int) -> None:
        for request in requests:
            request.erase(done, of, self._now_us())
        await self._ledger.save(requests, self._now_us())


def _counts(request: DeletionRequest, found: dict[str, Counter[UUID]]) -> Counts:
    """The request's share, of every target."""
    return {target: sum(rows[member] for member in request.members) for target, rows in found.items()}
