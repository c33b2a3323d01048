"""Rows 19 to 23 and 25 of the table of inputs: every documented export is read right the first time."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pytest

from clients.importing.index import JOINED_ROWS_MAX
from shared.runtime.settings import SettingsError
from tests.support.imports import Imported, imported

SAMPLES = Path(__file__).parents[1] / "golden" / "imports"
BORN = "2023-05-01T10:00:00.123000+00:00"
ADA = {"email": "ada@example.com", "plan": "pro", "seats": 5, "tags": ["a", "b"]}


def sample(name: str, **how: Any) -> Imported:
    return imported(SAMPLES / name, **how)


def source(tmp_path: Path, content: bytes | str | list[Any], **how: Any) -> Imported:
    """Import bytes, a text, or rows as NDJSON."""
    if isinstance(content, list):
        content = b"".join(orjson.dumps(row) + b"\n" for row in content)
    path = tmp_path / "source"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return imported(path, **how)


def batch(distinct_id: str, person: str, **fields: Any) -> dict[str, Any]:
    row = {"team_id": 1, "distinct_id": distinct_id, "person_id": person, "properties": {}, "person_version": 1}
    return row | {"person_distinct_id_version": 0, "created_at": BORN, "is_deleted": False} | fields


# 19: the persons batch export


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet"])
def test_rows_of_one_person_id_are_one_person_and_deleted_ones_are_left_out(form: str) -> None:
    done = sample(f"posthog-persons-batch.{form}")
    assert done.refusals == {}
    assert done.kinds == {"persons": 2, "further ids of a person": 1, "deleted, left out": 1}
    assert done.joins() == {("0187-device-ada", "ada")}
    assert done.sets("0187-device-ada")[-2] == ADA or ADA in done.sets("0187-device-ada")
    assert {"$initial_os": "Mac OS X"} in [event.get("$set_once") for event in done.events]
    assert {"email": "bob@example.com", "code": "007"} in done.sets("bob")
    assert done.of("gone") == []
    assert {event["timestamp"] for event in done.of("0187-device-ada")} == {BORN}


@pytest.mark.parametrize("flag", [True, 1, "true", "TRUE", "t", "1"])
@pytest.mark.parametrize("name", ["is_deleted", "deleted"])
def test_a_deleted_row_brings_nobody_back_however_it_says_so(tmp_path: Path, name: str, flag: Any) -> None:
    rows = [{"distinct_ids": ["a"], "created_at": BORN, name: flag}, batch("b", "p") | {name: flag}]
    done = source(tmp_path, [*rows, {"event": "e", "distinct_id": "c", "timestamp": BORN, name: flag}])
    assert (done.events, done.refusals, done.kinds) == ([], {}, {"deleted, left out": 3})


def test_an_erased_person_stays_away_though_an_earlier_run_is_in_the_file(tmp_path: Path) -> None:
    rows = [
        batch("a", "p"), batch("a-2", "p"), batch("b", "q"),
        batch("a", "p", is_deleted=True, person_version=101, person_distinct_id_version=100),
    ]  # fmt: skip
    done = source(tmp_path, rows)
    assert {event["distinct_id"] for event in done.events} == {"b"}


def test_the_row_of_the_highest_version_says_whose_an_id_is_and_what_a_person_has(tmp_path: Path) -> None:
    rows = [
        batch("a", "p", properties={"plan": "new"}, person_version=7),
        batch("b", "p", properties={"plan": "old"}, person_version=2),
        batch("c", "q"), batch("c", "p", person_distinct_id_version=3, person_version=2),
    ]  # fmt: skip
    for order in (rows, rows[::-1]):
        done = source(tmp_path, order)
        ids = {"a", "b", "c"}
        assert {name for pair in done.joins() for name in pair} == ids
        assert [sets for event in done.events if (sets := event.get("$set"))] == [{"plan": "new"}]


def test_a_flag_or_an_id_that_is_none_refuses_its_row_alone(tmp_path: Path) -> None:
    rows = [batch("a", "p", is_deleted="perhaps"), batch("", "p"), batch("b", {"x": 1}), batch("c", "q")]
    done = source(tmp_path, rows)
    assert set(done.refusals) == {1, 2, 3}
    assert {event["distinct_id"] for event in done.events} == {"c"}


def test_a_resumed_import_ends_as_one_that_ran_through(tmp_path: Path) -> None:
    rows = [batch(f"{person}-{n}", person) for n in range(3) for person in "pq"]
    event = {"event": "e", "person_id": "p", "distinct_id": "p-0", "timestamp": BORN}
    rows += [event | {"person_properties": {"n": n // 2}, "timestamp": f"2023-06-0{n + 1}"} for n in range(4)]
    whole = source(tmp_path, rows)
    places = [0]
    for skip in range(1, len(rows) + 1):
        done = source(tmp_path, rows, skip=skip)
        assert done.events == whole.events[len(whole.events) - len(done.events) :]
        places.append(len(whole.events) - len(done.events))
    assert places == sorted(places) and places[-1] == len(whole.events) > 6


# 20: PostHog's screen export


def test_the_screen_export_is_read_as_posthog_writes_it() -> None:
    done = sample("posthog-persons-screen.csv")
    assert done.joins() == {("ada", "0187-device-ada")}
    properties = {"email": "ada@example.com", "email_opt_in": True, "seats": 5, "tags.0": "a", "tags.1": "b"}
    assert properties in done.sets("ada")
    assert {"code": "007", "email_opt_in": False} in done.sets("bob")
    assert {"code": "1.10", "email_opt_in": False} in done.sets("cy")
    assert set(done.refusals) == {2, 3} and "27 distinct_ids" in done.refusals[2]


@pytest.mark.parametrize(
    "header", ["distinct_ids.0,distinct_ids.total", "distinct_ids.0,distinct_ids.note", "distinct_ids.0,person",
               "person.distinct_ids.0,distinct_ids.1", "distinct_ids.0,uuid"],
)  # fmt: skip
def test_what_is_no_documented_column_joins_nobody(tmp_path: Path, header: str) -> None:
    done = source(tmp_path, f"{header}\n" + "".join(f"u{n},the same\n" for n in range(9)), at=None, kind=None)
    assert done.joins() == set()


@pytest.mark.parametrize("kind", ["list", "csv", "person"])
def test_an_id_that_would_join_too_many_rows_stops_the_import_with_the_row(tmp_path: Path, kind: str) -> None:
    def content(count: int) -> Any:
        if kind == "csv":
            rows = "".join(f"u{n},same,{BORN}\n" for n in range(count))
            return "distinct_ids.0,distinct_ids.1,created_at\nalone,,2023-01-01\n" + rows
        if kind == "person":
            return [batch("alone", "q"), *(batch(f"u{n}", "same") for n in range(count))]
        rows = [{"distinct_ids": [f"u{n}", "same"], "created_at": BORN} for n in range(count)]
        return [{"distinct_ids": ["alone"], "created_at": BORN}, *rows]

    assert len(source(tmp_path, content(JOINED_ROWS_MAX)).joins()) >= JOINED_ROWS_MAX - 1
    with pytest.raises(SettingsError, match=rf"^row {JOINED_ROWS_MAX + 2}: "):
        source(tmp_path, content(JOINED_ROWS_MAX + 5))
    assert source(tmp_path, content(JOINED_ROWS_MAX + 5), joined_rows_max=200).refusals == {}


# 21: events with the person's properties


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet"])
def test_a_change_of_the_persons_properties_is_the_set_that_it_was(form: str) -> None:
    done = sample(f"posthog-events-batch.{form}")
    assert (done.refusals, done.kinds) == ({}, {"events": 4})
    first, identify, upgraded, later = done.events
    assert (first["$set"], first["$set_once"]) == ({"plan": "free"}, {"$initial_os": "Mac OS X"})
    assert identify["$set"] == {"plan": "free", "email": "ada@example.com"}
    assert upgraded["$set"] == {"plan": "pro"} and "$set_once" not in upgraded
    assert "$set" not in later and "$unset" not in later
    assert upgraded["timestamp"] == "2023-05-02T08:00:00.000001+00:00"
    assert done.joins() == {("ada", "0187-device-ada")}


def event(day: int, known: Any, /, **fields: Any) -> dict[str, Any]:
    row = {"event": "e", "distinct_id": "a", "person_id": "p", "timestamp": f"2023-01-{day:02}T00:00:00Z"}
    return row | {"person_properties": known} | fields


def test_what_goes_from_the_properties_is_unset_and_what_comes_back_is_set(tmp_path: Path) -> None:
    done = source(tmp_path, [event(1, {"a": 1, "b": 2}), event(2, {"a": 1}), event(3, {"a": 1, "b": 2})])
    assert [(one.get("$set"), one.get("$unset")) for one in done.events] == [
        ({"a": 1, "b": 2}, None), (None, ["b"]), ({"b": 2}, None),
    ]  # fmt: skip


def test_values_that_are_equal_in_python_alone_are_changes(tmp_path: Path) -> None:
    done = source(tmp_path, [event(1, {"a": 1}), event(2, {"a": True}), event(3, {"a": 1.0}), event(4, {"a": 1.0})])
    assert [one.get("$set") for one in done.events] == [{"a": 1}, {"a": True}, {"a": 1.0}, None]


def test_an_event_out_of_order_says_all_that_was_true_then(tmp_path: Path) -> None:
    done = source(tmp_path, [event(5, {"p": "w"}), event(3, {"p": "v"}), event(9, {"p": "v"})])
    assert [one.get("$set") for one in done.events] == [{"p": "w"}, {"p": "v"}, {"p": "v"}]


def test_events_of_one_millisecond_count_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Of equal times the first one wins in the fold."""
    done = source(tmp_path, [event(1, {"p": value}) for value in ("a", "b", "b", "c")] + [event(2, {"p": "c"})])
    assert [one.get("$set") for one in done.events] == [{"p": "a"}, {"p": "b"}, None, {"p": "c"}, None]
    times = [one["timestamp"] for one in done.events if "$set" in one]
    assert times == sorted(times) and len(set(times)) == 3 and times[-1] < "2023-01-01T00:00:00.001"


