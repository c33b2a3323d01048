"""What more projectors bring: two real ones against one by the cores they use, and up to 16 simulated ones.

Real ones share two cores with the engine, so what is compared is commands per second and core. Simulated ones have
neither log nor tables to wait for, and run one after the other: the slowest share says how long all would take.
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
from services.projector.memory import MemoryTables
from services.projector.worker import Worker
from shared.domain.commands import encode, route
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY
from shared.log.groups import REBALANCE_SECONDS
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from shared.store.client import Store
from tests.support.processes import Stack, wait_for

TURNS = 5
"""Each number of projectors is measured so often, in turns; the median counts. A turn takes 15 s, and processor time
varies less than a rate does."""

COMMANDS_COUNT = 80_000

JOINED_SECONDS = 2.5 * REBALANCE_SECONDS
"""After it has joined, until a member has its share: the other one gives back at its next look, it takes at its own."""

SHARE_MIN = 0.25
"""What each of two projectors must have had of their processor time, or they did not share the work."""

POLL_SECONDS = 0.1
CAUGHT_UP_SECONDS_MAX = 120.0

SIMULATED, SIMULATED_TURNS, SIMULATED_COUNT = (1, 2, 4, 8, 16), 5, 128_000
"""Of each share the fastest turn counts: the slowest of 16 medians would be the machine's worst second."""

TOPICS = {COMMANDS: 16, IDENTITY: 4, DELETIONS: 1, DEAD: 1}


class Catching(NamedTuple):
    """A catch-up: commands per second, and the cores that the projectors and the engine used."""

    rate: float
    cores: float
    engine: float


def scaling(data: Path) -> list[Row]:
    """The rows of the report, and the plot of the simulation."""
    return [_real(data), *asyncio.run(_simulated())]


def _real(data: Path) -> Row:
    found: dict[int, list[Catching]] = defaultdict(list)
    with engine(data / "engine") as stack:
        for turn in range(TURNS):
            for count in (1, 2):
                name = f"projectors_{count}_{turn}"
                with database(stack, name, data / name) as each:
                    found[count].append(_caught_up(each, stack.pid("engine"), count))
    one, two = (statistics.median(each.rate / each.cores for each in found[count]) for count in (1, 2))
    said = "; ".join(f"{count}: {_said(turns)}" for count, turns in found.items())
    name = "commands of 2 projectors / of 1, by cores used"
    return name, f"{two:,.0f}/s a core", f"{one:,.0f}/s a core", f"**{two / one:.2f}**", f"{said}; {TURNS} turns"


def _said(turns: list[Catching]) -> str:
    rate, cores, engines = (statistics.median(each[index] for each in turns) for index in range(3))
    return f"{rate:,.0f}/s on {cores:.2f} cores, the engine on {engines:.2f}"


def _caught_up(stack: Stack, host: int, count: int) -> Catching:
    """So many projector processes share the partitions of a log that is filled while they are frozen."""
    projectors = [stack.spawn("projector", log=f"projector-{number}.log").pid for number in range(count)]
    members = stack.data / "log" / "groups" / f"{GROUP}.{COMMANDS}"
    wait_for(lambda: len([*members.glob("member-*")]) == count, 60, "the projectors to join")
    time.sleep(JOINED_SECONDS)
    with frozen(*projectors):
        asyncio.run(fill(stack, COMMANDS_COUNT))
        began, before = time.perf_counter(), _processor_seconds(*projectors, host)
    asyncio.run(_all_projected(stack))
    seconds, after = time.perf_counter() - began, _processor_seconds(*projectors, host)
    *ours, engines = (later - earlier for later, earlier in zip(after, before, strict=True))
    if min(ours) < SHARE_MIN * sum(ours):
        raise RuntimeError(f"The projectors did not share the work: {ours} s of processor time.")
    return Catching(COMMANDS_COUNT / seconds, sum(ours) / seconds, engines / seconds)


def _processor_seconds(*pids: int) -> list[float]:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return [one.user + one.system for one in times]


async def _all_projected(stack: Stack) -> None:
    store = await Store.connect(store_url(stack))
    try:
        deadline = time.monotonic() + CAUGHT_UP_SECONDS_MAX
        while (await store.rows(PROJECTED))[0][0] < COMMANDS_COUNT:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the projectors did not catch up within {CAUGHT_UP_SECONDS_MAX:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await store.close()


async def _simulated() -> list[Row]:
    log = MemoryLog(TOPICS)
    commands = [command(number) for number in range(SIMULATED_COUNT)]
    await log.append([Entry(*route(one, TOPICS), encode(one)) for one in commands])
    fastest: dict[tuple[int, int], float] = {}
    before = gc.get_threshold()
    gc.freeze()  # the log is not a projector's: whose share a collection meets would walk through all of it
    gc.set_threshold(COLLECTED_OBJECTS, 50, 50)
    try:
        for _ in range(SIMULATED_TURNS):
            for count, index in [(each, index) for each in SIMULATED for index in range(each)]:
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
    text = curve("Projectors of one project, simulated", "projectors", "times the rate of one", lines)
    (PLOTS / "projectors.svg").write_text(text)
    note = f"{SIMULATED_COUNT:,} commands, {PERSONS:,} persons; processor time, fastest of {SIMULATED_TURNS}:"
    rows = []
    for count in SIMULATED[1:]:
        times, said = faster[count], f"{note} one {slowest[1]:.2f} s, of the slowest {slowest[count]:.2f} s"
        name = f"simulated, {count} projectors / 1"
        rows.append((name, f"{times:.2f} times", f"{count}", f"**{times / count:.2f}**", said))
    return rows


async def _alone(log: MemoryLog, share: frozenset[int]) -> float:
    """Processor seconds of one worker that projects these partitions from their first command to their last."""
    reader = log.reader(COMMANDS, "simulated")
    worker = Worker(
        log=log, reader=reader, tables=MemoryTables(), folder=FragmentFolder(), monotonic=time.monotonic
    )  # fmt: skip
    reader.assign(share)
    heads = {head.partition: head for head in await log.heads(COMMANDS) if head.partition in share}
    gc.collect()
    began = time.process_time()
    while worker.positions != heads:
        await worker.turn()
    return time.process_time() - began
