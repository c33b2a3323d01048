"""Canary bytes: a marker in every kind of stored field of many persons, a third deleted by every route, then a search.

Compressed columns are read through the engine, hidden rows too; everything else under the data folder is read as bytes.
The embedded log is left out: it forgets by retention, and each receipt says until when.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson
import pytest

from shared.domain.ids import fragment_id
from shared.store.clickhouse.client import Store
from shared.store.objects import Objects
from tests.support.erasing import record
from tests.support.processes import Answer, Stack, running
from tests.support.tier import sized

pytestmark = pytest.mark.alone

PEOPLE, DELETED = sized(dev=(60, 20), ci=(300, 100), soak=(300, 100))
"""A tenth of the deleted for each route."""

AT_ONCE = 16
"""Requests on their way: what one waits for is then written for all of them together."""

Made = TypeVar("Made")

SEED = 20_261_124
MARKER = 16
"""Letters and digits: long enough never to be met by chance, and in no place needed to be escaped."""

RUN_SECONDS_MAX = 240.0

PROFILE = frozenset({"fragments", "timeline", "search"})
EVENTS = frozenset({"captured_events"})
RECORDINGS = frozenset({"recording_blocks", "objects"})
ALL = PROFILE | EVENTS | RECORDINGS

IMPORTED = ("2025-02-03T04:05:06Z", "2025-11-12T13:14:15Z")

KINDS = (
    "anonymous_id", "distinct_id", "email", "name", "set", "set_name", "nested", "listed", "once", "once_name",
    "lifted", "overwritten", "unset", "event", "event_property", "event_property_name", "import0", "import1", "patched",
    "removed", "merged_by_rest", "non_ascii", "session", "shared_block", "own_block",
)  # fmt: skip

CAUSES = frozenset({"event"})
"""Events' names stand beside each change in the timeline as well: with delete_events they go from there too."""


class Person(NamedTuple):
    """One person and the marker in each kind of field."""

    number: int
    marks: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.marks['distinct_id']}@exämple.com"

    @property
    def device(self) -> str:
        return f"{self.marks['anonymous_id']}-0000-4000-8000-000000000000"


def _people() -> list[Person]:
    chosen = random.Random(SEED)
    letters = string.ascii_letters + string.digits
    return [
        Person(number, {kind: "".join(chosen.choices(letters, k=MARKER)) for kind in KINDS}) for number in range(PEOPLE)
    ]


EVERYBODY = _people()
OWNERS = {mark: (person.number, kind) for person in EVERYBODY for kind, mark in person.marks.items()}


def _batch(stack: Stack, events: list[dict[str, Any]], **more: Any) -> str:
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": events, **more}, key=None)
    assert answer.status == 200, answer.body
    return answer.headers["Position"]


def _lives(stack: Stack) -> None:
    """Everybody does everything that leaves something of theirs behind."""

    def each(make: Callable[[Person, dict[str, str]], dict[str, Any]], **more: Any) -> str:
        return _batch(stack, [make(person, person.marks) for person in EVERYBODY], **more)

    for number, moment in enumerate(IMPORTED):
        each(
            lambda p, m, number=number, moment=moment: {  # type: ignore[misc]
                "event": "imported", "distinct_id": p.name, "timestamp": moment,
                "properties": {"$set": {f"import{number}": m[f"import{number}"]}},
            },
            historical_migration=True,
        )  # fmt: skip
    each(lambda p, m: {"event": "seen", "distinct_id": p.device, "properties": {
        "$set": {"listed": ["a", m["listed"]]}, "$browser": m["lifted"]}})  # fmt: skip
    each(lambda p, m: {"event": "$identify", "distinct_id": p.name, "properties": {
        "$anon_distinct_id": p.device,
        "$set": {"email": f"{m['email']}@example.com", "name": m["name"], "set": m["set"], m["set_name"]: True,
                 "old": m["overwritten"], "gone": m["unset"], "nested": {"deep": [{"er": m["nested"]}]}},
        "$set_once": {"first": m["once"], m["once_name"]: 1}}})  # fmt: skip
    each(lambda p, m: {"event": f"event {m['event']}", "distinct_id": p.name, "properties": {
        "$set": {"old": "new", "foreign": f"日本 {m['non_ascii']} ü"}, "$unset": ["gone"],
        "typed": m["event_property"], m["event_property_name"]: 1}})  # fmt: skip
    position = each(
        lambda p, m: {"event": "seen", "distinct_id": m["merged_by_rest"], "properties": {"$set": {"x": 1}}}
    )
    assert stack.persons("/?limit=1", Min_Position=position).status == 200

    def edited(person: Person) -> str:
        marks, path = person.marks, f"/{stack.uuid(person.name)}"
        body = {"properties": {"patched": marks["patched"], "removed": marks["removed"]}}
        _ok(stack.persons(f"{path}/", "PATCH", body))
        _ok(stack.persons(f"{path}/merge/", "POST", {"source": stack.uuid(marks["merged_by_rest"])}))
        answer = stack.persons(f"{path}/delete_property/", "POST", {"$unset": "removed"})
        _ok(answer)
        return answer.headers["Position"]

    for position in _for_each(edited, EVERYBODY):
        assert stack.persons("/?limit=1", Min_Position=position).status == 200
    assert stack.persons("/?limit=1&include_total=true").json["count"] == PEOPLE


