"""Many ids in one statement: what a server's limit on the size of a parameter cuts. Through the real workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from services.api.reads.persons import Reads
from services.api.reads.query_batcher import KEYS_MAX
from services.projector.search import Feeder
from services.projector.tables.clickhouse import LOAD_IDS_MAX
from shared.domain.commands import MergePersons
from shared.domain.ids import COMMANDS, IDENTITY, fragment_id
from shared.domain.person.identity import MEMBERS_MAX
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.objects import Objects
from shared.store.targets import FRAGMENTS_MAX
from tests.support.erasing import World

SECONDS_MAX = 300.0
"""For a backlog to be projected; a busy machine takes a minute."""

PERSONS = -(-FRAGMENTS_MAX // MEMBERS_MAX)
GROUP = 50
"""Members that become one person before that joins the others: one by one, each merge would repeat all before it."""

LIVING = Query(name="living", sql="SELECT count() FROM search FINAL WHERE project = 1 AND living")
SEEN = Query(name="seen", sql="SELECT fragment FROM captured_events")
FILLED = Query(name="filled", sql="SELECT DISTINCT fragment FROM fragments WHERE project = 1 AND properties != '{}'")


@pytest.fixture
async def world(store: Store, tmp_path: Path) -> AsyncIterator[World]:
    """A world whose projector has not begun."""
    world = World(store, Objects(str(tmp_path / "objects")))
    await world.intake._reader.start()
    yield world


@asynccontextmanager
async def projecting(world: World) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The projector begins, and what is in the log by then is projected; what ends it ends the test."""
    tasks = [asyncio.create_task(worker.run()) for worker in world.workers]
    try:
        await caught_up(world, tasks)
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def caught_up(world: World, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all that is in the log, and for what that puts into it."""
    probe, deadline = world.sweep(), time.monotonic() + SECONDS_MAX
    while True:
        heads = await heads_of(world)
        if await probe.projected(heads) and heads == await heads_of(world):
            return
        for task in tasks:
            if task.done():
                task.result()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def heads_of(world: World) -> list[object]:
    return [*await world.log.heads(IDENTITY), *await world.log.heads(COMMANDS)]


def reads_of(world: World) -> Reads:
    counts = world.log.partitions()
    return Reads(world.store, lambda: counts, lambda stamp: None)


def names(count: int) -> list[str]:
    return [f"person-{number}" for number in range(count)]


def merged(world: World, into: str, others: Iterable[str]) -> list[MergePersons]:
    return [
        MergePersons(id=uuid4(), project=1, at=world.at, into=fragment_id(1, into), source=fragment_id(1, other),
              into_id=into, source_id=other, mode="operator")
        for other in others
    ]  # fmt: skip


async def test_a_backlog_of_ten_thousand_new_ids_is_projected(world: World) -> None:
    """The projector loads a whole batch in one statement: had it failed once, it would fail for ever."""
    everybody = names(LOAD_IDS_MAX)
    await world.tell(*(world.capture(who, email=f"{who}@example.com") for who in everybody))
    async with projecting(world):
        persons = await reads_of(world).by_fragments(1, [fragment_id(1, who) for who in everybody])
        assert [person and person.distinct_ids for person in persons] == [[who] for who in everybody]
        assert persons[-1] is not None and persons[-1].document() == {"email": f"{everybody[-1]}@example.com"}
        assert await Feeder(world.store, world.log.partitions()).feed() >= len(everybody)
        assert await world.store.rows(LIVING) == [(len(everybody),)]


async def test_a_crowd_of_four_thousand_reads_is_one_statement_and_each_gets_its_own(world: World) -> None:
    everybody = names(KEYS_MAX - 1)
    await world.tell(*(world.capture(who, plan=who) for who in everybody))
    async with projecting(world):
        reads = reads_of(world)
        asked = [fragment_id(1, who) for who in (*everybody, "nobody")]
        found = await asyncio.gather(*(reads.by_fragment(1, one) for one in asked))
        assert [person and person.document()["plan"] for person in found] == [*everybody, None]
        assert reads.loads == 2  # of fragments and of identities
        numbers = await reads.numbers_of(1, asked)
        again = await asyncio.gather(*(reads.fragment_of(1, number) for number in numbers if number is not None))
        assert again == asked[:-1]


@pytest.mark.alone
async def test_a_deletion_of_ten_thousand_members_is_verified(world: World) -> None:
    people = [[f"{person}-{member}" for member in range(MEMBERS_MAX)] for person in range(PERSONS)]
    roots = [fragment_id(1, members[0]) for members in people]
    await world.tell(world.capture("dora", email="dora@example.com"))
    for members in people:
        await world.tell(*(world.capture(who, email=f"{who}@example.com") for who in members))
        groups = [members[start : start + GROUP] for start in range(0, MEMBERS_MAX, GROUP)]
        for head, *others in groups:
            await world.tell(*merged(world, head, others))
        await world.tell(*merged(world, members[0], (group[0] for group in groups[1:])))
    async with projecting(world) as tasks:
        persons = await reads_of(world).by_fragments(1, [fragment_id(1, members[-1]) for members in people])
        assert [person and len(person.members) for person in persons] == [MEMBERS_MAX] * PERSONS
        deletes = [world.delete(members[GROUP]) for members in people]
        await world.tell(*deletes)
        await caught_up(world, tasks)
        assert await reads_of(world).by_fragments(1, roots) == [None] * PERSONS
    await world.take_over()
    ended = await world.sweep().run(projected=True)
    assert {request.id for request in ended} == {delete.request for delete in deletes}
    for request in ended:
        assert (request.state, len(request.members), request.hidden["captured_events"]) == (
            "verified", MEMBERS_MAX, MEMBERS_MAX
        )  # fmt: skip
    dora = [(fragment_id(1, "dora"),)]
    assert await world.store.rows_with_hidden(SEEN) == await world.store.rows_with_hidden(FILLED) == dora
