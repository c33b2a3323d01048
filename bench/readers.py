"""Reads by key beside costly lists, against the same reads alone; /readyz is checked meanwhile.

The lists are three accepted regular expressions, and a crowd of 200, from a separate process. Reads
are by uuid, whose rows are cached, and by integer id, for which the engine is queried each time.
"""

from __future__ import annotations

import asyncio
import random
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import orjson

from bench.crowd import crowding
from bench.filling import settle
from bench.load import get, load
from bench.peers import Ask, asking, capture_persons
from bench.report import Row
from tests.support.processes import Stack, running

TURNS, SECONDS, CONNECTIONS = 3, 4.0, 4
PERSONS = 20_000
SEED = 18

CROWD = 200
READY_SECONDS = 0.2
"""Between two checks of /readyz."""

LONG = quote(
    orjson.dumps(
        [{"key": "b", "value": "(.{1,1000}){1}", "operator": "regex", "type": "person"}] * 30
    )
)
DEAR = quote(
    orjson.dumps([{"key": "b", "value": ".{1,900}[x-z]q", "operator": "regex", "type": "person"}])
)
PERSONS_PATH = "/api/projects/1/persons"
CROWDS = {
    "three lists of a long regular expression": (3, [f"{PERSONS_PATH}/?properties={DEAR}"]),
    "a crowd of 200 lists": (CROWD, [
        f"{PERSONS_PATH}/?search=zz",
        f"{PERSONS_PATH}/?properties={DEAR}",
        f"{PERSONS_PATH}/?limit=100",
        f"{PERSONS_PATH}/?search=person-1&include_total=true",
        f"{PERSONS_PATH}/values/?key=b",
        f"{PERSONS_PATH}/?properties={LONG}",
    ]),
}  # fmt: skip


def readers(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    with running(data) as stack:
        capture_persons(stack, PERSONS)
        settle(stack)
        refused = stack.persons(f"/?properties={LONG}").status
        if refused != 400:
            raise RuntimeError(f"Thirty long patterns are answered with {refused}.")
        asks = {"by uuid": asking(PERSONS, SEED), "by integer id": _by_number(stack)}
        for ask in asks.values():
            asyncio.run(load(stack.port, ask, connections=CONNECTIONS, seconds=SECONDS))
        return [
            row
            for kind, crowd in CROWDS.items()
            for row in asyncio.run(_measure(stack, asks, kind, crowd))
        ]


async def _measure(
    stack: Stack, asks: dict[str, Ask], kind: str, crowd: tuple[int, list[str]]
) -> list[Row]:
    idle: dict[str, list[float]] = {name: [] for name in asks}
    busy: dict[str, list[float]] = {name: [] for name in asks}
    ready: Counter[int] = Counter()
    statuses: Counter[str] = Counter()
    for _ in range(TURNS):
        for name, ask in asks.items():
            idle[name] += await _read(stack, ask)
        async with crowding(stack.port, *crowd) as counts:
            looking = asyncio.create_task(_look(stack, ready))
            for name, ask in asks.items():
                busy[name] += await _read(stack, ask)
            looking.cancel()
        statuses.update(counts)
        for name, ask in asks.items():
            idle[name] += await _read(stack, ask)
    if ready.keys() != {200}:
        raise RuntimeError(f"/readyz was answered with {dict(ready)}.")
    lists = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items()))
    note = f"c = {CONNECTIONS}, {TURNS} turns; lists: {lists}; /readyz: {ready[200]} times 200"
    return [
        _row(f"{label} of GETs {name} beside {kind} / idle", share, busy[name], idle[name], note)
        for name in asks
        for label, share in (("p99", 0.99), ("p50", 0.5))
    ]


async def _read(stack: Stack, ask: Ask) -> list[float]:
    """Return the seconds of each read; raise for an answer not 2xx."""
    return (await load(stack.port, ask, connections=CONNECTIONS, seconds=SECONDS))[1]


async def _look(stack: Stack, ready: Counter[int]) -> None:
    while True:
        ready[await asyncio.to_thread(_readyz, stack)] += 1
        await asyncio.sleep(READY_SECONDS)


def _readyz(stack: Stack) -> int:
    with urllib.request.urlopen(f"{stack.url}/readyz", timeout=60) as answer:
        return int(answer.status)


def _by_number(stack: Stack) -> Ask:
    persons = stack.persons("/?limit=1000").json["results"]
    numbers = [person["id"] for person in persons]
    random.Random(SEED).shuffle(numbers)
    requests = [get(f"{PERSONS_PATH}/{number}/") for number in numbers]
    return lambda number: requests[number % len(requests)]


def _row(name: str, share: float, busy: list[float], idle: list[float], note: str) -> Row:
    beside, limit = (sorted(side)[int(len(side) * share)] * 1_000 for side in (busy, idle))
    note = f"{len(busy):,} reads, {note}"
    return name, f"{beside:.1f} ms", f"{limit:.1f} ms", f"**{beside / limit:.2f}**", note
