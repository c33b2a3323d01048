"""A load of lists on many connections until the input ends; prints the counts of statuses as JSON.

It is a separate process, so that its work does not add to the latency measured beside it. It is
ruder than SDKs and scripts: a refused request is repeated after PAUSE_SECONDS, whatever Retry-After
says.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson

from bench.load import get
from tests.support.processes import ROOT

PAUSE_SECONDS = 0.5

START_SECONDS = 2.0
"""Time until all connections send requests."""


async def main() -> None:
    """Load as the first line of the input says, in JSON: port, number of connections, paths."""
    order = orjson.loads(sys.stdin.buffer.readline())
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    statuses: Counter[str] = Counter()

    async def client(number: int) -> None:
        request = get(order["paths"][number % len(order["paths"])])
        while not ended.done():
            try:
                status = await _until_refused(order["port"], request, statuses, ended)
            except (OSError, asyncio.IncompleteReadError):
                status = "broken"
                statuses[status] += 1
            await asyncio.sleep(0 if status == "200" else PAUSE_SECONDS)

    clients = [asyncio.create_task(client(number)) for number in range(order["connections"])]
    await ended
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    sys.stdout.buffer.write(orjson.dumps(statuses))


async def _until_refused(
    port: int, request: bytes, statuses: Counter[str], ended: asyncio.Task[bytes]
) -> str:
    """Repeat a request on one connection until an answer is not 200; return its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while not ended.done():
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"content-length: " in head:
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
            else:
                while size := int(await reader.readline(), 16):
                    await reader.readexactly(size + 2)
                await reader.readline()
            status = head[9:12].decode()
            statuses[status] += 1
            if status != "200":
                return status
    finally:
        writer.close()
    return "200"


@asynccontextmanager
async def crowding(
    port: int, connections: int, paths: Sequence[str]
) -> AsyncIterator[Counter[str]]:
    """Run a crowd meanwhile; its counts are in the counter when it has ended."""
    statuses: Counter[str] = Counter()
    pipe = asyncio.subprocess.PIPE
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.crowd", cwd=ROOT, stdin=pipe, stdout=pipe
    )
    assert crowd.stdin is not None
    order = {"port": port, "connections": connections, "paths": list(paths)}
    crowd.stdin.write(orjson.dumps(order) + b"\n")
    try:
        await asyncio.sleep(START_SECONDS)
        yield statuses
        statuses.update(orjson.loads((await crowd.communicate(b""))[0]))
    finally:
        if crowd.returncode is None:
            crowd.kill()
            await crowd.wait()


if __name__ == "__main__":
    asyncio.run(main())
