"""Which log the tables belong to: the generations that the store knows, and the comparison of the
log with them.

Every process compares at start and whenever something is odd (`shared/store/logwatch.py`);
`personlog migrate` takes a log on that no store knows yet. Never begins another generation.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from shared.domain.generations import Generations
from shared.domain.ids import Position, partition_of_key, position_of
from shared.log.evidence import Standing, evidence, own_evidence
from shared.log.identity import (
    TOPICS,
    Evidence,
    Generation,
    LogIdentity,
    Mismatch,
    compare,
)
from shared.log.port import Log
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load

_QUERIES = load(Path(__file__).with_suffix(".sql"))


async def generations(store: Store) -> list[Generation]:
    """All of them, oldest first; none before the first log is taken on. Raises Transient."""
    if not store.has_table("log_generations"):
        return []
    return [
        Generation(
            number=number,
            state=state,
            identity=msgspec.json.decode(identity, type=LogIdentity),
        )
        for number, state, identity in await store.rows(_QUERIES["generations"])
    ]


async def current(store: Store) -> Generation | None:
    """The generation that the tables belong to: the newest open one. Raises Transient."""
    found = [one for one in await generations(store) if one.state == "open"]
    return found[-1] if found else None


async def counted(store: Store, log: Log) -> Generations:
    """The partition counts of the log's generation and of those before it. Raises Transient."""
    former = {
        one.number: one.partitions
        for one in await generations(store)
        if one.number < log.generation
    }
    return Generations(former | {log.generation: log.partitions()})


async def write(store: Store, generation: Generation, now_us: int) -> None:
    """Write the row of a generation, new or changed."""
    await store.insert(
        "log_generations",
        {
            "generation": [generation.number],
            "version": [now_us],
            "state": [generation.state],
            "identity": [msgspec.json.encode(generation.identity).decode()],
            "partitions": [generation.partitions],
        },
    )


async def positions(store: Store) -> dict[str, dict[int, Standing]]:
    """What every position row says, by topic and partition. Raises Transient."""
    found: dict[str, dict[int, Standing]] = {topic: {} for topic in TOPICS}
    for key, version, record in await store.rows(_QUERIES["positions"]):
        if (place := partition_of_key(key)) is not None:
            topic, partition = place
            found[topic][partition] = Standing(
                position_of(topic, partition, version), record
            )
    return found


async def compared(log: Log, store: Store, known: Generation | None) -> Mismatch | None:
    """What is wrong between the log, as it is now, and the tables or what this process has seen of
    it. Raises Transient when log or tables do not answer."""
    identity = await log.identity()
    mismatch = compare(known, identity, ())
    if mismatch is not None or not identity.id:
        return mismatch
    starts = {topic: await log.starts(topic) for topic in TOPICS}
    tables = await positions(store)
    found: list[Evidence] = []
    for topic in TOPICS:
        nothing = {
            start.partition: Standing(Position(topic, start.partition, -1), 0)
            for start in starts[topic]
        }
        found += await evidence(log, topic, nothing | tables[topic], starts[topic])
        found += await own_evidence(log, topic, starts[topic])
    return compare(
        known, await log.identity(), found
    )  # another one may lie there by now: that says more


async def take_on(log: Log, store: Store, now_us: int) -> Generation:
    """The generation of the started log, written down when the store knows none. Raises
    LogMismatch, Superseded and Transient."""
    known = await current(store)
    mismatch = await compared(log, store, known)
    if mismatch is not None:
        raise mismatch.error
    if known is None:
        known = Generation(number=log.generation, identity=await log.identity())
        await write(store, known, now_us)
    return known
