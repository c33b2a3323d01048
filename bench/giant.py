"""Writes of other persons beside an endlessly growing person: time until visible, and memory.

A client with the public token sends 310 requests with 400 kB of property names for one distinct id,
one after the other; other clients write and read their own persons meanwhile, and before, as often.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from itertools import chain
from pathlib import Path

import orjson
import psutil  # type: ignore[import-untyped]

from bench.filling import settle
from bench.load import get, position_in, post
from bench.report import Row
from shared.domain.ids import fragment_id
from tests.support.processes import TOKEN, Stack, running, wait_for

TURNS = 3
REQUESTS, NAMES, NAME_CHARS = 310, 1_000, 395
"""Requests, names and their lengths of one turn: 122 MB of names."""

PROBERS, PROBES_PAUSE_SECONDS = 4, 0.05
"""Clients that write and wait, and their pause between two writes: 25/s or so, of any partition."""

RETRIES_MAX, RETRY_SECONDS = 100, 0.05
"""Of a request that is refused for load or lag; its time counts until the answer."""

PEOPLE = 2_000
ALONE_SECONDS = 12.0
LOOK_SECONDS = 0.1
"""Between two samples of the memory of engine and projector; the largest counts."""

PROCESSES = ("engine", "projector")

Peaks = dict[str, int]


def giant(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    alone: list[float] = []
    beside: list[float] = []
    calm, busy = dict.fromkeys(PROCESSES, 0), dict.fromkeys(PROCESSES, 0)
    fill_seconds: list[float] = []
    with running(data) as stack:
        _warm(stack)
        for turn in range(TURNS):
            settle(stack)
            alone += asyncio.run(_probe(stack, asyncio.sleep(ALONE_SECONDS), calm))
            began = time.perf_counter()
            beside += asyncio.run(_probe(stack, _fill(stack, f"giant-{turn}"), busy))
            fill_seconds.append(time.perf_counter() - began)
            settle(stack)
        giant_bytes = stack.query("SELECT max(length(properties)) FROM fragments")
    slow, limit = _p99(beside), _p99(alone)
    rate = REQUESTS * NAMES * NAME_CHARS / 1e6 / (sum(fill_seconds) / TURNS)
    probes = f"{len(beside)} and {len(alone)} probes, {TURNS} turns"
    note = f"{probes}; {rate:.0f} MB/s of names; the giant has {giant_bytes} bytes"
    name = "write to visible of others beside a giant person / without, p99"
    rows: list[Row] = [
        (name, f"{slow:.0f} ms", f"{limit:.0f} ms", f"**{slow / limit:.2f}**", note),
    ]
    for name in PROCESSES:
        ratio = f"**{busy[name] / calm[name]:.2f}**"
        peaks = f"{busy[name] >> 20} MB", f"{calm[name] >> 20} MB", ratio
        label = f"memory of {name} beside a giant person / without"
        rows.append((label, *peaks, "the largest of ten looks a second"))
    return rows


def _warm(stack: Stack) -> None:
    """Create all persons, so that processes have the memory of a first use."""
    people = [{"event": "seen", "distinct_id": f"person-{number}"} for number in range(PEOPLE)]
    answer = stack.ask("POST", "/batch/", {"api_key": TOKEN, "batch": people}, key=None)
    position = answer.headers["Position"]
    wait_for(
        lambda: stack.persons("/?limit=1", Min_Position=position).status == 200, 60, "the projector"
    )


async def _probe(stack: Stack, meanwhile: Awaitable[object], peaks: Peaks) -> list[float]:
    """Measure the seconds until each probe's write is visible, while `meanwhile` runs."""
    running_now = asyncio.ensure_future(meanwhile)
    watching = asyncio.create_task(_watch(stack, peaks))
    probers = (_prober(stack, seed, running_now) for seed in range(PROBERS))
    latencies = list(chain.from_iterable(await asyncio.gather(*probers)))
    watching.cancel()
    await running_now
    return latencies


async def _prober(stack: Stack, seed: int, meanwhile: asyncio.Future[object]) -> list[float]:
    """Write and read persons until `meanwhile` is done; return the seconds of each."""
    chosen = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    latencies: list[float] = []
    try:
        while not meanwhile.done():
            name = f"person-{chosen.randrange(PEOPLE)}"
            properties = {"$set": {"n": len(latencies)}}
            event = {"api_key": TOKEN, "event": "e", "distinct_id": name, "properties": properties}
            began = time.perf_counter()
            head = await _answer(reader, writer, post("/capture/", orjson.dumps(event)))
            path = f"/api/projects/1/persons/{fragment_id(1, name)}/"
            await _answer(reader, writer, get(path, b"Min-Position: " + position_in(head)))
            latencies.append(time.perf_counter() - began)
            await asyncio.sleep(PROBES_PAUSE_SECONDS)
    finally:
        writer.close()
    return latencies


async def _fill(stack: Stack, name: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    position = b""
    for request in range(REQUESTS):
        head = await _answer(reader, writer, await asyncio.to_thread(_names, name, request))
        position = position_in(head)
    path = f"/api/projects/1/persons/{fragment_id(1, name)}/"
    await _answer(reader, writer, get(path, b"Min-Position: " + position))
    writer.close()


def _names(name: str, request: int) -> bytes:
    names = {f"{request}-{number}-".ljust(NAME_CHARS, "n"): number for number in range(NAMES)}
    event = {"api_key": TOKEN, "event": "e", "distinct_id": name, "$set": names}
    return post("/capture/", orjson.dumps(event))


async def _watch(stack: Stack, peaks: Peaks) -> None:
    while True:
        for name in PROCESSES:
            resident = psutil.Process(stack.pid(name)).memory_full_info().pss
            peaks[name] = max(peaks[name], resident)
        await asyncio.sleep(LOOK_SECONDS)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> bytes:
    """Send a request, again while it is refused for load; return the head of its 2xx answer."""
    for _ in range(RETRIES_MAX):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        if head[9:12] != b"503":
            break
        await asyncio.sleep(RETRY_SECONDS)
    if head[9:10] != b"2":
        raise RuntimeError(head.decode())
    return head


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1_000
