"""Filters and totals of lists, over HTTP on real processes: every operator, groups, merged persons, writes going on."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson
import pytest

from tests.support.asking import sent
from tests.support.processes import Stack
from tests.support.stacks import Projects
from tests.support.tier import sized

PERSONS: dict[str, dict[str, Any]] = {
    "ada": {"plan": "pro", "seats": 5, "score": 1.5, "active": True, "joined": "2026-01-02T03:04:05Z", "a.b": "dotted"},
    "bob": {"plan": "Free", "seats": "7", "score": -2, "active": False, "joined": "2026-03-01", "list": [1, "x"]},
    "cyd": {"plan": "pro plus", "seats": 12, "note": None, "odd`key": "tick", "with space": "yes", "": "empty"},
    "dan": {
        "sch%2Eool": "percent",
        "плата": "да",
        "quote'key": "it's",
        "big": 18446744073709551615,
        "object": {"a": 1},
    },
}


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    stack = projects.fresh()
    for name, properties in PERSONS.items():
        event = {"event": "e", "distinct_id": name, "properties": {"$set": {k: v for k, v in properties.items() if k}}}
        answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": [event]}, key=None)
    assert stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200
    return stack


def listed(stack: Stack, filters: Any, query: str = "") -> list[str]:
    text = filters if isinstance(filters, str) else orjson.dumps(filters).decode()
    answer = stack.persons(f"/?properties={quote(text)}{query}")
    assert answer.status == 200, answer.body
    return sorted(row["distinct_ids"][0] for row in answer.json["results"] if row["distinct_ids"][0] in PERSONS)


def one(key: str, value: Any = None, operator: str | None = None) -> list[dict[str, Any]]:
    found: dict[str, Any] = {"key": key, "type": "person"}
    if value is not None:
        found["value"] = value
    return [found | ({"operator": operator} if operator else {})]


@pytest.mark.parametrize(
    ("key", "operator", "value", "names"),
    [
        ("plan", None, "pro", ["ada"]),
        ("plan", "exact", ["pro", "Free"], ["ada", "bob"]),
        ("plan", "in", ["pro", "Free"], ["ada", "bob"]),
        ("plan", "exact", [], []),
        ("plan", "is_not", "pro", ["bob", "cyd", "dan"]),
        ("plan", "is_not", ["pro", "Free"], ["cyd", "dan"]),
        ("plan", "not_in", ["pro"], ["bob", "cyd", "dan"]),
        ("plan", "icontains", "PRO", ["ada", "cyd"]),
        ("plan", "not_icontains", "pro", ["bob", "dan"]),
        ("plan", "regex", "^pro( |$)", ["ada", "cyd"]),
        ("plan", "regex", "^(a+)+$", []),
        ("plan", "not_regex", "^pro", ["bob", "dan"]),
        ("seats", "exact", 5, ["ada"]),
        ("seats", "exact", "5", ["ada"]),
        ("seats", "exact", 7.0, ["bob"]),
        ("seats", "gt", 5, ["bob", "cyd"]),
        ("seats", "gte", "5", ["ada", "bob", "cyd"]),
        ("seats", "min", 7, ["bob", "cyd"]),
        ("seats", "lt", 7, ["ada"]),
        ("seats", "lte", 7, ["ada", "bob"]),
        ("seats", "max", 5, ["ada"]),
        ("score", "between", [-2, 1], ["bob"]),
        ("score", "between", [1.5, 1.5], ["ada"]),
        ("score", "not_between", [-2, 1], ["ada", "cyd", "dan"]),
        ("plan", "gt", 0, []),
        ("seats", "is_set", None, ["ada", "bob", "cyd"]),
        ("note", "is_set", None, []),
        ("seats", "is_not_set", None, ["dan"]),
        ("never", "is_not_set", None, ["ada", "bob", "cyd", "dan"]),
        ("active", "exact", True, ["ada"]),
        ("active", "exact", ["false"], ["bob"]),
        ("joined", "is_date_before", "2026-02-01", ["ada"]),
        ("joined", "is_date_after", "2026-02-01T00:00:00+02:00", ["bob"]),
        ("joined", "is_date_exact", "2026-01-02T04:04:05+01:00", ["ada"]),
        ("joined", "is_date_exact", "2026-03-01", ["bob"]),
        ("joined", "is_date_exact", "2026-01-02", ["ada"]),
        ("joined", "is_date_exact", "2026-1-2", ["ada"]),
        ("joined", "is_date_exact", "2026-01-03", []),
        ("joined", "is_date_before", "2026-01-02", []),
        ("joined", "is_date_before", "2026-01-03", ["ada"]),
        ("joined", "is_date_after", "2026-01-02", ["bob"]),
        ("joined", "is_date_after", "2026-03-01", []),
        ("joined", "is_date_after", "2026-01-01", ["ada", "bob"]),
        ("joined", "is_date_before", "dStart", ["ada", "bob"]),
        ("joined", "is_date_before", "-1d", ["ada", "bob"]),
        ("joined", "is_date_after", "-9999M", []),
        ("plan", "is_date_after", "2020-01-01", []),
        ("a.b", "exact", "dotted", ["ada"]),
        ("a", "is_set", None, []),
        ("odd`key", "exact", "tick", ["cyd"]),
        ("with space", "exact", "yes", ["cyd"]),
        ("sch%2Eool", "exact", "percent", ["dan"]),
        ("sch.ool", "is_set", None, []),
        ("плата", "icontains", "ДА", ["dan"]),
        ("quote'key", "exact", "it's", ["dan"]),
        ("big", "exact", 18446744073709551615, ["dan"]),
        ("list", "exact", '[1,"x"]', ["bob"]),
        ("list", "exact", [[1, "x"]], ["bob"]),
        ("list", "is_not", [[1, "x"]], ["ada", "cyd", "dan"]),
        ("list", "exact", [1, "x"], []),
        ("object", "exact", {"a": 1}, ["dan"]),
        ("object", "is_not", {"a": 1}, ["ada", "bob", "cyd"]),
        ("object", "is_set", None, ["dan"]),
        ("x') OR 1=1 --", "exact", "y", []),
        ("`) OR 1=1 --", "is_set", None, []),
        ("\\", "is_set", None, []),
        ("plan", "exact", "pro' OR '1'='1", []),
    ],
)
def test_operators(stack: Stack, key: str, operator: str | None, value: Any, names: list[str]) -> None:
    assert listed(stack, one(key, value, operator)) == names


def test_groups_and_lists_are_combined(stack: Stack) -> None:
    pro, many = one("plan", "pro")[0], one("seats", 6, "gt")[0]
    assert listed(stack, [pro, many]) == []
    assert listed(stack, {"type": "OR", "values": [pro, many]}) == ["ada", "bob", "cyd"]
    assert listed(
        stack, {"type": "AND", "values": [{"type": "OR", "values": [pro, many]}, one("active", True)[0]]}
    ) == ["ada"]
    assert listed(
        stack, {"type": "or", "values": [{"type": "AND", "values": [pro]}, {"type": "AND", "values": []}]}
    ) == sorted(PERSONS)
    assert listed(stack, "[]") == listed(stack, "{}") == sorted(PERSONS)
    assert listed(stack, pro, "&search=ADA") == ["ada"]


def test_a_total_counts_what_the_filters_find(stack: Stack) -> None:
    answer = stack.persons(
        f"/?include_total=true&limit=1&properties={quote(orjson.dumps(one('seats', 0, 'gt')).decode())}"
    )
    assert (answer.json["count"], len(answer.json["results"])) == (3, 1)
    assert stack.persons("/?include_total=true&distinct_id=ada").json["count"] == 1
    assert "count" not in stack.persons("/").json


@pytest.mark.parametrize("text", ["ADA", "a"])
def test_search_looks_into_email_name_uuid_and_distinct_ids(stack: Stack, text: str) -> None:
    name = f"se-{uuid4().hex[:8]}"
    sent(stack, name, **{"$set": {"email": f"{name}@Example.org", "name": f"The {name}", "other": "needle-xyz"}})
    for found in (name.upper(), f"{name}@EXAMPLE", f"the {name}", stack.uuid(name)[:18]):
        rows = stack.persons(f"/?search={quote(found)}").json["results"]
        assert [row["distinct_ids"] for row in rows] == [[name]], found
    assert stack.persons("/?search=needle-xyz").json["results"] == []
    assert [row["uuid"] for row in stack.persons(f"/?email={name}@Example.org").json["results"]] == [stack.uuid(name)]
    assert stack.persons(f"/?email={name}@example.com").json["results"] == []
    assert stack.persons(f"/?email={name}@Example.org&distinct_id=ada").json["results"] == []


@pytest.mark.parametrize("key", ["email", "Email", "$email"])
@pytest.mark.parametrize("blanks", ["{}", " {}", "{}\t", "\r\n{} "])
def test_an_address_is_found_by_email_and_search_whatever_its_name_case_and_blanks(
    stack: Stack, key: str, blanks: str
) -> None:
    name = f"em-{uuid4().hex[:8]}"
    sent(stack, name, **{"$set": {key: blanks.format(f"{name}@Exämple.org")}})
    sent(stack, f"{name}-other", **{"$set": {key: f"x{name}@Exämple.org", "EMAIL": f"{name}@Exämple.org"}})
    for address in (f"{name}@Exämple.org", f"{name}@exämple.ORG".upper(), f"  {name}@EXÄMPLE.org\n"):
        rows = stack.persons(f"/?email={quote(address)}").json["results"]
        assert [row["distinct_ids"] for row in rows] == [[name]], address
        rows = stack.persons(f"/?search={quote(blanks.format(address))}").json["results"]
        assert sorted(row["distinct_ids"][0] for row in rows) == [name, f"{name}-other"], address
        answer = stack.persons(f"/?email={quote(address)}&include_total=true&search=%20{name}%20").json
        assert (answer["count"], [row["distinct_ids"] for row in answer["results"]]) == (1, [[name]])


def test_blanks_alone_search_for_nothing(stack: Stack) -> None:
    every = stack.persons("/?include_total=true").json["count"]
    assert stack.persons("/?include_total=true&search=%20%09").json["count"] == every


def test_a_filter_judges_the_merged_person_and_a_list_sees_every_write_that_has_answered(stack: Stack) -> None:
    name = f"me-{uuid4().hex[:8]}"
    sent(stack, f"{name}-1", **{"$set": {"tier": "old", "only": 1}})
    sent(stack, f"{name}-2", **{"$set": {"tier": "new"}})
    mine = quote(orjson.dumps({"key": "tier", "value": ["old", "new"]}).decode())

    def tiers(value: str) -> list[list[str]]:
        text = quote(orjson.dumps({"key": "tier", "value": value}).decode())
        rows = stack.persons(f"/?search={name}&properties={text}").json["results"]
        return sorted(sorted(row["distinct_ids"]) for row in rows)

    assert tiers("old") == [[f"{name}-1"]]
    number = stack.persons(f"/{stack.uuid(f'{name}-2')}/merge/", "POST", {"distinct_id": f"{name}-1"}).json["id"]
    both = [f"{name}-1", f"{name}-2"]
    assert (tiers("old"), tiers("new")) == ([], [both])
    stack.persons(f"/{number}/", "PATCH", {"properties": {"tier": "old"}})
    assert (tiers("old"), tiers("new")) == ([both], [])
    stack.persons(f"/{number}/delete_property/", "POST", {"$unset": "tier"})
    assert (tiers("old"), tiers("new")) == ([], [])
    stack.persons(f"/{number}/split/", "POST", {"main_distinct_id": f"{name}-2"})
    assert stack.persons(f"/?search={name}&include_total=true").json["count"] == 2
    stack.persons(f"/{stack.uuid(f'{name}-1')}/", "DELETE")
    left = stack.persons(f"/?search={name}&include_total=true").json
    assert (left["count"], [row["distinct_ids"] for row in left["results"]]) == (1, [[f"{name}-2"]])
    assert stack.persons(f"/?properties={mine}&search={name}").json["results"] == []


def test_pages_are_full_and_nothing_comes_twice_or_is_missed_while_writes_go_on(stack: Stack) -> None:
    name = f"pg-{uuid4().hex[:8]}"
    names = [f"{name}-{number:03}" for number in range(230)]
    batch = [{"event": "e", "distinct_id": one, "properties": {"$set": {"group": name}}} for one in names]
    position = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None).headers["Position"]
    assert stack.persons("/?limit=1", Min_Position=position).status == 200
    stopping = threading.Event()

    def write() -> None:
        for number in range(100_000):
            if stopping.wait(0.02):
                return
            stack.capture(event="e", distinct_id=names[number % 230], properties={"$set": {"n": number}})
            stack.capture(event="e", distinct_id=f"{name}-new-{number}", properties={"$set": {"group": name}})

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        text = quote(orjson.dumps({"key": "group", "value": name}).decode())
        seen: list[str] = []
        sizes = []
        url: str | None = f"/?limit=50&properties={text}"
        while url:
            answer = stack.persons(url)
            assert answer.status == 200, answer.body
            sizes.append(len(answer.json["results"]))
            seen += [row["distinct_ids"][0] for row in answer.json["results"]]
            url = answer.json["next"] and "/?" + answer.json["next"].partition("?")[2]
        assert set(sizes[:-1]) == {50}
        assert len(seen) == len(set(seen))
        assert set(names) <= set(seen)
    finally:
        stopping.set()
        writer.join(timeout=60)


@pytest.mark.parametrize(
    "filters",
    [
        "{broken", '"text"', "5", "[5]", '[["x"]]', "[{}]", '[{"key": ""}]', '[{"key": 5, "value": 1}]',
        '[{"key": "a", "value": 1, "type": "event"}]', '[{"key": "a", "value": 1, "operator": "like"}]',
        '[{"key": "a"}]', '[{"key": "a", "value": null}]', '[{"key": "a", "value": ["x", null]}]',
        '[{"key": "a", "operator": "is_not", "value": null}]', '[{"key": "a", "value": {}, "operator": "gt"}]',
        '[{"key": "a", "value": "x", "operator": "gt"}]',
        '[{"key": "a", "value": true, "operator": "gt"}]', '[{"key": "a", "value": "nan", "operator": "gt"}]',
        '[{"key": "a", "value": [1], "operator": "between"}]', '[{"key": "a", "value": [2, 1], "operator": "between"}]',
        '[{"key": "a", "value": "soon", "operator": "is_date_after"}]',
        '[{"key": "a", "value": "(", "operator": "regex"}]',
        '[{"key": "a", "value": "x{100000}", "operator": "regex"}]', '{"type": "XOR", "values": []}',
        '{"type": "AND", "values": 5}', "[" * 12 + "]" * 12,
        orjson.dumps([{"key": "a", "value": 1}] * 51).decode(),
        orjson.dumps([{"key": "a", "value": ["x"] * 201}]).decode(),
        orjson.dumps([{"key": "a", "value": "x" * 1_001, "operator": "regex"}]).decode(),
    ],
)  # fmt: skip
def test_a_filter_that_makes_no_sense_is_refused_by_name(stack: Stack, filters: str) -> None:
    answer = stack.persons(f"/?properties={quote(filters)}")
    assert answer.status == 400, answer.body
    assert answer.json["attr"] == "properties"
    assert (answer.json["type"], answer.json["code"]) == ("validation_error", "invalid_input")


STRIDE = sized(dev=3, ci=1, soak=1)
"""A list of the past takes a third of a second."""

FINDS = [
    {"value": "pro"}, {"value": ["pro", "5"]}, {"value": "PR", "operator": "icontains"}, {"operator": "is_not_set"},
    {"value": "^p", "operator": "regex"}, {"value": 4, "operator": "gt"}, {"value": "pro", "operator": "is_not"},
    {"value": "2026-01-02", "operator": "is_date_before"}, {"value": "2026-01-01"}, {"value": '["x"]'},
    {"value": "a\\b'c\n\"d"},
][::STRIDE]  # fmt: skip
FOUND = [1, 2, 1, 1, 1, 1, 5, 1, 1, 1, 1][::STRIDE]


def test_a_filter_finds_in_the_past_what_it_found_then(stack: Stack) -> None:
    """Each filter is asked now, and again with as_of after everything has changed."""
    key, name = f"plan.{uuid4().hex[:8]}", f"past-{uuid4().hex[:8]}"
    for number, plan in enumerate(["pro", 5, "2026-01-01", ["x"], None, "a\\b'c\n\"d"]):
        then = sent(stack, f"{name}-{number}", **{"$set": {key: plan}})

    def found(condition: dict[str, Any], as_of: str = "") -> tuple[int, list[str]]:
        query = quote(orjson.dumps([{"key": key, **condition}]).decode())
        answer = stack.persons(f"/?search={name}&include_total=true&properties={query}{as_of}")
        assert answer.status == 200, answer.body
        return answer.json["count"], [row["distinct_ids"][0] for row in answer.json["results"]]

    before = [found(condition) for condition in FINDS]
    assert [count for count, _ in before] == FOUND
    for number in range(6):
        sent(stack, f"{name}-{number}", **{"$set": {key: "pro"}})
    assert [found(condition, f"&as_of={then}") for condition in FINDS] == before
    assert stack.persons(f"/?as_of={then}&properties=[").json["attr"] == "properties"
    assert stack.persons("/?include_total=maybe").json["attr"] == "include_total"


def test_the_values_of_a_property_are_told_by_count(stack: Stack) -> None:
    key = f"color-{uuid4().hex[:8]}"
    events = [
        {"event": "e", "distinct_id": f"{key}-{number}", "properties": {"$set": {key: color}}}
        for number, color in enumerate(["Red", "red wine", "blue", "blue", 5, True, None, ["a"], {"b": 1}])
    ]
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": events}, key=None)

    def told(query: str) -> list[tuple[str, int]]:
        body = stack.persons(f"/values/?{query}", Min_Position=answer.headers["Position"]).json
        assert body["refreshing"] is False
        return [(one["name"], one["count"]) for one in body["results"]]

    assert told(f"key={key}") == [
        ("blue", 2), ("5", 1), ("Red", 1), ('["a"]', 1), ("red wine", 1), ("true", 1), ('{"b":1}', 1),
    ]  # fmt: skip
    assert told(f"key={key}&value=RED") == [("Red", 1), ("red wine", 1)]
    assert told("") == told("value=x") == told("key=never") == []
    assert stack.persons(f"/values/?key={'k' * 401}").json["attr"] == "key"


def test_at_most_twenty_values_are_told(stack: Stack) -> None:
    key = f"many-{uuid4().hex[:8]}"
    events = [
        {"event": "e", "distinct_id": f"{key}-{number}", "properties": {"$set": {key: number}}} for number in range(25)
    ]
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": events}, key=None)
    body = stack.persons(f"/values/?key={key}", Min_Position=answer.headers["Position"]).json
    assert len(body["results"]) == 20
