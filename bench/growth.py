"""How the cost of a keyed lookup, of a hundred of them, and of projecting one command grows with the persons stored."""

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
"""Each question is measured so often at each size, in turns; the median counts."""

SECONDS = 0.4
"""Of one measurement."""

IN_FLIGHT = 64
BATCH = 100

LONE, COLD = 30, 1_500
"""Commands of one turn that are projected one after the other, and together. No person is met twice, so none is in the
projector's cache: five turns meet 7,650 of the 10,000 persons of the smallest size."""

PLOTTED = {"GET": "get-one", "batch_by_distinct_ids": "get-100", "project one": "project-one"}
"""File names by how the names of their series begin."""

Ask = Callable[[int], bytes]
Costs = dict[str, dict[int, float]]
"""Milliseconds by what is done and by size."""


def growth(filled: dict[int, Stack], suffix: str) -> list[Row]:
    """The rows of the report, and a plot for each curve."""
    costs = keyed(filled) | projecting(filled)
    PLOTS.mkdir(exist_ok=True)
    for beginning, file in PLOTTED.items():
        series = {name: [*line.items()] for name, line in costs.items() if name.startswith(beginning)}
        title = f"{file.replace('-', ' ')}: what it costs by the persons stored"
        (PLOTS / f"{file}{suffix}.svg").write_text(curve(title, "persons", "ms", series))
    return [_grown(name, line) for name, line in costs.items()]


def keyed(filled: dict[int, Stack]) -> Costs:
    """What a keyed lookup costs: alone (p50), and its share of the time with 64 in flight."""
    asks = {size: _keyed(stack, size) for size, stack in filled.items()}
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(TURNS):
        for name in next(iter(asks.values())):
            for size, stack in filled.items():
                ask = asks[size][name]
                latencies = asyncio.run(load(stack.port, ask, connections=1, seconds=SECONDS))[1]
                found[name, size].append(statistics.median(latencies) * 1_000)
                rate = asyncio.run(load(stack.port, ask, connections=IN_FLIGHT, seconds=SECONDS))[0]
                found[f"{name}, {IN_FLIGHT} in flight", size].append(1_000 / rate)
    return _medians(found)


def projecting(filled: dict[int, Stack]) -> Costs:
    """What a command for a person costs who is not in the projector's cache: alone, from its request to a read that
    reflects it; and its share of a batch that a stopped projector finds, from its start until all are visible."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for turn in range(TURNS):
        for size, stack in filled.items():
            first = turn * (LONE + COLD)
            lone = (post("/capture/", _event(size, number)) for number in range(first, first + LONE))
            seconds = asyncio.run(until_visible(stack.port, lone, "/api/projects/1/persons/?distinct_id=first-0"))
            found["project one, alone", size].append(statistics.median(seconds) * 1_000)
            share = _together(stack, size, first + LONE)
            found[f"project one of {COLD:,} together", size].append(share * 1_000)
            settle(stack)
    return _medians(found)


def _together(stack: Stack, size: int, first: int) -> float:
    with frozen(stack.pid("projector")):
        at = capture(stack, COLD, lambda number: _sent(size, first + number))
        began = time.perf_counter()
    wait_for(lambda: stack.persons("/?distinct_id=first-0", Min_Position=at).status == 200, 60, "the projector")
    return (time.perf_counter() - began) / COLD


def _keyed(stack: Stack, size: int) -> dict[str, Ask]:
    """Requests by what they ask; persons are asked for in no order."""
    partitions = read(stack.environment).topics[COMMANDS]
    persons = "/api/projects/1/persons"

    def integer(number: int) -> str:
        fragment = fragment_id(1, name_of(_spread(size, number)))
        return f"/{number_of(partition_of(fragment, partitions), _spread(size, number) * 3 + 1)}/"

    def hundred(number: int) -> bytes:
        names = [name_of(_spread(size, number * BATCH + one)) for one in range(BATCH)]
        body = orjson.dumps({"distinct_ids": names})
        return post(f"{persons}/batch_by_distinct_ids/", body, f"Authorization: Bearer {PERSONAL_KEY}")

    asks: dict[str, Ask] = {
        "GET /:integer/": lambda number: get(f"{persons}{integer(number)}"),
        "GET /:uuid/": lambda number: get(f"{persons}/{fragment_id(1, name_of(_spread(size, number)))}/"),
        "GET /?distinct_id=": lambda number: get(f"{persons}/?distinct_id={name_of(_spread(size, number))}"),
        f"batch_by_distinct_ids of {BATCH}": hundred,
    }
    last = name_of(_spread(size, size - 1))
    answer = stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": [last]}).json["results"][last]
    assert stack.persons(integer(size - 1)).json == answer, "the integer id leads to another person"
    return asks


def _spread(size: int, number: int) -> int:
    return number * 7_919 % size


def _event(size: int, number: int) -> bytes:
    return orjson.dumps({"api_key": TOKEN, **_sent(size, number)})


def _sent(size: int, number: int) -> dict[str, object]:
    name = name_of(_spread(size, number))
    return {"event": "order placed", "distinct_id": name, "properties": {"$set": {"plan": "pro", "seats": number}}}


def _medians(found: dict[tuple[str, int], list[float]]) -> Costs:
    costs: Costs = defaultdict(dict)
    for (name, size), turns in found.items():
        costs[name][size] = statistics.median(turns)
    return costs


def _grown(name: str, costs: dict[int, float]) -> Row:
    """A cost at the largest size against the smallest, and its exponent for each ten times more persons."""
    (least, small), *_, (most, large) = costs.items()
    exponent = math.log10(large / small) / math.log10(most / least)
    steps = " → ".join(f"{cost:.2f}" for cost in costs.values())
    note = f"exponent {exponent:+.2f}; {steps} ms, {least:,} to {most:,} persons"
    return name, f"{large:.2f} ms", f"{small:.2f} ms", f"**{large / small:.2f}**", note
