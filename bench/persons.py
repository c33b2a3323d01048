"""Costs of lookups, projection and lists at 10 k, 100 k and 1 M persons, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import statistics
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson

from bench.filling import BORN_SPAN_US, BORN_US, filled_stacks, name_of
from bench.growth import growth
from bench.load import get, load
from bench.report import Row
from tests.support.processes import Stack

SIZES = (10_000, 100_000, 1_000_000)
TEN_MILLION = (*SIZES, 10_000_000)

TURNS, SECONDS = 3, 0.8
"""Turns and time of each of the 14 lists: at 1 M persons, 10 to 20 answers for its p99."""


def persons(data: Path) -> list[Row]:
    """Measure keyed lookups and projection by size, and lists at the largest size."""
    with filled_stacks(data, SIZES, searchable=True) as filled:
        return growth(filled, "") + lists(filled[SIZES[-1]], SIZES[-1])


def ten_million(data: Path) -> list[Row]:
    """Measure the same growth up to 10 M persons, without lists."""
    with filled_stacks(data, TEN_MILLION, searchable=False) as filled:
        return growth(filled, "-to-10-m")


def lists(stack: Stack, size: int) -> list[Row]:
    """Measure lists: p50, p99, and the peak of the engine's additional memory."""
    asks = _lists(size)
    timings: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[int]] = defaultdict(list)
    for _ in range(TURNS):
        for name, path in asks.items():
            before = _peak(stack, reset=True)
            lone = load(stack.port, partial(_list, path), connections=1, seconds=SECONDS)
            timings[name] += asyncio.run(lone)[1]
            memory[name].append(_peak(stack) - before)
    rows = []
    for name, seconds in timings.items():
        seconds.sort()
        middle, slow = statistics.median(seconds) * 1_000, seconds[int(len(seconds) * 0.99)] * 1_000
        note = f"engine +{max(memory[name]) >> 20} MB, {len(seconds)} answers, {size:,} persons"
        rows.append((f"list: {name}", f"p50 {middle:.0f} ms", f"p99 {slow:.0f} ms", "", note))
    return rows


def _lists(size: int) -> dict[str, str]:
    """Build the paths of lists by name."""

    def where(*filters: tuple[str, str, Any], kind: str = "AND") -> str:
        values = [
            {"key": key, "operator": operator, "value": value} for key, operator, value in filters
        ]
        return f"/?properties={quote(orjson.dumps({'type': kind, 'values': values}).decode())}"

    middle = base64.urlsafe_b64encode(
        f"{BORN_US + BORN_SPAN_US // 2}:{UUID(int=0)}".encode()
    ).decode().rstrip("=")
    name = name_of(size // 3)
    return {
        "first page of 100": "/",
        "a page from the middle": f"/?cursor={middle}",
        "search, finds 1": f"/?search={name}%40",
        "search, finds many": "/?search=stone",
        "email": f"/?email={name}%40example.com",
        "exact, 1 in 8": where(("plan", "exact", "team")),
        "icontains": where(("name", "icontains", "ADA W")),
        "regex": where(("email", "regex", r"^person-1\d+5@")),
        "gt, 1 in 100": where(("seats", "gt", 494)),
        "is_set, 1 in 4": where(("company", "is_set", None)),
        "exact or gt": where(("plan", "exact", "team"), ("seats", "gt", 494), kind="OR"),
        "include_total, no filter": "/?include_total=true",
        "include_total, exact 1 in 8": where(("plan", "exact", "team")) + "&include_total=true",
        "values of plan": "/values/?key=plan",
    }  # fmt: skip


def _list(path: str, number: int) -> bytes:
    return get(f"/api/projects/1/persons{path}")


def _peak(stack: Stack, *, reset: bool = False) -> int:
    """Return the engine's peak memory since the last reset; after a reset, its present memory."""
    pid = stack.pid("engine")
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
