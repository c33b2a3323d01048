"""Cost of an acknowledged append: captures of one event and of 100 against a bare aiohttp handler.

Measured on both logs. The projector is paused meanwhile, so that only the API and the log count; a
further row has the appends beside a busy projector.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from bench.filling import settle
from bench.load import load, post
from bench.logs import frozen, on_both_logs
from bench.report import Row, row
from tests.support.processes import ROOT, TOKEN, Stack, free_port, running, wait_for

TURNS, SECONDS, CONNECTIONS = 5, 1.0, 64
"""A second has 8,000 appends, or batches with commands for some seconds of a projector."""

BATCH, BATCH_CONNECTIONS = 100, 16
PERSONS = 20_000

DRAINED_SECONDS_MAX = 600


def appends(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    with _bare() as bare:

        def measure(folder: Path, log: str, environment: dict[str, str]) -> list[Row]:
            with running(folder, **environment) as stack:
                return _measure(stack, bare, log)

        return on_both_logs(data, measure)


def _measure(stack: Stack, bare: int, log: str) -> list[Row]:
    single, batches, beside, limit, slow = [], [], [], [], []
    for _ in range(TURNS):
        settle(stack)  # merges of the turn before would slow both sides
        limit.append(_load(bare, _event, CONNECTIONS)[0])
        with frozen(stack.pid("projector")):
            rate, latencies = _load(stack.port, _event, CONNECTIONS)
            batches.append(BATCH * _load(stack.port, _batch, BATCH_CONNECTIONS)[0])
        single.append(rate)
        slow.append(latencies[int(len(latencies) * 0.99)] * 1_000)
        beside.append(_load(stack.port, _event, CONNECTIONS)[0])
        wait_for(lambda: _drained(stack), DRAINED_SECONDS_MAX, "the projector to catch up")
    late = f"p99 {statistics.median(slow):.0f} ms, {log}"
    return [
        row("acknowledged append / bare handler, c = 64", single, limit, late),
        row("events of batches of 100 / bare handler's requests", batches, limit, log),
        row(
            "acknowledged append beside a busy projector and engine",
            beside,
            limit,
            f"all on the same cores, {log}",
        ),
    ]


@contextmanager
def _bare() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.bare", str(port)], cwd=ROOT)
    try:
        wait_for(lambda: not _refused(port), 20, "the bare handler")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _refused(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _load(port: int, request: Callable[[int], bytes], connections: int) -> tuple[
    float, list[float]
]:
    return asyncio.run(load(port, request, connections=connections, seconds=SECONDS))


def _drained(stack: Stack) -> bool:
    """Whether a read reflects all appends."""
    answer = stack.capture(event="mark", distinct_id="mark")
    return stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200


def _event(number: int) -> bytes:
    return post("/capture/", orjson.dumps({"api_key": TOKEN, **_fields(number)}), *_beyond_a_proxy(number))


def _batch(number: int) -> bytes:
    events = [_fields(number * BATCH + index) for index in range(BATCH)]
    return post("/batch/", orjson.dumps({"api_key": TOKEN, "batch": events}), *_beyond_a_proxy(number))


def _beyond_a_proxy(number: int) -> tuple[str, ...]:
    """Headers that proxies and tracing add; two of them are new each time."""
    return (
        "X-Forwarded-For: 203.0.113.7",
        f"X-Request-Id: {number:032x}",
        f"traceparent: 00-{number:032x}-00f067aa0ba902b7-01",
    )


def _fields(number: int) -> dict[str, object]:
    return {
        "event": "order placed",
        "distinct_id": f"person-{number % PERSONS}",
        "properties": {
            "amount": number,
            "$set": {"plan": "pro", "seats": number},
            "$set_once": {"first": number},
        },
    }
