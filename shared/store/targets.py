"""The registry of personal data: every table and column that holds some, and how its rows are
counted for a request.

The deleter erases exactly these; a dry run counts them; a test reads the schema and fails on what
is in neither list.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from shared.domain.errors import Corrupt
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.clickhouse.queries import load as load_queries

_QUERIES = load_queries(Path(__file__).with_suffix(".sql"))

FOREVER = 2**63 - 1
"""Above every version and every time: a reach without an end."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One place of personal data: `columns` of `table`."""

    name: str
    table: str
    columns: tuple[str, ...]
    rows_stay: bool = False

    def query(self, name: str) -> Query:
        """One of the queries that any target has, for this one."""
        query = self._template(name, _QUERIES[f"reach_{self.name}"].sql)
        return query.renamed(f"{name}_{self.name}")

    def _template(self, name: str, reach: str) -> Query:
        return _QUERIES[name].filled(
            table=self.table, column=self.columns[0], reach=reach
        )


TARGETS = (
    Target(
        name="search",
        table="search",
        columns=("distinct_ids", "properties", "created_at"),
    ),
    Target(
        name="captured_events",
        table="captured_events",
        columns=(
            "distinct_id",
            "event",
            "properties",
            "timestamp",
            "received_at",
            "uuid",
            "repairs",
        ),
    ),
    Target(
        name="fragments",
        table="fragments",
        columns=(
            "distinct_id",
            "properties",
            "cells",
            "keys",
            "key_digests",
            "key_versions",
            "events",
            "created_at",
            "seen_at",
            "purged",
        ),
    ),
    Target(
        name="recordings",
        table="recording_blocks",
        columns=(
            "session",
            "object",
            "start",
            "length",
            "started_at",
            "ended_at",
            "received_at",
            "window",
            "uuid",
        ),
    ),
    Target(
        name="timeline",
        table="timeline",
        columns=(
            "distinct_id",
            "keys",
            "kinds",
            "before",
            "after",
            "created_at",
            "source",
            "left_out",
        ),
    ),
    Target(name="causes", table="timeline", columns=("source",), rows_stay=True),
)
"""In the order in which they are hidden. `causes` are the names of events in rows of the timeline
that stay."""

OBJECTS = "objects"
"""The target that is no table: objects with blocks of recordings. They go before the rows that say
where they are."""

FRAGMENTS_MAX = 10_000
"""Fragments named in one statement: as parameters they take 0.4 MB, and with their boundaries 1
MB."""

_RECORDINGS = next(target for target in TARGETS if target.name == "recordings")

TABLES = tuple(dict.fromkeys(target.table for target in TARGETS))

STAYS = {
    "identity": "uuids of fragments and the recent keys' hashes:"
    " the tombstone that keeps an erased id erased",
    "numbers": "integer ids and uuids: an id keeps its integer for ever",
    "deletion_requests": "uuids, actors, counts, names of purged properties:"
    " the proof of what was asked for and done",
    "deletion_positions": "how far the log was taken over",
    "receipts": "uuids, counts, names of purged properties and signatures:"
    " the proof that it was done",
    "projects": "projects and their tokens",
    "api_keys": "keys of operators, hashed",
    "rebuilds": "counts of rebuilds",
    "migrations": "which migrations ran",
    "log_generations": "by what each log is known, and its partition counts",
    "property_changes": "a view over the timeline: it holds nothing itself",
    "holders": "a view over identity: it holds nothing itself",
    "persons": "a view over search: it holds nothing itself",
    "events": "a view over captured_events: it holds nothing itself",
}
"""Tables that hold no personal data, or what must stay, and why."""

ELSEWHERE = {
    COMMANDS: "commands as they were sent; by retention, and the receipt says until when",
    IDENTITY: "merges, splits and deletes with their distinct ids; by retention, as the commands",
    DELETIONS: "uuids of who is to be deleted; by retention",
    DEAD: "records that could not be folded, whole; by retention, as the commands",
    "objects": "blocks of recordings; erased before the rows that say where they are",
    "projector's cache": "fragments in memory, bounded;"
    " an erase record empties the fragment in it as well",
    "rows that the API keeps": "in memory, bounded; a row that changes is read anew,"
    " and after 10 minutes none is used",
    "spooled answers": "nameless files of one answer; the kernel drops them with it",
    "process logs": "no values: routes, topics, partitions, kinds of errors",
}
"""Where else personal data passes, and when it goes."""

TECHNICAL = frozenset(
    {
        "project",
        "fragment",
        "block",
        "version",
        "number",
        "effect",
        "stamp",
        "erased",
        "erased_at",
        "topic",
        "at",
        "command",
        "actor",
        "root",
        "members",
        "identified",
        "erase",
        "peer",
        "reason",
        "living",
        "scope",
        "restored",
        "kind",
        "epoch",
        "generation",
        "record",
    }
)
"""Columns of the targets' tables that say nothing of a person: ids, positions, and who wrote."""


class Count(msgspec.Struct, frozen=True):
    """Rows of one fragment in one partition of a target."""

    fragment: UUID
    partition: str
    rows: int


class ObjectBlocks(msgspec.Struct, frozen=True):
    """Blocks of recordings in one object: whose, where, and when the newest came, in
    microseconds."""

    object: str
    fragments: list[UUID]
    starts: list[int]
    lengths: list[int]
    newest: int


async def count(
    store: Store, target: Target, reach: dict[str, Any], *, hidden: bool
) -> list[Count]:
    """The rows of a target within reach; `hidden`: those that a lightweight delete hides as well.

    Corrupt if the count did not come whole: no answer is never zero.
    """
    rows = await (store.rows_with_hidden if hidden else store.rows)(
        target.query("count"), **reach
    )
    for total, fragments, partitions, counts in rows:
        if len(rows) == 1 and total == sum(counts):
            return [
                Count(*each) for each in zip(fragments, partitions, counts, strict=True)
            ]
    raise Corrupt(f"The remnants in {target.name} could not be counted.")


async def hide(store: Store, target: Target, reach: dict[str, Any], plan: UUID) -> None:
    """Hide the rows within reach, hidden ones too; of rows that stay, empty what is personal. One
    mutation."""
    await store.command(
        target.query("clear" if target.rows_stay else "hide"), plan=plan, **reach
    )


async def blocks(store: Store, reach: dict[str, Any]) -> list[ObjectBlocks]:
    """Where the recordings within reach lie, those of hidden rows too."""
    return [
        ObjectBlocks(*row)
        for row in await store.rows_with_hidden(_RECORDINGS.query("blocks"), **reach)
    ]


async def objects(store: Store, reach: dict[str, Any]) -> int:
    """How many objects the recordings within reach lie in."""
    ((number,),) = await store.rows(_RECORDINGS.query("objects"), **reach)
    return int(number)


def whole(
    project: int, fragments: Sequence[UUID], roots: Sequence[UUID]
) -> dict[str, Any]:
    """A reach without an end: all that is held of these fragments, and of the persons with these
    roots."""
    ends = [FOREVER] * len(fragments)
    limits = ("iver", "life", "captured", "captured_at", "recorded", "recorded_at")
    return {
        "projects": [project],
        "fragments": list(fragments),
        **dict.fromkeys(limits, ends),
        "keys": list(roots),
        "bounds": [FOREVER] * len(roots),
    }


async def bytes_of(store: Store, table: str, partitions: Collection[str]) -> int:
    """Bytes on disk of partitions of a table: what erasing in them rewrites."""
    ((size,),) = await store.rows(
        _QUERIES["partition_bytes"], table=table, partitions=sorted(partitions)
    )
    return int(size)
