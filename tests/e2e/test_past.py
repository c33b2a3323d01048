"""As of and provenance over HTTP on real processes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.asking import sent, shown
from tests.support.processes import Stack


def test_every_write_can_be_read_again_as_it_was_by_its_position(stack: Stack, name: str) -> None:
    positions = [
        sent(stack, name, **{"$set": {"plan": "free", "seat": 1}}),
        sent(stack, name, **{"$set": {"plan": "pro"}}),
        sent(stack, name, **{"$unset": ["seat"]}),
        sent(stack, name, **{"$set_once": {"seat": 2}}),
    ]
    then = [stack.persons(f"/{stack.uuid(name)}/?as_of={position}").json["properties"] for position in positions]
    assert then == [
        {"plan": "free", "seat": 1}, {"plan": "pro", "seat": 1}, {"plan": "pro"}, {"plan": "pro", "seat": 2},
    ]  # fmt: skip


def test_a_merge_and_a_split_are_undone_by_reading_before_them(stack: Stack, name: str) -> None:
    device = f"{name}-device"
    sent(stack, device, **{"$set": {"theme": "dark", "plan": "none"}})
    apart = sent(stack, name, **{"$set": {"plan": "free"}})
    together = sent(stack, name, "$identify", **{"$anon_distinct_id": device})
    split = stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"main_distinct_id": name})
    assert split.status == 200

    def both(as_of: str) -> list[Any]:
        answer = stack.persons(f"/batch_by_distinct_ids/{as_of}", "POST", {"distinct_ids": [name, device]})
        found = answer.json["results"]
        return [(sorted(found[one]["distinct_ids"]), found[one]["properties"]) for one in (name, device)]

    alone = [([name], {"plan": "free"}), ([device], {"theme": "dark", "plan": "none"})]
    assert both(f"?as_of={apart}") == alone
    assert both(f"?as_of={together}") == [([name, device], {"theme": "dark", "plan": "free"})] * 2
    assert both("") == alone
    absorbed = stack.persons(f"/{stack.uuid(device)}/?as_of={together}").json
    assert absorbed["uuid"] == stack.uuid(name)
    assert absorbed["is_identified"] is True
    assert stack.persons(f"/{stack.uuid(device)}/?as_of={apart}").json["is_identified"] is False


def test_a_list_as_of_a_moment_holds_who_was_there_then(stack: Stack, name: str) -> None:
    first, second, third = f"{name}-1", f"{name}-2", f"{name}-3"
    sent(stack, first, **{"$set": {"email": f"{first}@x.y"}})
    two = sent(stack, second, **{"$set": {"email": f"{second}@x.y"}})
    merged = sent(stack, first, "$merge_dangerously", alias=second)
    sent(stack, third, **{"$set": {"email": f"{third}@x.y"}})

    def listed(as_of: str) -> list[list[str]]:
        rows = []
        url: str | None = f"/?limit=2&search={name}{as_of}"
        while url:
            answer = stack.persons(url)
            assert answer.status == 200, answer.body
            rows += answer.json["results"]
            url = answer.json["next"] and "/?" + answer.json["next"].partition("?")[2]
        return [sorted(row["distinct_ids"]) for row in rows]

    assert listed(f"&as_of={two}") == [[second], [first]]
    assert listed(f"&as_of={merged}") == [[first, second]]
    assert listed("") == [[third], [first, second]]
    assert shown(stack, third, two) is None


def test_what_is_deleted_never_comes_back_from_the_past(stack: Stack, name: str) -> None:
    before = sent(stack, name, **{"$set": {"secret": "canary"}})
    assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 204
    assert stack.persons(f"/{stack.uuid(name)}/?as_of={before}").status == 404
    assert shown(stack, name, before) is None
    after = sent(stack, name, **{"$set": {"fresh": 1}})
    assert stack.persons(f"/{stack.uuid(name)}/?as_of={before}").status == 404
    assert shown(stack, name, before) is None
    assert stack.persons(f"/{stack.uuid(name)}/?as_of={after}").json["properties"] == {"fresh": 1}
    filters = '[{"key":"secret","type":"person"}]'
    timeline = stack.persons(f"/{stack.uuid(name)}/properties_timeline/?properties={filters}")
    assert [point["properties"] for point in timeline.json["points"]] == [{"fresh": 1}]
    history = stack.persons(f"/{stack.uuid(name)}/properties/secret/history/").json
    assert history["results"] == []
    assert "canary" not in str(timeline.json) + str(history)


@pytest.mark.parametrize(
    ("as_of", "status"),
    [
        ("yesterday", 400),
        ("", 400),
        ("2026-13-01", 400),
        ("c.0.999999999", 400),
        ("c.999.1", 400),
        ("d.0.0", 400),
        ("c.0.1,oops", 400),
        ("9999-01-01T00:00:00Z", 400),
        ("1970-01-01T00:00:00Z", 404),
        ("2020-01-01", 404),
        ("2020-01-01T00:00:00%2B02:00", 404),
        ("2020-01-01T00:00:00+02:00", 404),
        ("2020-02-30", 400),
        ("7", 400),
        ("-7d", 400),
        ("1577836800", 404),
        ("Wed,%2001%20Jan%202020%2010:00:00%20GMT", 404),
    ],
)
def test_a_moment_that_cannot_be_read_is_refused_in_the_documented_shape(
    stack: Stack, name: str, as_of: str, status: int
) -> None:
    sent(stack, name, **{"$set": {"a": 1}})
    answer = stack.persons(f"/{stack.uuid(name)}/?as_of={as_of}")
    assert answer.status == status, answer.body
    assert set(answer.json) == {"type", "code", "detail", "attr"}
    assert answer.json["attr"] == ("as_of" if status == 400 else None)
    listed = stack.persons(f"/?as_of={as_of}")
    assert listed.status == (400 if status == 400 else 200)


def test_a_moment_a_little_ahead_of_the_clock_lies_in_the_future(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"a": 1}})
    ahead = (datetime.now(UTC) + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = stack.persons(f"/{stack.uuid(name)}/?as_of={ahead}")
    assert (answer.status, answer.json["detail"]) == (400, "as_of lies in the future.")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert stack.persons(f"/{stack.uuid(name)}/?as_of={now}").json["properties"] == {"a": 1}


def test_the_properties_timeline_stops_at_the_moment(stack: Stack, name: str) -> None:
    positions = [sent(stack, name, **{"$set": {"plan": plan}}) for plan in ("a", "b", "c")]
    url = f'/{stack.uuid(name)}/properties_timeline/?properties=[{{"key":"plan","type":"person"}}]'
    assert [point["properties"]["plan"] for point in stack.persons(url).json["points"]] == ["a", "b", "c"]
    then = stack.persons(f"{url}&as_of={positions[1]}").json["points"]
    assert [point["properties"]["plan"] for point in then] == ["a", "b"]


def test_properties_at_time_answers_as_the_original_does(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "a"}})
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    sent(stack, name, **{"$set": {"plan": "b"}})
    for who in (f"distinct_id={name}", f"person_id={stack.uuid(name)}"):
        body = stack.persons(f"/properties_at_time/?{who}&timestamp={moment}").json
        assert body["properties"] == {"plan": "a"}
        assert body["point_in_time_metadata"]["distinct_ids_queried"] == [name]
        assert body["point_in_time_metadata"]["query_mode"] == who.partition("=")[0]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("timestamp=2026-01-01", 400),
        ("distinct_id=a&person_id=1&timestamp=2026-01-01", 400),
        ("distinct_id=a", 400),
        ("distinct_id=a&timestamp=soon", 400),
        ("distinct_id=a&timestamp=9999-01-01", 400),
        ("person_id=x&timestamp=2026-01-01", 400),
        ("person_id=&timestamp=2026-01-01", 400),
        ("person_id=123456789&timestamp=2026-01-01", 404),
        ("distinct_id=nobody&timestamp=2026-01-01", 404),
    ],
)
def test_properties_at_time_refuses_as_the_original_does(stack: Stack, query: str, status: int) -> None:
    answer = stack.persons(f"/properties_at_time/?{query}")
    assert answer.status == status
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize("key", ["{", "a}b", "{{user.name}}", "a.b", "a/b", "%7B", "ü {x}", "a?b#c"])
def test_every_property_name_has_a_history(stack: Stack, name: str, key: str) -> None:
    sent(stack, name, **{"$set": {key: 1}})
    stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {key: 2}})
    for ending in ("/history/", "/history", "/history.json"):
        answer = stack.persons(f"/{stack.uuid(name)}/properties/{quote(key, safe='')}{ending}")
        assert (answer.status, answer.json["key"], answer.json["value"]) == (200, key, 2)
        assert [value["value"] for value in answer.json["results"]] == [2, 1]


def test_a_propertys_history_says_where_each_value_came_from_and_why_one_wins(stack: Stack, name: str) -> None:
    device = f"{name}-device"
    sent(stack, device, "visit", **{"$set": {"plan": "none"}})
    sent(stack, name, "signed up", **{"$set": {"plan": "free"}, "$set_once": {"plan": "ignored"}})
    sent(stack, name, "$identify", **{"$anon_distinct_id": device})
    row = shown(stack, name)
    assert row is not None
    stack.persons(f"/{row['id']}/update_property/", "POST", {"key": "plan", "value": "pro"})
    body = stack.persons(f"/{row['id']}/properties/plan/history/").json
    assert (body["value"], body["shows"], body["count"]) == ("pro", True, 3)
    assert "newest set" in body["why"]
    values = [(one["value"], one["before"], one["distinct_id"], one["source"]) for one in body["results"]]
    assert values == [
        ("pro", "free", name, "update"), ("free", None, name, "signed up"), ("none", None, device, "visit"),
    ]  # fmt: skip
    assert [one["wins"] for one in body["results"]] == [True, False, False]
    (step,) = body["results"][2]["merge_path"]
    assert (step["how"], step["from"], step["into"]) == ("merged", stack.uuid(device), stack.uuid(name))
    assert body["results"][0]["merge_path"] == []
    page = stack.persons(f"/{row['id']}/properties/plan/history/?limit=1&offset=1").json
    assert [one["value"] for one in page["results"]] == ["free"]
    assert "offset=2" in page["next"]
    then = stack.persons(f"/{row['id']}/properties/plan/history/?as_of={body['results'][1]['position']}").json
    assert (then["value"], then["count"]) == ("free", 1)  # the device was another person then
    none = stack.persons(f"/{row['id']}/properties/never/history/").json
    assert (none["shows"], none["results"], none["why"]) == (False, [], None)


def test_an_unset_property_says_why_it_shows_nothing(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "free"}})
    sent(stack, name, **{"$unset": ["plan"]})
    body = stack.persons(f"/{stack.uuid(name)}/properties/plan/history/").json
    assert (body["shows"], body["value"]) == (False, None)
    assert "unset" in body["why"]
    assert [(one["operation"], one["wins"]) for one in body["results"]] == [("unset", True), ("set", False)]


def test_the_changes_of_a_person_are_told_with_what_caused_them(stack: Stack, name: str) -> None:
    device = f"{name}-device"
    sent(stack, device, "visit", **{"$set": {"theme": "dark", "plan": "none"}})
    sent(stack, name, "sign up", **{"$set": {"plan": "free"}})
    sent(stack, name, "$identify", **{"$anon_distinct_id": device})
    sent(stack, name, "noise", **{"$set": {"plan": "free"}})  # an effect of its own, and nothing to see
    stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"plan": "pro"}})
    stack.persons(f"/{stack.uuid(name)}/delete_property/", "POST", {"$unset": "theme"})
    stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"main_distinct_id": name})
    sent(stack, device, "later", **{"$set": {"theme": "light"}})  # another person's by now
    url = f"/{stack.uuid(name)}/properties_timeline/?source=changes"
    points = stack.persons(url).json["points"]
    told = [(one["cause"]["kind"], one["cause"]["event"], one["keys"], one["before"], one["after"]) for one in points]
    assert told == [
        ("capture", "sign up", ["plan"], {}, {"plan": "free"}),
        ("merge", None, ["theme"], {}, {"theme": "dark"}),
        ("update", None, ["plan"], {"plan": "free"}, {"plan": "pro"}),
        ("delete_property", None, ["theme"], {"theme": "dark"}, {}),
        ("split", None, [], {}, {}),
    ]
    assert [one["distinct_ids"] for one in points] == [[name], *[[name, device]] * 3, [name]]
    assert points[2]["actor"] == "bootstrap"
    assert points[-1]["properties"] == {"plan": "pro"}
    for point in points[:-1]:
        then = stack.persons(f"/{stack.uuid(name)}/?as_of={point['position']}").json
        assert then["properties"] == point["properties"]
    assert [one["keys"] for one in stack.persons(f"{url}&keys=theme").json["points"]] == [["theme"], ["theme"]]
    then = stack.persons(f"{url}&as_of={points[2]['position']}").json["points"]
    assert then == points[:3]
    first = stack.persons(f"{url}&limit=2").json
    second = stack.persons("/" + first["next"].partition("/persons/")[2]).json
    assert first["points"] + second["points"] == points[:4]
    assert stack.persons(f"{url}&date_to=2020-01-01").json["points"] == []
    assert len(stack.persons(f"{url}&date_from=-1d").json["points"]) == 5


@pytest.mark.parametrize(
    ("query", "attr"),
    [
        ("source=guess", "source"),
        ("source=changes&limit=0", "limit"),
        ("source=changes&limit=1001", "limit"),
        ("source=changes&cursor=x", "cursor"),
        ("source=changes&date_from=soon", "date_from"),
        ("source=changes&date_from=2026-02-01&date_to=2026-01-01", "date_to"),
        ("source=changes&as_of=soon", "as_of"),
    ],
)
def test_changes_that_are_asked_for_wrongly_are_refused(stack: Stack, name: str, query: str, attr: str) -> None:
    sent(stack, name, **{"$set": {"a": 1}})
    answer = stack.persons(f"/{stack.uuid(name)}/properties_timeline/?{query}")
    assert (answer.status, answer.json["attr"]) == (400, attr)
