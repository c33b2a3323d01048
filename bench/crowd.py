"""Asks for lists on many connections until its input ends; prints how often each status was answered, as JSON.

A process of its own: what it computes must not be the latency that is measured beside it. It is ruder than SDKs and
scripts are: who is refused asks again after PAUSE_SECONDS, whatever Retry-After says.
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
"""How long it takes until all ask."""


async def main() -> None:
    """The first line of the input is JSON: the port, how many connections, the paths that they ask for."""
    sent = orjson.loads(sys.stdin.buffer.readline())
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    said: Counter[str] = Counter()

    async def client(number: int) -> None:
        request = get(sent["paths"][number % len(sent["paths"])])
        while not ended.done():
            try:
                status = await _asked(sent["port"], request, said, ended)
            except (OSError, asyncio.IncompleteReadError):
                status = "broken"
                said[status] += 1
            await asyncio.sleep(0 if status == "200" else PAUSE_SECONDS)

    clients = [asyncio.create_task(client(number)) for number in range(sent["connections"])]
    await ended
    for one in clients:
        one.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    sys.stdout.buffer.write(orjson.dumps(said))


async def _asked(port: int, request: bytes, said: Counter[str], ended: asyncio.Task[bytes]) -> str:
    """Ask on one connection until an answer is no 200; that one's status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while not ended.done():
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"content-length: " in head:
                await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            else:
                while size := int(await reader.readline(), 16):
                    await reader.readexactly(size + 2)
                await reader.readline()
            status = head[9:12].decode()
            said[status] += 1
            if status != "200":
                return status
    finally:
        writer.close()
    return "200"


@asynccontextmanager
async def crowding(port: int, connections: int, paths: Sequence[str]) -> AsyncIterator[Counter[str]]:
    """A crowd beside; when it has ended, the counts are in the counter."""
    said: Counter[str] = Counter()
    pipe = asyncio.subprocess.PIPE
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.crowd", cwd=ROOT, stdin=pipe, stdout=pipe
    )
    assert crowd.stdin is not None
    crowd.stdin.write(orjson.dumps({"port": port, "connections": connections, "paths": list(paths)}) + b"\n")
    try:
        await asyncio.sleep(START_SECONDS)
        yield said
        said.update(orjson.loads((await crowd.communicate(b""))[0]))
    finally:
        if crowd.returncode is None:
            crowd.kill()
            await crowd.wait()


if __name__ == "__main__":
    asyncio.run(main())
