"""Purges in the store: what there is of a property's values, whose they are, and the targets that
they leave.

The sweep of a purge and its dry run are the same conditions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from shared.domain.commands import Scope
from shared.domain.person.lifted import LIFTED, copies
from shared.domain.purged import Cut
from shared.store import purged
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.clickhouse.queries import load as load_queries
from shared.store.targets import FOREVER, FRAGMENTS_MAX, TARGETS, Target

_QUERIES = load_queries(Path(__file__).with_suffix(".sql"))

NOBODY = UUID(int=0)

_SCOPE = "project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}"
_CUTS = (
    "JSONExtract(transform(fragment, {fragments:Array(UUID)}, {cuts:Array(String)}, '[]'),"
    " 'Array(Tuple(String, Int64, UInt64))')"
)
_ALL_CUTS = (
    f"arrayMap(name -> (name, toInt64({FOREVER}), toUInt64({FOREVER})),"
    " {names:Array(String)})"
)
_LIFTED = "[" + ", ".join(f"'{name}'" for name in LIFTED) + "]"


class PurgeTarget(Target, frozen=True, kw_only=True):
    """A place of a property's values. Its rows stay, rewritten, unless they are superseded."""

    def query(self, name: str) -> Query:
        """One of the queries that any target has, for this one."""
        reach = self._reach(f"reach_{self.name}", _SCOPE, _CUTS)
        if name == "clear":
            query = _QUERIES["rewrite"].filled(
                table=self.table, changes=self._changes(), reach=reach
            )
        else:
            query = self._template(name, reach)
        return query.renamed(f"{name}_{self.name}")

    def preview(self, *, everybody: bool) -> Query:
        """Counts what a purge of {names} would reach: of {projects}, or of {fragments} in them.
        {paths} are the names as the search table has them."""
        scope = "project IN {projects:Array(UInt32)}" if everybody else _SCOPE
        own = f"preview_{self.name}"
        reach = self._reach(
            own if own in _QUERIES else f"reach_{self.name}", scope, _ALL_CUTS
        )
        return _QUERIES["preview"].filled(table=self.table, reach=reach)

    def _reach(self, name: str, scope: str, cuts: str) -> str:
        names = purged.names(cuts)
        return (
            _QUERIES[name]
            .filled(
                scope=scope,
                cuts=cuts,
                touched=purged.touched(cuts),
                names=names,
                lifted=_LIFTED,
                stripped=purged.stripped(names),
            )
            .sql
        )

    def _changes(self) -> str:
        if self.table == "captured_events":
            return f"properties = {purged.stripped(purged.names(_CUTS))}"
        return ", ".join(
            f"{column} = {text}" for column, text in purged.elements(_CUTS).items()
        )


PURGED = (
    PurgeTarget(name="purged_search", table="search", columns=("properties",)),
    PurgeTarget(
        name="purged_events",
        table="captured_events",
        columns=("properties",),
        rows_stay=True,
    ),
    PurgeTarget(
        name="purged_fragments", table="fragments", columns=("properties", "cells")
    ),
    PurgeTarget(
        name="purged_timeline", table="timeline", columns=purged.COLUMNS, rows_stay=True
    ),
)
"""In the order in which they are worked on."""


PURGED_SEARCH = PURGED[0].name


def targets_of(scope: Scope) -> tuple[Target, ...]:
    """Where a request of this scope may have rows."""
    return PURGED if scope.purge else TARGETS


Read = Callable[..., Awaitable[list[tuple[Any, ...]]]]
"""One of the store's two ways to read rows; each has its own limit of time."""


async def unpurged(
    read: Read,
    project: int,
    key: str,
    cutoff: int,
    *,
    after: UUID = NOBODY,
    limit: int = FRAGMENTS_MAX,
) -> list[UUID]:
    """Fragments of a project that have values of a property from up to the cut-off, and no fact yet
    that they are gone; in order, behind `after`."""
    rows = await read(
        _UNPURGED,
        project=project,
        name=key,
        names=list(copies(key)),
        cutoff=cutoff,
        after=after,
        limit=limit,
    )
    return [fragment for (fragment,) in rows]


async def cuts(
    store: Store,
    project: int,
    key: str,
    cutoff: int,
    fragments: Sequence[UUID] | None = None,
) -> dict[UUID, list[Cut]]:
    """What was purged of a property up to the cut-off, or to a later one: of everybody, or of these
    fragments."""
    cuts_by_fragment: dict[UUID, list[Cut]] = {}
    chunks = (
        [None]
        if fragments is None
        else [
            fragments[at : at + FRAGMENTS_MAX]
            for at in range(0, len(fragments), FRAGMENTS_MAX)
        ]
    )
    for chunk in chunks:
        after: UUID | None = NOBODY
        while after is not None:
            rows = await store.rows_with_hidden(
                _QUERIES["cuts"],
                project=project,
                names=list(copies(key)),
                cutoff=cutoff,
                after=after,
                everybody=int(chunk is None),
                fragments=list(chunk or ()),
                limit=FRAGMENTS_MAX,
            )
            page = {
                fragment: [Cut(*cut) for cut in entries] for fragment, entries in rows
            }
            cuts_by_fragment |= page
            after = next(reversed(page)) if len(rows) == FRAGMENTS_MAX else None
    return cuts_by_fragment


async def showing(store: Store, project: int, paths: Sequence[str]) -> int:
    """How many persons of a project show one of these names, as the search table has them."""
    ((persons,),) = await store.rows(
        _QUERIES["showing"], projects=[project], paths=list(paths)
    )
    return int(persons)


async def search_reach(
    store: Store, parameters: dict[str, Any]
) -> tuple[dict[str, Any], dict[UUID, set[UUID]]]:
    """The same fragments for the search table, whose rows are whole persons': the persons that they
    were ever part of, each with its newest row's version; and those persons by fragment."""
    names = {name: parameters[name] for name in ("projects", "fragments")}
    roots: dict[UUID, set[UUID]] = {
        fragment: {fragment} for fragment in names["fragments"]
    }
    for fragment, root in await store.rows_with_hidden(_QUERIES["roots"], **names):
        roots[fragment].add(root)
    keys = sorted(set().union(*roots.values()))
    newest = dict(
        await store.rows_with_hidden(
            _QUERIES["newest"], projects=names["projects"], roots=keys
        )
    )
    return {
        "projects": names["projects"],
        "roots": list(newest),
        "newest": list(newest.values()),
    }, roots


async def search_has_passed(store: Store, keys: dict[UUID, int]) -> bool:
    """Whether the search table has passed these versions of position rows."""
    versions: dict[UUID, int] = dict(await store.rows(_QUERIES["fed"], keys=list(keys)))
    return all(versions.get(key, 0) >= version for key, version in keys.items())


def text_of(cuts: Sequence[Cut]) -> str:
    """The cuts of one fragment as a parameter of a sweep."""
    return orjson.dumps([tuple(cut) for cut in cuts]).decode()


_UNPURGED = _QUERIES["unpurged"].filled(
    cuts=purged.cuts(),
    forever=str(FOREVER),
    stripped=purged.stripped("{names:Array(String)}"),
    lifted=_LIFTED,
)
