"""Costs of operation: time until a write is visible, memory, disk, and a restart with many persons.

All on the embedded setup, with real processes, over HTTP.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from uuid import uuid4

import orjson
import psutil  # type: ignore[import-untyped]

from bench.filling import fill, fragment_row, settle
from bench.load import capture, load, paced, post, until_visible
from bench.report import Row
from services.projector.tables.rows import FRAGMENTS, columns
from shared.runtime.settings import OWNER, read, with_keys
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.timeline import TIMELINE, Fact
from tests.support.processes import PERSONAL_KEY, TOKEN, Stack, running, wait_for

TURNS = 5
"""Turns of the comparisons of writes that wait until they are visible."""

RATE, RATE_SECONDS, PROBES = 2_000, 3.0, 40
"""Writes a second beside the probes of a turn, their time, and the number of idle probes."""

PROBERS = 4
"""Concurrent clients that probe beside 2,000 writes a second: one makes too few for a p99."""

CALLS, PATCH_SECONDS = 40, 1.0
"""Of a turn: the number of SELECTs with two INSERTs, and the time of PATCHes."""

DISK_RATE, DISK_SECONDS = 1_000, 60.0
COMMANDS, MEMORY_TURNS = 250_000, 4
"""Captures of one turn, after which memory is measured; turns."""

PERSONS = 1_000_000
RESTARTS = 3
PEOPLE = 20_000

ANY = "/api/projects/1/persons/?limit=1"
"""A read that must reflect a write."""

PROCESSES = ("engine", "api", "projector", "deleter", "up")

_SELECT = Query(
    name="fragment",
    sql="SELECT properties FROM fragments WHERE project = 2 AND fragment = {fragment:UUID}",
)


def life(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    with running(data / "latency") as stack:
        idle_bytes = sum(_resident(stack).values())
        rows = [*_visibility(stack), _patches(stack)]
        note = "pages that several share are counted once (PSS)"
        rows.append(("memory of all five processes, idle", f"{idle_bytes >> 20} MB", "", "", note))
    with running(data / "disk") as stack:
        rows.append(_disk(stack))
    with running(data / "memory") as stack:
        rows += _memory(stack)
    return [*rows, _restarts(data)]


def _visibility(stack: Stack) -> list[Row]:
    """Measure from a write's first byte to the answer of a read that reflects it."""
    idle: list[float] = []
    busy: list[float] = []
    for _ in range(TURNS):
        settle(stack)
        idle += asyncio.run(until_visible(stack.port, [_event(PEOPLE + 1)] * PROBES, ANY))
        busy += asyncio.run(_beside(stack.port))
    slow, alone = (sorted(side)[int(len(side) * 0.99)] * 1_000 for side in (busy, idle))
    middle, loaded = (statistics.median(side) * 1_000 for side in (idle, busy))
    medians = f"p50 idle {middle:.0f} ms, at {RATE:,}/s {loaded:.0f} ms"
    note = f"{medians}; {len(idle)} and {len(busy)} probes, {TURNS} turns"
    name = f"write to visible at {RATE:,}/s / idle, p99"
    return [(name, f"{slow:.0f} ms", f"{alone:.0f} ms", f"**{slow / alone:.1f}**", note)]


async def _beside(port: int) -> list[float]:
    sending = asyncio.create_task(paced(port, _event, rate=RATE, seconds=RATE_SECONDS))

    def meanwhile() -> Iterator[bytes]:
        while not sending.done():
            yield _event(PEOPLE + 1)

    probers = (until_visible(port, meanwhile(), ANY) for _ in range(PROBERS))
    latencies = list(chain.from_iterable(await asyncio.gather(*probers)))
    assert await sending >= 0.95 * RATE * RATE_SECONDS
    return latencies


def _patches(stack: Stack) -> Row:
    """Measure PATCHes that wait until visible, against the SELECT and two INSERTs of each."""
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
        lone = load(stack.port, patch, connections=1, seconds=PATCH_SECONDS)
        latencies += asyncio.run(lone)[1]
    cost, limit = statistics.median(latencies) * 1_000, statistics.median(by_hand) * 1_000
    return (
        "PATCH and wait, idle, p50 / one SELECT and two INSERTs",
        f"{cost:.1f} ms",
        f"{limit:.1f} ms",
        f"**{cost / limit:.1f}**",
        f"{len(latencies)} PATCHes in {TURNS} turns",
    )


