"""`personlog import` over a real stack: what arrives, in which order of time, and what a kill or bad rows cost."""

from __future__ import annotations

import csv
import gzip
import io
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.inputs.ids import stored_id
from tests.support.asking import sent, shown
from tests.support.lists import Listing, listing
from tests.support.processes import Stack, wait_for
from tests.support.stacks import Projects

pytestmark = pytest.mark.alone

BORN, SEEN = "2023-01-01T00:30:00Z", "2023-05-05T05:00:00Z"
KILLED_ROWS = 6_000
GOLDEN = Path(__file__).parents[1] / "golden" / "imports"


def row(*ids: str, **fields: Any) -> dict[str, Any]:
    return {"distinct_ids": list(ids), "properties": {}, "created_at": BORN, "is_identified": len(ids) > 1, **fields}


def put(path: Path, rows: list[Any]) -> str:
    path.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in rows))
    return str(path)


def brought(stack: Stack, source: str, *options: str, code: int = 0) -> str:
    """Import, and what it said."""
    done = stack.call("import", source, *options)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def came(stack: Stack, who: str, /, **fields: Any) -> dict[str, Any]:
    """The person, once it is as it should be."""

    def found() -> dict[str, Any] | None:
        person = shown(stack, who)
        return person if person and all(person[key] == value for key, value in fields.items()) else None

    try:
        return dict(wait_for(found, 60, f"{who} to be {fields}"))
    except AssertionError:
        raise AssertionError(f"{who} is {shown(stack, who)} instead of {fields}") from None


def errors(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.with_name(path.name + ".personlog-errors").read_bytes().splitlines()]


def test_a_person_is_what_the_row_says(stack: Stack, name: str, tmp_path: Path) -> None:
    properties = {"plan": "pro", "n": 1, "no": None, "deep": {"a": [1]}, "$initial_os": "mac"}
    rows = [
        row(name, f"{name}-2", properties=properties, last_seen_at=SEEN),
        row(f"{name}-x", f"{name}-y", is_identified=False, created_at="2023-01-01T00:30:00.000001Z"),
    ]
    brought(stack, put(tmp_path / "p", rows))
    came(stack, f"{name}-2", distinct_ids=[name, f"{name}-2"], properties=properties, created_at=BORN,
         last_seen_at=SEEN, is_identified=True, uuid=stack.uuid(name))  # fmt: skip
    came(stack, f"{name}-y", distinct_ids=[f"{name}-x", f"{name}-y"], is_identified=False,
         created_at="2023-01-01T00:30:00.000001Z")  # fmt: skip


def test_without_a_personal_key_a_merge_marks(stack: Stack, name: str, tmp_path: Path) -> None:
    source = put(tmp_path / "p", [row(f"{name}-x", f"{name}-y", is_identified=False)])
    brought(stack, source, "--to", stack.url, "--token", stack.token)
    came(stack, f"{name}-x", distinct_ids=[f"{name}-x", f"{name}-y"], is_identified=True)


def test_an_import_ties_nobody_to_an_id_that_was_deleted_after_it(stack: Stack, name: str, tmp_path: Path) -> None:
    sent(stack, f"{name}-erased")
    assert stack.persons(f"/{stack.uuid(name + '-erased')}/", "DELETE").status == 204
    sent(stack, f"{name}-erased", **{"$set": {"life": 2}})
    rows = [row(name, f"{name}-erased", f"{name}-device", is_identified=False, properties={"plan": "pro"})]
    for file in ("p", "q"):
        brought(stack, put(tmp_path / file, rows))
        came(stack, name, distinct_ids=[name, f"{name}-device"], properties={"plan": "pro"})
        came(stack, f"{name}-erased", distinct_ids=[f"{name}-erased"], properties={"life": 2})


def test_an_import_after_live_writes_fills_in_and_replaces_nothing(stack: Stack, name: str, tmp_path: Path) -> None:
    sent(stack, name, **{"$set": {"plan": "live"}, "$set_once": {"$initial_os": "live"}})
    then = {"plan": "then", "city": "Bern", "$initial_os": "mac"}
    brought(stack, put(tmp_path / "p", [row(name, properties=then, last_seen_at=SEEN)]))
    came(stack, name, properties={"plan": "live", "city": "Bern", "$initial_os": "mac"}, created_at=BORN)


