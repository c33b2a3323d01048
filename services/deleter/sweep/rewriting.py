"""Rewriting the partitions that hide rows, a few at a time, until no file holds the rows any more.
Never decides which rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shared.domain.errors import StoreUnavailable
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.failures import summary
from shared.store.clickhouse.queries import load as load_queries
from shared.store.targets import TABLES

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


class Step(NamedTuple):
    """Partitions of one table that one mutation rewrites, and their bytes on disk."""

    table: str
    partitions: tuple[str, ...]
    size: int

    def __str__(self) -> str:
        first, *others = self.partitions
        through = f" … {others[-1]}" if others else ""
        return f"{self.table} {first}{through}"


class Rewriting:
    """The partitions with hidden rows, and the mutations that rewrite them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queries = load_queries(Path(__file__).with_name("sweep.sql"))

    async def masked_partitions(self) -> list[tuple[str, str, int]]:
        """Partitions that hide rows: table, partition, bytes."""
        return await self._store.rows(
            self._queries["masked_partitions"], tables=list(TABLES)
        )

    async def rewrite(self, step: Step) -> None:
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
        async for last in _looks(STEP_SECONDS_MAX):
            ((masked, reason),) = await self._store.rows(
                self._queries["masked_parts"], **names
            )
            if not masked:
                return
            if reason or last:
                raise StoreUnavailable(
                    f"Partitions of {step} are not rewritten: {summary(reason)}"
                )

    async def wait_for_files_removed(self) -> None:
        """Wait until the files of the parts that were rewritten are gone as well: they hold the
        rows in clear."""
        ((until,),) = await self._store.rows(self._queries["now"])
        async for last in _looks(SUPERSEDED_SECONDS_MAX):
            ((count,),) = await self._store.rows(
                self._queries["superseded_parts"], tables=list(TABLES), until=until
            )
            if not count:
                return
            if last:
                raise StoreUnavailable(
                    f"{count} rewritten parts are still on the disk."
                )

    async def wait_for_mutations(self) -> None:
        """Wait until no mutation runs: a step must not be taken for another's, nor pile up behind
        one."""
        async for last in _looks(MUTATION_SECONDS_MAX):
            ((unfinished, reason),) = await self._store.rows(
                self._queries["unfinished_mutations"], tables=list(TABLES)
            )
            if not unfinished:
                return
            if last:
                raise StoreUnavailable(
                    f"{unfinished} mutations do not end: {summary(reason)}"
                )


def steps(partitions: Sequence[tuple[str, str, int]]) -> list[Step]:
    """What is rewritten together, of (table, partition, bytes) in any order; the smallest first,
    for much is done then when a window is short."""
    result: list[Step] = []
    for table, partition, size in sorted(
        partitions, key=lambda each: (each[0], each[2], each[1])
    ):
        last = result[-1] if result else None
        if (
            last is not None
            and last.table == table
            and last.size + size <= STEP_BYTES_MAX
            and len(last.partitions) < STEP_PARTITIONS_MAX
        ):
            result[-1] = Step(table, (*last.partitions, partition), last.size + size)
        else:
            result.append(Step(table, (partition,), size))
    return sorted(result, key=lambda step: step.size)


async def _looks(seconds: float) -> AsyncIterator[bool]:
    """The moments of a wait at which to look again; whether it is the last one."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) <= seconds:
        yield False
        await asyncio.sleep(
            min(max(POLL_SECONDS, waited * POLL_SHARE), POLL_SECONDS_MAX)
        )
    yield True
