"""docs/contract.md §3, row by row: pages, filters, every operator, groups, relative dates, CSV.

Shown elsewhere, in test_filters: pages that are full while writes go on
(test_pages_are_full_and_nothing_comes_twice_or_is_missed_while_writes_go_on), more filters that make no sense
(test_a_filter_that_makes_no_sense_is_refused_by_name), keys and values that are no identifiers (test_operators).
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import orjson
import pytest

from tests.support.asking import sent
from tests.support.processes import Answer, Stack
from tests.support.stacks import Projects

NOW = datetime.now(UTC)
PERSONS: dict[str, dict[str, Any]] = {
    "ada": {
        "plan": "Pro", "seats": 5, "score": 2.5, "vip": True, "born": "2026-01-02T03:04:05Z",
        "recent": (NOW - timedelta(days=3)).isoformat(), "minute": (NOW - timedelta(minutes=3)).isoformat(),
    },
    "bob": {
        "plan": "free", "seats": "12", "score": -4, "vip": False, "born": "2026-01-02T05:04:05+02:00",
        "recent": (NOW - timedelta(days=200)).isoformat(), "minute": (NOW - timedelta(minutes=90)).isoformat(),
    },
    "cyd": {"plan": "pro+", "seats": 7, "born": "2026-05-05", "recent": (NOW - timedelta(days=800)).isoformat()},
    "dan": {"plan": None},
    "eve": {},
}  # fmt: skip
ALL = sorted(PERSONS)


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    stack = projects.fresh()
    captured(stack, PERSONS)
    return stack


def captured(stack: Stack, persons: dict[str, dict[str, Any]], **batch: Any) -> str:
    """One batch that makes these persons; its Position, once reads have it."""
    events = [
        {"event": "e", "distinct_id": name, "properties": {"$set": properties}, "timestamp": "2026-02-03T04:05:06Z"}
        for name, properties in persons.items()
    ]
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": events, **batch}, key=None)
    assert answer.status == 200, answer.body
    assert stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200
    return answer.headers["Position"]


def filtered(stack: Stack, filters: Any, query: str = "") -> Answer:
    return stack.persons(f"/?properties={quote(orjson.dumps(filters))}{query}")


def found(stack: Stack, filters: Any) -> list[str]:
    """Who of the five is found."""
    answer = filtered(stack, filters, "&limit=1000")
    assert answer.status == 200, answer.body
    return sorted(row["distinct_ids"][0] for row in answer.json["results"] if row["distinct_ids"][0] in PERSONS)


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [row["distinct_ids"][0] for row in answer.json["results"]]


# Pages


def test_a_page_is_results_next_and_previous(stack: Stack) -> None:
    body = stack.persons("/?distinct_id=ada").json
    assert (set(body), body["next"], body["previous"]) == ({"results", "next", "previous"}, None, None)
    assert set(stack.persons("/").json) == {"results", "next", "previous"}


def test_include_total_adds_a_count_of_all_pages(stack: Stack, name: str) -> None:
    captured(stack, {f"{name}-{number}": {} for number in range(3)})
    body = stack.persons(f"/?search={name}&limit=2&include_total=true").json
    assert (set(body), body["count"]) == ({"results", "next", "previous", "count"}, 3)
    assert "count" not in stack.persons(f"/?search={name}&include_total=false").json


def test_limit_is_100_by_default_and_may_be_1000(stack: Stack, name: str) -> None:
    captured(stack, {f"{name}-{number}": {} for number in range(101)})
    first = stack.persons(f"/?search={name}").json
    assert len(first["results"]) == 100 and first["next"] is not None
    assert len(stack.persons(f"/?search={name}&limit=1000").json["results"]) == 101


@pytest.mark.parametrize("limit", ["0", "-1", "ten", "1.5", "1001", "%20", "1e2", "٣"])
def test_a_limit_that_is_none_is_400(stack: Stack, limit: str) -> None:
    answer = stack.persons(f"/?limit={quote(limit, safe='%')}")
    assert answer.status == 400
    assert answer.json | {"detail": ""} == {
        "type": "validation_error", "code": "invalid_input", "detail": "", "attr": "limit",
    }  # fmt: skip


@pytest.mark.parametrize("query", ["", "&search={name}"], ids=["plain", "filtered"])
def test_the_order_is_created_at_then_uuid_both_descending(stack: Stack, name: str, query: str) -> None:
    same = [f"{name}-same-{number}" for number in range(4)]
    captured(stack, {one: {} for one in same}, historical_migration=True)
    later = [f"{name}-later-{number}" for number in range(2)]
    for one in later:
        sent(stack, one)
    mine = [one for one in ids(stack.persons("/?limit=1000" + query.format(name=name))) if one.startswith(name)]
    assert mine == [*reversed(later), *sorted(same, key=stack.uuid, reverse=True)]


def test_next_is_an_absolute_url_that_goes_on_with_the_same_filters(stack: Stack, name: str) -> None:
    captured(stack, {f"{name}-{number}": {} for number in range(5)})
    seen, url = [], f"/api/environments/{stack.project}/persons/?search={name}&limit=2"
    sizes = []
    while url:
        answer = stack.ask("GET", url)
        seen += ids(answer)
        sizes.append(len(answer.json["results"]))
        following = answer.json["next"]
        assert following is None or following.startswith(
            f"{stack.url}/api/environments/{stack.project}/persons/?"
        )
        assert following is None or parse_qs(urlsplit(following).query)["search"] == [name]
        url = following and following.removeprefix(stack.url)
    assert sizes == [2, 2, 1]
    assert sorted(seen) == [f"{name}-{number}" for number in range(5)]


def test_a_list_of_an_exact_multiple_has_no_empty_last_page(stack: Stack, name: str) -> None:
    captured(stack, {f"{name}-{number}": {} for number in range(4)})
    first = stack.persons(f"/?search={name}&limit=2").json
    second = stack.ask("GET", first["next"].removeprefix(stack.url)).json
    assert (len(second["results"]), second["next"]) == (2, None)
    assert stack.persons(f"/?search={name}&limit=4").json["next"] is None


def test_an_unfiltered_list_ends_without_an_empty_page(stack: Stack) -> None:
    total = stack.persons("/?include_total=true&limit=1").json["count"]
    assert total < 1_000
    assert stack.persons(f"/?limit={total}").json["next"] is None


def test_offset_is_still_accepted(stack: Stack, name: str) -> None:
    captured(stack, {f"{name}-{number}": {} for number in range(5)})
    everybody = ids(stack.persons(f"/?search={name}"))
    assert ids(stack.persons(f"/?search={name}&limit=2&offset=2")) == everybody[2:4]
    assert ids(stack.persons(f"/?search={name}&offset=5")) == []
    rest = stack.persons(f"/?search={name}&limit=2&offset=1").json["next"].removeprefix(stack.url)
    assert ids(stack.ask("GET", rest)) == everybody[3:5]
    unfiltered = ids(stack.persons("/?limit=1000"))
    assert ids(stack.persons("/?limit=3&offset=2")) == unfiltered[2:5]


# Filters


def test_email_is_exact_but_for_case(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"email": f"{name}@Example.com"}})
    for same in (f"{name}@Example.com", f"{name}@eXAMPLE.com", f"%20{name}@example.com"):
        assert ids(stack.persons(f"/?email={same}")) == [name]
    for other in (f"{name}@example.org", f"{name}@Example", f"{name}@Example.co%25"):
        assert ids(stack.persons(f"/?email={other}")) == []


def test_distinct_id_is_exact_on_any_id_of_the_person(stack: Stack, name: str) -> None:
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-device"})
    for one in (name, f"{name}-device"):
        assert ids(stack.persons(f"/?distinct_id={one}")) == [name]
        assert ids(stack.persons(f"/?distinct_id={one}&include_total=true")) == [name]
    for other in (name.upper(), name[:-1], f"{name}-devic_"):
        assert ids(stack.persons(f"/?distinct_id={other}")) == []


def test_search_is_a_part_of_email_name_uuid_or_any_distinct_id_whatever_the_case(stack: Stack, name: str) -> None:
    person = f"P-{name}"
    values = {"email": f"E-{name}@x.y", "name": f"N {name} ÄÖ", "other": f"O-{name}"}
    sent(stack, person, "$identify", **{"$set": values, "$anon_distinct_id": f"D-{name}"})
    for part in (f"p-{name}", f"e-{name}@X", f"n {name} äö", stack.uuid(person)[2:30].upper(), f"d-{name}"):
        assert ids(stack.persons(f"/?search={quote(part)}")) == [person], part
    for part in (f"O-{name}", f"{name}%", f"_-{name}"):
        assert ids(stack.persons(f"/?search={quote(part)}")) == []


def test_filters_are_anded(stack: Stack, name: str) -> None:
    captured(stack, {f"{name}-{one}": {"email": f"{name}@x", "plan": one} for one in ("a", "b")})
    plan = quote(orjson.dumps([{"key": "plan", "value": "a"}]))
    assert ids(stack.persons(f"/?email={name}@x&properties={plan}")) == [f"{name}-a"]
    assert ids(stack.persons(f"/?email={name}@x&search={name}-b&properties={plan}")) == []
    assert ids(stack.persons(f"/?distinct_id={name}-b&properties={plan}")) == []
    assert ids(stack.persons(f"/?distinct_id={name}-a&properties={plan}")) == [f"{name}-a"]


def test_a_list_and_a_group_of_filters(stack: Stack) -> None:
    pro, many = {"key": "plan", "value": "Pro", "type": "person"}, {"key": "seats", "value": 6, "operator": "gt"}
    assert found(stack, [pro, many]) == []
    assert found(stack, {"type": "AND", "values": [pro, many]}) == []
    assert found(stack, {"type": "OR", "values": [pro, many]}) == ["ada", "bob", "cyd"]
    cyd = {"key": "plan", "value": "pro+"}
    nested = {"type": "AND", "values": [{"type": "OR", "values": [pro, many]}, {"type": "OR", "values": [pro, cyd]}]}
    assert found(stack, nested) == ["ada", "cyd"]
    assert found(stack, {"type": "OR", "values": [{"type": "AND", "values": [pro, many]}, cyd]}) == ["cyd"]
    assert found(stack, []) == ALL


@pytest.mark.parametrize("text", ["{", "plan", "[1]", '"x"', "null", '[{"value":1}]', '{"type":"NOT","values":[]}'])
def test_filters_that_cannot_be_parsed_are_invalid_input(stack: Stack, text: str) -> None:
    answer = stack.persons(f"/?properties={quote(text)}")
    assert answer.status == 400
    assert (answer.json["type"], answer.json["code"]) == ("validation_error", "invalid_input")


# Operators: what each finds among ada (Pro, 5), bob (free, "12"), cyd (pro+, 7), dan (null) and eve (nothing)

OPERATORS: list[tuple[str, str | None, Any, list[str]]] = [
    ("plan", None, "Pro", ["ada"]),
    ("plan", "exact", "Pro", ["ada"]),
    ("plan", "exact", ["Pro", "free"], ["ada", "bob"]),
    ("vip", "exact", True, ["ada"]),
    ("vip", "exact", ["true", "false"], ["ada", "bob"]),
    ("seats", "exact", 12, ["bob"]),
    ("plan", "is_not", "Pro", ["bob", "cyd", "dan", "eve"]),
    ("plan", "is_not", ["Pro", "free"], ["cyd", "dan", "eve"]),
    ("plan", "icontains", "PRO", ["ada", "cyd"]),
    ("plan", "not_icontains", "PRO", ["bob", "dan", "eve"]),
    ("plan", "regex", "^[Pp]ro", ["ada", "cyd"]),
    ("plan", "regex", r"o\+$", ["cyd"]),
    ("plan", "not_regex", "^[Pp]ro", ["bob", "dan", "eve"]),
    ("seats", "gt", 5, ["bob", "cyd"]),
    ("seats", "gte", 5, ["ada", "bob", "cyd"]),
    ("seats", "min", 7, ["bob", "cyd"]),
    ("seats", "min", "7", ["bob", "cyd"]),
    ("seats", "lt", 7, ["ada"]),
    ("seats", "lte", 7, ["ada", "cyd"]),
    ("seats", "max", 5, ["ada"]),
    ("seats", "between", [5, 7], ["ada", "cyd"]),
    ("seats", "between", [7, 7], ["cyd"]),
    ("seats", "not_between", [5, 7], ["bob", "dan", "eve"]),
    ("score", "between", [-4.5, 0], ["bob"]),
    ("plan", "is_set", None, ["ada", "bob", "cyd"]),
    ("plan", "is_set", "is_set", ["ada", "bob", "cyd"]),
    ("plan", "is_not_set", None, ["dan", "eve"]),
    ("born", "is_date_exact", "2026-01-02T03:04:05Z", ["ada", "bob"]),
    ("born", "is_date_before", "2026-05-05", ["ada", "bob"]),
    ("born", "is_date_after", "2026-01-02T03:04:05Z", ["cyd"]),
    ("born", "is_date_after", "2026-01-02T03:04:04-00:01", ["cyd"]),
    ("recent", "is_date_after", "-7d", ["ada"]),
    ("recent", "is_date_before", "-7d", ["bob", "cyd"]),
    ("recent", "is_date_after", "-10m", ["ada", "bob"]),
    ("recent", "is_date_before", "-10m", ["cyd"]),
    ("recent", "is_date_after", "-1y", ["ada", "bob"]),
    ("recent", "is_date_after", "-1w", ["ada"]),
    ("recent", "is_date_after", "-100h", ["ada"]),
    ("minute", "is_date_after", "-60M", ["ada"]),
    ("minute", "is_date_before", "-60M", ["bob"]),
    ("plan", "in", ["Pro", "pro+"], ["ada", "cyd"]),
    ("plan", "not_in", ["Pro", "pro+"], ["bob", "dan", "eve"]),
]


@pytest.mark.parametrize(("key", "operator", "value", "names"), OPERATORS, ids=lambda value: str(value)[:24])
def test_an_operator_finds(stack: Stack, key: str, operator: str | None, value: Any, names: list[str]) -> None:
    condition = {"key": key, "type": "person"} | ({} if value is None else {"value": value})
    assert found(stack, [condition | ({} if operator is None else {"operator": operator})]) == names


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("is_not", "x"), ("is_not", ["x"]), ("not_icontains", "x"), ("not_regex", "x"), ("not_between", [1, 2]),
        ("not_in", ["x"]), ("is_not_set", None),
    ],
)  # fmt: skip
def test_a_negative_operator_finds_who_lacks_the_property(stack: Stack, operator: str, value: Any) -> None:
    assert found(stack, [{"key": "nobody has it", "value": value, "operator": operator}]) == ALL


@pytest.mark.parametrize(
    "condition",
    [
        {"operator": "like", "value": "x"}, {"operator": "IS_SET"}, {"operator": "between", "value": [7, 5]},
        {"operator": "not_between", "value": [7, 5]}, {"operator": "between", "value": [1]},
        {"operator": "between", "value": ["a", "b"]}, {"operator": "gt", "value": "many"},
        {"operator": "regex", "value": "("}, {"operator": "regex", "value": "(?=x)"},
        {"operator": "is_date_before", "value": "-7x"}, {"operator": "is_date_after", "value": "soon"},
    ],
    ids=lambda condition: f"{condition['operator']} {condition.get('value', '')}",
)  # fmt: skip
def test_an_operator_that_is_unknown_or_cannot_use_its_value_is_400(stack: Stack, condition: dict[str, Any]) -> None:
    answer = filtered(stack, [{"key": "seats", **condition}])
    assert answer.status == 400, answer.body
    assert answer.json | {"detail": ""} == {
        "type": "validation_error", "code": "invalid_input", "detail": "", "attr": "properties",
    }  # fmt: skip


# CSV


def table(stack: Stack, name: str, persons: list[dict[str, Any]]) -> list[str]:
    """The lines of the list of these persons as CSV."""
    captured(stack, {f"{name}-{number}": properties for number, properties in enumerate(persons)})
    answer = stack.persons(f".csv?search={name}&limit=10")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("\r\n")
    return text.removesuffix("\r\n").split("\r\n")


def column(lines: list[str], header: str) -> list[str]:
    """Cells of a table."""
    return [row[header] for row in csv.DictReader(lines)]


def test_the_header_is_the_sorted_union_of_flattened_keys(stack: Stack, name: str) -> None:
    lines = table(stack, name, [{"$os": "Linux", "deep": {"b": [1, {"c": 2}]}}, {"also": 1, "empty": {}, "none": []}])
    assert lines[0].split(",") == [
        "created_at", "distinct_ids.0", "id", "is_identified", "last_seen_at", "name", "properties", "properties.$os",
        "properties.also", "properties.deep.b.0", "properties.deep.b.1.c", "type", "uuid", "value_at_data_point",
    ]  # fmt: skip
    assert sorted(column(lines, "properties.deep.b.1.c")) == ["", "2"]
    assert sorted(column(lines, "properties")) == ['{"deep":{"b":[1,{"c":2}]}}', '{"empty":{},"none":[]}']


def test_null_is_empty_and_booleans_and_times_are_as_in_json(stack: Stack, name: str) -> None:
    lines = table(stack, name, [{"nothing": None, "yes": True, "no": False, "real": -1.5}])
    person = stack.persons(f"/{stack.uuid(name + '-0')}/").json
    for key, cell in (("nothing", ""), ("yes", "true"), ("no", "false"), ("real", "-1.5")):
        assert column(lines, f"properties.{key}") == [cell]
    assert column(lines, "created_at") == [person["created_at"]]
    assert (column(lines, "id"), column(lines, "is_identified")) == ([str(person["id"])], ["false"])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(stack: Stack, name: str, start: str) -> None:
    captured(stack, {name: {"cell": f"{start}1+1", "number": -7}})
    text = stack.persons(f".csv?distinct_id={name}").body.decode()
    quoted = f'"\'{start}1+1"' if start == "\r" else f"'{start}1+1"
    assert f",{quoted},-7," in text


def test_cells_are_quoted_by_rfc_4180_in_utf_8(stack: Stack, name: str) -> None:
    captured(stack, {name: {"a": 'say "hi", Ünï', "b": "two\r\nlines", "c": "plain"}})
    body = stack.persons(f".csv?distinct_id={name}").body
    assert ',"say ""hi"", Ünï","two\r\nlines",plain,'.encode() in body


def test_one_person_a_timeline_and_an_activity_page_render_too(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "free"}})
    stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"plan": "pro"}})
    lines = stack.persons(f"/{stack.uuid(name)}.csv").body.decode().split("\r\n")
    assert column(lines[:2], "properties.plan") == ["pro"]
    lines = stack.persons(f"/{stack.uuid(name)}/properties_timeline.csv").body.decode().split("\r\n")
    assert (lines[0], len(lines)) == ("properties.plan,relevant_event_count,timestamp", 3)
    lines = stack.persons(f"/{stack.uuid(name)}/activity.csv").body.decode().split("\r\n")
    assert "detail.changes.0.after.plan" in lines[0] and len(lines) == 3


@pytest.mark.parametrize(("path", "status"), [(".csv?limit=0", 400), ("/424242.csv", 404), ("/x.csv", 400)])
def test_errors_of_a_csv_keep_their_json_body(stack: Stack, path: str, status: int) -> None:
    answer = stack.persons(path)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (status, "application/json")
    assert set(answer.json) == {"type", "code", "detail", "attr"}
