"""What real clients send: a test for each kind of captured input that lost or moved an event somewhere, on the real
stack, from the request to what is read. The first inputs of each kind come from public reports, the others are more
of their kind. Imports and REST have their own suites.
"""

from __future__ import annotations

import base64
import gzip
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson
import pytest

from shared.inputs.ids import COOKIELESS, stored_id
from tests.support.asking import shown
from tests.support.processes import Answer, Stack

BOM = b"\xef\xbb\xbf"


def post(stack: Stack, body: Any, path: str = "/batch/", **headers: str) -> Answer:
    """Sent, stored, and seen by reads."""
    answer = stack.ask("POST", path, body, key=None, **headers)
    assert answer.status == 200, answer.body
    if "Position" in answer.headers:
        assert stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200
    return answer


def batch(stack: Stack, *events: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"api_key": stack.token, "batch": list(events), **more}


def stored(stack: Stack, name: str, what: str = "uuid, timestamp, properties") -> list[dict[str, Any]]:
    """The captured events of a distinct id."""
    rows = stack.query(
        f"SELECT {what} FROM captured_events FINAL WHERE project = {stack.project} AND distinct_id = '{name}'"
        " ORDER BY received_at, version FORMAT JSONEachRow"
    )
    return [orjson.loads(row) for row in rows.splitlines()]


def warnings(stack: Stack) -> list[dict[str, Any]]:
    answer = stack.ask("GET", f"/api/projects/{stack.project}/ingestion_warnings/")
    assert answer.status == 200, answer.body
    listed: list[dict[str, Any]] = answer.json["results"]
    return listed


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


BAD_VALUES: list[dict[str, Any]] = [
    {"properties": {"$set": "no object"}},
    {"properties": [1]},
    {"timestamp": "no time"},
    {"uuid": "no uuid"},
    {"properties": {"$set": {"": 1}}},
]


@pytest.mark.parametrize("bad", BAD_VALUES)
def test_row_1_a_bad_value_costs_no_event_and_a_resend_stores_once(stack: Stack, name: str, bad: Any) -> None:
    events = [
        {"event": "good", "distinct_id": name, "timestamp": iso(time.time() - 5)},
        {"event": "bad", "distinct_id": name, "timestamp": iso(time.time() - 4)} | bad,
    ]
    for _ in range(3):
        answer = post(stack, batch(stack, *events))
        assert answer.json["status"] == "Ok" and [one["index"] for one in answer.json["warnings"]] == [1]
    assert [row["event"] for row in stored(stack, name, "event")] == ["good", "bad"]


def test_row_1_a_request_of_which_nothing_can_be_stored_is_400(stack: Stack) -> None:
    for nothing in ([{"event": "e"}], [{"distinct_id": "x"}], [{"event": " ", "distinct_id": "x"}, {"event": "e"}]):
        answer = stack.ask("POST", "/batch/", batch(stack, *nothing), key=None)
        assert (answer.status, answer.json["type"]) == (400, "validation_error")


@pytest.mark.parametrize("late", [1, 30, 140])
def test_row_2_a_slow_delivery_moves_no_time(stack: Stack, name: str, late: int) -> None:
    sent_at = int(time.time()) - late
    event = {"event": "e", "distinct_id": name, "timestamp": iso(sent_at - 10)}
    post(stack, batch(stack, event, sent_at=iso(sent_at)))
    (row,) = stored(stack, name, "toUnixTimestamp64Micro(timestamp) AS at")
    assert int(row["at"]) == (sent_at - 10) * 1_000_000


@pytest.mark.parametrize("wrong", [-200, -86_400, 3_600])
def test_row_2_a_wrong_clock_is_corrected(stack: Stack, name: str, wrong: int) -> None:
    sent_at = time.time() + wrong
    event = {"event": "e", "distinct_id": name, "timestamp": iso(sent_at - 10)}
    began = time.time()
    post(stack, batch(stack, event, sent_at=iso(sent_at)))
    (row,) = stored(stack, name, "toUnixTimestamp64Micro(timestamp) AS at")
    assert began - 12 <= int(row["at"]) / 1e6 <= time.time()


@pytest.mark.parametrize("container", [{}, {"_h": 0}, [], ["a"], {"distinct_id": "x"}])
@pytest.mark.parametrize(("event", "field"), [("$identify", "$anon_distinct_id"), ("$create_alias", "alias")])
def test_row_3_a_container_joins_no_strangers(stack: Stack, name: str, event: str, field: str, container: Any) -> None:
    for number in (1, 2):
        post(stack, batch(stack, {"event": event, "distinct_id": f"{name}-{number}", "properties": {field: container}}))
    persons = [shown(stack, f"{name}-{number}") for number in (1, 2)]
    assert [person and person["distinct_ids"] for person in persons] == [[f"{name}-1"], [f"{name}-2"]]