def test_live_writes_after_an_import_win(stack: Stack, name: str, tmp_path: Path) -> None:
    brought(stack, put(tmp_path / "p", [row(name, properties={"plan": "then", "city": "Bern"})]))
    came(stack, name, created_at=BORN)
    sent(stack, name, **{"$set": {"plan": "live"}})
    came(stack, name, properties={"plan": "live", "city": "Bern"}, created_at=BORN)


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old"), ("new", "old", "new")])
def test_two_exports_come_out_the_same_whichever_is_imported_first(
    stack: Stack, name: str, tmp_path: Path, order: tuple[str, ...]
) -> None:
    exports = {
        "old": ({"plan": "old", "a": 1}, "2023-06-01T00:00:00Z"),
        "new": ({"plan": "new", "b": 2}, "2023-07-01T00:00:00Z"),
    }
    for number, which in enumerate(order):
        properties, at = exports[which]
        brought(stack, put(tmp_path / f"p{number}", [row(name, properties=properties)]), "--at", at)
    came(stack, name, properties={"plan": "new", "a": 1, "b": 2}, created_at=BORN)


@pytest.mark.parametrize("turned", [False, True])
def test_events_count_at_their_own_time_in_any_order(stack: Stack, name: str, tmp_path: Path, turned: bool) -> None:
    def event(day: int, **fields: Any) -> dict[str, Any]:
        return {"event": "e", "distinct_id": name, "timestamp": f"2023-01-{day:02}T00:00:00Z", **fields}

    rows = [
        event(1, properties={"$set_once": {"first": 1}, "$browser": "Lynx"}),
        event(2, **{"$set": {"plan": "b"}}, properties={"$set_once": {"first": 2}}),
        event(3, **{"$set": {"plan": "c"}}),
        event(4, event="$identify", properties={"$anon_distinct_id": f"{name}-anon"}),
    ]
    path = tmp_path / "events.ndjson.gz"
    path.write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, rows[::-1] if turned else rows))))
    brought(stack, str(path))
    person = came(stack, name, distinct_ids=[name, f"{name}-anon"], is_identified=True)
    assert person["created_at"] == "2023-01-01T00:00:00Z"
    assert (person["properties"]["plan"], person["properties"]["first"]) == ("c", 1)
    assert person["properties"]["$initial_browser"] == "Lynx"


def test_equal_rows_count_once(stack: Stack, name: str, tmp_path: Path) -> None:
    event = {"event": "e", "distinct_id": name, "timestamp": BORN, "properties": {"$set": {"a": 1}}}
    source = put(tmp_path / "p", [event, event, row(name, f"{name}-2"), row(name, f"{name}-2")])
    brought(stack, source)
    brought(stack, source, "--restart")
    came(stack, name, distinct_ids=[name, f"{name}-2"])
    count = f"SELECT count() FROM captured_events FINAL WHERE fragment = '{stack.uuid(name)}'"
    assert wait_for(lambda: stack.query(count) == "3", 60, "one e, one $set, one merge")


def test_bad_rows_are_told_one_by_one_and_cost_nobody_else(stack: Stack, name: str, tmp_path: Path) -> None:
    path = tmp_path / "p"
    fat = row(f"{name}-fat", properties={"fat": "x" * 1_100_000})
    rows: list[Any] = [
        row(f"{name}-1"), 7, {"colour": "blue"}, row(f"{name}-2", created_at="then"), row("x" * 201), fat,
        row(f"{name}-3", properties={str(n): {"a": 2**63} for n in range(3)}),
        row(f"{name}-4", properties={"n": [[[]]]}), row("undefined", f"{name}-5"),
        {"event": " ", "distinct_id": name, "timestamp": BORN}, {"event": "e", "timestamp": BORN},
        {"event": "e", "distinct_id": name, "timestamp": BORN, "uuid": "u"}, row(f"{name}-6", colour="blue"),
    ]  # fmt: skip
    put(path, rows)
    with path.open("a") as file:
        file.write(f'{{"a":\n{{"distinct_ids":["a"],"properties":{{"n":{10**30}}},"created_at":"{BORN}"}}\n')
    said = brought(stack, str(path), code=1)
    assert "8 rows refused" in said and f"{path}.personlog-errors" in said
    assert "\n  events: 3\n" in said and "\n  refused: 4\n" in said
    assert [one["row"] for one in errors(path)] == [2, 3, 4, 6, 9, 10, 11, 14]
    assert {one["row"]: one["attr"] for one in errors(path)}[11] == "distinct_id"
    came(stack, stored_id("x" * 201))
    for number in (1, 3, 4, 5, 6):
        came(stack, f"{name}-{number}")
    assert "Imported before" in brought(stack, str(path), code=1)


