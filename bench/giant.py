"""Beside a person that somebody fills without end: how long other persons' writes take to be visible, and memory.

A sender with the public token sends 310 requests of 400 kB of property names for one distinct id, each as soon as the
one before is answered; others write and read their own persons meanwhile, and before, as often.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import orjson
import psutil  # type: ignore[import-untyped]

from bench.filling import settle
from bench.load import get, post
from bench.report import Row
from shared.domain.ids import fragment_id
from tests.support.processes import TOKEN, Stack, running, wait_for

TURNS = 3
REQUESTS, NAMES, NAME_CHARS = 310, 1_000, 395
"""Of one turn: 122 MB of names."""

PROBERS, PROBES_PAUSE_SECONDS = 4, 0.05
"""Clients that write and wait, and their rest between two writes: 25/s or so, of any partition."""

RETRIES_MAX, RETRY_SECONDS = 100, 0.05
"""Of a request that was refused for load or lag: its time goes on until it is answered."""

PEOPLE = 2_000
ALONE_SECONDS = 12.0
LOOK_SECONDS = 0.1
"""Between two looks at the memory of engine and projector; the largest counts."""

PROCESSES = ("engine", "projector")

Peaks = dict[str, int]


def giant(data: Path) -> list[Row]:
    """The rows of the report."""
    alone: list[float] = []
    beside: list[float] = []
    calm, busy = dict.fromkeys(PROCESSES, 0), dict.fromkeys(PROCESSES, 0)
    sent: list[float] = []
    with running(data) as stack:
        _warm(stack)
        for turn in range(TURNS):
            settle(stack)
            alone += asyncio.run(_probed(stack, asyncio.sleep(ALONE_SECONDS), calm))
            began = time.perf_counter()
            beside += asyncio.run(_probed(stack, _fill(stack, f"giant-{turn}"), busy))
            sent.append(time.perf_counter() - began)
            settle(stack)
        held = stack.query("SELECT max(length(properties)) FROM fragments")
    ours, limit = _slow(beside), _slow(alone)
    rate = REQUESTS * NAMES * NAME_CHARS / 1e6 / (sum(sent) / TURNS)
    note = f"{len(beside)} and {len(alone)} probes, {TURNS} turns; {rate:.0f} MB/s of names; the giant has {held} bytes"
    rows: list[Row] = [
        ("write to visible of others beside a giant person / without, p99", f"{ours:.0f} ms", f"{limit:.0f} ms",
         f"**{ours / limit:.2f}**", note)
    ]  # fmt: skip
    for name in PROCESSES:
        peaks = f"{busy[name] >> 20} MB", f"{calm[name] >> 20} MB", f"**{busy[name] / calm[name]:.2f}**"
        rows.append((f"memory of {name} beside a giant person / without", *peaks, "the largest of ten looks a second"))
    return rows


def _warm(stack: Stack) -> None:
    """Everybody is there, and what a process takes once is taken."""
    people = [{"event": "seen", "distinct_id": f"person-{one}"} for one in range(PEOPLE)]
    answer = stack.ask("POST", "/batch/", {"api_key": TOKEN, "batch": people}, key=None)
    position = answer.headers["Position"]
    wait_for(lambda: stack.persons("/?limit=1", Min_Position=position).status == 200, 60, "the projector")


async def _probed(stack: Stack, meanwhile: object, peaks: Peaks) -> list[float]:
    """Seconds until each probe's write was visible, while `meanwhile` goes on."""
    running_now = asyncio.ensure_future(meanwhile)  # type: ignore[arg-type]  # any awaitable
    watching = asyncio.create_task(_watch(stack, peaks))
    found = await asyncio.gather(*(_prober(stack, seed, running_now) for seed in range(PROBERS)))
    watching.cancel()
    await running_now
    return [seconds for one in found for seconds in one]


async def _prober(stack: Stack, seed: int, meanwhile: asyncio.Future[object]) -> list[float]:
    chosen = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    found: list[float] = []
    try:
        while not meanwhile.done():
            name = f"person-{chosen.randrange(PEOPLE)}"
            sent = {"api_key": TOKEN, "event": "e", "distinct_id": name, "properties": {"$set": {"n": len(found)}}}
            began = time.perf_counter()
            head = await _answered(reader, writer, post("/capture/", orjson.dumps(sent)))
            position = next(line[10:] for line in head.split(b"\r\n") if line.lower().startswith(b"position: "))
            path = f"/api/projects/1/persons/{fragment_id(1, name)}/"
            await _answered(reader, writer, get(path, b"Min-Position: " + position))
            found.append(time.perf_counter() - began)
            await asyncio.sleep(PROBES_PAUSE_SECONDS)
    finally:
        writer.close()
    return found


async def _fill(stack: Stack, name: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    position = b""
    for request in range(REQUESTS):
        head = await _answered(reader, writer, await asyncio.to_thread(_names, name, request))
        position = next(line[10:] for line in head.split(b"\r\n") if line.lower().startswith(b"position: "))
    path = f"/api/projects/1/persons/{fragment_id(1, name)}/"
    await _answered(reader, writer, get(path, b"Min-Position: " + position))
    writer.close()


def _names(name: str, request: int) -> bytes:
    names = {f"{request}-{number}-".ljust(NAME_CHARS, "n"): number for number in range(NAMES)}
    return post("/capture/", orjson.dumps({"api_key": TOKEN, "event": "e", "distinct_id": name, "$set": names}))


async def _watch(stack: Stack, peaks: Peaks) -> None:
    while True:
        for name in PROCESSES:
            held = psutil.Process(stack.pid(name)).memory_full_info().pss
            peaks[name] = max(peaks[name], held)
        await asyncio.sleep(LOOK_SECONDS)


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """The head of the answer, which must be 2xx, to this request: one that was refused for load is sent again."""
    for _ in range(RETRIES_MAX):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        if head[9:12] != b"503":
            break
        await asyncio.sleep(RETRY_SECONDS)
    if head[9:10] != b"2":
        raise RuntimeError(head.decode())
    return head


def _slow(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1_000
