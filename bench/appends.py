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
from typing import NamedTuple

import orjson
import psutil

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


def _measure(stack: Stack, bare: Bare, log: str) -> list[Row]:
    single, batches, beside, limit, slow = [], [], [], [], []
    costs: list[float] = []
    bare_costs: list[float] = []
    for _ in range(TURNS):
        settle(stack)  # merges of the turn before would slow both sides
        with _costs(bare.pid, bare_costs, limit):
            limit.append(_load(bare.port, request_of_event, CONNECTIONS)[0])
        with frozen(stack.pid("projector")):
            with _costs(stack.pid("api"), costs, single):
                rate, latencies = _load(stack.port, request_of_event, CONNECTIONS)
                single.append(rate)
            batches.append(BATCH * _load(stack.port, request_of_batch, BATCH_CONNECTIONS)[0])
        slow.append(latencies[int(len(latencies) * 0.99)] * 1_000)
        beside.append(_load(stack.port, request_of_event, CONNECTIONS)[0])
        wait_for(lambda: _drained(stack), DRAINED_SECONDS_MAX, "the projector to catch up")
    late = f"p99 {statistics.median(slow):.0f} ms, {log}"
    return [
        row("acknowledged append / bare handler, c = 64", single, limit, late),
        _cost_row(costs, bare_costs, log),
        row("events of batches of 100 / bare handler's requests", batches, limit, log),
        row(
            "acknowledged append beside a busy projector and engine",
            beside,
            limit,
            f"all on the same cores, {log}",
        ),
    ]


@contextmanager
def _costs(pid: int, costs: list[float], rates: list[float]) -> Iterator[None]:
    """Add the processor time of a process for each request of a load, whose rate is added to
    `rates` meanwhile."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    yield
    after = process.cpu_times()
    seconds = after.user - before.user + after.system - before.system
    costs.append(seconds / (rates[-1] * SECONDS))


def _cost_row(costs: list[float], bare_costs: list[float], log: str) -> Row:
    cost, bare_cost = statistics.median(costs), statistics.median(bare_costs)
    name = "API's processor time of an acknowledged append / of a bare handler's request"
    ratio = f"**{cost / bare_cost:.2f}**"
    return name, f"{cost * 1e6:.0f} µs", f"{bare_cost * 1e6:.0f} µs", ratio, log


class Bare(NamedTuple):
    """The bare handler: where it listens, and its process."""

    port: int
    pid: int


@contextmanager
def _bare() -> Iterator[Bare]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.bare", str(port)], cwd=ROOT)
    try:
        wait_for(lambda: not _refused(port), 20, "the bare handler")
        yield Bare(port, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _refused(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _load(
    port: int, request: Callable[[int], bytes], connections: int
) -> tuple[float, list[float]]:
    return asyncio.run(load(port, request, connections=connections, seconds=SECONDS))


def _drained(stack: Stack) -> bool:
    """Whether a read reflects all appends."""
    answer = stack.capture(event="mark", distinct_id="mark")
    return stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200


def request_of_event(number: int) -> bytes:
    body = orjson.dumps({"api_key": TOKEN, **_fields(number)})
    return post("/capture/", body, *_proxy_headers(number))


def request_of_batch(number: int) -> bytes:
    events = [_fields(number * BATCH + index) for index in range(BATCH)]
    body = orjson.dumps({"api_key": TOKEN, "batch": events})
    return post("/batch/", body, *_proxy_headers(number))


def _proxy_headers(number: int) -> tuple[str, ...]:
    """Build headers that proxies and tracing add; two of them differ in each request."""
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
