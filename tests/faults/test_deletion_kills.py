"""kill -9 of the deleter and of the engine at every step of an erasure: it still ends, once, and nobody else loses."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

import pytest

from services.deleter.receipts import check, public_key
from services.projector.search import Feeder
from shared.domain.errors import Transient
from shared.domain.ids import fragment_id
from shared.log.port import Log
from shared.runtime.clock import SystemClock
from shared.runtime.settings import read
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.logwatch import LogWatch, take_on_log, the_log
from shared.store.objects import Objects
from shared.store.targets import TABLES
from tests.support.engine import EngineProcess
from tests.support.erasing import World, clean, clean_when_told, life, working
from tests.support.processes import ROOT
from tests.support.proxy import MOMENTS, Moment, Proxy, Stop, proxying
from tests.support.tier import TIER, sized

POINTS_MAX = 6
"""Points of a developer's run, for each victim."""

SITES = sized(dev=3, ci=4, soak=4)
"""Engines side by side: a run is a process that starts and waits for its engine, and the two of them in turns."""

PEOPLE_MAX = 60
"""Who lives on a site before its first point; each point erases one, and a site has a quarter of soak's 54. They all
lie in the same parts, so that each erasure rewrites those of everybody who is left."""

RUNS_MAX = 3
"""Runs after a kill until nothing is open: one goes on, and one more takes up what the first says has failed."""

RUN_SECONDS_MAX = 300.0
"""One run: a second or two on a quiet machine."""

CLEAN_SECONDS = 0.2
"""Between two looks for the files of rewritten parts; a run waits for them once."""

TRIES_MAX = 4
"""Persons for one point: a background merge may rewrite a partition by itself, and then a run has a step less."""

STEPS_MIN = 16
"""Of the ledger 5, a receipt, 5 tables to hide in and 5 to rewrite, the partitions of each together: with fewer the
proxy has missed some."""

KILLED_MIN = sized(dev=POINTS_MAX - 1, ci=6 * len(MOMENTS) + 10, soak=STEPS_MIN * len(MOMENTS))
"""Of CI's points the ledger's steps and the receipt at each moment, and each table's two once."""

SECRET, KEPT = b"what the person typed", b"what the bystander typed"

Victim = Literal["deleter", "engine"]


class Person(NamedTuple):
    """Somebody whose deletion is asked for, and a bystander with a block in the same object."""

    who: str
    bystander: str
    request: UUID
    shared: str
    alone: str


