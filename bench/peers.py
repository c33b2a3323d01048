"""personlog against a usual alternative: aiohttp on PostgreSQL, over HTTP, on the same cores."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import orjson

from bench.load import capture, get, load
from bench.logs import frozen
from bench.peer import PROJECT, UPDATE, fill, in_batches, postgres, serving
from bench.projection import COMMANDS_COUNT, WITH_TIMELINE, database, engine, projected
from bench.projection import fill as fill_log
from bench.report import Row, row
from shared.domain.ids import fragment_id
from tests.support.processes import PERSONAL_KEY, Stack, running, wait_for

PERSONS, TURNS, SECONDS = 20_000, 5, 1.0
UPDATES, TRANSACTION = 50_000, 1_000
"""UPDATEs of a turn, and of one transaction."""

READERS = (16, 64, 256)
WRITERS = 64
TOGETHER = 200
"""Persons of one batch of a lookup."""

Ask = Callable[[int], bytes]


def peers(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    with postgres(data / "postgres") as dsn:
        asyncio.run(fill(dsn, PERSONS))
        with serving(dsn) as port, running(data / "stack") as stack:
            capture_persons(stack, PERSONS)
            rows = [_first_reads(stack, port)]
            rows += [_reads(stack, port, readers) for readers in READERS]
            rows.append(_writes(stack, port))
        rows += _updates(dsn, data)
    return rows


def asking(count: int, seed: int) -> Ask:
    """Build GETs of `count` persons by uuid, shuffled."""
    uuids = [fragment_id(1, f"person-{number}") for number in range(count)]
    requests = [get(f"/api/projects/1/persons/{uuid}/") for uuid in uuids]
    random.Random(seed).shuffle(requests)
    return lambda number: requests[number % count]


def _first_reads(stack: Stack, port: int) -> Row:
    """Measure reads of rows that were not read before; then read all rows once."""
    selects = load(port, _point_selects(WRITERS), connections=WRITERS, seconds=SECONDS)
    peer_rate = asyncio.run(selects)[0]
    gets = load(stack.port, asking(PERSONS, WRITERS), connections=WRITERS, seconds=SECONDS)
    rate = asyncio.run(gets)[0]
    ids = [str(fragment_id(1, f"person-{number}")) for number in range(PERSONS)]
    for start in range(0, PERSONS, TOGETHER):
        body = {"uuids": ids[start : start + TOGETHER]}
        answer = stack.persons("/batch_by_uuids/", "POST", body)
        assert len(answer.json["results"]) == TOGETHER
    name = f"GET one, rows not read before / PostgreSQL point SELECT, c = {WRITERS}"
    return row(name, [rate], [peer_rate], "one turn")


def _point_selects(seed: int) -> Ask:
    chosen = random.Random(seed)
    order = [chosen.randrange(PERSONS) for _ in range(PERSONS)]
    ending = "HTTP/1.1\r\nHost: x\r\n\r\n"
    return lambda number: f"GET /persons/{order[number % PERSONS]}/ {ending}".encode()


def _reads(stack: Stack, port: int, readers: int) -> Row:
    gets, selects = asking(PERSONS, readers), _point_selects(readers)
    rates, peer_rates, slow = _in_turns(stack.port, gets, port, selects, readers)
    note = f"p99 {slow:.0f} ms, uuid, rows known to be the newest"
    return row(f"GET one / PostgreSQL point SELECT, c = {readers}", rates, peer_rates, note)


def _writes(stack: Stack, port: int) -> Row:
    ids = [str(fragment_id(1, f"person-{number}")) for number in range(PERSONS)]
    head = (
        f"Authorization: Bearer {PERSONAL_KEY}\r\nPrefer: respond-async\r\n"
        "Content-Type: application/json\r\n"
    )

    def body(number: int) -> bytes:
        return orjson.dumps({"properties": {"plan": "pro", "seats": number}})

    def patch(path: str, headers: str, content: bytes) -> bytes:
        line = f"PATCH {path} HTTP/1.1\r\nHost: x\r\n{headers}"
        return f"{line}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def patch_person(number: int) -> bytes:
        return patch(f"/api/projects/1/persons/{ids[number % PERSONS]}/", head, body(number))

    def patch_peer(number: int) -> bytes:
        return patch(f"/persons/{number % PERSONS}/", "", body(number))

    with frozen(stack.pid("projector")):
        rates, peer_rates, slow = _in_turns(stack.port, patch_person, port, patch_peer, WRITERS)
    name = f"PATCH, respond-async / PostgreSQL JSONB UPDATE, c = {WRITERS}"
    return row(name, rates, peer_rates, f"p99 {slow:.0f} ms, fsync on for both, projector paused")


def _updates(dsn: str, data: Path) -> list[Row]:
    """Measure a projector with timeline, against UPDATEs alone and against the same work, both in
    transactions of 1,000."""

    def properties(number: int) -> str:
        values = {"a": number, "b": "some text", "c": number / 4, "d": [number]}
        return orjson.dumps(values).decode()

    changes = [(number % PERSONS, properties(number)) for number in range(UPDATES)]
    rates: list[float] = []
    peer_rates: list[float] = []
    same_rates: list[float] = []
    with engine(data / "projector") as stack:
        asyncio.run(fill_log(stack, COMMANDS_COUNT))
        for turn in range(TURNS):
            began = time.perf_counter()
            asyncio.run(in_batches(dsn, UPDATE, changes, TRANSACTION))
            peer_rates.append(UPDATES / (time.perf_counter() - began))
            events = [(*change, uuid4()) for change in changes]
            began = time.perf_counter()
            asyncio.run(in_batches(dsn, PROJECT, events, TRANSACTION))
            same_rates.append(UPDATES / (time.perf_counter() - began))
            with database(stack, f"turn_{turn}") as turn_stack:
                rates.append(projected(turn_stack, WITH_TIMELINE, COMMANDS_COUNT))
    name = "projected commands, with timeline / PostgreSQL"
    commands, each = f"{COMMANDS_COUNT:,} commands, cold", f"{TRANSACTION:,} a transaction"
    same_note = f"{commands}; event row, history rows and state of {UPDATES:,}, {each}"
    note = f"{commands}; {UPDATES:,} UPDATEs, {each}"
    return [
        row(f"{name} doing the same work", rates, same_rates, same_note),
        row(f"{name} batched UPDATE of the state alone", rates, peer_rates, note),
    ]


def _in_turns(
    port: int, ask: Ask, peer: int, peer_ask: Ask, count: int
) -> tuple[list[float], list[float], float]:
    """Load both in turns; return the rates of both, and our median p99 in milliseconds."""
    rates, peer_rates, slow = [], [], []
    for _ in range(TURNS):
        peer_load = load(peer, peer_ask, connections=count, seconds=SECONDS)
        peer_rates.append(asyncio.run(peer_load)[0])
        rate, latencies = asyncio.run(load(port, ask, connections=count, seconds=SECONDS))
        rates.append(rate)
        slow.append(latencies[int(len(latencies) * 0.99)] * 1_000)
    return rates, peer_rates, statistics.median(slow)


def capture_persons(stack: Stack, count: int) -> None:
    """Capture persons with the properties that the commands of bench set; wait until visible."""

    def event(number: int) -> dict[str, object]:
        properties = {"a": number, "b": "some text", "c": number / 4, "d": [number]}
        properties |= {"e": 1, "f": 2, "g": 3}
        name = f"person-{number}"
        return {"event": "seen", "distinct_id": name, "properties": {"$set": properties}}

    at = capture(stack, count, event)

    def visible() -> bool:
        return stack.persons("/?limit=1", Min_Position=at).status == 200

    wait_for(visible, 120, "persons to be visible")
