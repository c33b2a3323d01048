"""What keyed lookups and lists of persons cost at 10 k, 100 k and 1 M persons, over HTTP on a real stack.

The tables are filled straight, not through the log. What is put there is older than every position (generation 0), so
neither the projector nor the search feeder takes it for news.
"""

from __future__ import annotations

import asyncio
import base64
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

import orjson

from bench.load import load
from services.projector.rows import FRAGMENTS, IDENTITY, NUMBERS, columns
from shared.domain.ids import COMMANDS, fragment_id, number_of, partition_of
from shared.runtime.settings import read, with_keys
from shared.store.client import Store
from shared.store.search import document_of
from tests.support.processes import PERSONAL_KEY, Stack, running, wait_for

SIZES = (10_000, 100_000, 1_000_000)
TURNS = 5
"""Each question is measured so often at each size, in turns; the median counts."""

SECONDS = 0.5
"""Of one measurement; of one of a list twice that, for its p99."""

IN_FLIGHT = 64
CHUNK = 50_000
"""Persons inserted together: a few parts for each table, as merges leave them."""

BATCH = 100
MERGED = 33
"""Every so many-th person has a second fragment, and every third of these a third one: 3 % are merged."""

BORN_US, BORN_SPAN_US = 1_735_689_600_000_000, 600 * 86_400_000_000
"""Persons were born in the 600 days from 2025 on."""

PLANS = ("free", "free", "free", "free", "pro", "pro", "team", "enterprise")
COUNTRIES = ("US", "DE", "FR", "GB", "IN", "BR", "JP", "CA", "AU", "NL", "SE", "PL", "ES", "IT", "MX", "KR")
NAMES = ("Ada", "Bob", "Cyd", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jan", "Kai", "Liv", "Max", "Nia", "Oda", "Pia")
SURNAMES = ("Stone", "Rivers", "Field", "Hill", "Wood", "Lake", "Moor", "Marsh", "Cliff", "Vale", "Brook", "Heath")

_name = "person-{}".format

Row = tuple[str, str, str, str, str]
Ask = Callable[[int], bytes]


class Person(NamedTuple):
    """One person as it is filled in: its fragments' (uuid, distinct id, properties), the root first."""

    number: int
    born: int
    fragments: list[tuple[UUID, str, dict[str, Any]]]


def persons(data: Path) -> list[Row]:
    """The rows of the report: keyed lookups by size, lists at the largest. Each size has a stack of its own, so that
    they are measured in turns and a noisy neighbour is noise to all of them."""
    with ExitStack() as stacks:
        filled: dict[int, Stack] = {}
        for size in SIZES:
            filled[size] = stacks.enter_context(running(data / str(size)))
            _begin(filled[size])
            asyncio.run(fill(filled[size], size))
            _settle(filled[size])
            print(f"{size:,} persons: {_parts(filled[size])}", flush=True)
        return keyed(filled) + lists(filled[SIZES[-1]], SIZES[-1])


def keyed(filled: dict[int, Stack]) -> list[Row]:
    """What a keyed lookup costs: alone (p50), and its share of the time with 64 in flight."""
    asks = {size: _keyed(stack, size) for size, stack in filled.items()}
    alone: dict[tuple[str, int], list[float]] = defaultdict(list)
    shared: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(TURNS):
        for name in asks[SIZES[0]]:
            for size, stack in filled.items():
                ask = asks[size][name]
                latencies = asyncio.run(load(stack.port, ask, connections=1, seconds=SECONDS))[1]
                alone[name, size].append(statistics.median(latencies) * 1_000)
                rate = asyncio.run(load(stack.port, ask, connections=IN_FLIGHT, seconds=SECONDS))[0]
                shared[name, size].append(1_000 / rate)
    rows: list[Row] = []
    for name in asks[SIZES[0]]:
        rows.append(_grown(name, [statistics.median(alone[name, size]) for size in SIZES]))
        rows.append(_grown(f"{name}, {IN_FLIGHT} in flight", [statistics.median(shared[name, size]) for size in SIZES]))
    return rows


def lists(stack: Stack, size: int) -> list[Row]:
    """What lists cost: p50, p99, and how much more memory the engine held at its peak."""
    asks = _lists(size)
    found: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[int]] = defaultdict(list)
    for _ in range(TURNS):
        for name, path in asks.items():
            before = _peak(stack, reset=True)
            found[name] += asyncio.run(load(stack.port, _always(path), connections=1, seconds=2 * SECONDS))[1]
            memory[name].append(_peak(stack) - before)
    rows = []
    for name, seconds in found.items():
        seconds.sort()
        middle, slow = statistics.median(seconds) * 1_000, seconds[int(len(seconds) * 0.99)] * 1_000
        note = f"engine +{max(memory[name]) >> 20} MB, {len(seconds)} answers, {size:,} persons"
        rows.append((f"list: {name}", f"p50 {middle:.0f} ms", f"p99 {slow:.0f} ms", "", note))
    return rows


