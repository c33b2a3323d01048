"""Scaling of projectors: two real ones against one by the cores they use, and up to 16 simulated.

Real projectors share two cores with the engine, so that commands a second and core are compared.
Simulated ones wait for neither log nor tables, and run one by one: the slowest share is the time of
all.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from bench.logs import PROJECTED, frozen
from bench.plot import curve
from bench.projection import PERSONS, command, database, engine, fill, store_url
from bench.report import PLOTS, Row
from services.projector.app import COLLECTED_OBJECTS, GROUP
from services.projector.fold import FragmentFolder
from services.projector.tables.memory import MemoryTables
from services.projector.worker import Worker
from shared.domain.commands import encode, route
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY
from shared.log.embedded.consumer_group import REBALANCE_SECONDS
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from shared.store.clickhouse.client import Store
from tests.support.processes import Stack, wait_for

TURNS = 5
"""Measurements of each number of projectors, in turns; the median counts.

A turn takes 15 s, and processor time varies less than a rate does.
"""

COMMANDS_COUNT = 80_000

JOINED_SECONDS = 2.5 * REBALANCE_SECONDS
"""Time from a member's join to its share: one member releases it, then the other takes it."""

SHARE_MIN = 0.25
"""The least share of the processor time of each of two projectors that share the work."""

POLL_SECONDS = 0.1
CAUGHT_UP_SECONDS_MAX = 120.0

SIMULATED, SIMULATED_TURNS, SIMULATED_COUNT = (1, 2, 4, 8, 16), 5, 128_000
"""The fastest turn of each share counts: the slowest of 16 medians would measure noise."""

SHARES = [(count, index) for count in SIMULATED for index in range(count)]
"""Simulated projectors: how many there are, and the index of one."""

TOPICS = {COMMANDS: 16, IDENTITY: 4, DELETIONS: 1, DEAD: 1}


class CatchUp(NamedTuple):
    """A catch-up: commands a second, and the cores of the projectors and of the engine."""

    rate: float
    cores: float
    engine: float


def scaling(data: Path) -> list[Row]:
    """Measure, plot the simulation, and return the rows of the report."""
    return [_real(data), *asyncio.run(_simulated())]


def _real(data: Path) -> Row:
    catch_ups: dict[int, list[CatchUp]] = defaultdict(list)
    with engine(data / "engine") as stack:
        for turn in range(TURNS):
            for count in (1, 2):
                name = f"projectors_{count}_{turn}"
                with database(stack, name, data / name) as turn_stack:
                    catch_ups[count].append(_catch_up(turn_stack, stack.pid("engine"), count))
    single, double = (
        statistics.median(turn.rate / turn.cores for turn in catch_ups[count]) for count in (1, 2)
    )
    note = "; ".join(f"{count}: {_summary(turns)}" for count, turns in catch_ups.items())
    name = "commands of 2 projectors / of 1, by cores used"
    note = f"{note}; {TURNS} turns"
    ratio = f"**{double / single:.2f}**"
    return name, f"{double:,.0f}/s a core", f"{single:,.0f}/s a core", ratio, note


def _summary(turns: list[CatchUp]) -> str:
    rate, cores, engines = (statistics.median(turn[index] for turn in turns) for index in range(3))
    return f"{rate:,.0f}/s on {cores:.2f} cores, the engine on {engines:.2f}"


def _catch_up(stack: Stack, host: int, count: int) -> CatchUp:
    """Let `count` projectors catch up with a log that is filled while they are frozen."""
    projectors = [
        stack.spawn("projector", log=f"projector-{number}.log").pid for number in range(count)
    ]
    members = stack.data / "log" / "groups" / f"{GROUP}.{COMMANDS}"
    wait_for(lambda: len([*members.glob("member-*")]) == count, 60, "the projectors to join")
    time.sleep(JOINED_SECONDS)
    with frozen(*projectors):
        asyncio.run(fill(stack, COMMANDS_COUNT))
        began, before = time.perf_counter(), _processor_seconds(*projectors, host)
    asyncio.run(_all_projected(stack))
    seconds, after = time.perf_counter() - began, _processor_seconds(*projectors, host)
    *shares, engines = (later - earlier for later, earlier in zip(after, before, strict=True))
    if min(shares) < SHARE_MIN * sum(shares):
        raise RuntimeError(f"The projectors did not share the work: {shares} s of processor time.")
    return CatchUp(COMMANDS_COUNT / seconds, sum(shares) / seconds, engines / seconds)


def _processor_seconds(*pids: int) -> list[float]:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return [spent.user + spent.system for spent in times]


async def _all_projected(stack: Stack) -> None:
    store = await Store.connect(store_url(stack))
    try:
        deadline = time.monotonic() + CAUGHT_UP_SECONDS_MAX
        while (await store.rows(PROJECTED))[0][0] < COMMANDS_COUNT:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the projectors did not catch up within {CAUGHT_UP_SECONDS_MAX:.0f} s"
                )
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await store.close()


async def _simulated() -> list[Row]:
    log = MemoryLog(TOPICS)
    commands = [command(number) for number in range(SIMULATED_COUNT)]
    await log.append([Entry(*route(write, TOPICS), encode(write)) for write in commands])
    fastest: dict[tuple[int, int], float] = {}
    before = gc.get_threshold()
    # else a collection during any share would walk the whole log
    gc.freeze()
    gc.set_threshold(COLLECTED_OBJECTS, 50, 50)
    try:
        for _ in range(SIMULATED_TURNS):
            for count, index in SHARES:
                seconds = await _alone(log, frozenset(range(index, TOPICS[COMMANDS], count)))
                fastest[count, index] = min(seconds, fastest.get((count, index), seconds))
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    slowest = {count: max(fastest[count, index] for index in range(count)) for count in SIMULATED}
    faster = {count: slowest[1] / seconds for count, seconds in slowest.items()}
    measured = [(float(count), times) for count, times in faster.items()]
    lines = {"measured": measured, "linear": [(count, count) for count, _ in measured]}
    PLOTS.mkdir(exist_ok=True)
    text = curve(
        "Projectors of one project, simulated", "projectors", "times the rate of one", lines
    )
    (PLOTS / "projectors.svg").write_text(text)
    note = f"{SIMULATED_COUNT:,} commands, {PERSONS:,} persons"
    note = f"{note}; processor time, fastest of {SIMULATED_TURNS}: one {slowest[1]:.2f} s"
    rows = []
    for count in SIMULATED[1:]:
        times = faster[count]
        text = f"{note}, of the slowest {slowest[count]:.2f} s"
        name = f"simulated, {count} projectors / 1"
        rows.append((name, f"{times:.2f} times", f"{count}", f"**{times / count:.2f}**", text))
    return rows


async def _alone(log: MemoryLog, share: frozenset[int]) -> float:
    """Project these partitions by one worker, from first to last; return processor seconds."""
    reader = log.reader(COMMANDS, "simulated")
    worker = Worker(
        log=log,
        reader=reader,
        tables=MemoryTables(),
        folder=FragmentFolder(),
        monotonic=time.monotonic,
    )
    reader.assign(share)
    heads = {head.partition: head for head in await log.heads(COMMANDS) if head.partition in share}
    gc.collect()
    began = time.process_time()
    while worker.positions != heads:
        await worker.turn()
    return time.process_time() - began