def test_what_an_event_says_itself_goes_before_and_nothing_said_is_no_change(tmp_path: Path) -> None:
    rows = [
        event(1, {"a": 1}, properties={"$set": {"a": 0}}), event(2, {}), event(3, ""), event(4, None),
        event(5, {"b": 1}, properties={"$process_person_profile": False}),
        event(6, {"a": 1, "c": 1}, **{"$set": {"c": 2}}),
    ]  # fmt: skip
    done = source(tmp_path, rows)
    assert [one.get("$set") for one in done.events] == [{"a": 0}, None, None, None, None, {"c": 2}]
    assert all("$unset" not in one for one in done.events)


def test_the_columns_set_and_set_once_of_older_exports_are_operations(tmp_path: Path) -> None:
    row = {"event": "e", "distinct_id": "a", "timestamp": BORN, "set": '{"a": 1}', "set_once": {"b": 2}}
    (one,) = source(tmp_path, [row]).events
    assert (one["$set"], one["$set_once"]) == ({"a": 1}, {"b": 2})


# 22: what spreadsheets write

PLAIN = "distinct_id,created_at,properties.city\r\nada,2023-05-01,Zürich\r\nbob,2023-05-02,\"a\r\nb\"\r\n"
CITIES = {"ada": "Zürich", "bob": "a\r\nb"}
SHEETS: dict[str, bytes] = {
    "plain": PLAIN.encode(),
    "LF": PLAIN.replace("\r\n", "\n").encode(),
    "CR": PLAIN.replace("\r\n", "\r").encode(),
    "UTF-16 LE": PLAIN.encode("utf-16"),
    "UTF-16 BE": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "semicolon": PLAIN.replace(",", ";").encode(),
    "tab": PLAIN.replace(",", "\t").encode(),
    "tab in UTF-16": PLAIN.replace(",", "\t").encode("utf-16"),
    "sep=;": b"sep=;\r\n" + PLAIN.replace(",", ";").encode(),
    "sep=|": b"sep=|\r\n" + PLAIN.replace(",", "|").encode(),
    "names with blanks": PLAIN.replace("distinct_id,created_at,", " distinct_id , created_at, ").encode(),
    "blank lines first": b"\r\n\r\n" + PLAIN.encode(),
    "gzip of UTF-16": gzip.compress(PLAIN.encode("utf-16")),
}


