"""The facts that a rebuild derives from, page by page, with what purges take from them. Never folds
one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from services.projector.tables.rows import StateKey
from shared.domain.purged import Cut
from shared.store import purged
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.timeline import Row, values_size

PAGE_ROWS_MIN, PAGE_ROWS_MAX = 200, 50_000
PAGE_BYTES = 32_000_000
"""Rows of the timeline in memory: as many as were of this size on the page before."""


class Page(NamedTuple):
    """Facts in the order of their keys and versions, and the cuts of each fragment among them that
    has any."""

    rows: list[Row]
    cuts: dict[StateKey, list[Cut]]
    last: bool


class FactReader:
    """Facts of everybody, or of some fragments. `reached` are the versions that are derived, by
    partition of commands: what was taken back or purged later does not count."""

    def __init__(
        self, store: Store, queries: Mapping[str, Query], versions: Sequence[int]
    ) -> None:
        self._store, self._facts = store, queries["page"]
        self._cuts = queries["cuts"].filled(cuts=purged.cuts())
        self._versions = {"commands": list(versions), "partitions": len(versions)}

    async def pages(
        self, fragments: Sequence[UUID] | None, after: StateKey
    ) -> AsyncIterator[Page]:
        """The pages behind a key; the next one is read while this one is folded."""
        scope = self._versions | {
            "everybody": int(fragments is None),
            "fragments": list(fragments or ()),
        }
        limit = PAGE_ROWS_MIN
        reading = asyncio.create_task(
            self._page(scope, (*after, 2**64 - 1, "~"), limit), name="page"
        )
        try:
            while True:
                page = await reading
                if not page.last:
                    size = values_size(page.rows) // len(page.rows) + 300
                    limit = max(
                        PAGE_ROWS_MIN, min(PAGE_ROWS_MAX, PAGE_BYTES // size, limit * 8)
                    )
                    project, fragment, version, topic, *_ = page.rows[-1]
                    following = (project, fragment, version, topic)
                    reading = asyncio.create_task(
                        self._page(scope, following, limit), name="page"
                    )
                yield page
                if page.last:
                    return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _page(
        self, scope: dict[str, Any], after: tuple[int, UUID, int, str], limit: int
    ) -> Page:
        behind = dict(
            zip(("project", "fragment", "version", "topic"), after, strict=True)
        )
        rows = await self._store.rows(self._facts, **scope, **behind, limit=limit)
        if not rows:
            return Page(rows, {}, last=True)
        (project, fragment, *_), (last_project, last_fragment, *_) = rows[0], rows[-1]
        purged_rows = await self._store.rows(
            self._cuts,
            **scope,
            project=project,
            fragment=fragment,
            last_project=last_project,
            last_fragment=last_fragment,
        )
        cuts = {
            (project, fragment): [Cut(*cut) for cut in fragment_cuts]
            for project, fragment, fragment_cuts in purged_rows
        }
        return Page(rows, cuts, last=len(rows) < limit)
