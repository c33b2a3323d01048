"""A seeded history of one project, as a log, and the oracle's account of any moment of it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any
from uuid import UUID

import orjson

from services.projector.fold import Folder, FragmentFolder, IdentityFolder
from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.tables.marks import BEFORE_THE_FIRST
from services.projector.worker import Worker
from shared.domain.commands import (
    Capture,
    Command,
    Delete,
    Erase,
    MergePersons,
    RecordBlock,
    SplitPerson,
    Write,
    decode,
    encode,
    route,
)
from shared.domain.ids import COMMANDS, IDENTITY, fragment_id
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from shared.store.clickhouse.client import Store
from tests.support.oracle import Oracle

PROJECTED_SECONDS_MAX = 120.0
RECORDED = 30
"""Beside every so many commands a block of a recording, which must change nothing."""

MODES = ("identify", "alias", "dangerous", "operator")


def commands(seed: int, count: int, persons: int, start: int) -> list[Command]:
    """`count` commands over `persons` distinct ids, one every 1,000 µs from `start` on; some clocks are late. Blocks of
    recordings come on top."""
    chosen = random.Random(seed)
    names = [f"p{number}" for number in range(persons)]
    found: list[Command] = []
    for index in range(count):
        one = UUID(int=chosen.getrandbits(128), version=4)
        name, other = chosen.choice(names), chosen.choice(names)
        kind = chosen.random()
        at = start + index * 1_000
        common: dict[str, Any] = {"id": one, "project": 1, "at": at, "actor": "test"}
        if index % RECORDED == 0:
            place: dict[str, Any] = {"object": f"home/{index}", "start": index, "length": 7}
            told = {"session": f"s{index % 5}", "window": "w", "started_at": at, "ended_at": at + 1}
            found.append(RecordBlock(**common, fragment=fragment_id(1, name), uuid=one, **place, **told))
        if kind < 0.75:
            common["at"] -= chosen.choice([0, 0, 0, 2_500])  # another host's clock
            changes: dict[str, Any] = {}
            for field in ("set", "set_once"):
                if chosen.random() < 0.6:
                    changes[field] = {chosen.choice("abcd"): chosen.choice([index, "x", None, [1], True])}
            if chosen.random() < 0.2:
                changes["unset"] = (chosen.choice("abcd"),)
            common |= {"fragment": fragment_id(1, name), "distinct_id": name}
            if chosen.random() < 0.5:
                found.append(Capture(**common, uuid=one, event="e", timestamp=at, **changes))
            else:
                found.append(Write(**common, **changes, reason="update"))
        elif kind < 0.93:
            into, source = fragment_id(1, name), fragment_id(1, other)
            found.append(MergePersons(**common, into=into, source=source, mode=chosen.choice(MODES)))
        elif kind < 0.99:
            leave = tuple(fragment_id(1, one) for one in chosen.sample(names, min(20, persons)))
            keep = {"keep": fragment_id(1, name)} if chosen.random() < 0.3 else {"leave": leave}
            found.append(SplitPerson(**common, person=fragment_id(1, name), **keep))
        else:
            found.append(Delete(**common, person=fragment_id(1, name), request=one))
    return found


async def append(log: MemoryLog, *ones: Command) -> None:
    counts = log.partitions()
    await log.append([Entry(*route(one, counts), encode(one)) for one in ones])


async def projected(store: Store, log: MemoryLog) -> None:
    """Run the real workers until the tables stand at the log's heads, follow-ups included."""
    tables = ClickHouseTables(store)
    folders: tuple[Folder, ...] = (FragmentFolder(), IdentityFolder())
    workers = [
        Worker(log=log, reader=log.reader(one.topic, "g"), tables=tables, folder=one, monotonic=time.monotonic)
        for one in folders
    ]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        async with asyncio.timeout(PROJECTED_SECONDS_MAX):
            for topic in (IDENTITY, COMMANDS):  # identity first: it writes erase records
                while await _behind(tables, log, topic):
                    await asyncio.sleep(0.02)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _behind(tables: ClickHouseTables, log: MemoryLog, topic: str) -> bool:
    heads = await log.heads(topic)
    loaded = await tables.load(topic, [head.partition for head in heads], [])
    return any(loaded.positions.get(head.partition, BEFORE_THE_FIRST).version != head.version for head in heads)


def persons_at(log: MemoryLog, until: int) -> dict[UUID, dict[str, Any]]:
    """What the oracle says of each fragment at a moment: the person that held it, without what is erased by now.

    Identity's clock never goes back in these histories, so its stamps are its times; a fragment's are the oracle's.
    """
    then, full, gone = Oracle(), Oracle(), dict[UUID, int]()
    for record in log.records(IDENTITY):
        command = decode(record.value)
        if command.at <= until:
            then.apply(command, record.position.version)
    for record in log.records(COMMANDS):
        command = decode(record.value)
        if isinstance(command, Erase):
            gone[command.fragment] = command.at
            then.apply(command, record.position.version)
        elif isinstance(command, Capture | Write):
            stamp = max(command.at, full.fragment(command.fragment)["stamp"] + 1)
            if stamp <= until:
                then.apply(command, record.position.version)
        full.apply(command, record.position.version)
    return _holders(then, {key for key, at in gone.items() if at > until})


def _holders(then: Oracle, erased: set[UUID]) -> dict[UUID, dict[str, Any]]:
    """By fragment; where the root is erased by now its memberships are gone with it, and the others stand alone."""
    people = []
    for person in then.people:
        kept = [key for key in person if key not in erased]
        people += [[key] for key in kept] if person[0] in erased else [kept]
    then.people = people
    for key in erased:
        then.fragments.pop(key, None)
        then.marked.discard(key)
    found = {}
    for root, view in then.persons().items():
        members = next((person for person in people if person and person[0] == root), [root])
        found |= {key: view | {"uuid": root} for key in members}
    return found


def oracle_of(log: MemoryLog) -> Oracle:
    """The oracle after the whole log."""
    oracle = Oracle()
    for topic in (IDENTITY, COMMANDS):
        for record in log.records(topic):
            oracle.apply(decode(record.value), record.position.version)
    return oracle


def same_as_oracle(log: MemoryLog, state: tuple[list[Any], list[Any]]) -> bool:
    """Whether rows of fragments and identity say what the oracle says after the whole log."""
    oracle = oracle_of(log)
    for row in state[0]:
        one = oracle.fragment(row[1])
        assert orjson.loads(row[11]) == oracle.shown(one), row[1]
        assert (row[5] or None, row[8], row[6]) == (one["born"], one["erased"], one["effect"]), row[1]
    assert {row[1] for row in state[0]} == set(oracle.fragments)
    people = {key: person for person in oracle.people for key in person}
    for row in state[1]:
        person = people.get(row[1], [row[1]])
        assert row[3] == person[0]
        assert list(row[4]) == (person if row[1] == person[0] else [])
    return True
