"""A closed-loop HTTP load on 127.0.0.1: prepared requests on kept-alive connections. Never parses a body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from tests.support.processes import PERSONAL_KEY, TOKEN, Stack

PACED_CONNECTIONS = 64
"""Requests under way at most; at 2,000/s each is sent every 32 ms."""

CAPTURED_TOGETHER = 1_000
"""Events of one request that fills: 300 KB."""


async def load(
    port: int, request: Callable[[int], bytes], *, connections: int, seconds: float
) -> tuple[float, list[float]]:
    """Requests per second and the sorted latencies in seconds; an answer that is not 2xx ends the run."""
    deadline = time.perf_counter() + seconds
    began = time.perf_counter()
    latencies: list[float] = []

    async def client(index: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        number = index
        try:
            while (sent := time.perf_counter()) < deadline:
                writer.write(request(number))
                number += connections
                head = await reader.readuntil(b"\r\n\r\n")
                if head[9:10] != b"2":
                    raise RuntimeError(head.decode())
                at = head.find(b"Content-Length: ")
                length = int(head[at + 16 : head.index(b"\r\n", at)]) if at >= 0 else 0
                if length:
                    await reader.readexactly(length)
                latencies.append(time.perf_counter() - sent)
        finally:
            writer.close()

    await asyncio.gather(*(client(index) for index in range(connections)))
    return len(latencies) / (time.perf_counter() - began), sorted(latencies)


async def paced(port: int, request: Callable[[int], bytes], *, rate: int, seconds: float) -> int:
    """So many requests a second, whatever the answers take; how many were answered with 2xx."""
    began = time.perf_counter()
    answered = 0

    async def client(index: int) -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for number in range(index, round(rate * seconds), PACED_CONNECTIONS):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                writer.write(request(number))
                await _answer(reader)
                answered += 1
        finally:
            writer.close()

    await asyncio.gather(*(client(index) for index in range(PACED_CONNECTIONS)))
    return answered


async def until_visible(port: int, writes: Iterable[bytes], path: str) -> list[float]:
    """One write after the other: seconds from its first byte to the answer of a read of `path` that reflects it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    try:
        for write in writes:
            began = time.perf_counter()
            writer.write(write)
            head = await _answer(reader)
            position = next(line[10:] for line in head.split(b"\r\n") if line.lower().startswith(b"position: "))
            writer.write(get(path, b"Min-Position: " + position))
            await _answer(reader)
            found.append(time.perf_counter() - began)
    finally:
        writer.close()
    return found


def get(path: str, *headers: bytes) -> bytes:
    """A GET with the key of the stack."""
    lines = (f"GET {path} HTTP/1.1".encode(), b"Host: x", f"Authorization: Bearer {PERSONAL_KEY}".encode(), *headers)
    return b"\r\n".join((*lines, b"", b""))


def capture(stack: Stack, count: int, event: Callable[[int], dict[str, object]]) -> str:
    """So many captured events, 1,000 a request, one request after the other; the positions of the last."""
    for start in range(0, count, CAPTURED_TOGETHER):
        events = [event(number) for number in range(start, min(start + CAPTURED_TOGETHER, count))]
        answer = stack.ask("POST", "/batch/", {"api_key": TOKEN, "batch": events}, key=None)
        assert answer.status == 200, answer.body
    return answer.headers["Position"]


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A POST of JSON."""
    lines = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers)
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer that must be 2xx; its body is read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head[9:10] != b"2":
        raise RuntimeError(head.decode())
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    return head