class Site:
    """An engine, a proxy before it, a world beside them, and the deleter's data directory."""

    def __init__(self, data: Path, engine: EngineProcess, proxy: Proxy, world: World) -> None:
        self.data, self.engine, self.proxy, self.world = data, engine, proxy, world
        self.feeder = Feeder(world.store, world.log.partitions())
        self.people = 0
        self.kept: dict[str, dict[str, list[str]]] = {}

    async def personlog(self, *command: str) -> asyncio.subprocess.Process:
        """A process that meets the engine through the proxy only."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PERSONLOG_")}
        url = self.engine.url(self.world.store.database)
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *command,
            cwd=ROOT,
            env=environment | {
                "PERSONLOG_DATA": str(self.data),
                "PERSONLOG_CLICKHOUSE": url.replace(f":{self.engine.port}/", f":{self.proxy.port}/"),
            },
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def ask(self) -> Person:
        """Ask for the deletion of somebody who has everything that can be erased."""
        number, world = self.people, self.world
        self.people += 1
        assert number < PEOPLE_MAX - 1  # the last one is never asked for
        who, bystander = f"person{number}", f"bystander{number}"
        shared = await world.record((who, f"s{number}", SECRET), (bystander, f"t{number}", KEPT))
        alone = await world.record((who, f"u{number}", SECRET))
        self.kept[bystander] = await self.shown(bystander)
        delete = world.delete(who)
        await world.tell(delete)
        await world.settle()
        return Person(who, bystander, delete.request, shared, alone)

    async def shown(self, who: str) -> dict[str, list[str]]:
        """The newest version of every row of a person, whole. Older ones the engine may drop when it likes."""
        sql = "SELECT formatRow('JSONEachRow', *) AS row FROM {} FINAL WHERE fragment = {{who:UUID}} ORDER BY row"
        rows = {}
        for table in TABLES:
            query = Query(name=table, sql=sql.format(table))
            rows[table] = [row for (row,) in await self.world.store.rows(query, who=fragment_id(1, who))]
        return rows

    async def one(self, sql: str, request: UUID) -> Any:
        ((value,),) = await self.world.store.rows(Query(name="one", sql=sql), request=request)
        return value


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """A site with people on it, and no request."""
    data, engine = folder / "data", EngineProcess(folder / "engine")
    await asyncio.to_thread(engine.start)
    try:
        async with proxying(engine.address) as proxy, AsyncExitStack() as opened:
            store = await Store.connect(engine.url("kills"))
            opened.push_async_callback(store.close)
            await clean_when_told(store)
            log = await opened.enter_async_context(own_log(data, store))
            await opened.enter_async_context(cleaning(store))
            async with working(store, Objects(str(data / "objects")), log) as world:
                made = Site(data, engine, proxy, world)
                await life(world, *(f"{kind}{n}" for n in range(PEOPLE_MAX) for kind in ("person", "bystander")))
                await made.feeder.feed()
                never_asked = f"person{PEOPLE_MAX - 1}"
                made.kept[never_asked] = await made.shown(never_asked)
                yield made
    finally:
        engine.stop()


@asynccontextmanager
async def own_log(data: Path, store: Store) -> AsyncIterator[Log]:
    """The log of the data directory, which the runs look at, and which the tables know as theirs."""
    settings = read({"PERSONLOG_DATA": str(data)})
    await take_on_log(settings, store, SystemClock().now_us)
    async with the_log(settings, store) as (log, known):
        await LogWatch(log, store, known).start()
        yield log


@asynccontextmanager
async def cleaning(store: Store) -> AsyncIterator[None]:
    """The engine takes files away for runs that are processes of their own, whenever it is there."""

    async def go_on() -> None:
        while True:
            with suppress(Transient):
                await clean(store)
            await asyncio.sleep(CLEAN_SECONDS)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(process: asyncio.subprocess.Process) -> str:
    """Wait for the end of a run; what it said."""
    try:
        said, _ = await asyncio.wait_for(process.communicate(), RUN_SECONDS_MAX)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    return said.decode(errors="replace")


async def harmed(site: Site, victim: Victim, step: str, moment: Moment) -> bool:
    """A run whose victim is killed at this point; False when the run had no such step."""
    began = asyncio.Event()
    process: asyncio.subprocess.Process | None = None

    async def kill() -> None:
        await began.wait()
        assert process is not None
        if victim == "deleter":
            process.kill()
            await process.wait()
        else:
            await asyncio.to_thread(site.engine.kill)

    site.proxy.watch(Stop(step, moment, kill))
    process = await site.personlog("deletions", "run")
    began.set()
    said = await ended(process)
    if not site.proxy.stopped:
        return False
    if victim == "engine":
        await asyncio.to_thread(site.engine.start)
    assert process.returncode != 0, said
    return True


async def finish(site: Site) -> int:
    """Run until nothing is open; how many runs it took."""
    said = []
    for runs in range(1, RUNS_MAX + 1):
        site.proxy.watch()
        process = await site.personlog("deletions", "run")
        said.append(await ended(process))
        if process.returncode == 0:
            return runs
    raise AssertionError(f"requests are open after {RUNS_MAX} runs: {said}")


async def judge(site: Site, person: Person, when: str = "unharmed") -> None:
    """The request has ended well, once, with one receipt; of the person nothing is left, of the bystander all."""
    world = site.world
    await site.proxy.settle()
    await site.feeder.feed()  # only now: a row of hers that it supersedes might be merged away before it is hidden
    request = await world.found(person.request)
    assert (request.state, set(request.remaining.values())) == ("verified", {0}), (when, request.history)
    assert [fact["topic"] for fact in request.history].count("deletion.verified") == 1, (when, request.history)
    verified = "SELECT count() FROM deletion_requests WHERE request = {request:UUID} AND state = 'verified'"
    assert await site.one(verified, person.request) == 1
    assert await site.one("SELECT count() FROM receipts WHERE request = {request:UUID}", person.request) == 1
    body = await site.one("SELECT any(body) FROM receipts WHERE request = {request:UUID}", person.request)
    folder = site.data / "receipts"
    assert [path.read_text() for path in folder.glob(f"*{person.request}*")] == [body]
    said = check(body.encode(), public_key(folder / "public-key.pem"))
    assert (said["request"], said["person"]) == (str(person.request), str(fragment_id(1, person.who)))
    await gone(site, person)
    assert await world.objects.read(person.alone) is None
    assert await world.objects.read(person.shared) == bytes(len(SECRET)) + KEPT
    assert await site.shown(person.bystander) == site.kept[person.bystander]


async def gone(site: Site, person: Person) -> None:
    """Counted through the mask: only the two tombstones and empty rows are left."""
    left = await site.world.all_rows(person.who, hidden=True)
    assert left == await site.world.all_rows(person.who)
    assert sorted(topic for topic, _ in left["timeline"]) == ["fragment.erased", "person.deleted"]
    assert {properties for properties, _, _ in left["fragments"]} == {"{}"}
    assert (left["captured_events"], left["recording_blocks"]) == ([], [])
    sql = "SELECT count() FROM search WHERE fragment = {request:UUID} AND (living OR notEmpty(distinct_ids))"
    who = fragment_id(1, person.who)
    assert await site.world.store.rows_with_hidden(Query(name="search", sql=sql), request=who) == [(0,)]


async def killed_at(site: Site, victim: Victim, step: str, moment: Moment) -> int:
    """Kill a run there and judge what the next ones make of it; how many it took, or 0 when no run had the step."""
    for _ in range(TRIES_MAX):
        person = await site.ask()
        hit = await harmed(site, victim, step, moment)
        runs = await finish(site)
        await judge(site, person, f"{victim} killed {moment} {step}")
        if hit:
            return runs
    return 0


async def conclude(site: Site) -> None:
    """After all erasures: nobody who was to be kept has lost a row, and the receipts are one whole chain."""
    for who, rows in site.kept.items():
        assert await site.shown(who) == rows, who
    files = sorted((site.data / "receipts").glob("*.json"))
    assert len(files) == site.people
    process = await site.personlog("receipts", "verify", *map(str, files))
    said = await ended(process)
    assert process.returncode == 0, said
    assert sorted(int(number) for number in re.findall(r"receipt (\d+),", said)) == [*range(1, site.people + 1)]


def points(steps: Sequence[str]) -> list[tuple[str, Moment]]:
    """All points of a run with these steps; for CI each step and, of each kind of step, each moment; or a few that lie
    evenly. What is done to one table after the other is of one kind, a step of the ledger or a receipt of its own."""
    every = [(step, moment) for step in steps for moment in MOMENTS]
    if TIER == "dev":
        return [every[number * (len(every) - 1) // (POINTS_MAX - 1)] for number in range(POINTS_MAX)]
    if TIER == "soak":
        return every
    turns = {verb: cycle(MOMENTS) for verb in ("DELETE", "ALTER")}
    chosen = {step: next(turns[verb]) for step in steps if (verb := step.partition(" ")[0]) in turns}
    return [(step, moment) for step, moment in every if chosen.get(step, moment) == moment]


@pytest.mark.fault
@pytest.mark.parametrize("victim", ["deleter", "engine"])
async def test_a_request_ends_once_whatever_is_killed_at_any_step(
    victim: Victim, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with AsyncExitStack() as opened:
        sites = [await opened.enter_async_context(site(tmp_path / str(number))) for number in range(SITES)]
        unharmed = await sites[0].ask()
        assert await finish(sites[0]) == 1
        steps = sites[0].proxy.steps
        assert len(steps) >= STEPS_MIN, steps
        await judge(sites[0], unharmed)
        todo = points(steps)[::-1]
        killed: Counter[int] = Counter()
        absent: list[tuple[str, Moment]] = []

        async def work(here: Site) -> None:
            while todo:
                point = todo.pop()
                if runs := await killed_at(here, victim, *point):
                    killed[runs] += 1
                else:
                    absent.append(point)
            await conclude(here)

        async with asyncio.TaskGroup() as group:
            for here in sites:
                group.create_task(work(here))
    # A run of more than ten seconds notes its progress on the way, which a shorter one has not as a step.
    assert killed.total() >= KILLED_MIN, (killed, absent)
    told = f"{victim} killed at {killed.total()} points of {len(steps)} steps; runs until verified: {dict(killed)}"
    record_property("faults", told)
    print(told)
