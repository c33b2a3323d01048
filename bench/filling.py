"""Persons filled into the tables by the engine itself (fill.sql), and not through the log.

They are older than every position (generation 0), so that neither the projector nor the search
feeder takes them for new rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from bench.logs import MERGES
from services.projector.tables.rows import FragmentState
from shared.domain.ids import COMMANDS, NAMESPACE, fragment_id, partition_of
from shared.runtime.settings import OWNER, read, with_keys
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load
from tests.support.processes import Stack, running, wait_for

CHUNK = 250_000
"""Persons of one INSERT: a few parts for each table, as merges leave them."""

BORN_US, BORN_SPAN_US = 1_735_689_600_000_000, 600 * 86_400_000_000
"""Persons are born in the 600 days from 2025 on; the same as in fill.sql."""

MERGED_SECONDS_MAX = 900.0
"""Merges of 10 M persons: some GB, on one thread."""

SEARCH_PATH = "/?email=nobody&limit=1"
"""A list that waits for the search table, and reads no more; an unfiltered one scans fragments."""

name_of = "person-{}".format


@contextmanager
def filled_stacks(
    data: Path, sizes: tuple[int, ...], *, searchable: bool
) -> Iterator[dict[int, Stack]]:
    """Yield a stack for each size: measured in turns, all meet the same noise of the machine."""
    with ExitStack() as stacks:
        filled: dict[int, Stack] = {}
        for size in sizes:
            filled[size] = stacks.enter_context(running(data / str(size)))
            _begin(filled[size])
            asyncio.run(fill(filled[size], size, searchable=searchable))
            settle(filled[size])
            print(f"{size:,} persons: {_parts(filled[size])}", flush=True)
        yield filled


async def fill(stack: Stack, size: int, *, searchable: bool = True) -> None:
    """Insert `size` persons, chunk by chunk; filters and totals include searchable ones."""
    settings, _ = with_keys(read(stack.environment))
    queries = load(Path(__file__).with_name("fill.sql"))
    store = await Store.connect(settings.store_url(OWNER))
    try:
        for start in range(0, size, CHUNK):
            count = min(CHUNK, size - start)
            partitions = settings.topics[COMMANDS]
            await store.command(
                queries["fragments"],
                start=start,
                count=count,
                partitions=partitions,
                namespace=NAMESPACE.hex,
            )
            for table in ("numbers", "identity", *(("search",) if searchable else ())):
                await store.command(queries[table], start=start, count=count)
    finally:
        await store.close()


def fragment_row(number: int, properties: str, cells: str) -> FragmentState:
    """Build a row of `fragments` as the projector writes it, of a new person of project 2."""
    return FragmentState(
        project=2,
        fragment=uuid4(),
        version=1,
        distinct_id=f"person-{number}",
        number=number,
        created_at=1,
        effect=1,
        stamp=1,
        erased=0,
        erased_at=0,
        seen_at=0,
        properties=properties,
        cells=cells,
        keys=[],
        key_digests=[],
        key_versions=[],
        events=[],
        restored=0,
        purged="",
    )


def settle(stack: Stack) -> None:
    """Wait until the engine has no merges, and a filtered list is up to date."""
    wait_for(lambda: stack.query(MERGES) == "0", MERGED_SECONDS_MAX, "the merges")
    wait_for(lambda: stack.persons(SEARCH_PATH).status == 200, 60, "the feeder")


def _begin(stack: Stack) -> None:
    """Append a first command to every partition: the feeder then takes no older row for new."""
    partitions = read(stack.environment).topics[COMMANDS]
    number = 0
    untouched = set(range(partitions))
    while untouched:
        untouched.discard(partition_of(fragment_id(1, f"first-{number}"), partitions))
        assert stack.capture(event="first", distinct_id=f"first-{number}").status == 200
        number += 1
    answer = stack.capture(
        event="$identify", distinct_id="first-0", properties={"$anon_distinct_id": "first-1"}
    )
    at = answer.headers["Position"]
    wait_for(lambda: stack.persons(SEARCH_PATH, Min_Position=at).status == 200, 60, "the feeder")


def _parts(stack: Stack) -> str:
    counts = stack.query(
        "SELECT table, count(), 'parts', sum(rows), 'rows' FROM system.parts "
        "WHERE active AND table IN ('fragments', 'identity', 'numbers', 'search')"
        " GROUP BY table ORDER BY table"
    )
    return counts.replace("\t", " ").replace("\n", ", ")
