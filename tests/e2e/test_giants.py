"""One person is bounded: what a distinct id has no room for is told, and a merged person says what it cannot show."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import orjson
import pytest

from shared.domain.operations import FRAGMENT_BYTES_MAX, FRAGMENT_NAMES_MAX
from shared.domain.person.view import MERGED_BYTES_MAX
from tests.support.asking import sent, sent_in_a_row
from tests.support.processes import Stack, wait_for

pytestmark = pytest.mark.alone

GIANTS = 10
NAME_CHARS = 390


def names_of(giant: int, part: int) -> dict[str, int]:
    """A thousand names of almost 400 characters: what one event may bring."""
    return {f"{giant}-{part}-{number:04}-".ljust(NAME_CHARS, "n"): number for number in range(1_000)}


def giant(stack: Stack, name: str, number: int) -> dict[str, int]:
    """A distinct id that is full; what it shows."""
    events = [(name, "e", {"$set": names_of(number, part)}) for part in range(3)]
    sent_in_a_row(stack, *events)
    shown: dict[str, int] = stack.persons(f"/{stack.uuid(name)}/").json["properties"]
    return shown


def archive(stack: Stack, uuid: str, file: str) -> list[dict[str, Any]]:
    answer = stack.persons(f"/{uuid}/export/")
    assert answer.status == 200
    with zipfile.ZipFile(io.BytesIO(answer.body)) as made:
        return [orjson.loads(line) for line in made.read(f"{file}.ndjson").splitlines()]


def test_what_there_is_no_room_for_is_told_wherever_a_write_is_told(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "pro", "big": "x" * 480_000}})
    uuid = stack.uuid(name)
    edited = {"properties": {"seats": 3, "bigger": "y" * 100_000, "plan": "free"}}
    answer = stack.persons(f"/{uuid}/", "PATCH", edited, Idempotency_Key=f"{name}-1")
    assert answer.status == 200
    assert (answer.json["properties"]["seats"], answer.json["properties"]["plan"]) == (3, "free")
    assert "bigger" not in answer.json["properties"]
    (warned,) = answer.json["warnings"]
    told = {"names": 1, "bytes": 100_012, "first": ["bigger"]}
    assert {key: warned[key] for key in told} == told
    assert warned["field"] == "properties"
    again = stack.persons(f"/{uuid}/", "PATCH", edited, Idempotency_Key=f"{name}-1")
    assert (again.status, again.json["warnings"]) == (200, [warned])
    one = stack.persons(f"/{uuid}/update_property/", "POST", {"key": "bigger", "value": "z" * 60_000})
    assert (one.status, one.json["success"]) == (200, True)
    assert one.json["warnings"][0]["first"] == ["bigger"]
    fine = stack.persons(f"/{uuid}/update_property/", "POST", {"key": "big", "value": "smaller"})
    assert fine.json == {"success": True}
    assert "warnings" not in stack.persons(f"/{uuid}/", "PATCH", edited).json

    items = stack.persons(f"/{uuid}/activity/").json["results"]
    changes = [change for item in items for change in item["detail"]["changes"]]
    left = [change["after"]["first"] for change in changes if change["action"] == "left_out"]
    assert left == [["bigger"], ["bigger"]]
    points = stack.persons(f"/{uuid}/properties_timeline/?source=changes").json["points"]
    assert [point["left_out"]["first"] for point in points if "left_out" in point] == [["bigger"], ["bigger"]]
    assert [point["keys"] for point in points if "left_out" in point] == [["plan", "seats"], []]
    facts = archive(stack, uuid, "changes")
    assert [one["fact"] for one in facts if one["left_out"]] == ["fragment.changed", "fragment.left_out"]


def test_a_sender_of_names_without_end_fills_one_distinct_id_and_no_more(stack: Stack, name: str) -> None:
    shown = giant(stack, name, 0)
    assert 0 < len(shown) <= FRAGMENT_NAMES_MAX
    size = len(orjson.dumps(shown))
    assert FRAGMENT_BYTES_MAX - 500 < size <= FRAGMENT_BYTES_MAX + 1
    rows = stack.query(f"SELECT max(length(properties)) FROM fragments WHERE distinct_id = '{name}'")
    assert int(rows) == size
    refused = stack.query(
        "SELECT count(), max(length(left_out)) FROM timeline FINAL WHERE left_out != '' AND fragment = "
        f"'{stack.uuid(name)}'"
    )
    count, length = refused.split("\t")
    assert (int(count), int(length) < 1_000) == (2, True)


def test_a_person_of_ten_giants_says_what_it_cannot_show_and_a_split_gives_all_back(stack: Stack, name: str) -> None:
    ids = [f"{name}-{number}" for number in range(GIANTS)]
    before = {one: giant(stack, one, number) for number, one in enumerate(ids)}
    sent(stack, name, **{"$set": {"plan": "pro"}})
    uuid = stack.uuid(name)
    for one in ids:
        assert stack.persons(f"/{uuid}/merge/", "POST", {"distinct_id": one}).status == 200
    sizes = [
        (int(size), one)
        for size, one in (
            row.split("\t")
            for row in stack.query(
                "SELECT argMax(length(properties) + length(cells), version), distinct_id FROM fragments "
                f"WHERE startsWith(distinct_id, '{name}') GROUP BY fragment, distinct_id ORDER BY 1, toString(fragment)"
            ).splitlines()
        )
    ]
    total, shown_ids = 0, []
    for size, one in sizes:  # the rule again
        total += size
        if total <= MERGED_BYTES_MAX:
            shown_ids.append(one)
    assert 2 < len(shown_ids) < GIANTS
    merged = {"plan": "pro"} | {key: value for one in shown_ids for key, value in before.get(one, {}).items()}
    left_out = {"distinct_ids": GIANTS + 1 - len(shown_ids)}

    position = stack.persons(f"/{uuid}/", "PATCH", {"properties": {"seats": 1}}).headers["Position"]
    merged["seats"] = 1
    answers = {
        "retrieve": stack.persons(f"/{uuid}/").json,
        "by number": stack.persons(f"/{stack.persons(f'/{uuid}/').json['id']}/").json,
        "list": stack.persons(f"/?distinct_id={name}").json["results"][0],
        "batch": stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": [ids[0]]}).json["results"][ids[0]],
        "as of": stack.persons(f"/{uuid}/?as_of={position}").json,
        "at time": stack.persons(f"/properties_at_time/?distinct_id={name}&timestamp={position}").json,
        "export": archive(stack, uuid, "person")[0],
    }
    for route, answer in answers.items():
        assert answer["properties_left_out"] == left_out, route
        assert answer["properties"] == merged, route
    point = stack.persons(f"/{uuid}/properties_timeline/?source=changes&keys=seats").json["points"][-1]
    assert point["properties"] == merged
    search = wait_for(lambda: _fed(stack, uuid, "seats"), 30, "the search table")
    assert search == {key.replace(".", "%2E"): value for key, value in merged.items()}
    for one in archive(stack, uuid, "distinct_ids"):  # everything that is held is handed out
        assert one["properties"] == (before | {name: {"plan": "pro", "seats": 1}})[one["distinct_id"]]

    hidden = next(one for one in ids if one not in shown_ids)
    gone = next(iter(before[hidden]))
    assert stack.persons(f"/{uuid}/delete_property/", "POST", {"$unset": gone}).status == 200
    del before[hidden][gone]
    history = stack.persons(f"/{uuid}/properties/seats/history/").json
    assert (history["shows"], history["value"]) == (True, 1)

    split = stack.persons(f"/{uuid}/split/", "POST", {"main_distinct_id": name})
    assert split.status == 200
    for one in ids:
        person = stack.persons(f"/{stack.uuid(one)}/").json
        assert person["properties"] == before[one]
        assert "properties_left_out" not in person
    assert stack.persons(f"/{uuid}/").json["properties"] == {"plan": "pro", "seats": 1}


def _fed(stack: Stack, uuid: str, key: str) -> dict[str, Any] | None:
    found = stack.query(f"SELECT toString(properties) FROM search FINAL WHERE fragment = '{uuid}' AND living = 1")
    properties: dict[str, Any] = orjson.loads(found.replace("\\\\", "\\")) if found else {}
    return properties if key in properties else None
