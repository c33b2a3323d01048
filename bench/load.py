"""A closed-loop HTTP load on 127.0.0.1: prepared requests on kept-alive connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from tests.support.processes import PERSONAL_KEY, TOKEN, Stack

PACED_CONNECTIONS = 64
"""Requests in flight at most; at 2,000/s each connection sends one every 32 ms."""

CAPTURED_TOGETHER = 1_000
"""Events of one request that fills tables: 300 KB."""


async def load(
    port: int, request: Callable[[int], bytes], *, connections: int, seconds: float
) -> tuple[float, list[float]]:
    """Return requests per second and sorted latencies in seconds; raise for an answer not 2xx."""
    deadline = time.perf_counter() + seconds
    began = time.perf_counter()
    latencies: list[float] = []

    async def client(index: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        number = index
        try:
            while (start := time.perf_counter()) < deadline:
                writer.write(request(number))
                number += connections
                head = await reader.readuntil(b"\r\n\r\n")
                if head[9:10] != b"2":
                    raise RuntimeError(head.decode())
                at = head.find(b"Content-Length: ")
                length = int(head[at + 16 : head.index(b"\r\n", at)]) if at >= 0 else 0
                if length:
                    await reader.readexactly(length)
                latencies.append(time.perf_counter() - start)
        finally:
            writer.close()

    await asyncio.gather(*(client(index) for index in range(connections)))
    return len(latencies) / (time.perf_counter() - began), sorted(latencies)


async def paced(port: int, request: Callable[[int], bytes], *, rate: int, seconds: float) -> int:
    """Send `rate` requests a second, however slow the answers; return the number of 2xx answers."""
    began = time.perf_counter()
    answers = 0

    async def client(index: int) -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for number in range(index, round(rate * seconds), PACED_CONNECTIONS):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                writer.write(request(number))
                await _answer(reader)
                answers += 1
        finally:
            writer.close()

    await asyncio.gather(*(client(index) for index in range(PACED_CONNECTIONS)))
    return answers


async def until_visible(port: int, writes: Iterable[bytes], path: str) -> list[float]:
    """Write one by one; seconds from a write's first byte to a read of `path` that reflects it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies = []
    try:
        for write in writes:
            began = time.perf_counter()
            writer.write(write)
            head = await _answer(reader)
            writer.write(get(path, b"Min-Position: " + position_in(head)))
            await _answer(reader)
            latencies.append(time.perf_counter() - began)
    finally:
        writer.close()
    return latencies


def position_in(head: bytes) -> bytes:
    """Return the value of the header Position in the head of an answer."""
    lines = head.split(b"\r\n")
    return next(line[10:] for line in lines if line.lower().startswith(b"position: "))


def get(path: str, *headers: bytes) -> bytes:
    """Build a GET with the key of the stack."""
    key = f"Authorization: Bearer {PERSONAL_KEY}".encode()
    lines = (f"GET {path} HTTP/1.1".encode(), b"Host: x", key, *headers)
    return b"\r\n".join((*lines, b"", b""))


def capture(stack: Stack, count: int, event: Callable[[int], dict[str, object]]) -> str:
    """Capture `count` events, 1,000 a request, in sequence; return the positions of the last."""
    for start in range(0, count, CAPTURED_TOGETHER):
        events = [event(number) for number in range(start, min(start + CAPTURED_TOGETHER, count))]
        answer = stack.ask("POST", "/batch/", {"api_key": TOKEN, "batch": events}, key=None)
        assert answer.status == 200, answer.body
    return answer.headers["Position"]


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Build a POST of JSON."""
    first = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    lines = (*first, *headers, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Return the head of an answer that must be 2xx; read and drop its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head[9:10] != b"2":
        raise RuntimeError(head.decode())
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return head
