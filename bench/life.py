"""What living with it costs: how long until a write is visible, memory, disk, and a restart among many persons.

All on the embedded setup, real processes, over HTTP.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import psutil  # type: ignore[import-untyped]

from bench.filling import fill, settle
from bench.load import capture, load, paced, post, until_visible
from bench.report import Row
from services.projector.rows import FRAGMENTS, columns
from shared.runtime.settings import OWNER, read, with_keys
from shared.store.client import Store
from shared.store.queries import Query
from shared.store.timeline import TIMELINE
from tests.support.processes import PERSONAL_KEY, TOKEN, Stack, running, wait_for

TURNS = 5
"""Of what is compared in turns: writes that are waited for."""

RATE, RATE_SECONDS, PROBES = 2_000, 3.0, 40
"""Writes a second beside the probes of a turn, for how long, and how many of its probes are idle."""

PROBERS = 4
"""Clients that probe at the same time beside 2,000 writes a second: one would make too few for a p99."""

CALLS, PATCH_SECONDS = 40, 1.0
"""Of a turn: how often a SELECT and two INSERTs by hand, and how long PATCHes are sent."""

DISK_RATE, DISK_SECONDS = 1_000, 60.0
COMMANDS, MEMORY_TURNS = 250_000, 4
"""Captures of one turn; memory is looked at after each."""

PERSONS = 1_000_000
RESTARTS = 3
PEOPLE = 20_000

ANY = "/api/projects/1/persons/?limit=1"
"""A read that is asked to reflect a write."""

PROCESSES = ("engine", "api", "projector", "deleter", "up")

_SELECT = Query(name="one", sql="SELECT properties FROM fragments WHERE project = 2 AND fragment = {one:UUID}")


def life(data: Path) -> list[Row]:
    """The rows of the report."""
    with running(data / "latency") as stack:
        idle_bytes = sum(_resident(stack).values())
        rows = [*_visible(stack), _patched(stack)]
        note = "pages that several share are counted once (PSS)"
        rows.append(("memory of all five processes, idle", f"{idle_bytes >> 20} MB", "", "", note))
    with running(data / "disk") as stack:
        rows.append(_disk(stack))
    with running(data / "memory") as stack:
        rows += _memory(stack)
    return [*rows, _restarts(data)]


def _visible(stack: Stack) -> list[Row]:
    """From a write's first byte to the answer of a read that reflects it."""
    idle: list[float] = []
    busy: list[float] = []
    for _ in range(TURNS):
        settle(stack)
        idle += asyncio.run(until_visible(stack.port, [_event(PEOPLE + 1)] * PROBES, ANY))
        busy += asyncio.run(_beside(stack.port))
    slow, alone = (sorted(each)[int(len(each) * 0.99)] * 1_000 for each in (busy, idle))
    middle, loaded = (statistics.median(each) * 1_000 for each in (idle, busy))
    note = f"p50 idle {middle:.0f} ms, at {RATE:,}/s {loaded:.0f} ms; {len(idle)} and {len(busy)} probes, {TURNS} turns"
    name = f"write to visible at {RATE:,}/s / idle, p99"
    return [(name, f"{slow:.0f} ms", f"{alone:.0f} ms", f"**{slow / alone:.1f}**", note)]


async def _beside(port: int) -> list[float]:
    sending = asyncio.create_task(paced(port, _event, rate=RATE, seconds=RATE_SECONDS))

    def meanwhile() -> Iterator[bytes]:
        while not sending.done():
            yield _event(PEOPLE + 1)

    found = await asyncio.gather(*(until_visible(port, meanwhile(), ANY) for _ in range(PROBERS)))
    assert await sending >= 0.95 * RATE * RATE_SECONDS
    return [seconds for one in found for seconds in one]


def _patched(stack: Stack) -> Row:
    """PATCH waits until its write is visible: against the SELECT and two INSERTs that this takes in the engine."""
    stack.capture(event="seen", distinct_id="ada")
    path = wait_for(lambda: _path_of(stack, "ada"), 20, "the person")
    key = f"Authorization: Bearer {PERSONAL_KEY}\r\nContent-Type: application/json"
    head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\n{key}\r\n"

    def patch(number: int) -> bytes:
        body = orjson.dumps({"properties": {"seats": number}})
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    latencies: list[float] = []
    by_hand: list[float] = []
    for _ in range(TURNS):
        settle(stack)
        by_hand += asyncio.run(_by_hand(stack))
        latencies += asyncio.run(load(stack.port, patch, connections=1, seconds=PATCH_SECONDS))[1]
    ours, limit = statistics.median(latencies) * 1_000, statistics.median(by_hand) * 1_000
    return ("PATCH and wait, idle, p50 / one SELECT and two INSERTs", f"{ours:.1f} ms", f"{limit:.1f} ms",
            f"**{ours / limit:.1f}**", f"{len(latencies)} PATCHes in {TURNS} turns")  # fmt: skip