async def fill(stack: Stack, size: int) -> None:
    """Insert so many persons column-wise, chunk by chunk."""
    settings, _ = with_keys(read(stack.environment))
    store = await Store.connect(settings.store_url)
    try:
        partitions = settings.topics[COMMANDS]
        for start in range(0, size, CHUNK):
            made = [_person(number) for number in range(start, min(start + CHUNK, size))]
            rows = [row for person in made for row in _fragment_rows(person, partitions)]
            await store.insert("fragments", columns(FRAGMENTS, rows))
            await store.insert("numbers", columns(NUMBERS, [(1, row[4], row[1]) for row in rows]))
            joined = [row for person in made for row in _identity_rows(person)]
            await store.insert("identity", columns(IDENTITY, joined))
            await store.insert_json("search", [line for person in made for line in _search_lines(person)])
    finally:
        await store.close()


def _begin(stack: Stack) -> None:
    """A first command in every partition: from then on the feeder takes nothing older for news."""
    partitions, named = read(stack.environment).topics[COMMANDS], 0
    missing = set(range(partitions))
    while missing:
        missing.discard(partition_of(fragment_id(1, f"first-{named}"), partitions))
        assert stack.capture(event="first", distinct_id=f"first-{named}").status == 200
        named += 1
    sent = stack.capture(event="$identify", distinct_id="first-0", properties={"$anon_distinct_id": "first-1"})
    at = sent.headers["Position"]
    wait_for(lambda: stack.persons("/?include_total=true&limit=1", Min_Position=at).status == 200, 60, "the feeder")


def _settle(stack: Stack) -> None:
    """Wait until the engine has nothing to merge, and a filtered list is up to date."""
    wait_for(lambda: stack.query("SELECT count() FROM system.merges") == "0", 120, "the merges")
    wait_for(lambda: stack.persons("/?include_total=true&limit=1").status == 200, 60, "the feeder")


def _parts(stack: Stack) -> str:
    counts = stack.query(
        "SELECT table, count(), 'parts', sum(rows), 'rows' FROM system.parts "
        "WHERE active AND table IN ('fragments', 'identity', 'numbers', 'search') GROUP BY table ORDER BY table"
    )
    return counts.replace("\t", " ").replace("\n", ", ")


def _keyed(stack: Stack, size: int) -> dict[str, Ask]:
    """Requests by what they ask; persons are asked for in no order."""
    partitions = read(stack.environment).topics[COMMANDS]

    def spread(number: int) -> int:
        return number * 7_919 % size

    def integer(number: int) -> str:
        fragment = fragment_id(1, _name(spread(number)))
        return f"/{number_of(partition_of(fragment, partitions), spread(number) * 3 + 1)}/"

    asks: dict[str, Ask] = {
        "GET /:integer/": lambda number: _request(integer(number)),
        "GET /:uuid/": lambda number: _request(f"/{fragment_id(1, _name(spread(number)))}/"),
        "GET /?distinct_id=": lambda number: _request(f"/?distinct_id={_name(spread(number))}"),
        f"batch_by_distinct_ids of {BATCH}": lambda number: _request(
            "/batch_by_distinct_ids/",
            orjson.dumps({"distinct_ids": [_name(spread(number * BATCH + one)) for one in range(BATCH)]}),
        ),
    }
    last = _name(spread(size - 1))
    answer = stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": [last]}).json["results"][last]
    assert stack.persons(integer(size - 1)).json == answer, "the integer id leads to another person"
    return asks


def _grown(name: str, costs: list[float]) -> Row:
    """A cost at the largest size against the smallest, and its exponent for each ten times more persons."""
    exponent = math.log10(costs[-1] / costs[0]) / math.log10(SIZES[-1] / SIZES[0])
    note = f"exponent {exponent:+.2f}; {' → '.join(f'{cost:.2f}' for cost in costs)} ms"
    return name, f"{costs[-1]:.2f} ms", f"{costs[0]:.2f} ms", f"**{costs[-1] / costs[0]:.2f}**", note