@pytest.mark.parametrize(
    "event",
    [
        {"distinct_id": COOKIELESS, "properties": {"$set": {"secret": "visitor"}}},
        {"distinct_id": COOKIELESS, "event": "$identify", "properties": {"$anon_distinct_id": "NAME"}},
        {"distinct_id": "NAME", "event": "$identify", "properties": {"$anon_distinct_id": COOKIELESS}},
        {"distinct_id": "NAME", "properties": {"$cookieless_mode": True, "$set": {"secret": "visitor"}}},
    ],
)
def test_row_4_visitors_without_cookies_are_nobody(stack: Stack, name: str, event: dict[str, Any]) -> None:
    sent = orjson.loads(orjson.dumps({"event": "visit"} | event).replace(b"NAME", name.encode()))
    answer = post(stack, batch(stack, sent))
    assert [one["field"] for one in answer.json["warnings"]]
    assert shown(stack, COOKIELESS) is None
    person = shown(stack, name)
    assert person is None or (person["distinct_ids"], person["properties"]) == ([name], {})


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        ("18446744073709551616", 18446744073709551616.0),
        ("-9223372036854775809", -9223372036854775809.0),
        ("1e400", "1e400"),
        ("-1E999", "-1E999"),
        ("NaN", "NaN"),
        ("1" + "0" * 400, "1" + "0" * 400),
    ],
)
def test_row_5_numbers_beyond_64_bits_cost_nothing(stack: Stack, name: str, number: str, kept: Any) -> None:
    body = orjson.dumps(batch(stack, {"event": "e", "distinct_id": name, "properties": {"$set": {"n": 7}}}))
    answer = post(stack, body.replace(b'"n":7', b'"n":' + number.encode()))
    assert len(answer.json["warnings"]) == 1
    person = shown(stack, name)
    assert person is not None and person["properties"] == {"n": kept}


def test_row_5_a_huge_integer_as_distinct_id_is_its_json_text(stack: Stack) -> None:
    digits = f"9{uuid4().int}"
    for text in (digits, f"-{digits}", digits[:25]):
        post(stack, b'{"api_key":"%b","event":"e","distinct_id":%b}' % (stack.token.encode(), text.encode()), "/e/")
        assert shown(stack, text) is not None


@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]"), ('[{"b":', "}]")])
def test_row_6_what_is_too_deep_is_json_text(stack: Stack, name: str, opening: str, closing: str) -> None:
    deep = orjson.loads(opening * 40 + "1" + closing * 40)
    event = {"event": "e", "distinct_id": name, "properties": {"$set": {"deep": deep, "flat": 1}}}
    answer = post(stack, batch(stack, event))
    assert len(answer.json["warnings"]) == 1
    person = shown(stack, name)
    assert person is not None and person["properties"]["flat"] == 1
    value = person["properties"]["deep"]
    while not isinstance(value, str):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    assert orjson.loads(value)


@pytest.mark.parametrize("left_out", [{"": 1}, {"n" * 401: 1}, {"n" * 5_000: {"a": 1}}])
def test_row_7_a_name_that_cannot_be_stored_is_left_out(stack: Stack, name: str, left_out: dict[str, Any]) -> None:
    answer = post(stack, batch(stack, {"event": "e", "distinct_id": name, "$set": left_out | {"kept": 1}}))
    assert [one["field"] for one in answer.json["warnings"]] == ["$set"]
    person = shown(stack, name)
    assert person is not None and person["properties"] == {"kept": 1}


@pytest.mark.parametrize("count", [1_001, 1_500])
def test_row_7_names_beyond_a_thousand_are_left_out(stack: Stack, name: str, count: int) -> None:
    post(stack, batch(stack, {"event": "e", "distinct_id": name, "$set": {f"n{index}": 1 for index in range(count)}}))
    person = shown(stack, name)
    assert person is not None and list(person["properties"]) == [f"n{index}" for index in range(1_000)]


@pytest.mark.parametrize(
    "php",
    [
        {"$set": []},
        {"properties": []},
        {"$set_once": []},
        {"$unset": "old"},
        {"properties": {"$set": [], "$unset": "old"}},
    ],
)
def test_row_8_phps_empty_arrays_and_single_texts(stack: Stack, name: str, php: dict[str, Any]) -> None:
    post(stack, batch(stack, {"event": "e", "distinct_id": name, "$set": {"old": 1, "kept": 2}}))
    post(stack, batch(stack, {"event": "e", "distinct_id": name} | php))
    person = shown(stack, name)
    assert person is not None
    assert person["properties"] == ({"kept": 2} if "old" in str(php) else {"old": 1, "kept": 2})


