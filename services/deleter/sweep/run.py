"""One run over all open requests together: hide, erase, verify. Never one mutation per person.

Each step reads the ledger anew and may be repeated: after a crash the next run goes on where this
one stopped. Cost is the bytes of the touched parts, however many the persons are: 1,000 persons one
by one cost 360 times as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from uuid import UUID, uuid4

from services.deleter.ledger import Ledger
from services.deleter.sweep import recordings
from services.deleter.sweep.planner import Plan
from services.deleter.sweep.remnants import Remnants
from services.deleter.sweep.rewriting import Rewriting, steps
from services.deleter.sweep.run_options import RunOptions
from shared.domain.deletion import DeletionRequest
from shared.domain.ids import COMMANDS, IDENTITY, Position, position_key
from shared.runtime import telemetry
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries
from shared.store.objects import Objects
from shared.store.targets import OBJECTS, TABLES

PROGRESS_SECONDS = 10.0
"""Between two notes of "partition i of n": each is a row for every request of the run."""

UNWATCHED = RunOptions()
"""To the end, for a ledger that nobody else can change."""

SHADOWS = tuple(f"{table}_rebuild" for table in TABLES)
"""Where a rebuild copies rows to."""


class Sweep:
    """Made for one run."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        ledger: Ledger,
        now_us: Callable[[], int],
        options: RunOptions = UNWATCHED,
    ) -> None:
        self._store = store
        self._objects = objects
        self._ledger = ledger
        self._now_us = now_us
        self._options = options
        self._queries = load_queries(Path(__file__).with_name("sweep.sql"))
        self._remnants = Remnants(store)
        self._rewriting = Rewriting(store)
        self._plan_id = uuid4()

    def in_time(self) -> bool:
        return (
            self._options.closes_at is None or self._now_us() < self._options.closes_at
        )

    async def projected(self, heads: Sequence[Position]) -> bool:
        """Whether the projector has passed these positions."""
        keys = {
            position_key(head.topic, head.partition): head
            for head in heads
            if head.topic in (COMMANDS, IDENTITY)
        }
        versions: dict[UUID, int] = dict(
            await self._store.rows(self._queries["positions"], keys=list(keys))
        )
        return all(versions.get(key, 0) >= head.version for key, head in keys.items())

    async def wait_for_late_blocks(self) -> None:
        """Wait until no block within reach can come any more of whom stays without recordings: that
        reach ends at the request's time, and a block has its own before it is in the log. (A life
        ends at a place in the log.)"""
        requests = await self._ledger.open("pending", "failed")
        cutoffs = [
            request.cutoff
            for request in requests
            if request.scope.recordings and not request.scope.profile
        ]
        await recordings.wait_for_objects(
            max(cutoffs, default=0), self._now_us(), self.in_time
        )

    async def run(
        self, *, projected: bool, purged: Collection[UUID] = ()
    ) -> list[DeletionRequest]:
        """Every step, as far as the window allows; the requests that this run has brought to an
        end.

        `purged` are the purges that all tables have passed.
        """
        self._remnants.purged = purged
        if self._options.guard is not None:
            await self._options.guard.start()
        failed = [
            request
            for request in await self.hide(projected=projected)
            if request.state == "failed"
        ]
        return failed + (await self.verify() if await self.erase() else [])

    async def hide(self, *, projected: bool) -> list[DeletionRequest]:
        """Hide the rows of every request that is ready; the requests. Those that are not stay
        pending.

        The objects with their recordings go before the rows that say where they are: whoever cannot
        be erased from one keeps those rows, and has failed.
        """
        if not await self._room():
            return []
        ready = await self._begin(projected)
        if not ready.requests:
            return []
        self._options.tell(
            0, len(ready.requests), "requests: recordings out of the object store"
        )
        statements = list(ready.statements())
        outcome = await recordings.erase(
            self._store, self._objects, statements, self._now_us(), self.in_time
        )
        if not outcome.complete:
            return []  # announced, and not hidden: the next run goes on
        failed = await self._fail_some(ready.requests, outcome.failed)
        reach = await self._remnants.plan(
            [request for request in ready.requests if request not in failed],
            projected=projected,
        )
        counts = await self._remnants.count(reach)
        await self._rewriting.wait_for_mutations()
        self._options.tell(0, len(reach.requests), "requests: hiding rows")
        await self._remnants.hide(reach, counts, self._plan_id)
        for request in reach.requests:
            partitions = self._remnants.share(request, reach, counts)
            rows = {target: sum(each.values()) for target, each in partitions.items()}
            files = sum(outcome.objects.get(member, 0) for member in request.members)
            request.hide(rows | {OBJECTS: files}, partitions, self._now_us())
        await self._ledger.save(reach.requests, self._now_us())
        return reach.requests + failed

    async def erase(self) -> bool:
        """Rewrite what hides rows, step by step; whether there is none left, and no file of it."""
        requests = await self._ledger.open("hidden", "erasing")
        if not requests:
            return True
        partitions = await self._rewriting.masked_partitions()
        noted, done, rate = float("-inf"), 0, float("inf")
        for step in steps(partitions):
            if not self._fits(step.size / rate) or not await self._room(step.size):
                break
            if time.monotonic() - noted >= PROGRESS_SECONDS:
                await self._note(requests, done, len(partitions))
                noted = time.monotonic()
            telemetry.DELETION_PARTITIONS.labels("done").set(done)
            telemetry.DELETION_PARTITIONS.labels("all").set(len(partitions))
            self._options.tell(done, len(partitions), f"partitions: {step}")
            await self._rewriting.wait_for_mutations()
            began = time.monotonic()
            await self._rewriting.rewrite(step)
            rate = step.size / (time.monotonic() - began)
            telemetry.REWRITTEN_BYTES.labels(step.table).inc(step.size)
            done += len(step.partitions)
        await self._note(requests, done, len(partitions))
        telemetry.DELETION_PARTITIONS.labels("done").set(done)
        if done == len(partitions):
            await self._rewriting.wait_for_files_removed()
        return done == len(partitions)

    async def verify(self) -> list[DeletionRequest]:
        """Count through the mask: verified or failed, each request for itself."""
        requests = await self._ledger.open("hidden", "erasing")
        if not requests:
            return []
        self._options.tell(0, len(requests), "requests: counting through the mask")
        reach = await self._remnants.plan(requests, projected=True)
        counts = await self._remnants.count(reach)
        places = await self._store.rows(
            self._queries["copies"], tables=list(TABLES), shadows=list(SHADOWS)
        )
        for request in reach.waiting:
            request.fail("its erase records cannot be found any more", self._now_us())
        for request in reach.requests:
            partitions = self._remnants.share(request, reach, counts)
            rows = {target: sum(each.values()) for target, each in partitions.items()}
            if any(rows.values()):
                remnants = [
                    f"{number} in {name}" for name, number in rows.items() if number
                ]
                request.fail(f"rows are left: {', '.join(remnants)}", self._now_us())
            elif places:
                names = ", ".join(place for (place, *_) in places)
                request.fail(f"rows may lie elsewhere: {names}", self._now_us())
            else:
                # no row was hidden before the objects that it led to were read back without its
                # blocks
                request.verify(rows | {OBJECTS: 0}, self._now_us())
        await self._options.issue(
            [request for request in reach.requests if request.state == "verified"],
            self._now_us(),
        )
        await self._ledger.save(requests, self._now_us())
        return requests

    async def fail(self, reason: str) -> None:
        """The store refused a step: the requests that had begun say so, and the next run starts
        them again."""
        begun = [
            request
            for request in await self._ledger.open("pending", "hidden", "erasing")
            if request.plan is not None
        ]
        for request in begun:
            request.fail(reason, self._now_us())
        await self._ledger.save(begun, self._now_us())

    async def _begin(self, projected: bool) -> Plan:
        """Announce in the ledger what this run erases, the requests that are ready."""
        async with self._options.lock():
            cancelling = await self._ledger.open("cancelling")
            waiting = await self._ledger.open("pending", "failed")
            ready = await self._remnants.plan(
                waiting, projected=projected, cancelling=cancelling
            )
            for request in ready.requests:
                if request.state == "failed":
                    request.retry(self._now_us())
                request.begin(self._plan_id, self._now_us())
            await self._ledger.save(ready.requests, self._now_us())
        return ready

    async def _fail_some(
        self, requests: Sequence[DeletionRequest], reasons: Mapping[UUID, str]
    ) -> list[DeletionRequest]:
        """The requests with a member that could not be erased from an object, which fail."""
        failed = []
        for request in requests:
            failures = [
                reasons[member] for member in request.members if member in reasons
            ]
            if failures:
                request.fail(failures[0], self._now_us())
                failed.append(request)
        await self._ledger.save(failed, self._now_us())
        return failed

    def _fits(self, seconds: float) -> bool:
        """Whether a step of this length ends inside the window. The first one of a run is always
        tried: its length is not known, and a partition that no window can hold must be erased as
        well."""
        closes_at = self._options.closes_at
        return self.in_time() and (
            closes_at is None or self._now_us() + seconds * 1e6 < closes_at
        )

    async def _room(self, size: int = 0) -> bool:
        """Whether the next step may begin now."""
        return self.in_time() and (
            self._options.guard is None
            or await self._options.guard.clear(self.in_time, size)
        )

    async def _note(
        self, requests: Sequence[DeletionRequest], done: int, of: int
    ) -> None:
        for request in requests:
            request.erase(done, of, self._now_us())
        await self._ledger.save(requests, self._now_us())
