"""`make bench`: each question measured side by side in one run, in turns; medians into bench/results.md.

`python -m bench persons` asks that one only. Never a test: the machines are noisy, so only ratios within a run mean
anything.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from uuid import UUID, uuid4

from bench.analytics import analytics
from bench.appends import appends, row
from bench.deletion import deletions
from bench.life import life
from bench.peer import Missing
from bench.peers import peers
from bench.persons import persons
from services.api.reads import Reads
from services.projector.rows import FRAGMENTS, columns
from shared.domain.commands import Write, encode, route
from shared.domain.ids import COMMANDS, IDENTITY, Position, fragment_id
from shared.log.embedded import EmbeddedLog
from shared.log.port import Entry
from shared.runtime.settings import read, with_keys
from shared.store.client import Store
from tests.support.processes import ROOT, Stack, wait_for

TURNS = 5
"""Each side is measured so often, in turns; the median counts."""

CONNECTIONS = 64
COMMANDS_COUNT, PERSONS, INSERT_ROWS = 240_000, 20_000, 10_000
REBUILDS = 3
READS = 2_000
CROWD = 2_000

Row = tuple[str, str, str, str, str]


def main(names: list[str]) -> None:
    questions: dict[str, Callable[[Path], list[Row]]] = {
        "appends": appends,  # acknowledged appends against a bare aiohttp handler
        "projection": projection,  # projected commands against raw column-wise insert, and coalesced reads
        "peers": peers,  # reads, writes and projection against aiohttp on PostgreSQL
        "deletions": deletions,  # 1,000 persons in one run against one by one, and readers beside it
        "analytics": analytics,  # the queries of docs/analytics.md against a scan of their columns
        "life": life,  # until a write is visible, memory, disk, a restart
        "persons": persons,  # keyed lookups from 10 k to 1 M persons, and lists of them
    }
    if unknown := set(names) - questions.keys():
        sys.exit(f"No such question: {', '.join(sorted(unknown))}. There are: {', '.join(questions)}.")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="personlog-bench-") as folder:
        for name in names or questions:
            print(name, flush=True)
            try:
                rows += questions[name](Path(folder) / name)
            except Missing as error:
                print(f"{name} left out: {error}", flush=True)
    text = report(rows)
    print(text)
    path = ROOT / "bench" / "results.md"
    head = "# Results\n\nWritten by `make bench`, the newest first. Only ratios within a run mean anything.\n"
    older = path.read_text().removeprefix(head) if path.exists() else ""
    path.write_text(head + "\n" + text + older)


def projection(data: Path) -> list[Row]:
    """A projector catches up on a filled log; rebuilds from its timeline, raw inserts into the same engine, reads."""
    with caught_up(data) as (stack, rate):
        rebuilds = [_rebuilt(stack) for _ in range(REBUILDS)]
        raw, one, many, crowd = asyncio.run(_side_by_side(_store_url(stack)))
    return [
        row("projected commands, with timeline / raw insert rows", [rate], raw, f"{COMMANDS_COUNT:,} commands, cold"),
        row("rebuilt facts, compared and swapped / projected commands", rebuilds, [rate], "0 differences"),
        row("coalesced GET / one query each, 64 in flight", many, one, f"{PERSONS:,} persons"),
        row("the same, 2,000 in flight", crowd, one, "against one query each, 64 in flight"),
    ]


@contextmanager
def caught_up(data: Path) -> Iterator[tuple[Stack, float]]:
    """A stack without API whose projector has caught up on a filled log, and its commands per second."""
    stack = Stack(data)
    positions = asyncio.run(_fill(data / "log", read(stack.environment).topics))
    stack.spawn("engine", log="engine.log")
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{stack.engine_port}/ping"), 30, "the engine")
        assert stack.call("migrate").returncode == 0
        projector = stack.spawn("projector", log="projector.log")
        rate = asyncio.run(_caught_up(_store_url(stack), positions))
        projector.terminate()
        projector.wait(timeout=15)
        yield stack, rate
    finally:
        stack.stop()


def _store_url(stack: Stack) -> str:
    settings, _ = with_keys(read(stack.environment))
    return settings.store_url


def _rebuilt(stack: Stack) -> float:
    """Facts per second of one `personlog rebuild --verify`, by its own clock: from its first query to its end."""
    done = stack.call("rebuild", "--verify", seconds=600)
    found = re.search(r"swapped: ([\d,]+) facts .* in ([\d.]+) s; .* 0 differences, 0 corrupt", done.stdout)
    assert done.returncode == 0 and found is not None, done.stdout + done.stderr
    return int(found[1].replace(",", "")) / float(found[2])


async def _fill(path: Path, topics: dict[str, int]) -> list[Position]:
    """Commands of about 300 bytes for 20,000 persons: 4 set, 3 set_once, 1 unset."""
    log = EmbeddedLog(path, topics)
    await log.start()
    try:
        counts = log.partitions()
        for start in range(0, COMMANDS_COUNT, 1_000):
            commands = [_command(number) for number in range(start, start + 1_000)]
            await log.append([Entry(*route(one, counts), encode(one)) for one in commands])
        return await log.heads(COMMANDS)
    finally:
        await log.close()


async def _caught_up(url: str, heads: list[Position]) -> float:
    """Commands per second from the first visible position to the last."""
    store = await Store.connect(url)
    try:
        reads = Reads(store, lambda: {COMMANDS: len(heads), IDENTITY: 4}, lambda stamp: None)
        first: tuple[float, int] | None = None
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            rows = await store.rows(reads.queries["watermarks"])
            done = sum((row[1] & (1 << 48) - 1) + 1 for row in rows if row[0].int & 0xFF == ord("c"))
            now = time.perf_counter()
            if done and first is None:
                first = (now, done)
            if done == COMMANDS_COUNT:
                assert first is not None
                return (COMMANDS_COUNT - first[1]) / (now - first[0])
            await asyncio.sleep(0.02)
        raise RuntimeError("the projector did not catch up within 300 s")
    finally:
        await store.close()


async def _side_by_side(url: str) -> tuple[list[float], list[float], list[float], list[float]]:
    store = await Store.connect(url)
    try:
        raw = [await _raw_insert(store) for _ in range(TURNS)]
        reads = _reads(store)
        one, many, crowd = [], [], []
        for _ in range(TURNS):
            one.append(await _gets(lambda key: _reads(store).by_fragment(1, key), READS // 10))
            many.append(await _gets(lambda key: reads.by_fragment(1, key), READS))
            crowd.append(await _gets(lambda key: reads.by_fragment(1, key), 10 * READS, CROWD))
        return raw, one, many, crowd
    finally:
        await store.close()


def _reads(store: Store) -> Reads:
    return Reads(store, lambda: {COMMANDS: 16, IDENTITY: 4}, lambda stamp: None)


async def _raw_insert(store: Store) -> float:
    """Rows per second of 10,000 ready fragment rows, inserted column-wise by the same client."""
    rows = [
        (2, uuid4(), 1, f"person-{number}", number, 1, 1, 1, 0, 0, 0, '{"a":1,"b":"x","c":0.5,"d":[1],"e":1,"f":2}',
         '{"a":[1,1,0],"b":[1,1,0],"c":[1,1,0],"d":[1,1,0],"e":[0,0,1],"f":[0,0,1]}', [], [], [], [])
        for number in range(INSERT_ROWS)
    ]  # fmt: skip
    began = time.perf_counter()
    await store.insert("fragments", columns(FRAGMENTS, rows))
    return INSERT_ROWS / (time.perf_counter() - began)


async def _gets(get: Callable[[UUID], object], count: int, clients: int = CONNECTIONS) -> float:
    """GETs per second with so many in flight."""
    waiting = iter(range(count))
    began = time.perf_counter()

    async def client() -> None:
        for number in waiting:
            person = await get(fragment_id(1, f"person-{number % PERSONS}"))  # type: ignore[misc]
            assert person is not None

    await asyncio.gather(*(client() for _ in range(clients)))
    return count / (time.perf_counter() - began)


def report(rows: list[Row]) -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    chip = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit.stdout.strip()}",
        "",
        f"{os.cpu_count()} cores ({chip}), Python {platform.python_version()}, aiohttp {version('aiohttp')}, "
        f"chdb {version('chdb')}, embedded log. Medians of {TURNS} turns.",
        "",
        "| ratio | ours | limit | ratio | note |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def _command(number: int) -> Write:
    name = f"person-{number % PERSONS}"
    return Write(
        id=uuid4(), project=1, at=1_700_000_000_000_000 + number, actor="bench", fragment=fragment_id(1, name),
        distinct_id=name, set={"a": number, "b": "some text", "c": number / 4, "d": [number]},
        set_once={"e": 1, "f": 2, "g": 3}, unset=("z",), reason="update",
    )  # fmt: skip


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