@pytest.mark.parametrize("time_of_event", ["2020-05-01T00:00:00Z", "2001-01-01T12:00:00+02:00", 1_500_000_000])
def test_row_9_a_person_is_as_old_as_its_oldest_event(stack: Stack, name: str, time_of_event: Any) -> None:
    post(stack, batch(stack, {"event": "now", "distinct_id": name}))
    post(stack, batch(stack, {"event": "then", "distinct_id": name, "timestamp": time_of_event}))
    person = shown(stack, name)
    (row,) = stack.query(
        f"SELECT min(timestamp) FROM captured_events WHERE project = {stack.project} AND distinct_id = '{name}'"
    ).splitlines()
    assert person is not None and datetime.fromisoformat(person["created_at"]) == datetime.fromisoformat(f"{row}+00:00")
    assert person["created_at"] <= person["last_seen_at"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2024-01-01 00:00:00 UTC", "2024-01-01T00:00:00Z"),
        ("2024-01-01 10:00:00.123000 UTC", "2024-01-01T10:00:00.123Z"),
        ("Jan 1, 2024 10:00:00 PM", "2024-01-01T22:00:00Z"),
        ("2024/01/02 10:00:00", "2024-01-02T10:00:00Z"),
        ("1704067200000000000", "2024-01-01T00:00:00Z"),
        ("Mon Jan 01 2024 10:00:00 GMT-0800 (PST)", "2024-01-01T18:00:00Z"),
        ("20240101", "2024-01-01T00:00:00Z"),
        ("2024-W01-1", "2024-01-01T00:00:00Z"),
        ("2024-01-01T10:00:00+01:00[Europe/Berlin]", "2024-01-01T09:00:00Z"),
        ("0006-01-01T00:00:00Z", None),
        ("32.13.2024", None),
        ("yesterday", None),
    ],
)
def test_row_10_a_time_is_read_right_or_is_none(stack: Stack, name: str, text: str, read: str | None) -> None:
    began = time.time()
    answer = post(stack, batch(stack, {"event": "e", "distinct_id": name, "timestamp": text}))
    (row,) = stored(stack, name, "toUnixTimestamp64Micro(timestamp) AS at")
    if read is None:
        assert answer.json["warnings"][0]["field"] == "timestamp"
        assert began - 1 <= int(row["at"]) / 1e6 <= time.time() + 1
    else:
        assert "warnings" not in answer.json
        assert int(row["at"]) == round(datetime.fromisoformat(read).timestamp() * 1e6)


@pytest.mark.parametrize("chars", [201, 250, 400, 3_000])
def test_row_11_long_ids_stay_two(stack: Stack, name: str, chars: int) -> None:
    one, other = (f"{name}{letter * (chars - len(name))}"[:-1] + letter for letter in "ab")
    other = one[:-1] + "b"
    for number, long in enumerate((one, other)):
        event = {"event": "e", "distinct_id": long, "$set": {"number": number}}
        answer = post(stack, batch(stack, event))
        assert [warning["field"] for warning in answer.json["warnings"]] == ["distinct_id"]
    for number, long in enumerate((one, other)):
        person = shown(stack, quote(stored_id(long)))
        assert person is not None and person["properties"] == {"number": number}


@pytest.mark.parametrize(
    "encode",
    [
        lambda body: (BOM + body, "/batch/"),
        lambda body: (BOM + body, "//batch/"),
        lambda body: (gzip.compress(BOM + body), "/i//v0/e/"),
        lambda body: (base64.encodebytes(body), "/e/?compression=base64"),
        lambda body: (base64.encodebytes(gzip.compress(body)).replace(b"\n", b"\r\n"), "/e/"),
        lambda body: (gzip.compress(body[:20]) + gzip.compress(body[20:]), "/batch/"),
        lambda body: (b"".join(gzip.compress(body[at : at + 20]) for at in range(0, len(body), 20)), "/batch"),
    ],
)
def test_row_12_bytes_as_they_are_really_sent(stack: Stack, name: str, encode: Any) -> None:
    body, path = encode(orjson.dumps(batch(stack, {"event": "e", "distinct_id": name})))
    post(stack, body, path, Content_Type="text/plain")
    assert shown(stack, name) is not None


def test_what_was_repaired_is_listed_without_values_until_the_person_goes(stack: Stack, name: str) -> None:
    uuid, secret = str(uuid4()), f"secret-{name}"
    event = {"event": "e", "distinct_id": name, "uuid": uuid, "timestamp": secret, "$set": {"": secret, "a": secret}}
    post(stack, batch(stack, event, {"event": "fine", "distinct_id": name}))
    listed = [one for one in warnings(stack) if one["event_uuid"] == uuid]
    assert {(one["kind"], one["field"]) for one in listed} == {("time_ignored", "timestamp"), ("name_left_out", "$set")}
    assert all(set(one) == {"event_uuid", "kind", "field", "why", "time"} and one["why"] for one in listed)
    assert secret not in str(warnings(stack))
    assert stack.persons(f"/{stack.uuid(name)}/?delete_events=true", "DELETE").status == 204
    assert [one for one in warnings(stack) if one["event_uuid"] == uuid] == []
