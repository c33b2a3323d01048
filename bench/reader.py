"""Reads persons one after the other, as the API does, until its input ends; prints the seconds that each read took.

A process of its own, for the deleter is one too: what one computes must not be the other's latency.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import orjson

from services.api.reads.persons import Reads
from shared.domain.ids import fragment_id
from shared.store.client import Store
from tests.support.processes import ROOT

THINK_SECONDS = 0.002
"""How long it rests between two reads."""

SECONDS_MAX = 600.0

START_SECONDS = 0.5
"""How long it takes to begin."""


async def main() -> None:
    """The first line of the input is JSON: the store's URL, partitions of the topics, names of persons."""
    sent = orjson.loads(sys.stdin.buffer.readline())
    people = [fragment_id(1, name) for name in sent["names"]]
    store = await Store.connect(sent["url"])
    reads = Reads(store, lambda: sent["partitions"], lambda stamp: None)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    seconds: list[float] = []
    deadline = time.monotonic() + SECONDS_MAX
    while not ended.done() and time.monotonic() < deadline:
        began = time.perf_counter()
        found = await reads.by_fragment(1, people[len(seconds) % len(people)])
        seconds.append(time.perf_counter() - began)
        assert found is not None
        await asyncio.sleep(THINK_SECONDS)
    await store.close()
    sys.stdout.buffer.write(orjson.dumps(seconds))


@asynccontextmanager
async def reading(url: str, partitions: Mapping[str, int], names: Sequence[str]) -> AsyncIterator[list[float]]:
    """A reader beside; when it has ended, the seconds of each of its reads are in the list."""
    seconds: list[float] = []
    pipe = asyncio.subprocess.PIPE
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.reader", cwd=ROOT, stdin=pipe, stdout=pipe
    )
    assert reader.stdin is not None
    about = {"url": url, "partitions": dict(partitions), "names": list(names)}
    reader.stdin.write(orjson.dumps(about) + b"\n")
    try:
        await asyncio.sleep(START_SECONDS)
        yield seconds
        seconds += orjson.loads((await reader.communicate(b""))[0])
    finally:
        if reader.returncode is None:
            reader.kill()
            await reader.wait()


if __name__ == "__main__":
    asyncio.run(main())