def test_an_import_older_than_an_erasure_brings_nobody_back(stack: Stack, name: str, tmp_path: Path) -> None:
    source = put(tmp_path / "p", [row(name, f"{name}-2", properties={"plan": "pro"}, last_seen_at=SEEN)])
    brought(stack, source)
    came(stack, name, distinct_ids=[name, f"{name}-2"])
    assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 204
    other = row(name, f"{name}-2", properties={"plan": "free"}, last_seen_at="2023-06-06T06:00:00Z")
    brought(stack, put(tmp_path / "later", [other]))  # another merge: the first one is known, and would do nothing
    brought(stack, put(tmp_path / "after", [row(f"{name}-after")]))
    came(stack, f"{name}-after")
    assert shown(stack, name) is None and shown(stack, f"{name}-2") is None


@pytest.mark.fault
def test_a_killed_import_goes_on_and_ends_with_the_same_persons(stack: Stack, name: str, tmp_path: Path) -> None:
    path = tmp_path / "p"
    put(path, [row(f"{name}-{n}", f"{name}-{n}-b", properties={"kill": name, "n": n}) for n in range(KILLED_ROWS)])
    state = path.with_name("p.personlog-import")

    def rows_done() -> int:
        return int(orjson.loads(state.read_bytes())["rows"]) if state.exists() else 0

    def kill_behind(row: int) -> int:
        process = stack.run("import", str(path), log="killed.log")
        wait_for(lambda: rows_done() > row, 60, "a settled window")
        process.kill()
        assert process.wait(timeout=10) == -signal.SIGKILL, "it was not done yet"
        return rows_done()

    before = kill_behind(kill_behind(kill_behind(0)))
    assert before < KILLED_ROWS
    said = brought(stack, str(path))
    assert f"going on behind row {before:,}" in said and f"{KILLED_ROWS:,} rows" in said
    filters = orjson.dumps([{"key": "kill", "value": name, "operator": "exact"}]).decode()

    def count() -> bool:
        found = stack.persons(f"/?limit=1&include_total=true&properties={filters}").json
        return found.get("count") == KILLED_ROWS  # none while search is behind

    wait_for(count, 60, "all persons, once")
    last = f"{name}-{KILLED_ROWS - 1}"
    came(stack, f"{last}-b", distinct_ids=[last, f"{last}-b"])
    assert "before" in brought(stack, str(path))


def test_from_one_stack_into_another_persons_are_equal(
    own_stack: Stack, projects: Projects, erasing_projects: Projects, tmp_path: Path
) -> None:
    """Between projects of one number, since a person's uuid comes from it and the distinct id."""
    source, stack, other = own_stack, projects.first, erasing_projects.first
    assert source.project == stack.project == other.project
    _history(source)
    everybody = source.persons("/?limit=1000").json["results"]
    exports = {form: source.persons(f"/?format={form}").body for form in ("csv", "ndjson")}
    url = f"{source.url}/api/projects/{source.project}/persons/?limit=2"
    brought(stack, url, "--key", source.key, "--state", str(tmp_path / "s"))
    denied = brought(stack, url, "--key", "phx_wrong", code=2)
    assert "refused" in denied and "phx_wrong" not in denied
    same = ("distinct_ids", "properties", "created_at", "last_seen_at", "is_identified", "uuid", "name")
    assert len(everybody) == 6
    for person in everybody:
        came(stack, person["distinct_ids"][0], **{key: person[key] for key in same})
    (tmp_path / "persons.csv").write_bytes(exports["csv"])
    brought(other, str(tmp_path / "persons.csv"))
    for person in everybody:
        came(other, person["distinct_ids"][0], **{key: person[key] for key in same})
    assert len(list(csv.reader(io.StringIO(exports["csv"].decode())))) == 7
    archives = [source.persons(f"/{person['uuid']}/export/").body for person in everybody]
    for fresh, files in ((projects.fresh(), [exports["ndjson"]]), (projects.fresh(), archives)):
        for number, content in enumerate(files):
            path = tmp_path / f"{fresh.project}-{number}"
            path.write_bytes(content)
            brought(fresh, str(path), "--token", fresh.token, "--to", fresh.url, "--to-key", fresh.key)
        for person in everybody:
            came(fresh, person["distinct_ids"][0], **{key: person[key] for key in same if key != "uuid"})