def _for_each(act: Callable[[Person], Made], people: list[Person]) -> list[Made]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(act, people))


def _ok(answer: Answer) -> None:
    assert answer.status in {200, 201, 202, 204}, answer.body


async def _record(stack: Stack) -> None:
    """Blocks of their own, and objects that one who is deleted shares with two who are not."""
    store = await Store.connect(stack.engine_url())
    objects = Objects(str(stack.data / "objects"))
    now = 1_000 * 1_000_000_000 + 762_000_000_000_000  # a day of 2025 and later than all imports

    def block(person: Person, kind: str) -> tuple[str, str, bytes]:
        return person.name, person.marks["session"], b"\x00" + person.marks[kind].encode() + b"\xff"

    try:
        for person in EVERYBODY:
            await record(store, objects, 1, [block(person, "own_block")], now)
        for first in range(DELETED):
            sharing = (EVERYBODY[number] for number in range(first, PEOPLE, DELETED))
            await record(store, objects, 1, [block(person, "shared_block") for person in sharing], now)
    finally:
        await store.close()


Ask = Callable[[Stack, list[Person]], list[Answer]]


def _each(method: str, path: str, body: Any = None, name: Callable[[Person], str] = lambda p: p.name) -> Ask:
    def ask(stack: Stack, people: list[Person]) -> list[Answer]:
        return _for_each(lambda one: stack.persons(path.format(id=stack.uuid(name(one))), method, body), people)

    return ask


def _by_number(stack: Stack, people: list[Person]) -> list[Answer]:
    ids = [stack.persons(f"/{stack.uuid(person.name)}/").json["id"] for person in people]
    return [stack.persons(f"/{each}/?delete_events=true&delete_recordings=true", "DELETE") for each in ids]


def _bulk(field: str, of: Callable[[Person], str], **flags: bool) -> Ask:
    def ask(stack: Stack, people: list[Person]) -> list[Answer]:
        answer = stack.persons("/bulk_delete/", "POST", {field: [of(person) for person in people], **flags})
        assert answer.json["persons_found"] == len(people)
        return [answer]

    return ask


FLAGS = "?delete_events=true&delete_recordings=true"
ROUTES: tuple[tuple[Ask, frozenset[str]], ...] = (
    (_each("DELETE", "/{id}/" + FLAGS), ALL),
    (_each("DELETE", "/{id}/"), PROFILE),
    (_each("DELETE", "/{id}/?delete_events=true&keep_person=true"), EVENTS),
    (_each("POST", "/{id}/delete_events/", {}), EVENTS),
    (_each("POST", "/{id}/delete_recordings/", {}), RECORDINGS),
    (_each("DELETE", "/{id}/" + FLAGS, name=lambda p: p.device), ALL),
    (_by_number, ALL),
    (_bulk("ids", lambda p: str(fragment_id(1, p.name)), delete_events=True, delete_recordings=True), ALL),
    (_bulk("distinct_ids", lambda p: p.marks["merged_by_rest"], delete_events=True, delete_recordings=True), ALL),
    (_bulk("distinct_ids", lambda p: p.name, delete_recordings=True, keep_person=True), RECORDINGS),
)
"""Ten persons for each: how their deletion is asked for, and what it reaches."""

GROUP = DELETED // len(ROUTES)


def _held(stack: Stack, *, hidden: bool) -> dict[str, set[str]]:
    """Where each marker is, tables and files; `hidden`: rows that deletions hide or newer ones supersede as well."""
    places: dict[str, set[str]] = defaultdict(set)
    for line in stack.query("SELECT name, engine FROM system.tables WHERE database = 'personlog'").splitlines():
        table, engine = line.split("\t")
        if engine != "View":
            how = " SETTINGS apply_deleted_mask = 0" if hidden else ""
            rows = stack.query(f"SELECT * FROM {table}{'' if hidden else ' FINAL'}{how} FORMAT JSONEachRow")
            for mark in _marks(rows.encode()):
                places[mark].add(table)
    for folder, _, names in os.walk(stack.data):  # which passes over what the engine removes meanwhile
        for path in (Path(folder) / name for name in names):
            place = path.relative_to(stack.data).parts[0]
            with suppress(FileNotFoundError):
                for mark in _marks(path.read_bytes()) if place != "log" else ():
                    places[mark].add(place)
    return places


