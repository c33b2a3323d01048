"""contract §11, and of §13 Values, Order, Effects, Unset, as_of and Keys. The others: test_contract_decided_persons.

Shown elsewhere: revocation within 10 s and limits per key (test_access), CSV, 406 and pages (test_contract_lists,
test_contract_persons), as_of errors (test_past: test_a_moment_that_cannot_be_read_is_refused_in_the_documented_shape),
delete_property on a merged person
(test_persons: test_delete_property_reaches_every_id_so_that_no_split_brings_it_back).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.asking import sent, shown
from tests.support.processes import PERSONAL_KEY, TOKEN, Answer, Stack, wait_for
from tests.support.stacks import Projects, make_keys

BEFORE = "2020-01-01T00:00:00Z"


def captured(stack: Stack, *events: tuple[str, dict[str, Any]], wait: bool = True, **batch: Any) -> str:
    """One batch of (distinct id, properties), in this order; its Position."""
    made = [
        {"event": properties.pop("event", "e"), "distinct_id": one, "properties": properties}
        | ({"timestamp": properties.pop("timestamp")} if "timestamp" in properties else {})
        for one, properties in ((one, dict(properties)) for one, properties in events)
    ]
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": made, **batch}, key=None)
    assert answer.status == 200, answer.body
    assert not wait or stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200
    return answer.headers["Position"]


def person(stack: Stack, name: str, query: str = "") -> dict[str, Any]:
    answer = stack.persons(f"/{stack.uuid(name)}/{query}")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


def merge(stack: Stack, into: str, other: str) -> Answer:
    answer = stack.persons(f"/{stack.uuid(into)}/merge/", "POST", {"distinct_id": other})
    assert answer.status == 200, answer.body
    return answer


# §11 Authentication


@pytest.mark.parametrize(
    ("bearer", "body", "query", "status"),
    [
        (PERSONAL_KEY, None, None, 202), (None, PERSONAL_KEY, None, 202), (None, None, PERSONAL_KEY, 202),
        (PERSONAL_KEY, "phx_bad", "phx_bad", 202), ("phx_bad", PERSONAL_KEY, PERSONAL_KEY, 401),
        (None, PERSONAL_KEY, "phx_bad", 202), (None, "phx_bad", PERSONAL_KEY, 401), (None, None, None, 401),
    ],
    ids=["bearer", "body", "query", "bearer first", "only bearer", "body second", "only body", "none"],
)  # fmt: skip
def test_the_order_is_bearer_body_query(
    stack: Stack, bearer: str | None, body: str | None, query: str | None, status: int
) -> None:
    sent_body = {"distinct_ids": ["nobody"]} | ({"personal_api_key": body} if body else {})
    url = "/api/person/bulk_delete/" + (f"?personal_api_key={query}" if query else "")
    assert stack.ask("POST", url, sent_body, key=bearer).status == status


def test_a_project_token_captures_only_and_a_personal_key_reads_only(stack: Stack) -> None:
    assert stack.ask("GET", "/api/person/", key=TOKEN).json["code"] == "authentication_failed"
    event = {"api_key": PERSONAL_KEY, "event": "e", "distinct_id": "d"}
    assert stack.ask("POST", "/capture/", event, key=None).status == 401


def test_keys_are_hashed_at_rest_and_in_no_log(stack: Stack) -> None:
    made = stack.call("keys", "create", "--scopes", "person:read", "--projects", str(stack.project))
    assert made.returncode == 0, made.stderr
    plain = made.stdout.strip()
    path = f"/api/person/?personal_api_key={plain}"
    wait_for(lambda: stack.ask("GET", path, key=None).status == 200, 60, "the key to be known")
    files = [path for path in stack.data.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if plain.encode() in path.read_bytes()] == []


SCOPES = [
    ("person:read", 200, 403, 403), ("person:write", 200, 202, 403), ("activity_log:read", 403, 403, 200),
    ("*", 200, 202, 200), ("person:read,activity_log:read", 200, 403, 200),
]  # fmt: skip


@pytest.fixture(scope="module")
def keys(stack: Stack) -> dict[str, str]:
    """A key by its scopes."""
    made = make_keys(stack, *((scopes, [stack.project]) for scopes, *_ in SCOPES))
    return {scopes: key for (scopes, *_), key in zip(SCOPES, made, strict=True)}


@pytest.mark.parametrize(("scopes", "read", "write", "log"), SCOPES)
def test_scopes_open_and_write_includes_read(
    stack: Stack, keys: dict[str, str], scopes: str, read: int, write: int, log: int
) -> None:
    plain = keys[scopes]
    assert stack.ask("GET", "/api/person/?limit=1", key=plain).status == read
    assert stack.ask("POST", "/api/person/bulk_delete/", {"ids": [1]}, key=plain).status == write
    assert stack.ask("GET", "/api/person/activity/", key=plain).status == log


def test_a_key_of_several_projects_means_the_lowest_without_a_token(
    stack: Stack, projects: Projects, name: str
) -> None:
    lower, higher = projects.fresh(), projects.fresh()
    assert lower.project < higher.project
    (plain,) = make_keys(stack, ("*", [higher.project, lower.project]))
    sent(stack, name)
    sent(higher, name)
    for path in ("/api/person/", "/api/projects/@current/persons/"):
        assert stack.ask("GET", path, key=plain).json["results"] == []
    assert stack.ask("GET", f"/api/person/?token={stack.token}", key=plain).status == 403
    assert stack.ask("GET", f"/api/person/?distinct_id={name}").json["results"][0]["uuid"] == stack.uuid(name)
    for project in (1, lower.project, higher.project):  # the bootstrap key has all scopes on all projects
        assert stack.ask("GET", f"/api/projects/{project}/persons/activity/", key=PERSONAL_KEY).status == 200


# Values


@pytest.mark.parametrize(
    "value", [-(2**63), 2**64 - 1, 2**53 + 1, 0, 1.5, -0.1, 1e300, "ünï", [], {}, [None, {"a": []}]]
)
def test_a_value_comes_back_as_it_was_sent(stack: Stack, name: str, value: Any) -> None:
    sent(stack, name, **{"$set": {"captured": value}})
    answer = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"patched": value}})
    assert answer.json["properties"] == {"captured": value, "patched": value}


@pytest.mark.parametrize("value", [b"-9223372036854775809", b"18446744073709551616", b"[[1e999]]", b"NaN"], ids=repr)
def test_numbers_outside_are_refused_by_rest_and_repaired_by_capture(stack: Stack, name: str, value: bytes) -> None:
    sent(stack, name)
    patched = stack.persons(f"/{stack.uuid(name)}/", "PATCH", b'{"properties":{"a":%s}}' % value)
    assert patched.status == 400 and person(stack, name)["properties"] == {}
    event = b'{"api_key":"%s","event":"e","distinct_id":"%s","properties":{"$set":{"a":%s}}}'
    told = stack.ask("POST", "/capture/", event % (stack.token.encode(), name.encode(), value), key=None)
    assert (told.status, [one["field"] for one in told.json["warnings"]]) == (200, ["properties"])
    stack.persons("/?limit=1", Min_Position=told.headers["Position"])
    assert isinstance(person(stack, name)["properties"]["a"], float | str | list)


@pytest.mark.parametrize(("depth", "status"), [(32, 200), (33, 400)])
def test_depth_counts_the_properties_object_as_1(stack: Stack, name: str, depth: int, status: int) -> None:
    sent(stack, name)
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    answer = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": value})
    assert answer.status == status
    if status == 400:
        assert (answer.json["code"], answer.json["attr"]) == ("invalid_input", "properties")


@pytest.mark.parametrize(
    ("value", "status"),
    [("true", 200), ("false", 200), ("1", 200), ("0", 200), ("True", 400), ("yes", 400), ("t", 400), ("2", 400)],
)
def test_query_booleans_are_true_false_1_and_0(stack: Stack, value: str, status: int) -> None:
    assert stack.persons(f"/?limit=1&include_total={value}").status == status


@pytest.mark.parametrize(
    "path",
    ["/", "/{id}/activity/", "/activity/", "/deletion_status/", "/deletion_requests/", "/{id}/properties/a/history/",
     "/{id}/properties_timeline/?source=changes"],
)  # fmt: skip
def test_a_limit_above_1000_is_400_everywhere(stack: Stack, name: str, path: str) -> None:
    sent(stack, name)
    path = path.replace("{id}", stack.uuid(name))
    join = "&" if "?" in path else "?"
    assert stack.persons(f"{path}{join}limit=1000").status == 200
    answer = stack.persons(f"{path}{join}limit=1001")
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (400, "invalid_input", "limit")


@pytest.mark.parametrize("position", ["", "c.1", "c.1.2.99", "c.1.2.3.4", "q.0.1", "c.0.-1", "c.0.1,", "c.0.1;i.0.1"])
def test_a_broken_min_position_is_400(stack: Stack, name: str, position: str) -> None:
    sent(stack, name)
    for method, body in (("GET", None), ("PATCH", {"properties": {"a": 1}})):
        answer = stack.persons(f"/{stack.uuid(name)}/", method, body, Min_Position=position)
        assert (answer.status, answer.json["type"], answer.json["code"]) == (400, "validation_error", "invalid_input")


@pytest.mark.parametrize("field", ["distinct_ids", "uuids"])
def test_a_batch_read_without_its_list_is_400_and_an_empty_one_is_empty(stack: Stack, field: str) -> None:
    missing = stack.persons(f"/batch_by_{field}/", "POST", {})
    assert (missing.status, missing.json["attr"]) == (400, field)
    empty = stack.persons(f"/batch_by_{field}/", "POST", {field: []})
    assert (empty.status, empty.json) == (200, {"results": {}})


# Order and effects


def test_within_an_id_the_log_decides_whatever_the_events_say(stack: Stack, name: str) -> None:
    first = {"$set": {"plan": "first"}, "timestamp": "2026-06-01T00:00:00Z"}
    captured(stack, (name, first), (name, {"$set": {"plan": "last"}, "timestamp": BEFORE}))
    assert person(stack, name)["properties"] == {"plan": "last"}


@pytest.mark.parametrize("historical", [False, True])
def test_the_events_own_time_counts_across_ids_for_imports_only(stack: Stack, name: str, historical: bool) -> None:
    captured(stack, (name, {"$set": {"plan": "live"}}))
    old = {"$set": {"plan": "sent later"}, "timestamp": BEFORE}
    captured(stack, (f"{name}-2", old), historical_migration=historical)
    assert merge(stack, name, f"{name}-2").json["properties"] == {"plan": "live" if historical else "sent later"}


def test_one_position_covers_all_that_its_request_wrote(stack: Stack, name: str) -> None:
    names = [f"{name}-{number}" for number in range(60)]
    position = captured(stack, *((one, {}) for one in names), wait=False)
    answer = stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": names}, Min_Position=position)
    assert list(answer.json["results"]) == names


def test_min_position_takes_several_and_writes_honour_it(stack: Stack, name: str) -> None:
    for number in range(5):
        two = [captured(stack, (f"{name}-{number}-{one}", {}), wait=False) for one in "ab"]
        both = f"{two[0]},{two[1]}"
        merged = stack.persons(
            f"/{stack.uuid(f'{name}-{number}-a')}/merge/", "POST", {"distinct_id": f"{name}-{number}-b"},
            Min_Position=both,
        )  # fmt: skip
        assert (merged.status, len(merged.json["distinct_ids"])) == (200, 2)


def test_repeating_an_explicit_set_restamps(stack: Stack, name: str) -> None:
    captured(stack, (name, {"$set": {"plan": "a"}}), (f"{name}-2", {"$set": {"plan": "b"}}))
    assert merge(stack, name, f"{name}-2").json["properties"] == {"plan": "b"}
    captured(stack, (name, {"$set": {"plan": "a"}}))
    assert person(stack, name)["properties"] == {"plan": "a"}
    assert stack.persons(f"/{stack.uuid(name)}/properties/plan/history/").json["count"] == 3
    rows = stack.query(f"SELECT after FROM property_changes WHERE fragment = '{stack.uuid(name)}' AND key = 'plan'")
    assert rows == '"a"', "analysts see only what differs"


def test_equal_lifted_values_are_no_effect(stack: Stack, name: str) -> None:
    for browser in ("Firefox", "Firefox", "Safari"):
        captured(stack, (name, {"$browser": browser}))
    assert stack.persons(f"/{stack.uuid(name)}/properties/$browser/history/").json["count"] == 2
    assert person(stack, name)["properties"] == {"$browser": "Safari", "$initial_browser": "Firefox"}


def test_an_unset_by_capture_goes_to_the_events_own_id_and_leaves_a_tombstone(stack: Stack, name: str) -> None:
    captured(stack, (name, {}), (f"{name}-2", {"$set": {"plan": "b"}}))
    merge(stack, name, f"{name}-2")
    captured(stack, (name, {"$unset": ["plan"]}))
    assert person(stack, name)["properties"] == {}
    stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"main_distinct_id": name})
    assert [shown(stack, one)["properties"] for one in (name, f"{name}-2")] == [{}, {"plan": "b"}]  # type: ignore[index]


# Values of a property, exactly: s sets, o is set_once, u unsets

ALONE: list[tuple[list[dict[str, Any]], Any]] = [
    ([{"s": 1}, {"s": 2}], 2), ([{"s": 1}, {"o": 2}], 1), ([{"o": 1}, {"o": 2}], 1), ([{"o": 1}, {"s": 2}], 2),
    ([{"s": 1}, {"u": 1}], "absent"), ([{"s": 1}, {"u": 1}, {"o": 2}], 2), ([{"o": 1}, {"u": 1}], "absent"),
    ([{"o": 1}, {"u": 1}, {"o": 2}], 2), ([{"s": None}], None), ([{"s": None}, {"o": 1}], 1),
    ([{"o": None}], "absent"), ([{"o": None}, {"o": 1}], 1), ([{"s": 1}, {"s": None}], None),
    ([{"o": 1}, {"s": None}], None), ([{"o": 1}, {"s": None}, {"o": 2}], 2), ([{"u": 1}, {"o": 1}], 1),
    ([{"o": 1, "s": 2}], 2), ([{"s": 1, "u": 1}], "absent"), ([{"o": 1, "u": 1}], "absent"),
    ([{"o": 1, "s": 2, "u": 1}], "absent"), ([{"o": 1, "s": None}], None), ([{"s": 0}, {"o": 1}], 0),
    ([{"s": False}, {"o": 1}], False), ([{"s": ""}, {"o": 1}], ""), ([{"s": 1, "u": 1}, {"s": 2}], 2),
]  # fmt: skip


def operations(step: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"$set": {"x": step["s"]}} if "s" in step else {}
    made |= {"$set_once": {"x": step["o"]}} if "o" in step else {}
    return made | ({"$unset": ["x"]} if "u" in step else {})


@pytest.mark.parametrize(("steps", "value"), ALONE, ids=str)
def test_the_operations_on_one_id_show(stack: Stack, name: str, steps: list[dict[str, Any]], value: Any) -> None:
    captured(stack, *((name, operations(step)) for step in steps))
    assert person(stack, name)["properties"] == ({} if value == "absent" else {"x": value})


MERGED: list[tuple[list[tuple[str, dict[str, Any]]], Any]] = [
    ([("a", {"s": 1}), ("b", {"s": 2})], 2), ([("b", {"s": 2}), ("a", {"s": 1})], 1),
    ([("a", {"o": 1}), ("b", {"o": 2})], 1), ([("b", {"o": 2}), ("a", {"o": 1})], 2),
    ([("a", {"o": 1}), ("b", {"s": 2})], 2), ([("a", {"s": 1}), ("b", {"o": 2})], 1),
    ([("a", {"s": 1}), ("b", {"u": 1})], "absent"), ([("b", {"u": 1}), ("a", {"s": 1})], 1),
    ([("a", {"o": 1}), ("b", {"u": 1})], "absent"), ([("b", {"u": 1}), ("a", {"o": 1})], 1),
    ([("a", {"s": 1}), ("b", {"s": None})], None), ([("a", {"s": None}), ("b", {"o": 2})], 2),
    ([("a", {"s": 1}), ("b", {"s": None}), ("a", {"o": 3})], None),
    ([("a", {"s": 1}), ("b", {"s": None}), ("b", {"o": 3})], 3),
    ([("a", {"s": 1}), ("b", {"u": 1}), ("a", {"o": 3})], "absent"),
    ([("a", {"o": 1}), ("b", {"u": 1}), ("b", {"o": 2})], 2),
    ([("b", {"s": None}), ("a", {"o": 1}), ("b", {"o": 2})], 1),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "value"), MERGED, ids=str)
@pytest.mark.parametrize("early", [True, False], ids=["merged before", "merged after"])
def test_the_operations_on_two_ids_show_whenever_they_are_merged(
    stack: Stack, name: str, steps: list[tuple[str, dict[str, Any]]], value: Any, early: bool
) -> None:
    ids = {"a": name, "b": f"{name}-2"}
    captured(stack, *((one, {}) for one in ids.values()))
    if early:
        merge(stack, *ids.values())
    captured(stack, *((ids[who], operations(step)) for who, step in steps))
    if not early:
        merge(stack, *ids.values())
    assert person(stack, name)["properties"] == ({} if value == "absent" else {"x": value})


# as of


@pytest.mark.parametrize("form", ["position", "time"])
def test_as_of_is_taken_by_every_read(stack: Stack, name: str, form: str) -> None:
    position = sent(stack, name, **{"$set": {"plan": "then"}})
    then = position if form == "position" else datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    sent(stack, name, **{"$set": {"plan": "now"}})
    query = f"?as_of={then}"
    assert person(stack, name, query)["properties"] == {"plan": "then"}
    assert shown(stack, name, then)["properties"] == {"plan": "then"}  # type: ignore[index]  # it is there
    for field, one in (("distinct_ids", name), ("uuids", stack.uuid(name))):
        found = stack.persons(f"/batch_by_{field}/{query}", "POST", {field: [one]}).json["results"]
        assert found[one]["properties"] == {"plan": "then"}
    points = stack.persons(f"/{stack.uuid(name)}/properties_timeline/{query}").json["points"]
    assert [point["relevant_event_count"] for point in points] == [1]


def test_properties_at_time_answers_for_the_id_as_it_was_before_a_merge(stack: Stack, name: str) -> None:
    other = f"{name}-2"
    captured(stack, (other, {"$set": {"b": 1, "gone": 1}}), (other, {"$unset": ["gone"], "$set_once": {"c": 1}}))
    then = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    captured(stack, (name, {"$set": {"a": 1}}))
    merge(stack, name, other)
    body = stack.persons(f"/properties_at_time/?distinct_id={other}&timestamp={then}").json
    assert (body["properties"], body["distinct_ids"], body["uuid"]) == ({"b": 1, "c": 1}, [other], stack.uuid(other))