def _history(source: Stack) -> None:
    """Six persons: plain, merged by events, merged by REST, with odd values, born by an import, and set by REST."""
    sent(source, "one", **{"$set": {"plan": "pro", "n": 5, "yes": True, "formula": "=1+1", "no": None}})
    sent(source, "two", **{"$set": {"email": "two@x.y"}, "$browser": "Lynx"})
    sent(source, "two", "$identify", **{"$anon_distinct_id": "0190aaaa-1111-2222-3333-444455556666"})
    sent(source, "three", **{"$set": {"a": 1}})
    sent(source, "three-b", **{"$set": {"b": 2.5}})
    merged = source.persons(f"/{source.uuid('three')}/merge/", "POST", {"distinct_id": "three-b"})
    assert merged.status == 200
    sent(source, "four", **{"$set": {"deep": {"a": [1, {"b": None}]}, "text": "ü,\"\n'x"}})
    old = {"event": "e", "distinct_id": "five", "timestamp": BORN, "properties": {"$set": {"p": "then"}}}
    source.ask("POST", "/batch/", {"api_key": source.token, "historical_migration": True, "batch": [old]}, key=None)
    odd = {"a.b": 1, "a": {"b": 2}, "text": "5", "yes": "true", "big": 1e22, "none": [], "blank": "", "quoted": "'=x"}
    sent(source, "six", **{"$set": odd})
    assert source.persons(f"/{source.uuid('six')}/", "PATCH", {"properties": {"set": "by hand"}}).status == 200


def test_posthogs_pages_come_whole_though_it_asks_to_wait(stack: Stack, name: str, tmp_path: Path) -> None:
    served: list[Listing] = []

    def answer(number: int, path: str) -> tuple[int, Any, dict[str, str]]:
        if number % 2:
            return 429, {"type": "throttled_error"}, {"Retry-After": "0"}
        at = int(path.partition("offset=")[2] or 0)
        following = f"{served[0].url}/api/projects/9/persons/?limit=2&offset={at + 2}" if at < 4 else None
        return 200, {"results": [row(f"{name}-{at}"), row(f"{name}-{at + 1}")], "next": following}, {}

    with listing(answer) as posthog:
        served.append(posthog)
        url = f"{posthog.url}/api/projects/9/persons/?limit=2"
        assert "6 rows" in brought(stack, url, "--key", "phx_theirs", "--state", str(tmp_path / "s"))
    for number in range(6):
        came(stack, f"{name}-{number}", created_at=BORN)
    assert {key for _, key in posthog.asked} == {"Bearer phx_theirs"}
    assert "phx_theirs" not in (tmp_path / "s").read_text()


BATCH = {"ada": ({"ada", "0187-device-ada"}, {"plan": "pro", "seats": 5}), "bob": ({"bob"}, {"code": "007"})}
EVENTS = {"ada": ({"ada", "0187-device-ada"}, {"plan": "pro", "email": "ada@example.com", "$initial_os": "Mac OS X"})}
SAMPLES: dict[str, dict[str, tuple[set[str], dict[str, Any]]]] = {
    **{f"posthog-persons-batch.{form}": BATCH for form in ("csv", "ndjson", "parquet")},
    **{f"posthog-events-batch.{form}": EVENTS for form in ("csv", "ndjson", "parquet")},
    "posthog-persons-page.json": BATCH,
    "posthog-persons-screen.csv": {
        "ada": ({"ada", "0187-device-ada"}, {"seats": 5, "email_opt_in": True}),
        "bob": ({"bob"}, {"code": "007"}), "cy": ({"cy"}, {"code": "1.10", "email_opt_in": False}),
    },
    "mixpanel-engage.json": {"ada": ({"ada"}, {"plan": "pro"}), "4": ({"4"}, {"plan": "free"})},
    "mixpanel-events.ndjson": {"ada": ({"ada", "$device:d-1", "ada-old"}, {})},
    "amplitude-events.ndjson": {"ada": ({"ada", "dev-1"}, {"plan": "pro"})},
    "segment-calls.ndjson": {"ada": ({"ada", "anon-1", "anon-2", "ada-old"}, {"plan": "pro"})},
}
"""Of each sample who comes out of it: all ids, and some of the properties."""


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_documented_export_is_read_and_a_second_import_changes_nothing(
    projects: Projects, tmp_path: Path, sample: str
) -> None:
    fresh, path = projects.fresh(), tmp_path / sample
    path.write_bytes((GOLDEN / sample).read_bytes())
    target = ("--token", fresh.token, "--to", fresh.url, "--to-key", fresh.key)
    code = 1 if "screen" in sample else 0  # it has ten ids of a person at most, and says so

    def everybody() -> list[dict[str, Any]]:
        return list(fresh.persons("/").json["results"])

    def as_expected() -> list[dict[str, Any]] | None:
        persons = everybody()
        by_ids = {frozenset(person["distinct_ids"]): person["properties"] for person in persons}
        expected = {frozenset(ids): properties for ids, properties in SAMPLES[sample].values()}
        equal = by_ids.keys() == expected.keys()
        return persons if equal and all(by_ids[ids].items() >= some.items() for ids, some in expected.items()) else None

    said = brought(fresh, str(path), *target, code=code)
    try:
        before = wait_for(as_expected, 60, "everybody")
    except AssertionError:
        raise AssertionError(f"{everybody()}\n{said}") from None
    said = brought(fresh, str(path), *target, "--restart", code=code)
    name = f"{sample}-after"
    brought(fresh, put(tmp_path / "after", [row(name)]), *target)
    came(fresh, name)
    assert [person for person in everybody() if person["distinct_ids"] != [name]] == before


