"""Reads persons one after the other, as the API does, until its input ends; prints the seconds that each read took.

A process of its own, for the deleter is one too: what one computes must not be the other's latency.
"""

from __future__ import annotations

import asyncio
import sys
import time

import orjson

from services.api.reads import Reads
from shared.domain.ids import fragment_id
from shared.store.client import Store

THINK_SECONDS = 0.002
"""How long it rests between two reads."""

SECONDS_MAX = 600.0


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


if __name__ == "__main__":
    asyncio.run(main())
