"""Rows of an import to events: whose, when, once or not, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from clients.importing.formats.csv_columns import CsvColumns
from clients.importing.formats.fields import moment
from clients.importing.index import SourceIndex
from clients.importing.parcels import NAMES_MAX, Manner, Parcel, parcel_of
from clients.importing.translate import translate
from shared.domain.errors import BadInput

BORN, SEEN = "2023-01-01T00:30:00Z", "2023-05-05T05:00:00Z"
ADA: dict[str, Any] = {"distinct_ids": ["ada", "anon"], "created_at": BORN, "last_seen_at": SEEN, "is_identified": True}
EVENT: dict[str, Any] = {"event": "e", "distinct_id": "ada", "timestamp": BORN}


def parcel(row: Any, **manner: Any) -> Parcel:
    how = Manner(**manner)
    index = SourceIndex()
    index.add(row, 1)
    index.close_rows()
    ((kind, value),) = translate(row, 1, how.kind, index).rows
    index.close()
    return parcel_of(kind, value, how)


def row_of_cells(header: list[str], cells: list[str]) -> dict[str, Any]:
    return CsvColumns(header).row(cells)


def events(row: Any, **manner: Any) -> list[dict[str, Any]]:
    return [msgspec.json.decode(event) for event in parcel(row, **manner).events]


def times(row: Any, **manner: Any) -> list[str]:
    return [event["timestamp"] for event in events(row, **manner)]


def refusal(row: Any, **manner: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        parcel(row, **manner)
    return caught.value


def test_a_person_is_born_then_set_then_merged() -> None:
    birth, values, merge = events(ADA | {"properties": {"plan": "pro", "$initial_os": "mac", "$initial_no": None}})
    assert (birth["$set_once"], birth["timestamp"]) == ({"$initial_os": "mac"}, "2023-01-01T00:30:00+00:00")
    assert (values["$set"], values["timestamp"]) == ({"plan": "pro", "$initial_no": None}, "2023-05-05T05:00:00+00:00")
    assert (merge["event"], merge["distinct_id"]) == ("$merge_dangerously", "ada")
    assert merge["properties"] == {"alias": "anon"}


def test_values_are_of_at_else_of_the_last_sight_else_of_the_birth_and_never_before_it() -> None:
    row = {"distinct_ids": ["a"], "created_at": BORN, "properties": {"p": 1}}
    assert times(row) == ["2023-01-01T00:30:00+00:00"]
    assert times(row | {"last_seen_at": "2023-01-01T00:00:00Z"}) == ["2023-01-01T00:30:00+00:00"]
    assert times(row | {"last_seen_at": SEEN})[-1] == "2023-05-05T05:00:00+00:00"
    assert times(row | {"last_seen_at": SEEN}, at=datetime(2024, 1, 1, tzinfo=UTC))[-1] == "2024-01-01T00:00:00+00:00"
    assert refusal({"distinct_ids": ["a"]}).attr == "created_at"


def test_a_person_with_nothing_set_is_born_all_the_same() -> None:
    assert times({"distinct_ids": ["a"], "created_at": BORN}) == ["2023-01-01T00:30:00+00:00"]


def test_equal_rows_are_equal_events_and_others_are_not() -> None:
    row = ADA | {"properties": {"a": 1, "b": 2}}
    turned = ADA | {"properties": {"b": 2, "a": 1}}
    uuids = [[event["uuid"] for event in events(one)] for one in (row, turned, row | {"properties": {"a": 1}})]
    assert uuids[0] == uuids[1] and uuids[0][1] != uuids[2][1]
    assert len(set(uuids[0])) == 3
    assert events(EVENT) == events(EVENT)


def test_an_identified_person_is_merged_by_events_and_another_one_by_rest_where_it_can_be() -> None:
    quiet = parcel(ADA | {"is_identified": False}, by_rest=True)
    assert quiet.merges == [("ada", "anon")]
    assert [msgspec.json.decode(event)["event"] for event in quiet.events] == ["$set", "$set", "$set"]
    for loud in (parcel(ADA | {"is_identified": False}), parcel(ADA, by_rest=True)):
        assert loud.merges == [] and b"$merge_dangerously" in loud.events[-1]


def test_an_id_that_never_merges_is_refused_alone_and_names_nobody_who_has_another() -> None:
    found = parcel(ADA | {"distinct_ids": ["undefined", "ada", "anon"]})
    assert found.lane == "ada" and found.refusals == ["distinct_ids: undefined never merges"]
    assert parcel(ADA | {"distinct_ids": ["undefined"]}).lane == "undefined"


def test_an_identified_person_of_one_id_is_told() -> None:
    assert parcel(ADA | {"distinct_ids": ["ada"]}).unmarked
    assert not parcel(ADA).unmarked


def test_more_properties_than_an_event_takes_are_several_events() -> None:
    row = {"distinct_ids": ["a"], "created_at": BORN, "properties": {f"p{n}": n for n in range(NAMES_MAX + 1)}}
    assert [len(event["$set"]) for event in events(row)] == [NAMES_MAX, 1]


def test_an_event_keeps_what_it_says_and_loses_the_senders_clock() -> None:
    said = {"properties": '{"a": 1}', "$set": {"p": 1}, "uuid": "u"}
    (event,) = events(EVENT | said | {"sent_at": BORN, "offset": 5, "api_key": "phc"})
    assert event == {
        "event": "e", "distinct_id": "ada", "uuid": "u", "properties": {"a": 1}, "$set": {"p": 1},
        "timestamp": "2023-01-01T00:30:00+00:00",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "attr"),
    [
        (5, None),
        ({}, None),
        ({"distinct_ids": []}, "distinct_ids"),
        ({"distinct_ids": "ada"}, "distinct_ids"),
        ({"distinct_ids": [" "]}, "distinct_ids"),
        (ADA | {"distinct_ids": ["ada", ["anon"]]}, "distinct_ids"),
        (ADA | {"properties": ["a"]}, "properties"),
        (ADA | {"properties": "{"}, "properties"),
        (ADA | {"properties": {"a": float("inf"), "b": object()}}, None),
        (ADA | {"properties": {"a": "\ud83d"}}, None),
        (ADA | {"created_at": "yesterday"}, "created_at"),
        (ADA | {"created_at": True}, "created_at"),
        (ADA | {"is_identified": "perhaps"}, "is_identified"),
        (EVENT | {"timestamp": None}, "timestamp"),
        (EVENT | {"timestamp": 1e300}, "timestamp"),
    ],
)
def test_a_row_that_cannot_be_is_refused_naming_the_field(row: Any, attr: str | None) -> None:
    assert refusal(row).attr == attr


def test_a_format_that_is_asked_for_is_not_guessed() -> None:
    assert refusal(EVENT, kind="persons").attr == "distinct_ids"
    assert parcel(EVENT | {"distinct_ids": ["x"]}, kind="events").lane == "ada"


@pytest.mark.parametrize(
    "value", ["2023-01-01T00:30:00Z", "2023-01-01 01:30:00+01:00", "2023-01-01 00:30", 1672533000, 1672533000000]
)
def test_a_time_is_read_in_every_form_that_exports_have(value: Any) -> None:
    assert moment(value, "t") == datetime(2023, 1, 1, 0, 30, tzinfo=UTC)


def test_a_cell_has_the_type_that_is_written_back_the_same_and_only_documented_columns_are_read() -> None:
    cells: dict[str, Any] = {"7": 7, "-1.5": -1.5, "true": True, "TRUE": True, "1.10": "1.10", "1e5": "1e5"}
    cells |= {"007": "007", "'-5": "'-5", "'=A1": "'=A1", "'tis": "'tis", "1" * 30: "1" * 30, "[1]": "[1]"}
    for cell, value in cells.items():
        row = row_of_cells(["distinct_ids.0", "properties.p", "colour", "name"], ["12", cell, "blue", "x"])
        assert row == {"distinct_ids": ["12"], "properties": {"p": value}}
        assert type(row["properties"]["p"]) is type(value)


def test_names_are_paths_as_the_export_writes_them_and_the_json_column_counts() -> None:
    header = ["distinct_ids.0", "properties", *(f"properties.{path}" for path in ("a.b", r"a\.b", r"c\\", r"d\e"))]
    row = row_of_cells(header, ["x", '{"a":{"b":[]}}', "1", "2", "3", "4"])
    assert row["properties"] == {"a": {"b": []}, "a.b": 2, "c\\": 3, "d\\e": 4}
    row = row_of_cells(["distinct_ids.0", "properties.a.b", "properties.tags.0"], ["x", "1", "y"])
    assert row["properties"] == {"a.b": 1, "tags.0": "y"}


def test_an_empty_cell_is_absent_and_a_record_of_another_length_is_refused() -> None:
    assert row_of_cells(["distinct_ids.0", "distinct_ids.1", "properties.p"], ["a", "", ""]) == {"distinct_ids": ["a"]}
    with pytest.raises(BadInput):
        row_of_cells(["distinct_ids.0", "properties.p"], ["a"])


def test_events_come_as_csv_too() -> None:
    row = row_of_cells(["event", "distinct_id", "timestamp", "properties.n"], ["e", "ada", BORN, "1"])
    assert row == {"event": "e", "distinct_id": "ada", "timestamp": BORN, "properties": {"n": 1}}