@pytest.mark.parametrize("form", SHEETS)
def test_what_spreadsheets_write_is_read(tmp_path: Path, form: str) -> None:
    done = source(tmp_path, SHEETS[form])
    assert done.refusals == {}
    cities = {one["distinct_id"]: one["$set"]["city"] for one in done.events}
    ends = {"CR": "\r", "LF": "\n"}.get(form, "\r\n")
    assert cities == {name: city.replace("\r\n", ends) for name, city in CITIES.items()}


def test_json_in_utf_16_is_read_too(tmp_path: Path) -> None:
    row = '{"distinct_ids": ["ü"], "created_at": "2023-05-01"}'
    for text in (row, f"{row}\n{row}", f"[{row}]"):
        assert {one["distinct_id"] for one in source(tmp_path, text.encode("utf-16")).events} == {"ü"}


@pytest.mark.parametrize(
    "content",
    [
        "distinct_id,created_at,created_at\na,2023-01-01,2023-01-02\n",
        "distinct_id, distinct_id\na,b\n",
        "distinct_id,properties.plan,properties.plan\na,x,y\n",
        "distinct_ids.0;distinct_ids.0\na;b\n",
        'distinct_id,"created_at\na,2023-01-01\n',
        'distinct_id,"na""me\nx,y\nz,w\n',
        '"distinct_id"x,created_at\na,b\n',
        "name,mail\na,b\n",
        "<html></html>",
    ],
)
def test_a_header_that_cannot_be_read_is_one_line_and_a_wrong_use(tmp_path: Path, content: str) -> None:
    with pytest.raises(SettingsError) as caught:
        source(tmp_path, content)
    assert "\n" not in str(caught.value)