def _path_of(stack: Stack, name: str) -> str:
    persons = stack.persons(f"/?distinct_id={name}").json["results"]
    return f"/api/projects/1/persons/{persons[0]['uuid']}/" if persons else ""


async def _by_hand(stack: Stack) -> list[float]:
    settings, _ = with_keys(read(stack.environment))
    store = await Store.connect(settings.store_url(OWNER))
    seconds = []
    try:
        for number in range(CALLS):
            uuid = uuid4()
            began = time.perf_counter()
            await store.rows(_SELECT, fragment=uuid)
            fact = Fact(
                2, uuid, 1, "fragment.changed", 1, 1, uuid, "bench", "", "", 0, 0, ["a"], [1], [""],
                ["1"], uuid, [], 0, 0, uuid, "", "", 0, "",
            )  # fmt: skip
            await store.insert("timeline", columns(TIMELINE, [fact]))
            row = fragment_row(number, '{"a":1}', '{"a":[1,1,0]}')
            await store.insert("fragments", columns(FRAGMENTS, [row]))
            seconds.append(time.perf_counter() - began)
    finally:
        await store.close()
    return seconds


def _disk(stack: Stack) -> Row:
    """Compare the peak of the engine's folder under writes with its active parts at the end."""

    async def watch() -> int:
        writes = paced(stack.port, _event, rate=DISK_RATE, seconds=DISK_SECONDS)
        sending = asyncio.create_task(writes)
        peak = 0
        while not sending.done():
            await asyncio.sleep(1.0)
            peak = max(peak, await asyncio.to_thread(_size, stack.data / "engine" / "store"))
        await sending
        return peak

    peak = asyncio.run(watch())
    live = int(stack.query("SELECT sum(bytes_on_disk) FROM system.parts WHERE active"))
    return (
        f"disk of the engine during {DISK_SECONDS:.0f} s at {DISK_RATE:,}/s / live data",
        f"{peak / 1e6:.0f} MB",
        f"{live / 1e6:.0f} MB",
        f"**{peak / live:.1f}**",
        "the largest of a look a second",
    )


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # skips folders that a merge has removed
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).stat().st_blocks * 512
    return total


def _memory(stack: Stack) -> list[Row]:
    start = _resident(stack)
    samples = []
    for _ in range(MEMORY_TURNS):
        at = capture(stack, COMMANDS, _fields)
        wait_for(partial(_reflects, stack, at), 300, "the projector")
        samples.append(_resident(stack))
    return [
        (
            f"memory of {name} after {MEMORY_TURNS * COMMANDS / 1e6:.0f} M commands / at start",
            f"{samples[-1][name] >> 20} MB",
            f"{start[name] >> 20} MB",
            f"**{samples[-1][name] / start[name]:.2f}**",
            " → ".join(f"{sample[name] >> 20}" for sample in samples),
        )
        for name in ("engine", "api", "projector")
    ]


def _reflects(stack: Stack, position: str) -> bool:
    return stack.persons("/?limit=1", Min_Position=position).status == 200


def _resident(stack: Stack) -> dict[str, int]:
    return {name: psutil.Process(stack.pid(name)).memory_full_info().pss for name in PROCESSES}


def _restarts(data: Path) -> Row:
    """Measure from a start to its first answer, with many persons and with none, in turns."""
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
    cost, limit = statistics.median(seconds["many"]), statistics.median(seconds["few"])
    return (
        f"restart to ready with {PERSONS / 1e6:.0f} M persons / with none",
        f"{cost:.2f} s",
        f"{limit:.2f} s",
        f"**{cost / limit:.2f}**",
        f"{RESTARTS} each",
    )


def _event(number: int) -> bytes:
    return post("/capture/", orjson.dumps({"api_key": TOKEN, **_fields(number)}))


def _fields(number: int) -> dict[str, object]:
    name = f"person-{number % PEOPLE}"
    properties = {"$set": {"plan": "pro", "seats": number}}
    return {"event": "order placed", "distinct_id": name, "properties": properties}
