"""personlog against what a user would pick instead: aiohttp on PostgreSQL, over HTTP on the same cores, in turns."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from bench.load import capture, get, load
from bench.logs import frozen
from bench.peer import fill, postgres, serving, update_batches
from bench.projection import COMMANDS_COUNT, WITH_TIMELINE, database, engine, projected
from bench.projection import fill as fill_log
from bench.report import Row, row
from shared.domain.ids import fragment_id
from tests.support.processes import PERSONAL_KEY, Stack, running, wait_for

PERSONS, TURNS, SECONDS = 20_000, 5, 1.0
UPDATES, TRANSACTION = 50_000, 1_000
"""Of a turn, and of one transaction."""

READERS = (16, 64, 256)
WRITERS = 64
TOGETHER = 200
"""Persons of one batch read."""

Ask = Callable[[int], bytes]


def peers(data: Path) -> list[Row]:
    """The rows of the report."""
    with postgres(data / "postgres") as dsn:
        asyncio.run(fill(dsn, PERSONS))
        with serving(dsn) as port, running(data / "stack") as stack:
            capture_persons(stack, PERSONS)
            rows = [_first_reads(stack, port)]
            rows += [_reads(stack, port, readers) for readers in READERS]
            rows.append(_writes(stack, port))
        rows.append(_updates(dsn, data))
    return rows


def asking(count: int, seed: int) -> Ask:
    """GETs of so many persons by uuid, in no order."""
    requests = [get(f"/api/projects/1/persons/{fragment_id(1, f'person-{number}')}/") for number in range(count)]
    random.Random(seed).shuffle(requests)
    return lambda number: requests[number % count]


def _first_reads(stack: Stack, port: int) -> Row:
    """Rows that nobody has read before; then all are read once, as those of persons that are asked for often are."""
    theirs = asyncio.run(load(port, _point_selects(WRITERS), connections=WRITERS, seconds=SECONDS))[0]
    mine = asyncio.run(load(stack.port, asking(PERSONS, WRITERS), connections=WRITERS, seconds=SECONDS))[0]
    ids = [str(fragment_id(1, f"person-{number}")) for number in range(PERSONS)]
    for start in range(0, PERSONS, TOGETHER):
        read = stack.persons("/batch_by_uuids/", "POST", {"uuids": ids[start : start + TOGETHER]})
        assert len(read.json["results"]) == TOGETHER
    name = f"GET one, rows not read before / PostgreSQL point SELECT, c = {WRITERS}"
    return row(name, [mine], [theirs], "one turn")


def _point_selects(seed: int) -> Ask:
    chosen = random.Random(seed)
    order = [chosen.randrange(PERSONS) for _ in range(PERSONS)]
    return lambda number: f"GET /persons/{order[number % PERSONS]}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def _reads(stack: Stack, port: int, readers: int) -> Row:
    mine, their, slow = _in_turns(stack.port, asking(PERSONS, readers), port, _point_selects(readers), readers)
    note = f"p99 {slow:.0f} ms, uuid, rows known to be the newest"
    return row(f"GET one / PostgreSQL point SELECT, c = {readers}", mine, their, note)


def _writes(stack: Stack, port: int) -> Row:
    ids = [str(fragment_id(1, f"person-{number}")) for number in range(PERSONS)]
    head = f"Authorization: Bearer {PERSONAL_KEY}\r\nPrefer: respond-async\r\nContent-Type: application/json\r\n"

    def body(number: int) -> bytes:
        return orjson.dumps({"properties": {"plan": "pro", "seats": number}})

    def ours(number: int) -> bytes:
        sent = body(number)
        line = f"PATCH /api/projects/1/persons/{ids[number % PERSONS]}/ HTTP/1.1\r\nHost: x\r\n{head}"
        return f"{line}Content-Length: {len(sent)}\r\n\r\n".encode() + sent

    def theirs(number: int) -> bytes:
        sent = body(number)
        line = f"PATCH /persons/{number % PERSONS}/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sent)}\r\n\r\n"
        return line.encode() + sent

    with frozen(stack.pid("projector")):
        mine, their, slow = _in_turns(stack.port, ours, port, theirs, WRITERS)
    name = f"PATCH, respond-async / PostgreSQL JSONB UPDATE, c = {WRITERS}"
    return row(name, mine, their, f"p99 {slow:.0f} ms, fsync on for both, projector paused")


def _updates(dsn: str, data: Path) -> Row:
    """Commands that a projector folds and writes, timeline and all, against UPDATEs in transactions of 1,000."""
    changes = [
        (number % PERSONS, orjson.dumps({"a": number, "b": "some text", "c": number / 4, "d": [number]}).decode())
        for number in range(UPDATES)
    ]
    mine, theirs = [], []
    with engine(data / "projector") as stack:
        asyncio.run(fill_log(stack, COMMANDS_COUNT))
        for turn in range(TURNS):
            began = time.perf_counter()
            asyncio.run(update_batches(dsn, changes, TRANSACTION))
            theirs.append(UPDATES / (time.perf_counter() - began))
            with database(stack, f"turn_{turn}") as one:
                mine.append(projected(one, WITH_TIMELINE, COMMANDS_COUNT))
    name = "projected commands, with timeline / PostgreSQL batched UPDATE"
    note = f"{COMMANDS_COUNT:,} commands, cold; {UPDATES:,} UPDATEs, {TRANSACTION:,} a transaction"
    return row(name, mine, theirs, note)


def _in_turns(port: int, ours: Ask, peer: int, theirs: Ask, count: int) -> tuple[list[float], list[float], float]:
    mine, their, slow = [], [], []
    for _ in range(TURNS):
        their.append(asyncio.run(load(peer, theirs, connections=count, seconds=SECONDS))[0])
        rate, latencies = asyncio.run(load(port, ours, connections=count, seconds=SECONDS))
        mine.append(rate)
        slow.append(latencies[int(len(latencies) * 0.99)] * 1_000)
    return mine, their, statistics.median(slow)


def capture_persons(stack: Stack, count: int) -> None:
    """So many persons with the properties that bench's commands set; waits until they are visible."""

    def event(number: int) -> dict[str, object]:
        properties = {"a": number, "b": "some text", "c": number / 4, "d": [number], "e": 1, "f": 2, "g": 3}
        return {"event": "seen", "distinct_id": f"person-{number}", "properties": {"$set": properties}}

    at = capture(stack, count, event)
    wait_for(lambda: stack.persons("/?limit=1", Min_Position=at).status == 200, 120, "persons to be visible")