# 25: times


@pytest.mark.parametrize(
    "text",
    ["1682935200", "1682935200000", "1682935200000000000", "2023-05-01 10:00:00 UTC", "2023-05-01T12:00:00+02:00",
     "Mon May 01 2023 10:00:00 GMT+0000 (UTC)", "2023-05-01 10:00:00.000000"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["created_at", "timestamp"])
def test_a_time_is_read_the_same_in_every_column(tmp_path: Path, name: str, text: str) -> None:
    more = {"created_at": "distinct_ids.0", "timestamp": "event,distinct_id"}[name]
    ids = "a" if name == "created_at" else "e,a"
    done = source(tmp_path, f"{more},{name}\n{ids},{text}\n")
    assert [one["timestamp"] for one in done.events] == ["2023-05-01T10:00:00+00:00"]


@pytest.mark.parametrize("name", ["created_at", "last_seen_at", "timestamp"])
@pytest.mark.parametrize("text", ["yesterday", "0006-01-01T00:00:00Z", "2023-13-40", "9" * 20, "soon", "-", "1705"])
def test_what_is_no_time_is_refused_and_never_guessed(tmp_path: Path, name: str, text: str) -> None:
    row: dict[str, Any] = {"distinct_ids": ["a"], "created_at": BORN}
    if name == "timestamp":
        row = {"event": "e", "distinct_id": "a"}
    done = source(tmp_path, [row | {name: text}])
    assert done.events == [] and done.refusals == {1: f"{name} is not a time."}


# Other vendors


def test_mixpanels_profiles_are_persons() -> None:
    done = sample("mixpanel-engage.json")
    assert (done.refusals, done.kinds) == ({}, {"Mixpanel profiles": 2})
    assert done.of("ada")[0]["timestamp"] == "2023-05-01T10:00:00+00:00"
    assert done.of("ada")[-1]["timestamp"] == "2023-05-03T08:00:00+00:00"
    assert done.sets("ada")[-1]["$email"] == "ada@example.com"
    assert done.sets("4")[-1]["plan"] == "free"


def test_mixpanels_events_are_events_and_its_duplicates_one() -> None:
    done = sample("mixpanel-events.ndjson")
    assert (done.refusals, done.kinds) == ({}, {"Mixpanel events": 5})
    first, again, *_ = done.events
    assert first["uuid"] == again["uuid"]
    assert first["timestamp"] == "2023-05-01T10:00:00+00:00"
    assert done.joins() == {("ada", "$device:d-1"), ("ada", "ada-old")}
    assert sum(one["event"] == "$identify" for one in done.events) == 1


def test_amplitudes_events_bring_the_users_properties_at_their_times(tmp_path: Path) -> None:
    done = sample("amplitude-events.ndjson")
    assert (done.refusals, done.kinds) == ({}, {"Amplitude events": 3})
    viewed, properties, link, bought = done.events
    assert (viewed["event"], viewed["distinct_id"], viewed["$set"]) == ("page viewed", "dev-1", {"plan": "free"})
    assert viewed["properties"] == {"page": "/", "$os": "Chrome", "$geoip_city_name": "Bern",
                                    "$geoip_country_name": "Switzerland"}  # fmt: skip
    assert (properties["event"], properties["$set"]["plan"]) == ("$set", "pro")
    assert (link["event"], link["properties"]) == ("$identify", {"$anon_distinct_id": "dev-1"})
    assert (bought["$unset"], bought["timestamp"]) == (["email"], "2023-05-02T08:00:00.000001+00:00")
    content = (SAMPLES / "amplitude-events.ndjson").read_bytes().splitlines(keepends=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for number, line in enumerate(content):
            zipped.writestr(f"1/1_2023-05-0{number}_1.json.gz", gzip.compress(line))
    assert source(tmp_path, archive.getvalue()).events == done.events


def test_segments_calls_are_events() -> None:
    done = sample("segment-calls.ndjson")
    assert (done.refusals, done.kinds) == ({}, {"Segment calls": 4, "Segment groups, left out": 1})
    page, identify, track, link, alias = done.events
    assert (page["event"], page["distinct_id"]) == ("$pageview", "anon-1")
    assert page["properties"] == {"$current_url": "https://example.com/", "url": "https://example.com/"}
    assert (identify["event"], identify["$set"]["plan"]) == ("$identify", "pro")
    assert identify["timestamp"] == "2023-05-01T10:05:00+00:00"
    assert track["uuid"] == "0188a1f0-3333-7000-8000-000000000003" and track["event"] == "Bought"
    assert link["properties"] == {"$anon_distinct_id": "anon-2"}
    assert alias["event"] == "$create_alias"
    assert done.joins() == {("ada", "anon-1"), ("ada", "anon-2"), ("ada", "ada-old")}


def test_a_device_of_several_users_is_the_first_ones_and_joins_nobody(tmp_path: Path) -> None:
    amplitude = {"event_type": "e", "device_id": "kiosk", "event_time": "2023-05-01"}
    mixpanel = {"time": 1682935200, "$device_id": "kiosk"}
    segment = {"type": "track", "event": "e", "anonymousId": "kiosk", "timestamp": "2023-05-01"}
    for rows in (
        [amplitude | {"user_id": user} for user in "abab"],
        [{"event": "e", "properties": mixpanel | {"$user_id": user}} for user in "abab"],
        [segment | {"userId": user} for user in "abab"],
    ):
        done = source(tmp_path, rows)
        assert {into for into, _ in done.joins()} == {"a"} and len(done.joins()) == 1
        assert sum(one["event"] == "$identify" for one in done.events) == 1


def test_posthogs_page_is_read_and_every_sample_is_the_same_twice() -> None:
    assert sample("posthog-persons-page.json").joins() == {("ada", "0187-device-ada")}
    names = sorted(path.name for path in SAMPLES.iterdir())
    assert len(names) == 12
    for name in names:
        assert sample(name).events == sample(name).events
        assert len({one["uuid"] for one in sample(name).events}) >= 3


# Parquet and archives


def test_parquet_without_pyarrow_is_one_line_and_a_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match="pyarrow") as caught:
        sample("posthog-persons-batch.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [8, 100, 2_000])
def test_a_broken_parquet_file_says_so(tmp_path: Path, size: int) -> None:
    content = (SAMPLES / "posthog-persons-batch.parquet").read_bytes()[:size]
    done = source(tmp_path, content)
    assert done.events == [] and "broken" in done.refusals[1]


def test_of_a_persons_archive_the_person_is_read(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("person.ndjson", orjson.dumps({"distinct_ids": ["a"], "created_at": BORN}) + b"\n")
        zipped.writestr("events.ndjson", orjson.dumps({"event": "e", "distinct_id": "a", "timestamp": BORN}))
        zipped.writestr("manifest.json", b"{}")
    done = source(tmp_path, archive.getvalue())
    assert (done.kinds, done.refusals) == ({"persons": 1}, {})
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("readme.txt", b"hello")
    with pytest.raises(SettingsError, match="archive"):
        source(tmp_path, archive.getvalue())
