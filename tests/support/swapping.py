"""Another log in the place of the right one, under the feet of the simulator's processes, and the right one back again.

An older copy, which may have gone on, or one made anew. Nothing of it may be folded, and nothing acknowledged on it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple

from services.projector.tables.marks import BEFORE_THE_FIRST
from services.projector.tables.memory import MemoryTables
from shared.domain.ids import COMMANDS, IDENTITY, position_of
from shared.log.doubts import Doubts
from shared.log.evidence import Standing, evidence
from shared.log.identity import Generation, LogIdentity, Mismatch, compare
from shared.log.memory import MemoryLog
from shared.log.port import Record
from tests.support.gates import PARTITIONS

RIGHT, OTHER = "memory", "another"
"""Ids of logs."""

KNOWN = Generation(number=1, identity=LogIdentity(id=RIGHT, partitions=PARTITIONS))

MORE = 3
"""Records that the wrong log has beyond the right one's end."""

Records = Mapping[tuple[str, int], list[Record]]


class Swap(NamedTuple):
    """What lies there instead. That of a file is seen by who uses it; that of topics by its id and its offsets alone.
    Those begin anew: topics that others have filled beyond what a process has seen are found by its next look only."""

    records: Records
    name: str
    seen: bool


async def swap_of(log: MemoryLog, tables: MemoryTables, number: int) -> Swap | None:
    """One that can be told from the right log by what the tables hold; None when this one could not."""
    chosen = random.Random(number)
    right = log.copy()
    older, more = chosen.random() < 0.5, chosen.random() < 0.5
    kept = {key: records[: chosen.randrange(len(records) + 1)] if older else [] for key, records in right.items()}
    standing = await standings(tables)
    short = [key for key, one in standing.items() if one.position.offset >= len(kept[key])]
    if older and not short:
        return None
    for (topic, partition), records in kept.items():
        while more and len(records) < len(right[topic, partition]) + MORE:
            records.append(Record(topic, partition, len(records), 0, b"", b"other %d" % chosen.getrandbits(64)))
    return Swap(kept, RIGHT if older else OTHER, older or more or chosen.random() < 0.5)


async def standings(tables: MemoryTables) -> dict[tuple[str, int], Standing]:
    """What the position rows say."""
    found = {}
    for topic in (COMMANDS, IDENTITY):
        loaded = await tables.load(topic, range(PARTITIONS[topic]), [])
        for partition in range(PARTITIONS[topic]):
            mark = loaded.positions.get(partition, BEFORE_THE_FIRST)
            found[topic, partition] = Standing(position_of(topic, partition, mark.version), mark.record)
    return found


async def looked(log: MemoryLog, tables: MemoryTables) -> Mismatch | None:
    """What a process finds when it starts: with its own eyes, the API has none of it."""
    log = copy(log)
    log._doubts = Doubts()
    found = []
    for topic in (COMMANDS, IDENTITY):
        starts = await log.starts(topic)
        mine = {partition: one for (of, partition), one in (await standings(tables)).items() if of == topic}
        found += await evidence(log, topic, mine, starts)
    return compare(KNOWN, await log.identity(), found)


async def swap(simulation: Any, number: int) -> None:
    """Another log comes to lie there; some process starts meanwhile."""
    if simulation.renewal is not None or simulation.log._sealed or len(simulation.logs) > 1:
        return  # only in the first generation
    found = await swap_of(simulation.log, simulation.tables, number)
    if found is None:
        return
    while simulation.deleters:
        await simulation._end_deleter(simulation.deleters.pop())
    simulation.counts["swaps"] += 1
    simulation.expected.right = simulation.log.copy()
    simulation.log.put(found.records, found.name, seen=found.seen)
    for topic in (COMMANDS, IDENTITY):
        await simulation._start(topic)


async def put_back(simulation: Any) -> None:
    """The right log again: who has ended because of the other one is started, and who has not goes on."""
    right = simulation.expected.right
    if right is None:
        return
    simulation.log.put(right)
    ended = [member for member in simulation.members if member.task.done()]
    for member in ended:
        simulation.members.remove(member)
        await simulation._stop(member)
    simulation.expected.right = None
    simulation.wary = {member.task for member in simulation.members}
    for log in (simulation.log, *(member.log for member in simulation.members)):
        log.doubt()  # as of the mismatch, and of whatever was seen of the other log
        await log.identity()
        log.trust(log.doubts)
    for member in ended:
        await simulation._start(member.reader.topic)
