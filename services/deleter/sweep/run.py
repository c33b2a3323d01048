"""One run over all open requests together: hide, erase, verify. Never one mutation per person.

Each step reads the ledger anew and may be repeated: after a crash the next run goes on where this
one stopped. Cost is the bytes of the touched parts, however many the persons are: 1,000 persons one
by one cost 360 times as much.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from services.deleter.ledger import Ledger
from services.deleter.sweep import recordings
from services.deleter.sweep.planner import Plan, Tombstone, plan
from services.deleter.sweep.run_options import RunOptions
from shared.domain.deletion import DeletionRequest, Partitions
from shared.domain.errors import StoreUnavailable
from shared.domain.ids import COMMANDS, IDENTITY, Position, position_key
from shared.domain.purged import Cut
from shared.runtime import telemetry
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.failures import summary
from shared.store.clickhouse.queries import load as load_queries
from shared.store.objects import Objects
from shared.store.purging import PURGED, PURGED_SEARCH, cuts, search_reach, targets_of
from shared.store.targets import (
    FRAGMENTS_MAX,
    OBJECTS,
    TABLES,
    TARGETS,
    Target,
    count,
    hide,
)

PROGRESS_SECONDS = 10.0
"""Between two notes of "partition i of n": each is a row for every request of the run."""

MUTATION_SECONDS_MAX = 60.0
"""How long a step waits for mutations that are not its own before the run stops and leaves the rest
to the next."""

STEP_SECONDS_MAX = 6 * 3_600.0
"""How long one partition may take: 1 TB at the 100 MB/s that one core rewrites takes half of it."""

SUPERSEDED_SECONDS_MAX = 600.0
"""How long to wait for the files of rewritten parts to go. The engine looks for them every second
or two, once the delay of before migration 0005 has ended (a server's may be 300 s); and long
readers hold on to them."""

STEP_BYTES_MAX = 128 << 20
"""Partitions of one table that one mutation rewrites: a second or two for one core. A mutation
passes every part of its table, which takes 1 to 2 s however little it rewrites: 28 small partitions
one by one took 50 s. A partition beyond this is a step of its own, so that readers have the other
core."""

STEP_PARTITIONS_MAX = 60
"""Of one mutation: five years of small months, and a statement of a few KB."""

POLL_SECONDS, POLL_SECONDS_MAX, POLL_SHARE = 0.1, 1.0, 0.25
"""A wait asks again after this share of the time that it has taken. Looking at the parts takes the
engine 9 ms: ten times a second through a whole run, that alone is a tenth of a core that readers
want."""

UNWATCHED = RunOptions()
"""To the end, for a ledger that nobody else can change."""

SHADOWS = tuple(f"{table}_rebuild" for table in TABLES)
"""Where a rebuild copies rows to."""

Found = dict[str, dict[UUID, Counter[str]]]
"""Rows by target, fragment and partition."""


class Step(NamedTuple):
    """Partitions of one table that one mutation rewrites, and their bytes on disk."""

    table: str
    partitions: tuple[str, ...]
    size: int

    def __str__(self) -> str:
        return f"{self.table} {self.partitions[0]}{f' … {self.partitions[-1]}' if len(self.partitions) > 1 else ''}"


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
        self._plan_id = uuid4()
        self._purged: Collection[UUID] = ()
        self._roots: dict[UUID, set[UUID]] = {}

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
        passed: dict[UUID, int] = dict(
            await self._store.rows(self._queries["positions"], keys=list(keys))
        )
        return all(passed.get(key, 0) >= head.version for key, head in keys.items())

    async def settled(self) -> None:
        """Wait until no block within reach can come any more of whom stays without recordings: that
        reach ends at the request's time, and a block has its own before it is in the log. (A life
        ends at a place in the log.)"""
        asked = await self._ledger.open("pending", "failed")
        cutoffs = [
            one.cutoff
            for one in asked
            if one.scope.recordings and not one.scope.profile
        ]
        await recordings.settled(max(cutoffs, default=0), self._now_us(), self.in_time)

    async def run(
        self, *, projected: bool, purged: Collection[UUID] = ()
    ) -> list[DeletionRequest]:
        """Every step, as far as the window allows; the requests that this run has brought to an
        end.

        `purged` are the purges that all tables have passed.
        """
        self._purged = purged
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
        if not await self._clear():
            return []
        async with self._options.lock():
            cancelling = await self._ledger.open("cancelling")
            asked = await self._ledger.open("pending", "failed")
            ready = await self._plan(asked, projected=projected, cancelling=cancelling)
            for request in ready.requests:
                if request.state == "failed":
                    request.retry(self._now_us())
                request.begin(self._plan_id, self._now_us())
            await self._ledger.save(ready.requests, self._now_us())
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
        failed = [
            request
            for request in ready.requests
            if outcome.failed.keys() & set(request.members)
        ]
        for request in failed:
            request.fail(
                next(
                    outcome.failed[one]
                    for one in request.members
                    if one in outcome.failed
                ),
                self._now_us(),
            )
        await self._ledger.save(failed, self._now_us())
        able = await self._plan(
            [one for one in ready.requests if one not in failed], projected=projected
        )
        found = await self._remnants(able)
        await self._settled()
        self._options.tell(0, len(able.requests), "requests: hiding rows")
        for target, parameters in _work(able):
            if found[target.name]:
                await hide(
                    self._store,
                    target,
                    await self._reach(target, parameters),
                    self._plan_id,
                )
        for request in able.requests:
            partitions = self._of(request, able, found)
            counts = {target: sum(rows.values()) for target, rows in partitions.items()}
            files = sum(outcome.objects.get(member, 0) for member in request.members)
            request.hide(counts | {OBJECTS: files}, partitions, self._now_us())
        await self._ledger.save(able.requests, self._now_us())
        return able.requests + failed

    async def erase(self) -> bool:
        """Rewrite what hides rows, step by step; whether there is none left, and no file of it."""
        requests = await self._ledger.open("hidden", "erasing")
        if not requests:
            return True
        partitions = await self._store.rows(
            self._queries["masked_partitions"], tables=list(TABLES)
        )
        noted, done, rate = float("-inf"), 0, float("inf")
        for step in steps(partitions):
            if not self._fits(step.size / rate) or not await self._clear(step.size):
                break
            if time.monotonic() - noted >= PROGRESS_SECONDS:
                await self._note(requests, done, len(partitions))
                noted = time.monotonic()
            telemetry.DELETION_PARTITIONS.labels("done").set(done)
            telemetry.DELETION_PARTITIONS.labels("all").set(len(partitions))
            self._options.tell(done, len(partitions), f"partitions: {step}")
            await self._settled()
            began = time.monotonic()
            await self._erase(step)
            rate = step.size / (time.monotonic() - began)
            telemetry.REWRITTEN_BYTES.labels(step.table).inc(step.size)
            done += len(step.partitions)
        await self._note(requests, done, len(partitions))
        telemetry.DELETION_PARTITIONS.labels("done").set(done)
        if done == len(partitions):
            await self._swept()
        return done == len(partitions)

    async def verify(self) -> list[DeletionRequest]:
        """Count through the mask: verified or failed, each request for itself."""
        requests = await self._ledger.open("hidden", "erasing")
        if not requests:
            return []
        self._options.tell(0, len(requests), "requests: counting through the mask")
        reach = await self._plan(requests, projected=True)
        found = await self._remnants(reach)
        places = await self._store.rows(
            self._queries["copies"], tables=list(TABLES), shadows=list(SHADOWS)
        )
        for request in reach.waiting:
            request.fail("its erase records cannot be found any more", self._now_us())
        for request in reach.requests:
            counts = {
                target: sum(rows.values())
                for target, rows in self._of(request, reach, found).items()
            }
            if any(counts.values()):
                left = ", ".join(
                    f"{rows} in {target}" for target, rows in counts.items() if rows
                )
                request.fail(f"rows are left: {left}", self._now_us())
            elif places:
                request.fail(
                    f"rows may lie elsewhere: {', '.join(place for (place, *_) in places)}",
                    self._now_us(),
                )
            else:  # no row was hidden before the objects that it led to were read back without its blocks
                request.verify(counts | {OBJECTS: 0}, self._now_us())
        await self._options.issue(
            [one for one in reach.requests if one.state == "verified"], self._now_us()
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

    async def _plan(
        self,
        requests: Sequence[DeletionRequest],
        *,
        projected: bool,
        cancelling: Sequence[DeletionRequest] = (),
    ) -> Plan:
        projects = {
            member: request.project
            for request in requests
            for member in request.members
        }
        everyone = list(projects)
        tombstones: list[Tombstone] = []
        erased: dict[UUID, int] = {}
        for start in range(0, len(everyone), FRAGMENTS_MAX):
            part = everyone[start : start + FRAGMENTS_MAX]
            names = {
                "projects": sorted({projects[member] for member in part}),
                "fragments": part,
            }
            tombstones += [
                Tombstone(*row)
                for row in await self._store.rows(self._queries["tombstones"], **names)
            ]
            erased |= dict(await self._store.rows(self._queries["erased"], **names))
        purges = await self._purges(requests, projected)
        return plan(
            requests,
            tombstones,
            erased,
            projected=projected,
            cancelling=cancelling,
            purges=purges,
        )

    async def _purges(
        self, requests: Sequence[DeletionRequest], projected: bool
    ) -> dict[UUID, dict[UUID, list[Cut]]]:
        """What the purges take, those that are ready; what is hidden already was."""
        found = {}
        for one in requests:
            begun = one.state in ("hidden", "erasing")
            if one.scope.purge and (begun or (projected and one.id in self._purged)):
                of = None if not one.members else one.members
                found[one.id] = await cuts(
                    self._store, one.project, one.scope.purge, one.cutoff, of
                )
        return found

    async def _remnants(self, reach: Plan) -> Found:
        """Rows within reach, hidden ones too."""
        found: Found = {target.name: {} for target in (*TARGETS, *PURGED)}
        for target, parameters in _work(reach):
            for one in await count(
                self._store, target, await self._reach(target, parameters), hidden=True
            ):
                found[target.name].setdefault(one.fragment, Counter())[
                    one.partition
                ] += one.rows
        return found

    async def _reach(
        self, target: Target, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """A search row is a whole person's: what it held of a fragment lies under every root that
        the fragment had, in rows of before it left."""
        if target.name == PURGED_SEARCH:
            reach, roots = await search_reach(self._store, parameters)
            self._roots |= roots
            return reach
        if target.name != "search":
            return parameters
        names = {name: parameters[name] for name in ("projects", "fragments")}
        bounds = dict(zip(parameters["fragments"], parameters["iver"], strict=True))
        for root, left in await self._store.rows_with_hidden(
            self._queries["former_roots"], **names
        ):
            bounds[root] = max(bounds.get(root, 0), left)
        return {
            "projects": names["projects"],
            "keys": list(bounds),
            "bounds": list(bounds.values()),
        }

    def _of(self, request: DeletionRequest, able: Plan, found: Found) -> Partitions:
        """The request's share, of each of its targets by partition."""
        members = set(able.members(request))
        share: Partitions = {}
        for target in targets_of(request.scope):
            rows, whose = found[target.name], members
            if target.name == PURGED_SEARCH:
                whose = {
                    root
                    for member in members
                    for root in self._roots.get(member, {member})
                }
            share[target.name] = dict(
                sum((rows[one] for one in whose if one in rows), Counter())
            )
        return share

    def _fits(self, seconds: float) -> bool:
        """Whether a step of this length ends inside the window. The first one of a run is always
        tried: its length is not known, and a partition that no window can hold must be erased as
        well."""
        closes_at = self._options.closes_at
        return self.in_time() and (
            closes_at is None or self._now_us() + seconds * 1e6 < closes_at
        )

    async def _clear(self, size: int = 0) -> bool:
        """Whether the next step may begin now."""
        return self.in_time() and (
            self._options.guard is None
            or await self._options.guard.clear(self.in_time, size)
        )

    async def _erase(self, step: Step) -> None:
        """Rewrite some partitions, and wait until it shows: by the parts themselves, never by a
        mutation's name, which might be somebody else's."""
        places = {
            f"partition{number}": partition
            for number, partition in enumerate(step.partitions)
        }
        commands = ", ".join(
            f"APPLY DELETED MASK IN PARTITION ID {{{place}:String}}" for place in places
        )
        erase = self._queries["erase_partitions"].filled(commands=commands)
        await self._store.command(erase, table=step.table, **places)
        names = {"table": step.table, "partitions": list(step.partitions)}
        async for last in _asking(STEP_SECONDS_MAX):
            ((masked, reason),) = await self._store.rows(
                self._queries["masked_parts"], **names
            )
            if not masked:
                return
            if reason or last:
                raise StoreUnavailable(
                    f"Partitions of {step} are not rewritten: {summary(reason)}"
                )

    async def _swept(self) -> None:
        """Wait until the files of the parts that were rewritten are gone as well: they hold the
        rows in clear."""
        ((until,),) = await self._store.rows(self._queries["now"])
        async for last in _asking(SUPERSEDED_SECONDS_MAX):
            ((left,),) = await self._store.rows(
                self._queries["superseded_parts"], tables=list(TABLES), until=until
            )
            if not left:
                return
            if last:
                raise StoreUnavailable(f"{left} rewritten parts are still on the disk.")

    async def _settled(self) -> None:
        """Wait until no mutation runs: a step must not be taken for another's, nor pile up behind
        one."""
        async for last in _asking(MUTATION_SECONDS_MAX):
            ((unfinished, reason),) = await self._store.rows(
                self._queries["unfinished_mutations"], tables=list(TABLES)
            )
            if not unfinished:
                return
            if last:
                raise StoreUnavailable(
                    f"{unfinished} mutations do not end: {summary(reason)}"
                )

    async def _note(
        self, requests: Sequence[DeletionRequest], done: int, of: int
    ) -> None:
        for request in requests:
            request.erase(done, of, self._now_us())
        await self._ledger.save(requests, self._now_us())


