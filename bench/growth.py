"""Growth of the costs of keyed lookups and of a projected command with the number of persons."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import orjson

from bench.filling import name_of, settle
from bench.load import capture, get, load, post, until_visible
from bench.logs import frozen
from bench.plot import curve
from bench.report import PLOTS, Row
from shared.domain.ids import COMMANDS, fragment_id, number_of, partition_of
from shared.runtime.settings import read
from tests.support.processes import PERSONAL_KEY, TOKEN, Stack, wait_for

TURNS = 5
"""Measurements of each question at each size, in turns; the median counts."""

SECONDS = 0.4
"""Of one measurement."""

IN_FLIGHT = 64
BATCH = 100

LONE, COLD = 30, 1_500
"""Commands of one turn that are projected one by one, and together.

Each is for another person, so that none is in the projector's cache: five turns use 7,650 of the
10,000 persons of the smallest size.
"""

PLOTTED = {"GET": "get-one", "batch_by_distinct_ids": "get-100", "project one": "project-one"}
"""File names by the beginning of the names of their series."""

Ask = Callable[[int], bytes]
Costs = dict[str, dict[int, float]]
"""Milliseconds by operation and by size."""


def growth(filled: dict[int, Stack], suffix: str) -> list[Row]:
    """Measure, plot each curve, and return the rows of the report."""
    costs = keyed(filled) | projecting(filled)
    PLOTS.mkdir(exist_ok=True)
    for beginning, file in PLOTTED.items():
        series = {
            name: [*line.items()] for name, line in costs.items() if name.startswith(beginning)
        }
        title = f"{file.replace('-', ' ')}: what it costs by the persons stored"
        (PLOTS / f"{file}{suffix}.svg").write_text(curve(title, "persons", "ms", series))
    return [_growth_row(name, line) for name, line in costs.items()]


def keyed(filled: dict[int, Stack]) -> Costs:
    """Measure a keyed lookup: alone (p50), and its share of the time with 64 in flight."""
    asks = {size: _keyed(stack, size) for size, stack in filled.items()}
    timings: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(TURNS):
        for name in next(iter(asks.values())):
            for size, stack in filled.items():
                ask = asks[size][name]
                lone = load(stack.port, ask, connections=1, seconds=SECONDS)
                latencies = asyncio.run(lone)[1]
                timings[name, size].append(statistics.median(latencies) * 1_000)
                many = load(stack.port, ask, connections=IN_FLIGHT, seconds=SECONDS)
                rate = asyncio.run(many)[0]
                timings[f"{name}, {IN_FLIGHT} in flight", size].append(1_000 / rate)
    return _medians(timings)


def projecting(filled: dict[int, Stack]) -> Costs:
    """Measure a command for a person who is not in the projector's cache.

    Alone, from its request to a read that reflects it; and its share of a backlog of a stopped
    projector, from its start until all commands are visible.
    """
    timings: dict[tuple[str, int], list[float]] = defaultdict(list)
    for turn in range(TURNS):
        for size, stack in filled.items():
            first = turn * (LONE + COLD)
            numbers = range(first, first + LONE)
            lone = (post("/capture/", _event(size, number)) for number in numbers)
            path = "/api/projects/1/persons/?distinct_id=first-0"
            seconds = asyncio.run(until_visible(stack.port, lone, path))
            timings["project one, alone", size].append(statistics.median(seconds) * 1_000)
            share = _together(stack, size, first + LONE)
            timings[f"project one of {COLD:,} together", size].append(share * 1_000)
            settle(stack)
    return _medians(timings)


def _together(stack: Stack, size: int, first: int) -> float:
    with frozen(stack.pid("projector")):
        at = capture(stack, COLD, lambda number: _fields(size, first + number))
        began = time.perf_counter()

    def visible() -> bool:
        return stack.persons("/?distinct_id=first-0", Min_Position=at).status == 200

    wait_for(visible, 60, "the projector")
    return (time.perf_counter() - began) / COLD


def _keyed(stack: Stack, size: int) -> dict[str, Ask]:
    """Build requests by name, for persons in pseudorandom order."""
    partitions = read(stack.environment).topics[COMMANDS]
    persons = "/api/projects/1/persons"

    def integer(number: int) -> str:
        fragment = fragment_id(1, name_of(_spread(size, number)))
        partition = partition_of(fragment, partitions)
        return f"/{number_of(partition, _spread(size, number) * 3 + 1)}/"

    def name(number: int) -> str:
        return name_of(_spread(size, number))

    def hundred(number: int) -> bytes:
        names = [name(number * BATCH + index) for index in range(BATCH)]
        body = orjson.dumps({"distinct_ids": names})
        key = f"Authorization: Bearer {PERSONAL_KEY}"
        return post(f"{persons}/batch_by_distinct_ids/", body, key)

    asks: dict[str, Ask] = {
        "GET /:integer/": lambda number: get(f"{persons}{integer(number)}"),
        "GET /:uuid/": lambda number: get(f"{persons}/{fragment_id(1, name(number))}/"),
        "GET /?distinct_id=": lambda number: get(f"{persons}/?distinct_id={name(number)}"),
        f"batch_by_distinct_ids of {BATCH}": hundred,
    }
    last = name_of(_spread(size, size - 1))
    answer = stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": [last]})
    person = answer.json["results"][last]
    assert stack.persons(integer(size - 1)).json == person, "the integer id leads to another person"
    return asks


def _spread(size: int, number: int) -> int:
    return number * 7_919 % size


def _event(size: int, number: int) -> bytes:
    return orjson.dumps({"api_key": TOKEN, **_fields(size, number)})


def _fields(size: int, number: int) -> dict[str, object]:
    name = name_of(_spread(size, number))
    properties = {"$set": {"plan": "pro", "seats": number}}
    return {"event": "order placed", "distinct_id": name, "properties": properties}


def _medians(timings: dict[tuple[str, int], list[float]]) -> Costs:
    costs: Costs = defaultdict(dict)
    for (name, size), turns in timings.items():
        costs[name][size] = statistics.median(turns)
    return costs


def _growth_row(name: str, costs: dict[int, float]) -> Row:
    """Compare the cost at the largest and smallest size; exponent for tenfold persons."""
    (size_min, small), *_, (size_max, large) = costs.items()
    exponent = math.log10(large / small) / math.log10(size_max / size_min)
    steps = " → ".join(f"{cost:.2f}" for cost in costs.values())
    note = f"exponent {exponent:+.2f}; {steps} ms, {size_min:,} to {size_max:,} persons"
    return name, f"{large:.2f} ms", f"{small:.2f} ms", f"**{large / small:.2f}**", note