def _path_of(stack: Stack, name: str) -> str:
    found = stack.persons(f"/?distinct_id={name}").json["results"]
    return f"/api/projects/1/persons/{found[0]['uuid']}/" if found else ""


async def _by_hand(stack: Stack) -> list[float]:
    settings, _ = with_keys(read(stack.environment))
    store = await Store.connect(settings.store_url(OWNER))
    seconds = []
    fact: tuple[Any, ...]
    row: tuple[Any, ...]
    try:
        for number in range(CALLS):
            one = uuid4()
            began = time.perf_counter()
            await store.rows(_SELECT, one=one)
            fact = (2, one, 1, "fragment.changed", 1, 1, one, "bench", "", "", 0, 0, ["a"], [1], [""], ["1"], one, [],
                    0, 0, one, "")  # fmt: skip
            await store.insert("timeline", columns(TIMELINE, [fact]))
            row = (2, one, 1, f"p{number}", number, 1, 1, 1, 0, 0, 0, '{"a":1}', '{"a":[1,1,0]}', [], [], [], [])
            await store.insert("fragments", columns(FRAGMENTS, [row]))
            seconds.append(time.perf_counter() - began)
    finally:
        await store.close()
    return seconds


def _disk(stack: Stack) -> Row:
    """The largest size of the engine's folder while writes come, against what its active parts hold at the end."""

    async def watch() -> int:
        sending = asyncio.create_task(paced(stack.port, _event, rate=DISK_RATE, seconds=DISK_SECONDS))
        most = 0
        while not sending.done():
            await asyncio.sleep(1.0)
            most = max(most, await asyncio.to_thread(_size, stack.data / "engine" / "store"))
        await sending
        return most

    most = asyncio.run(watch())
    live = int(stack.query("SELECT sum(bytes_on_disk) FROM system.parts WHERE active"))
    return (f"disk of the engine during {DISK_SECONDS:.0f} s at {DISK_RATE:,}/s / live data", f"{most / 1e6:.0f} MB",
            f"{live / 1e6:.0f} MB", f"**{most / live:.1f}**", "the largest of a look a second")  # fmt: skip


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # which passes over folders that a merge has removed
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).stat().st_blocks * 512
    return total


def _memory(stack: Stack) -> list[Row]:
    start = _resident(stack)
    seen = []
    for _ in range(MEMORY_TURNS):
        at = capture(stack, COMMANDS, _sent)
        wait_for(partial(_reflects, stack, at), 300, "the projector")
        seen.append(_resident(stack))
    return [
        (f"memory of {name} after {MEMORY_TURNS * COMMANDS / 1e6:.0f} M commands / at start",
         f"{seen[-1][name] >> 20} MB", f"{start[name] >> 20} MB", f"**{seen[-1][name] / start[name]:.2f}**",
         " → ".join(f"{each[name] >> 20}" for each in seen))
        for name in ("engine", "api", "projector")
    ]  # fmt: skip


def _reflects(stack: Stack, position: str) -> bool:
    return stack.persons("/?limit=1", Min_Position=position).status == 200


def _resident(stack: Stack) -> dict[str, int]:
    return {name: psutil.Process(stack.pid(name)).memory_full_info().pss for name in PROCESSES}


def _restarts(data: Path) -> Row:
    """From the start of everything to its first answer, with many persons and with none, in turns."""
    few, many = Stack(data / "few"), Stack(data / "many")
    seconds: dict[str, list[float]] = {"few": [], "many": []}
    try:
        many.start()
        asyncio.run(fill(many, PERSONS))
        many.stop()
        few.start()
        few.stop()
        for _ in range(RESTARTS):
            for name, stack in (("few", few), ("many", many)):
                seconds[name].append(stack.start())
                stack.stop()
    finally:
        few.stop()
        many.stop()
    ours, limit = statistics.median(seconds["many"]), statistics.median(seconds["few"])
    return (f"restart to ready with {PERSONS / 1e6:.0f} M persons / with none", f"{ours:.2f} s", f"{limit:.2f} s",
            f"**{ours / limit:.2f}**", f"{RESTARTS} each")  # fmt: skip


def _event(number: int) -> bytes:
    return post("/capture/", orjson.dumps({"api_key": TOKEN, **_sent(number)}))


def _sent(number: int) -> dict[str, object]:
    name = f"person-{number % PEOPLE}"
    return {"event": "order placed", "distinct_id": name, "properties": {"$set": {"plan": "pro", "seats": number}}}
