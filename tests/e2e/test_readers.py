"""Readers that ask for much: while their lists are refused or slow, everybody else is answered. Asserts no time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import orjson
import pytest

from tests.support.processes import TOKEN, Stack, running, wait_for
from tests.support.stacks import make_projects

pytestmark = pytest.mark.alone

PERSONS, BATCH = 6_000, 1_000
CROWD, ROUNDS = 48, 6
"""Lists at once of one project, more than may wait; and how often each is asked for."""

POINTS = 40
"""Reads by key, writes, captures and looks at /readyz that must be answered beside them."""

LONG = quote(orjson.dumps([
    {"key": f"p{number}", "value": "(.{1,1000}){1}", "operator": "regex", "type": "person"} for number in range(30)
]))  # fmt: skip
DEAR = quote(orjson.dumps([{"key": "note", "value": "[a-m].{900}[^a-z]x", "operator": "regex", "type": "person"}]))
"""What nobody was refused, and what is let through and takes the engine long."""

REFUSED = (429, 503)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("readers") / "data") as stack:
        note = "abcdefghijklmnopqrstuvwxyz" * 40
        for start in range(0, PERSONS, BATCH):
            batch = range(start, start + BATCH)
            sets = {number: {"$set": {"note": f"{note}{number}"}} for number in batch}
            events = [
                {"event": "seen", "distinct_id": f"person-{number}", "properties": sets[number]} for number in batch
            ]
            sent = stack.ask("POST", "/batch/", {"api_key": TOKEN, "batch": events}, key=None)
            assert sent.status == 200, sent.body
        position = sent.headers["Position"]
        first = "/?search=person-1&limit=1"
        wait_for(lambda: stack.persons(first, Min_Position=position).status == 200, 180, "the search table")
        yield stack


def test_thirty_long_patterns_are_refused_before_the_engine_has_them(stack: Stack) -> None:
    answer = stack.persons(f"/?properties={LONG}")
    assert answer.status == 400, answer.body
    assert (answer.json["code"], answer.json["attr"]) == ("invalid_input", "properties")
    assert "the filter of p0" in answer.json["detail"]


def test_reads_by_key_are_answered_while_a_crowd_of_lists_is_not(stack: Stack) -> None:
    other = make_projects(stack, 1)[0]
    other.capture(event="e", distinct_id="a")
    paths = [f"/?properties={DEAR}", "/?search=zzz", f"/?properties={DEAR}&include_total=true", "/values/?key=note"]
    said: Counter[int] = Counter()
    retry: set[str | None] = set()
    stop = threading.Event()

    def crowd(number: int) -> None:
        for turn in range(ROUNDS):
            if not stop.is_set():
                answer = stack.persons(paths[(number + turn) % len(paths)])
                said[answer.status] += 1
                if answer.status in REFUSED:
                    retry.add(answer.headers.get("Retry-After"))

    others: Counter[int] = Counter()
    with ThreadPoolExecutor(CROWD) as readers:
        asked = [readers.submit(crowd, number) for number in range(CROWD)]
        try:
            for number in range(POINTS):
                answered(stack, number)
                if not number % 10:
                    others[other.persons("/?search=a").status] += 1
            assert not all(one.done() for one in asked), "it was all beside them, not after them"
        finally:
            stop.set()
    for one in asked:
        one.result()
    assert said.keys() <= {200, *REFUSED} and said[200] and said[429], said
    assert retry == {"1"}
    assert others[200], others  # another project's lists get their turn
    assert stack.persons("/?limit=1&search=person-7").status == 200


def answered(stack: Stack, number: int) -> None:
    """One of each that must not wait for lists."""
    uuid = stack.uuid(f"person-{number}")
    change = {"properties": {"a": number}}
    asks: dict[str, Callable[[], int]] = {
        "ready": lambda: stack.ask("GET", "/readyz", key=None).status,
        "uuid": lambda: stack.persons(f"/{uuid}/").status,
        "distinct id": lambda: stack.persons(f"/?distinct_id=person-{number}").status,
        "batch": lambda: stack.persons("/batch_by_uuids/", "POST", {"uuids": [uuid]}).status,
        "capture": lambda: stack.capture(event="e", distinct_id=f"person-{number}").status,
        "accepted": lambda: stack.persons(f"/{uuid}/", "PATCH", change, Prefer="respond-async").status,
    }
    assert {name: ask() for name, ask in asks.items()} == dict.fromkeys(asks, 200) | {"accepted": 202}