def _lists(size: int) -> dict[str, str]:
    """Paths of lists by what they ask."""

    def where(*filters: tuple[str, str, Any], kind: str = "AND") -> str:
        values = [{"key": key, "operator": operator, "value": value} for key, operator, value in filters]
        return f"/?properties={quote(orjson.dumps({'type': kind, 'values': values}).decode())}"

    middle = base64.urlsafe_b64encode(f"{BORN_US + BORN_SPAN_US // 2}:{UUID(int=0)}".encode()).decode().rstrip("=")
    name = _name(size // 3)
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


def _request(path: str, body: bytes = b"") -> bytes:
    head = f"{'POST' if body else 'GET'} /api/projects/1/persons{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Authorization: Bearer {PERSONAL_KEY}\r\n\r\n".encode() + body


def _always(path: str) -> Ask:
    return lambda _: _request(path)


def _peak(stack: Stack, *, reset: bool = False) -> int:
    """The engine's memory: the highest since the last reset; after a reset, what it holds now."""
    pid = stack.pid("engine")
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _person(number: int) -> Person:
    """Spread over the born span in no order of its number."""
    born = BORN_US + number * 2_654_435_761 % (1 << 32) * (BORN_SPAN_US >> 32) + number % 1_000
    name = _name(number)
    properties: dict[str, Any] = {
        "email": f"{name}@example.com",
        "name": f"{NAMES[number % 16]} {SURNAMES[number * 31 % 12]} {number % 997}",
        "plan": PLANS[number * 13 % 8],
        "country": COUNTRIES[number * 7 % 16],
        "signed_up_at": f"2025-{number % 12 + 1:02}-{number % 28 + 1:02}T{number % 24:02}:{number % 60:02}:00Z",
        "seats": number * 37 % 500,
        "address": {"city": f"City {number % 300}", "zip": f"{number % 90_000:05}"},
    }
    if number % 4 == 0:
        properties["company"] = f"Company {number % 5_000}"
    fragments = [(fragment_id(1, name), name, properties)]
    if number % MERGED == 0:
        for index in range(2 if number % (3 * MERGED) == 0 else 1):
            device = f"device-{number}-{index}"
            fragments.append((fragment_id(1, device), device, {f"device_{index}": "phone", "referrer": "ad"}))
    return Person(number, born, fragments)


def _fragment_rows(person: Person, partitions: int) -> Iterator[tuple[Any, ...]]:
    for index, (fragment, distinct_id, properties) in enumerate(person.fragments):
        version, stamp = person.number * 3 + 1 + index, person.born + index
        cells = dict.fromkeys(properties, (1, stamp, 0))
        yield (
            1, fragment, version, distinct_id, number_of(partition_of(fragment, partitions), version), stamp, version,
            stamp, 0, 0, stamp, orjson.dumps(properties).decode(), orjson.dumps(cells).decode(), [], [], [], [],
        )  # fmt: skip


def _identity_rows(person: Person) -> Iterator[tuple[Any, ...]]:
    members = [fragment for fragment, _, _ in person.fragments]
    if len(members) > 1:
        for fragment in members:
            mine = members if fragment == members[0] else []
            yield 1, fragment, person.number + 1, members[0], mine, 1, 0, person.born + 9, [], [], []


def _search_lines(person: Person) -> Iterator[bytes]:
    """As the feeder writes them: the merged person under its root, and nobody under what it absorbed."""
    root, merged = person.fragments[0][0], len(person.fragments) > 1
    identity = (person.number + 1) << 64 if merged else 0
    version = identity + sum(person.number * 3 + 1 + index for index in range(len(person.fragments)))
    document: dict[str, Any] = {}
    for _, _, properties in person.fragments:
        document |= properties
    yield orjson.dumps({
        "project": 1, "fragment": str(root), "version": str(version), "living": 1, "created_at": person.born,
        "distinct_ids": [distinct_id for _, distinct_id, _ in person.fragments], "properties": document_of(document),
    })  # fmt: skip
    for fragment, _, _ in person.fragments[1:]:
        yield orjson.dumps({"project": 1, "fragment": str(fragment), "version": str(identity)})
