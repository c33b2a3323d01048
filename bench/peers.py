"""personlog against what a user would pick instead: aiohttp on PostgreSQL, over HTTP on the same cores, in turns."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from bench.appends import frozen, row
from bench.load import load
from bench.peer import fill, postgres, serving, update_batches
from shared.domain.ids import fragment_id
from tests.support.processes import PERSONAL_KEY, TOKEN, Stack, running, wait_for

PERSONS, TURNS, SECONDS = 20_000, 5, 2.0
BATCH, UPDATES, TRANSACTION = 500, 50_000, 1_000
"""Events of a request that fills personlog; UPDATEs of a turn, and of one transaction."""

READERS = (16, 64, 256)
WRITERS = 64

Row = tuple[str, str, str, str, str]
Ask = Callable[[int], bytes]


def peers(data: Path) -> list[Row]:
    """The rows of the report."""
    with postgres(data / "postgres") as dsn:
        asyncio.run(fill(dsn, PERSONS))
        with serving(dsn) as port, running(data / "stack") as stack:
            _fill(stack)
            rows = [_reads(stack, port, readers) for readers in READERS]
            rows.append(_writes(stack, port))
        rows.append(_updates(dsn, data))
    return rows


def _reads(stack: Stack, port: int, readers: int) -> Row:
    key = f"Host: x\r\nAuthorization: Bearer {PERSONAL_KEY}\r\n\r\n"
    ids = [str(fragment_id(1, f"person-{number}")) for number in range(PERSONS)]
    chosen = random.Random(readers)
    order = [chosen.randrange(PERSONS) for _ in range(PERSONS)]

    def ours(number: int) -> bytes:
        return f"GET /api/projects/1/persons/{ids[order[number % PERSONS]]}/ HTTP/1.1\r\n{key}".encode()

    def theirs(number: int) -> bytes:
        return f"GET /persons/{order[number % PERSONS]}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    mine, their, slow = _in_turns(stack.port, ours, port, theirs, readers)
    return row(f"GET one / PostgreSQL point SELECT, c = {readers}", mine, their, f"p99 {slow:.0f} ms, uuid")


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

    with frozen(stack, "projector"):
        mine, their, slow = _in_turns(stack.port, ours, port, theirs, WRITERS)
    name = f"PATCH, respond-async / PostgreSQL JSONB UPDATE, c = {WRITERS}"
    return row(name, mine, their, f"p99 {slow:.0f} ms, fsync on for both, projector paused")


def _updates(dsn: str, data: Path) -> Row:
    """Commands that a projector folds and writes, timeline and all, against UPDATEs in transactions of 1,000."""
    from bench.__main__ import caught_up  # which asks this question

    changes = [
        (number % PERSONS, orjson.dumps({"a": number, "b": "some text", "c": number / 4, "d": [number]}).decode())
        for number in range(UPDATES)
    ]
    theirs = []
    for _ in range(TURNS):
        began = time.perf_counter()
        asyncio.run(update_batches(dsn, changes, TRANSACTION))
        theirs.append(UPDATES / (time.perf_counter() - began))
    name = "projected commands, with timeline / PostgreSQL batched UPDATE"
    with caught_up(data / "projector") as (_, rate):
        return row(name, [rate], theirs, f"{TRANSACTION:,} a transaction")


def _in_turns(port: int, ours: Ask, peer: int, theirs: Ask, count: int) -> tuple[list[float], list[float], float]:
    mine, their, slow = [], [], []
    for _ in range(TURNS):
        their.append(asyncio.run(load(peer, theirs, connections=count, seconds=SECONDS))[0])
        rate, latencies = asyncio.run(load(port, ours, connections=count, seconds=SECONDS))
        mine.append(rate)
        slow.append(latencies[int(len(latencies) * 0.99)] * 1_000)
    return mine, their, statistics.median(slow)


def _fill(stack: Stack) -> None:
    for start in range(0, PERSONS, BATCH):
        events = [
            {"event": "seen", "distinct_id": f"person-{number}", "properties": {"$set": {
                "a": number, "b": "some text", "c": number / 4, "d": [number], "e": 1, "f": 2, "g": 3}}}
            for number in range(start, start + BATCH)
        ]  # fmt: skip
        answer = stack.ask("POST", "/batch/", {"api_key": TOKEN, "batch": events}, key=None)
        assert answer.status == 200, answer.body
    at = answer.headers["Position"]
    wait_for(lambda: stack.persons("/?limit=1", Min_Position=at).status == 200, 120, "persons to be visible")
