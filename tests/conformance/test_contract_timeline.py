"""docs/contract.md §5 and §6, row by row: properties_timeline and activity.

Shown elsewhere, in test_past: source=changes with actor, cause, keys=, as_of and paging
(test_the_changes_of_a_person_are_told_with_what_caused_them), as_of of the points
(test_the_properties_timeline_stops_at_the_moment), why a value is so
(test_a_propertys_history_says_where_each_value_came_from_and_why_one_wins).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from tests.support.asking import sent
from tests.support.processes import Stack

PLAN = {"properties": [{"key": "plan", "type": "person", "value": "x"}]}
PERSON_A = {"key": "a", "type": "person"}
END = "T23:59:59.999999+00:00"


def lived(stack: Stack, name: str, *events: tuple[str, str | None, dict[str, Any]]) -> None:
    """Captured events (name, time, $set) in this order, at their own times."""
    batch: list[dict[str, Any]] = []
    for event, timestamp, properties in events:
        made: dict[str, Any] = {"event": event, "distinct_id": name, "properties": {"$set": properties}}
        batch.append(made | ({"timestamp": timestamp} if timestamp else {}))
    answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None)
    assert stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200


def timeline(stack: Stack, name: str, **query: Any) -> dict[str, Any]:
    """The timeline; what is no text is sent as JSON."""
    texts = {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in query.items()}
    url = "&".join(f"{key}={quote(value)}" for key, value in texts.items())
    answer = stack.persons(f"/{stack.uuid(name)}/properties_timeline/?{url}")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.json
    return body


def plans(body: dict[str, Any]) -> list[tuple[Any, int]]:
    return [(point["properties"].get("plan"), point["relevant_event_count"]) for point in body["points"]]


def three(stack: Stack, name: str) -> None:
    """plan goes a, a, b, a, with a property beside it that changes every time."""
    steps = [("visit", "a"), ("buy", "a"), ("visit", "b"), ("buy", "a")]
    lived(stack, name, *((event, None, {"plan": plan, "n": n}) for n, (event, plan) in enumerate(steps)))


def test_the_answer_has_four_fields_and_points_have_three(stack: Stack, name: str) -> None:
    three(stack, name)
    body = timeline(stack, name)
    assert set(body) == {"points", "crucial_property_keys", "effective_date_from", "effective_date_to"}
    assert set(body["points"][0]) == {"timestamp", "properties", "relevant_event_count"}


# Crucial keys


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ({}, []),
        ({"properties": [{"key": "b", "type": "person"}, {"key": "a", "type": "person"}]}, ["a", "b"]),
        ({"properties": [{"key": "b", "type": "event"}, {"key": "c", "type": "cohort"}, {"key": "d"}]}, []),
        ({"properties": {"type": "AND", "values": [{"type": "OR", "values": [PERSON_A]}]}}, ["a"]),
        ({"events": [{"id": "visit", "properties": [{"key": "s", "type": "person"}]}]}, ["s"]),
        ({"actions": [{"id": 1, "properties": [{"key": "s", "type": "person"}]}]}, ["s"]),
        ({"breakdown": "z", "breakdown_type": "person"}, ["z"]),
        ({"breakdown": ["z", "y"], "breakdown_type": "person"}, ["y", "z"]),
        ({"breakdown": "z", "breakdown_type": "event"}, []),
        ({"breakdown": "z"}, []),
        ({"properties": [{"key": "z", "type": "person"}], "breakdown": "a", "breakdown_type": "person"}, ["a", "z"]),
        ({"properties": [{"key": "a", "type": "person"}] * 2}, ["a"]),
    ],
    ids=[
        "none", "global, sorted", "of other types", "in groups", "per event series", "per action series", "a breakdown",
        "several breakdowns", "an event breakdown", "a breakdown without type", "all together", "each once",
    ],
)  # fmt: skip
def test_crucial_keys_are_those_of_person_filters_and_of_a_person_breakdown(
    stack: Stack, name: str, query: dict[str, Any], keys: list[str]
) -> None:
    three(stack, name)
    assert timeline(stack, name, **query)["crucial_property_keys"] == keys


def test_property_filters_never_filter_events(stack: Stack, name: str) -> None:
    three(stack, name)
    for value, operator in (("nobody has this", "exact"), ("a", "is_not")):
        query = [{"key": "plan", "type": "person", "value": value, "operator": operator}]
        assert plans(timeline(stack, name, properties=query)) == [("a", 2), ("b", 1), ("a", 1)]


# Points


def test_a_point_for_every_change_of_a_crucial_value_and_a_b_a_gives_three(stack: Stack, name: str) -> None:
    three(stack, name)
    assert plans(timeline(stack, name, **PLAN)) == [("a", 2), ("b", 1), ("a", 1)]


def test_without_crucial_keys_there_is_one_point_for_the_whole_range(stack: Stack, name: str) -> None:
    three(stack, name)
    (point,) = timeline(stack, name)["points"]
    assert (point["properties"], point["relevant_event_count"]) == ({"plan": "a", "n": 0}, 4)


def test_events_choose_which_captured_events_count(stack: Stack, name: str) -> None:
    three(stack, name)
    assert plans(timeline(stack, name, **PLAN, events=[{"id": "visit"}])) == [("a", 1), ("b", 1)]
    assert plans(timeline(stack, name, **PLAN, events=[{"id": "buy"}])) == [("a", 2)]
    both = [{"id": "buy"}, {"id": "visit"}]
    assert plans(timeline(stack, name, **PLAN, events=both)) == [("a", 2), ("b", 1), ("a", 1)]
    assert plans(timeline(stack, name, **PLAN, events=[])) == [("a", 2), ("b", 1), ("a", 1)]


def test_no_relevant_event_in_range_gives_no_points(stack: Stack, name: str) -> None:
    three(stack, name)
    assert timeline(stack, name, **PLAN, events=[{"id": "never"}])["points"] == []
    assert timeline(stack, name, **PLAN, date_from="2020-01-01", date_to="2020-02-01")["points"] == []


def test_a_point_that_loses_a_crucial_value_is_another_one(stack: Stack, name: str) -> None:
    three(stack, name)
    sent(stack, name, "gone", **{"$unset": ["plan"]})
    assert plans(timeline(stack, name, **PLAN)) == [("a", 2), ("b", 1), ("a", 1), (None, 1)]


def test_a_points_timestamp_is_that_of_its_event(stack: Stack, name: str) -> None:
    day = (datetime.now(UTC) - timedelta(days=2)).replace(hour=12, minute=0, second=0, microsecond=0)
    times = [(day + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ") for hour in range(3)]
    lived(stack, name, *(("e", time, {"plan": number}) for number, time in enumerate(times)))
    assert [point["timestamp"] for point in timeline(stack, name, **PLAN)["points"]] == times


def test_points_are_of_all_ids_of_a_merged_person(stack: Stack, name: str) -> None:
    lived(stack, f"{name}-device", ("e", None, {"plan": "a"}))
    lived(stack, name, ("e", None, {"plan": "b"}))
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-device"})
    assert plans(timeline(stack, name, **PLAN)) == [("a", 1), ("b", 2)]


# Dates


@pytest.mark.parametrize(
    ("query", "since", "until"),
    [
        ({}, "{7}T00:00:00+00:00", "{0}" + END),
        ({"date_from": "-7d"}, "{7}T00:00:00+00:00", "{0}" + END),
        ({"date_from": "-14d", "date_to": "-3d"}, "{14}T00:00:00+00:00", "{3}" + END),
        ({"date_from": "2026-01-01", "date_to": "2026-01-31"}, "2026-01-01T00:00:00+00:00", "2026-01-31" + END),
        ({"date_from": "2026-01-31", "date_to": "2026-01-31"}, "2026-01-31T00:00:00+00:00", "2026-01-31" + END),
        (
            {"date_from": "2026-02-05", "date_to": "2026-02-05", "interval": "day"},
            "2026-02-05T00:00:00+00:00", "2026-02-05" + END,
        ),
        (
            {"date_from": "2026-02-05", "date_to": "2026-02-05", "interval": "month"},
            "2026-02-05T00:00:00+00:00", "2026-02-28" + END,
        ),
        (
            {"date_from": "2026-01-01T10:00:00", "date_to": "2026-01-01T10:00:00", "interval": "hour"},
            "2026-01-01T10:00:00+00:00", "2026-01-01T11:00:00+00:00",
        ),
        (
            {"date_from": "2026-01-01", "date_to": "2026-01-01", "interval": "hour"},
            "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00",
        ),
    ],
    ids=[
        "missing", "relative from", "relative to", "days", "equal", "equal by day", "equal by month", "equal by hour",
        "equal days by hour",
    ],
)  # fmt: skip
def test_effective_dates(stack: Stack, name: str, query: dict[str, str], since: str, until: str) -> None:
    three(stack, name)
    body = timeline(stack, name, **query)
    dates = {f"{{{back}}}": (datetime.now(UTC) - timedelta(days=back)).strftime("%Y-%m-%d") for back in (0, 3, 7, 14)}
    for back, date in dates.items():
        since, until = since.replace(back, date), until.replace(back, date)
    assert (body["effective_date_from"], body["effective_date_to"]) == (since, until)


def test_only_events_in_range_count_and_both_ends_belong_to_it(stack: Stack, name: str) -> None:
    times = ["2026-01-01T23:59:59Z", "2026-01-02T00:00:00Z", "2026-01-03T23:59:59Z", "2026-01-04T00:00:00Z"]
    lived(stack, name, *(("e", time, {"plan": number}) for number, time in enumerate(times)))
    body = timeline(stack, name, **PLAN, date_from="2026-01-02", date_to="2026-01-03")
    assert [point["timestamp"] for point in body["points"]] == times[1:3]
    assert timeline(stack, name, **PLAN)["points"] == []


def test_display_is_taken(stack: Stack, name: str) -> None:
    three(stack, name)
    assert plans(timeline(stack, name, **PLAN, display="ActionsLineGraph")) == [("a", 2), ("b", 1), ("a", 1)]


def test_changes_need_no_events_and_tell_actor_and_cause(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "a"}})
    stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"plan": "b"}})
    points = timeline(stack, name, source="changes")["points"]
    assert [(one["cause"]["kind"], one["before"], one["after"]) for one in points] == [
        ("capture", {}, {"plan": "a"}), ("update", {"plan": "a"}, {"plan": "b"}),
    ]  # fmt: skip
    assert points[1]["actor"] == "bootstrap"


# §6 Activity


def activity(stack: Stack, name: str, query: str = "") -> dict[str, Any]:
    answer = stack.persons(f"/{stack.uuid(name)}/activity/{query}")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.json
    return body


def test_an_activity_page_has_four_fields_and_an_item_these(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "free", "email": f"{name}@x.y"}})
    person = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"plan": "pro", "seats": 3}}).json
    page = activity(stack, name)
    (item,) = page.pop("results")
    assert page == {"next": None, "previous": None, "total_count": 1}
    assert item == {
        "id": item["id"], "user": {"first_name": "bootstrap", "email": ""}, "activity": "updated", "scope": "Person",
        "item_id": str(person["id"]), "created_at": item["created_at"],
        "detail": {
            "name": f"{name}@x.y",
            "changes": [{
                "type": "Person", "action": "changed", "field": "properties", "before": {"plan": "free"},
                "after": {"plan": "pro", "seats": 3},
            }],
        },
    }  # fmt: skip
    assert isinstance(item["id"], str) and item["created_at"].endswith("Z")


def test_limit_is_10_page_is_1_and_the_newest_comes_first(stack: Stack, name: str) -> None:
    sent(stack, name)
    for number in range(12):
        stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"n": number}})
    first = activity(stack, name)
    assert (len(first["results"]), first["total_count"], first["previous"]) == (10, 12, None)
    assert [one["detail"]["changes"][0]["after"]["n"] for one in first["results"]] == list(range(11, 1, -1))
    second = stack.ask("GET", first["next"].removeprefix(stack.url)).json
    assert [one["detail"]["changes"][0]["after"]["n"] for one in second["results"]] == [1, 0]
    assert (second["next"], second["total_count"]) == (None, 12)
    assert stack.ask("GET", second["previous"].removeprefix(stack.url)).json["results"] == first["results"]
    assert first["results"] == activity(stack, name, "?limit=10&page=1")["results"]
    assert len({one["id"] for one in first["results"] + second["results"]}) == 12


EDITS: dict[str, tuple[str, str, Any]] = {
    "updated": ("PATCH", "/{name}/", {"properties": {"plan": "b"}}),
    "delete_property": ("POST", "/{name}/delete_property/", {"$unset": "plan"}),
    "split_person": ("POST", "/{name}/split/", {"main_distinct_id": "{plain}"}),
    "merged": ("POST", "/{name}/merge/", {"distinct_id": "{other}"}),
    "delete_events": ("POST", "/{name}/delete_events/", {}),
    "delete_recordings": ("POST", "/{name}/delete_recordings/", {}),
    "deleted": ("DELETE", "/{name}/", None),
}


@pytest.mark.parametrize("kind", EDITS)
def test_what_people_do_makes_an_item_of_this_activity(stack: Stack, name: str, kind: str) -> None:
    method, path, body = EDITS[kind]
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-device", "$set": {"plan": "a"}})
    sent(stack, f"{name}-other")
    number = stack.persons(f"/{stack.uuid(name)}/").json["id"]
    text = orjson.dumps(body).decode().replace("{plain}", name).replace("{other}", f"{name}-other").encode()
    answer = stack.persons(path.replace("{name}", stack.uuid(name)), method, text if body is not None else None)
    assert answer.status in (200, 204), answer.body
    newest = stack.persons("/activity/?limit=1").json["results"][0]
    assert (newest["activity"], newest["item_id"]) == (kind, str(number))
    assert newest["user"]["first_name"] == "bootstrap"
    if kind != "deleted":
        assert activity(stack, name, "?limit=1")["results"][0] == newest


@pytest.mark.parametrize("kind", ["delete_property", "deleted"])
def test_one_request_makes_one_item_however_many_ids_the_person_has(stack: Stack, name: str, kind: str) -> None:
    device, (method, path, body) = f"{name}-device", EDITS[kind]
    sent(stack, device, **{"$set": {"plan": "a"}})
    sent(stack, name, "$identify", **{"$anon_distinct_id": device, "$set": {"plan": "b"}})
    before = stack.persons("/activity/?limit=1").json["total_count"]
    assert stack.persons(path.replace("{name}", stack.uuid(name)), method, body).status in (200, 204)
    page = stack.persons("/activity/?limit=2").json
    hidden = 1 if kind == "deleted" else 0  # the merge, which is a deleted person's item
    newest, older = page["results"]
    assert newest["activity"] == kind and (older["activity"], older["item_id"]) != (kind, newest["item_id"])
    assert page["total_count"] == before + 1 - hidden


def test_before_after_and_key_of_an_unset_are_recorded(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "a"}})
    stack.persons(f"/{stack.uuid(name)}/delete_property/", "POST", {"$unset": "plan"})
    (change,) = activity(stack, name)["results"][0]["detail"]["changes"]
    assert (change["before"], change["after"]) == ({"plan": "a"}, {})


def test_a_merge_by_events_and_a_refused_one_make_items_on_both_persons(stack: Stack, name: str) -> None:
    other = f"{name}-other"
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-device"})
    sent(stack, other, "$identify", **{"$anon_distinct_id": f"{other}-device"})
    sent(stack, name, "$identify", **{"$anon_distinct_id": other})
    for one in (name, other):
        assert [item["activity"] for item in activity(stack, one)["results"]] == ["merge_refused", "merged"]
    assert "already_identified" in str(activity(stack, name)["results"][0]["detail"])


def moved(stack: Stack, name: str, kind: str) -> dict[str, Any]:
    (item,) = [one for one in activity(stack, name)["results"] if one["activity"] == kind][:1]
    return dict(item["detail"]["changes"][0]["after"])


@pytest.mark.parametrize("odd", ["", " a/b", "%2F", "ünï 🦊"])
def test_an_item_of_a_merge_and_of_a_split_names_the_distinct_ids(stack: Stack, name: str, odd: str) -> None:
    other, third = f"{name}{odd}-other", f"{name}{odd}-third"
    for one in (name, other, third):
        sent(stack, one, **{"$set": {"a": 1}})
    for one in (other, third):
        assert stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": one}).status == 200
    assert sorted(moved(stack, name, "merged")["distinct_ids"]) == sorted([name, other, third])
    split = {"distinct_ids_to_split": [other, third]}
    assert stack.persons(f"/{stack.uuid(name)}/split/", "POST", split).status == 200
    after = moved(stack, name, "split_person")
    assert (after["distinct_ids"], sorted(after["split_off"])) == ([name], sorted([other, third]))


@pytest.mark.parametrize("reborn", [False, True])
def test_an_item_of_a_split_never_names_who_was_deleted_since(stack: Stack, name: str, reborn: bool) -> None:
    gone = f"{name}-gone"
    for one in (name, gone):
        sent(stack, one, **{"$set": {"a": 1}})
    stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": gone})
    stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"distinct_ids_to_split": [gone]})
    assert moved(stack, name, "split_person")["split_off"] == [gone]
    assert stack.persons(f"/{stack.uuid(gone)}/", "DELETE").status == 204
    if reborn:
        sent(stack, gone, **{"$set": {"life": 2}})
    assert moved(stack, name, "split_person")["split_off"] == []
    assert moved(stack, name, "merged")["distinct_ids"] == [name]


def test_captured_events_make_no_items(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"a": 1}, "$unset": ["b"], "$set_once": {"c": 1}})
    assert activity(stack, name) == {"results": [], "next": None, "previous": None, "total_count": 0}


def test_the_projects_activity_hides_a_deleted_persons_items_at_once(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"secret": "canary-1"}})
    stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"secret": "canary-2"}})
    stack.persons(f"/{stack.uuid(name)}/", "DELETE")
    page = stack.persons("/activity/?limit=100")
    assert b"canary" not in page.body
    assert page.json["results"][0]["activity"] == "deleted"