def test_what_a_projects_protection_leaves_out_is_refused_in_part(
    projects: Projects, name: str, tmp_path: Path
) -> None:
    fresh, path = projects.fresh(), tmp_path / "p"
    limits = ("--dangerous", "off", "--server-only", "vip")
    assert fresh.call("projects", "protect", str(fresh.project), *limits).returncode == 0
    probe = {"event": "e", "distinct_id": "probe", "$set": {"vip": 1}}
    wait_for(lambda: "warnings" in fresh.capture(**probe).json, 60, "the protection to be known")
    rows = [row(name, f"{name}-2", properties={"vip": True, "plan": "pro"})]
    rows.append(row(f"{name}-3", properties={"plan": "pro"}))
    said = brought(fresh, put(path, rows), "--token", fresh.token, "--to", fresh.url, code=1)
    assert "1 rows refused, in whole or in part" in said
    assert {(one["row"], one["attr"]) for one in errors(path)} == {(1, "$set"), (1, "event")}
    came(fresh, name, distinct_ids=[name], properties={"plan": "pro"})
    came(fresh, f"{name}-3", properties={"plan": "pro"})


def test_refusals_are_all_told_however_many_an_answer_has_room_for(stack: Stack, name: str, tmp_path: Path) -> None:
    path = tmp_path / "p"
    event = {"distinct_id": name, "timestamp": BORN}
    good = [event | {"event": "e", "properties": {"n": number}} for number in range(200)]
    bad = [event | {"event": " ", "properties": {"n": number}} for number in range(350)]
    said = brought(stack, put(path, [*bad[:300], *good, *bad[300:]]), code=1)
    assert "550 rows, 200 events sent" in said and "350 rows refused" in said
    assert [one["row"] for one in errors(path)] == [*range(1, 301), *range(501, 551)]
    count = f"SELECT count() FROM captured_events FINAL WHERE fragment = '{stack.uuid(name)}'"
    assert wait_for(lambda: stack.query(count) == "200", 60, "the good ones, once")


@pytest.mark.parametrize(
    "arguments",
    [
        ["DOUBLE"],
        ["OPEN"],
        ["JOINED"],
        ["/no/such/file"],
        ["FILE", "--token", "phc_of_nobody"],
        ["FILE", "--at", "soon"],
        ["FILE", "--at", "2999-01-01"],
        ["FILE", "--format", "persons", "--state", "/proc/no/state"],
        ["http://127.0.0.1:1/api/person/"],
        ["PAGE"],
    ],
)
def test_bad_usage_ends_with_2_and_one_line(stack: Stack, tmp_path: Path, arguments: list[str]) -> None:
    put(tmp_path / "p", [row("a")])
    (tmp_path / "page.html").write_text("<!doctype html>\n<html></html>")
    (tmp_path / "double.csv").write_text("distinct_id,distinct_id\na,b\n")
    (tmp_path / "open.csv").write_text('distinct_id,"name\na,b\n')
    put(tmp_path / "joined", [row(f"u{number}", "same") for number in range(101)])
    files = {"FILE": str(tmp_path / "p"), "PAGE": str(tmp_path / "page.html"), "JOINED": str(tmp_path / "joined")}
    files |= {"DOUBLE": str(tmp_path / "double.csv"), "OPEN": str(tmp_path / "open.csv")}
    done = stack.call("import", *(files.get(one, one) for one in arguments))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("personlog: ") and done.stderr.count("\n") == 1
