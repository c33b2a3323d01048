"""Which log the tables belong to: the generations that the store knows, and the comparison of the log with them.

Every process compares at start and whenever something is odd (`shared/runtime/kinship.py`); `personlog migrate` takes a
log on that no store knows yet. Never begins another generation.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import msgspec

from shared.domain.errors import LogMismatch
from shared.domain.generations import Generations
from shared.domain.ids import TOPIC_LETTERS, Position, hash64, position_of
from shared.log.identity import TOPICS, Evidence, Generation, LogIdentity, Mismatch, compare
from shared.log.port import Log
from shared.store.client import Store
from shared.store.queries import load

_QUERIES = Path(__file__).with_suffix(".sql")
_TOPICS_BY_LETTER = {ord(letter): topic for topic, letter in TOPIC_LETTERS.items()}


async def generations(store: Store) -> list[Generation]:
    """All of them, oldest first; none before the first log is taken on. Raises Transient."""
    if not store.has_table("log_generations"):
        return []
    return [
        Generation(number=number, state=state, identity=msgspec.json.decode(identity, type=LogIdentity))
        for number, state, identity in await store.rows(load(_QUERIES)["generations"])
    ]


async def current(store: Store) -> Generation | None:
    """The generation that the tables belong to: the newest open one. Raises Transient."""
    found = [one for one in await generations(store) if one.state == "open"]
    return found[-1] if found else None


async def counted(store: Store, log: Log) -> Generations:
    """The partition counts of the log's generation and of those before it. Raises Transient."""
    former = {one.number: one.partitions for one in await generations(store) if one.number < log.generation}
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


async def vouched(store: Store) -> dict[tuple[str, int], tuple[int, int]]:
    """Of every position row its version, and the hash of the record that it vouches for; by topic and partition."""
    return {
        (_TOPICS_BY_LETTER[key.int & 0xFF], key.int >> 64): (version, record)
        for key, version, record in await store.rows(load(_QUERIES)["positions"])
        if _is_position(key)
    }


async def compared(log: Log, store: Store, known: Generation | None) -> Mismatch | None:
    """What is wrong between the log, as it is now, and the tables. Raises Transient when either does not answer."""
    identity = await log.identity()
    mismatch = compare(known, identity, ())
    if mismatch is not None or not identity.id:
        return mismatch
    starts = [start for topic in TOPICS for start in await log.starts(topic)]  # before the tables: both only rise
    tables = await vouched(store)
    heads = [head for topic in TOPICS for head in await log.heads(topic)]
    evidence = []
    for start, head in zip(starts, heads, strict=True):
        version, record = tables.get((head.topic, head.partition), (0, 0))
        evidence.append(await evidence_of(log, position_of(head.topic, head.partition, version), record, start, head))
    return compare(known, identity, evidence)


async def evidence_of(log: Log, position: Position, record: int, start: Position, head: Position) -> Evidence:
    """The same with the log's record at the tables' position, where both have one."""
    evidence = Evidence(position, record, start, head)
    if not record or not start.offset <= evidence.offset <= head.offset:
        return evidence
    there = await log.read(position)
    return evidence._replace(found=hash64(there.value) if there is not None else None)


async def take_on(log: Log, store: Store, now_us: int) -> Generation:
    """The generation of the started log, written down when the store knows none. Raises LogMismatch, and Transient."""
    known = await current(store)
    mismatch = await compared(log, store, known)
    if mismatch is not None:
        raise LogMismatch(mismatch.line)
    if known is None:
        known = Generation(number=log.generation, identity=await log.identity())
        await write(store, known, now_us)
    return known


def _is_position(key: UUID) -> bool:
    return (key.int & 0xFF) in _TOPICS_BY_LETTER