def steps(partitions: Sequence[tuple[str, str, int]]) -> list[Step]:
    """What is rewritten together, of (table, partition, bytes) in any order; the smallest first,
    for much is done then when a window is short."""
    found: list[Step] = []
    for table, partition, size in sorted(
        partitions, key=lambda each: (each[0], each[2], each[1])
    ):
        last = found[-1] if found else None
        if (
            last is not None
            and last.table == table
            and last.size + size <= STEP_BYTES_MAX
            and len(last.partitions) < STEP_PARTITIONS_MAX
        ):
            found[-1] = Step(table, (*last.partitions, partition), last.size + size)
        else:
            found.append(Step(table, (partition,), size))
    return sorted(found, key=lambda step: step.size)


async def _asking(seconds: float) -> AsyncIterator[bool]:
    """The moments of a wait at which to look again; whether it is the last one."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) <= seconds:
        yield False
        await asyncio.sleep(
            min(max(POLL_SECONDS, waited * POLL_SHARE), POLL_SECONDS_MAX)
        )
    yield True


def _work(able: Plan) -> Iterator[tuple[Target, dict[str, Any]]]:
    """Each target with the parameters of each of its statements."""
    for parameters in able.statements():
        yield from ((target, parameters) for target in TARGETS)
    for parameters in able.purge_statements():
        yield from ((target, parameters) for target in PURGED)
