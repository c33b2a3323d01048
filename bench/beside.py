"""GETs of persons beside a projector that catches up, against the same GETs alone; on both logs."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from bench.filling import settle
from bench.load import capture, load
from bench.logs import PROJECTED, frozen, logged, on_both_logs
from bench.peers import Ask, asking, capture_persons
from bench.report import Row, row
from tests.support.processes import Stack, running, wait_for

TURNS, SECONDS, CONNECTIONS = 5, 2.0, 64
PERSONS = 20_000

BACKLOG = 90_000
"""Commands left to project when the reads begin: at 40,000/s they outlast the reads."""

CAUGHT_UP_SECONDS_MAX = 120

SEED = 6


class Reading(NamedTuple):
    """GETs per second, and their p99 in milliseconds."""

    rate: float
    slow: float


def beside(data: Path) -> list[Row]:
    """Measure, and return the rows of the report."""
    return on_both_logs(data, _measure)


def _measure(data: Path, log: str, environment: dict[str, str]) -> list[Row]:
    alone: list[Reading] = []
    busy: list[Reading] = []
    projected: list[float] = []
    with running(data, **environment) as stack:
        capture_persons(stack, PERSONS)
        ask = asking(PERSONS, SEED)
        for _ in range(TURNS):
            settle(stack)
            alone.append(_read(stack, ask))
            reading, rate = _caught_up_beside(stack, ask)
            busy.append(reading)
            projected.append(rate)
    note = f"{statistics.median(projected):,.0f} commands/s meanwhile, c = {CONNECTIONS}, {log}"
    name = "GETs beside a catching-up projector / alone"
    slow, limit = (
        statistics.median(reading.slow for reading in side) for side in (busy, alone)
    )
    return [
        row(name, [reading.rate for reading in busy], [reading.rate for reading in alone], note),
        (f"p99 of {name}", f"{slow:.0f} ms", f"{limit:.0f} ms", f"**{slow / limit:.1f}**", note),
    ]


def _caught_up_beside(stack: Stack, ask: Ask) -> tuple[Reading, float]:
    """Read while the projector catches up; return the reads and its commands per second."""
    with frozen(stack.pid("projector")):
        capture(stack, BACKLOG, _event)
        head, before = asyncio.run(logged(stack)), _projected(stack)
    wait_for(lambda: _projected(stack) > before, CAUGHT_UP_SECONDS_MAX, "the projector to begin")
    first, began = _projected(stack), time.perf_counter()
    reading = _read(stack, ask)
    last, seconds = _projected(stack), time.perf_counter() - began
    if not first < last < head:
        raise RuntimeError(
            "The projector did not catch up all the time:"
            f" from {first:,} to {last:,} of {head:,}."
        )
    wait_for(lambda: _projected(stack) == head, CAUGHT_UP_SECONDS_MAX, "the projector to catch up")
    return reading, (last - first) / seconds


def _read(stack: Stack, ask: Ask) -> Reading:
    rate, latencies = asyncio.run(load(stack.port, ask, connections=CONNECTIONS, seconds=SECONDS))
    return Reading(rate, latencies[int(len(latencies) * 0.99)] * 1_000)


def _projected(stack: Stack) -> int:
    return int(stack.query(PROJECTED.sql))


def _event(number: int) -> dict[str, object]:
    properties = {"$set": {"plan": "pro", "seats": number}}
    return {
        "event": "order placed",
        "distinct_id": f"person-{number % PERSONS}",
        "properties": properties,
    }
