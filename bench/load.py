"""A closed-loop HTTP load on 127.0.0.1: prepared requests on kept-alive connections. Never parses a body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PACED_CONNECTIONS = 64
"""Requests under way at most; at 2,000/s each is sent every 32 ms."""


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
                head = await reader.readuntil(b"\r\n\r\n")
                if head[9:10] != b"2":
                    raise RuntimeError(head.decode())
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                answered += 1
        finally:
            writer.close()

    await asyncio.gather(*(client(index) for index in range(PACED_CONNECTIONS)))
    return answered


def post(path: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
