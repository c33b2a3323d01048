"""The rows that open requests still have: what lies within reach, counted and hidden. Never
rewrites a partition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from services.deleter.sweep.planner import Plan, Tombstone, plan
from shared.domain.deletion import DeletionRequest, Partitions
from shared.domain.purged import Cut
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries
from shared.store.purging import PURGED, PURGED_SEARCH, cuts, search_reach, targets_of
from shared.store.targets import FRAGMENTS_MAX, TARGETS, Target, count, hide

CountsByTarget = dict[str, dict[UUID, Counter[str]]]
"""Rows by target, fragment and partition."""


class Remnants:
    """The remnants of one run's requests."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queries = load_queries(Path(__file__).with_name("sweep.sql"))
        self._roots: dict[UUID, set[UUID]] = {}
        self.purged: Collection[UUID] = ()
        """The purges that all tables have passed."""

    async def plan(
        self,
        requests: Sequence[DeletionRequest],
        *,
        projected: bool,
        cancelling: Sequence[DeletionRequest] = (),
    ) -> Plan:
        """Which requests are ready, and how far they reach; see `planner`."""
        projects = {
            member: request.project
            for request in requests
            for member in request.members
        }
        members = list(projects)
        tombstones: list[Tombstone] = []
        erased: dict[UUID, int] = {}
        for start in range(0, len(members), FRAGMENTS_MAX):
            chunk = members[start : start + FRAGMENTS_MAX]
            names = {
                "projects": sorted({projects[member] for member in chunk}),
                "fragments": chunk,
            }
            tombstones += [
                Tombstone(*row)
                for row in await self._store.rows(self._queries["tombstones"], **names)
            ]
            erased |= dict(await self._store.rows(self._queries["erased"], **names))
        return plan(
            requests,
            tombstones,
            erased,
            projected=projected,
            cancelling=cancelling,
            purges=await self._purges(requests, projected),
        )

    async def count(self, reach: Plan) -> CountsByTarget:
        """Count the rows within reach, hidden ones too."""
        counts: CountsByTarget = {target.name: {} for target in (*TARGETS, *PURGED)}
        for target, parameters in _statements(reach):
            for group in await count(
                self._store, target, await self._reach(target, parameters), hidden=True
            ):
                fragments = counts[target.name]
                partitions = fragments.setdefault(group.fragment, Counter())
                partitions[group.partition] += group.rows
        return counts

    async def hide(self, reach: Plan, counts: CountsByTarget, plan_id: UUID) -> None:
        """Hide the rows within reach, of the targets that have any."""
        for target, parameters in _statements(reach):
            if counts[target.name]:
                scope = await self._reach(target, parameters)
                await hide(self._store, target, scope, plan_id)

    def share(
        self, request: DeletionRequest, reach: Plan, counts: CountsByTarget
    ) -> Partitions:
        """The request's own rows, of each of its targets by partition."""
        members = set(reach.members(request))
        share: Partitions = {}
        for target in targets_of(request.scope):
            rows, owners = counts[target.name], members
            if target.name == PURGED_SEARCH:
                owners = {
                    root
                    for member in members
                    for root in self._roots.get(member, {member})
                }
            share[target.name] = dict(
                sum((rows[owner] for owner in owners if owner in rows), Counter())
            )
        return share

    async def _purges(
        self, requests: Sequence[DeletionRequest], projected: bool
    ) -> dict[UUID, dict[UUID, list[Cut]]]:
        """What the purges take, those that are ready; what is hidden already was."""
        purges = {}
        for request in requests:
            begun = request.state in ("hidden", "erasing")
            ready = begun or (projected and request.id in self.purged)
            if request.scope.purge and ready:
                purges[request.id] = await cuts(
                    self._store,
                    request.project,
                    request.scope.purge,
                    request.cutoff,
                    request.members or None,
                )
        return purges

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
        for root, version in await self._store.rows_with_hidden(
            self._queries["former_roots"], **names
        ):
            bounds[root] = max(bounds.get(root, 0), version)
        return {
            "projects": names["projects"],
            "keys": list(bounds),
            "bounds": list(bounds.values()),
        }


def _statements(reach: Plan) -> Iterator[tuple[Target, dict[str, Any]]]:
    """Each target with the parameters of each of its statements."""
    for parameters in reach.statements():
        yield from ((target, parameters) for target in TARGETS)
    for parameters in reach.purge_statements():
        yield from ((target, parameters) for target in PURGED)
