"""Read persons one by one, as the API does, until the input ends; print the seconds of each read.

It is a separate process, as the deleter is, so that the work of one does not add to the latency of
the other.
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
from shared.store.clickhouse.client import Store
from tests.support.processes import ROOT

THINK_SECONDS = 0.002
"""Pause between two reads."""

SECONDS_MAX = 600.0

START_SECONDS = 0.5
"""Time until the first read."""


async def main() -> None:
    """Read as the first line of the input says, in JSON: URL of the store, partitions, names."""
    order = orjson.loads(sys.stdin.buffer.readline())
    people = [fragment_id(1, name) for name in order["names"]]
    store = await Store.connect(order["url"])
    reads = Reads(store, lambda: order["partitions"], lambda stamp: None)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    seconds: list[float] = []
    deadline = time.monotonic() + SECONDS_MAX
    while not ended.done() and time.monotonic() < deadline:
        began = time.perf_counter()
        person = await reads.by_fragment(1, people[len(seconds) % len(people)])
        seconds.append(time.perf_counter() - began)
        assert person is not None
        await asyncio.sleep(THINK_SECONDS)
    await store.close()
    sys.stdout.buffer.write(orjson.dumps(seconds))


@asynccontextmanager
async def reading(
    url: str, partitions: Mapping[str, int], names: Sequence[str]
) -> AsyncIterator[list[float]]:
    """Run a reader meanwhile; the seconds of its reads are in the list when it has ended."""
    seconds: list[float] = []
    pipe = asyncio.subprocess.PIPE
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.reader", cwd=ROOT, stdin=pipe, stdout=pipe
    )
    assert reader.stdin is not None
    order = {"url": url, "partitions": dict(partitions), "names": list(names)}
    reader.stdin.write(orjson.dumps(order) + b"\n")
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