_RUN = re.compile(rb"[A-Za-z0-9]{%d,}" % MARKER)


def _marks(content: bytes) -> set[str]:
    """All markers in these bytes, whatever stands around them."""
    return {
        mark
        for run in set(_RUN.findall(content))
        for start in range(len(run) - MARKER + 1)
        if (mark := run[start : start + MARKER].decode()) in OWNERS
    }


def _tables(places: set[str]) -> set[str]:
    """Without the engine's files: which of the markers the compression leaves legible there is chance."""
    return places - {"engine"}


class Seen(NamedTuple):
    """What was where before and after one run, and what was said meanwhile."""

    before: dict[str, set[str]]
    after: dict[str, set[str]]
    after_with_hidden: dict[str, set[str]]
    requests: list[dict[str, Any]]
    again: str
    receipts: int


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with running(tmp_path_factory.mktemp("canary") / "data") as stack:
        _lives(stack)
        asyncio.run(_record(stack))
        before = _held(stack, hidden=False)
        answers = [
            answer
            for number, (ask, _) in enumerate(ROUTES)
            for answer in ask(stack, EVERYBODY[number * GROUP : (number + 1) * GROUP])
        ]
        for answer in answers:
            _ok(answer)
        ran = stack.call("deletions", "run", seconds=RUN_SECONDS_MAX)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        living = PEOPLE - GROUP * sum(reach >= PROFILE for _, reach in ROUTES)
        position = answers[-1].headers["Position"]
        assert stack.persons("/?limit=1&include_total=true", Min_Position=position).json["count"] == living
        after, hidden = _held(stack, hidden=False), _held(stack, hidden=True)
        requests = stack.persons("/deletion_requests/?limit=1000").json["results"]
        again = stack.call("deletions", "run", seconds=RUN_SECONDS_MAX)
        assert again.returncode == 0, again.stdout + again.stderr
        receipts = list((stack.data / "receipts").glob("*.json"))
        yield Seen(before, after, hidden, requests, again.stdout, len(receipts))


def test_before_the_deletion_every_marker_is_found(seen: Seen) -> None:
    missing = {OWNERS[mark] for mark in OWNERS if not _tables(seen.before[mark])}
    assert not missing
    places: dict[str, set[str]] = defaultdict(set)
    for mark, (_, kind) in OWNERS.items():
        places[kind] |= _tables(seen.before[mark])
    assert set.union(*places.values()) == ALL | {"identity"} - {"identity"}, places
    assert places["own_block"] == places["shared_block"] == {"objects"}
    assert places["session"] == {"recording_blocks"}
    assert places["event"] == {"captured_events", "timeline"}
    assert places["distinct_id"] == {"captured_events", "fragments", "search", "timeline"}


@pytest.mark.parametrize("route", range(len(ROUTES)))
def test_of_whom_is_deleted_nothing_within_reach_is_left(seen: Seen, route: int) -> None:
    reach = ROUTES[route][1]
    for person in EVERYBODY[route * GROUP : (route + 1) * GROUP]:
        for kind, mark in person.marks.items():
            gone = reach | ({"timeline"} if kind in CAUSES and reach >= EVENTS else set())
            expected = _tables(seen.before[mark]) - gone
            assert _tables(seen.after[mark]) == expected, (person.number, kind)
            assert not seen.after_with_hidden[mark] & gone, (person.number, kind)
            if not expected:
                assert not seen.after_with_hidden[mark], (person.number, kind)


def test_of_everybody_else_everything_is_left(seen: Seen) -> None:
    for person in EVERYBODY[DELETED:]:
        for kind, mark in person.marks.items():
            assert _tables(seen.after[mark]) == _tables(seen.before[mark]), (person.number, kind)


def test_each_request_is_verified_with_one_receipt_and_a_second_run_finds_nothing(seen: Seen) -> None:
    assert len(seen.requests) == DELETED == seen.receipts
    for request in seen.requests:
        assert request["state"] == "verified"
        assert all(phase["remaining"] == 0 for phase in request["phases"].values()), orjson.dumps(request)
    assert seen.again == "0 verified, 0 failed, 0 left open\n"
