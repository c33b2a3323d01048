"""Capture v1 over HTTP: recorded bodies of the real SDKs, an answer for each event, and requests that are wrong."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import brotli
import orjson
import pytest
import zstandard

from services.api.capture.v1 import NOBODYS_IDS, REQUIRED, SDK_INFO_CHARS_MAX
from shared.domain.commands import Capture, MergePersons
from shared.domain.ids import CAPTURED_ID_CHARS_MAX, parse_positions
from shared.inputs.ids import COOKIELESS
from tests.support.api import NOW, PERSONAL_KEY, TOKEN, Api, serving

PATH = "/i/v1/analytics/events"
TIME = "2026-11-23T09:38:20+00:00"
assert NOW == 1_795_426_700_000_000, "TIME is NOW"
HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "Content-Type": "application/json",
    "PostHog-Sdk-Info": "posthog-python/7.91.1",
    "PostHog-Attempt": "1",
    "PostHog-Request-Id": "031f85db-0000-4000-8000-000000000000",
    "PostHog-Request-Timestamp": TIME,
}
RECORDED: dict[str, Any] = {
    "created_at": "2026-11-23T09:37:27.577150+00:00",
    "batch": [
        {
            "event": "$set", "uuid": "fe178c48-0000-4000-8000-000000000001", "distinct_id": "u1", "options": {},
            "timestamp": "2026-11-23T09:37:27.564021+00:00",
            "properties": {"$geoip_disable": True, "$is_server": True, "$set": {"email": "a@b.c"}},
        },
        {
            "event": "explicit personless", "uuid": "fe178c48-0000-4000-8000-000000000002", "distinct_id": "srv",
            "timestamp": "2026-11-23T09:37:27.564021+00:00", "options": {"process_person_profile": False},
            "properties": {"$is_server": True},
        },
        {
            "event": "in ctx", "uuid": "fe178c48-0000-4000-8000-000000000003", "distinct_id": "ctxuser",
            "timestamp": "2026-11-23T09:37:27.564021+00:00", "options": {}, "session_id": "0197-sess",
            "properties": {"tenant": "t1", "$context_tags": ["tenant"]},
        },
    ],
}  # fmt: skip
"""What the Python SDK sent, its uuids written out."""


@pytest.fixture
async def api(migrated_url: str) -> AsyncIterator[Api]:
    async with serving(migrated_url) as served:
        yield served


def uuid(number: int) -> str:
    return str(UUID(int=number))


def event(number: int = 1, **changed: Any) -> dict[str, Any]:
    made = {"event": "e", "uuid": uuid(number), "distinct_id": "d", "timestamp": TIME, "options": {}, "properties": {}}
    return made | changed


def batch(*events: Any, **changed: Any) -> dict[str, Any]:
    return {"created_at": TIME, "batch": list(events)} | changed


async def post(api: Api, body: Any, path: str = PATH, **headers: str | None) -> tuple[int, Any, Any]:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    sent = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in sent.items() if value is not None}
    skipped = [name for name in ("Content-Type",) if name not in kept]
    async with api.client.post(path, data=data, headers=kept, skip_auto_headers=skipped) as response:
        return response.status, orjson.loads(await response.read()), response.headers


async def results(api: Api, *events: Any, **headers: str | None) -> list[tuple[str, str | None]]:
    status, body, _ = await post(api, batch(*events), **headers)
    assert status == 200, body
    assert list(body) == ["results"] and list(body["results"]) == [one["uuid"] for one in events]
    return [(one["result"], one.get("details")) for one in body["results"].values()]


def captures(api: Api) -> list[Capture]:
    return sorted((one for one in api.commands() if isinstance(one, Capture)), key=lambda one: one.at)


async def test_the_python_sdks_batch_is_stored_as_it_was_meant(api: Api) -> None:
    status, body, headers = await post(api, RECORDED)
    assert status == 200
    assert body == {"results": {one["uuid"]: {"result": "ok"} for one in RECORDED["batch"]}}
    assert parse_positions(headers["Position"])
    first, personless, in_session = captures(api)
    assert (first.event, first.distinct_id, first.set) == ("$set", "u1", {"email": "a@b.c"})
    assert first.uuid == UUID("fe178c48-0000-4000-8000-000000000001") and first.person and not first.historical
    assert orjson.loads(bytes(first.properties))["$lib"] == "posthog-python"
    assert orjson.loads(bytes(first.properties))["$lib_version"] == "7.91.1"
    assert personless.person is False
    assert orjson.loads(bytes(in_session.properties))["$session_id"] == "0197-sess"
    assert "options" not in orjson.loads(bytes(in_session.properties))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "br": brotli.compress,
}


async def test_every_encoding_is_read_with_and_without_a_slash(api: Api) -> None:
    plain = orjson.dumps(RECORDED)
    bodies = [(encoding, compress(plain)) for encoding, compress in COMPRESS.items()]
    bodies += [("GZIP", gzip.compress(plain)), ("deflate", zlib.compress(plain)[2:-4]), ("identity", plain)]
    for index, (encoding, sent) in enumerate(bodies, 1):
        status, body, _ = await post(api, sent, PATH + "/" * (index % 2), Content_Encoding=encoding)
        assert (status, len(body["results"])) == (200, 3), encoding
        assert len(captures(api)) == 3 * index


async def test_each_event_is_told_what_became_of_it_and_the_good_ones_are_stored(api: Api) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"event": ""}, "missing_event_name"),
        ({"event": " "}, "missing_event_name"),
        ({"event": None}, "missing_event_name"),
        ({"event": 7}, "missing_event_name"),
        ({"distinct_id": None}, "missing_distinct_id"),
        ({"distinct_id": "  "}, "missing_distinct_id"),
        ({"distinct_id": {"_h": 0}}, "missing_distinct_id"),
        ({"distinct_id": ["a"]}, "missing_distinct_id"),
        ({"properties": {"text": "y" * 1_100_000}}, "event_too_big"),
    ]
    events = [event(2), *(event(index, **changed) for index, (changed, _) in enumerate(bad, 10)), event(3)]
    assert await results(api, *events) == [("ok", None), *(("drop", why) for _, why in bad), ("ok", None)]
    assert [one.uuid.int for one in captures(api)] == [2, 3]
    assert len(api.commands()) == 2


async def test_what_was_repaired_is_stored_and_told(api: Api) -> None:
    deep = orjson.loads(b'{"a":' * 40 + b"1" + b"}" * 40)
    odd: list[tuple[dict[str, Any], str]] = [
        ({"event": "x" * 201}, "name_cut"),
        ({"distinct_id": "x" * (CAPTURED_ID_CHARS_MAX + 1)}, "id_cut"),
        ({"timestamp": "soon"}, "time_ignored"),
        ({"timestamp": "0006-01-01T00:00:00Z"}, "time_ignored"),
        ({"properties": [1]}, "not_an_object"),
        ({"properties": []}, "list_for_object"),
        ({"properties": "x"}, "not_an_object"),
        ({"properties": {"$set": "x"}}, "not_an_object"),
        ({"properties": deep}, "too_deep"),
        ({"properties": {"$unset": "email"}}, "text_for_list"),
        ({"properties": {"$set": {"": 1, "b": 2}}}, "name_left_out"),
        ({"properties": {"$set": {"n\0": 1}}}, "nul_replaced"),
        ({"distinct_id": COOKIELESS}, "cookieless"),
        ({"options": {"cookieless_mode": True}}, "cookieless"),
        ({"event": "$identify", "properties": {"$anon_distinct_id": {"_h": 0}}}, "id_missing"),
    ]
    events = [event(index, **changed) for index, (changed, _) in enumerate(odd, 10)]
    assert await results(api, *events) == [("warning", kind) for _, kind in odd]
    assert [one.uuid.int for one in captures(api)] == [*range(10, 10 + len(odd))]
    assert [one.repairs[0].partition(" ")[0] for one in captures(api)] == [kind for _, kind in odd]


@pytest.mark.parametrize(
    "fine",
    [
        {"distinct_id": 7},
        {"distinct_id": "ü" * CAPTURED_ID_CHARS_MAX},
        {"timestamp": None},
        {"timestamp": 1_795_426_700},
        {"timestamp": "1795426700"},
        {"timestamp": "2026/11/23 09:38:20"},
        {"options": []},
        {"options": {"process_person_profile": "no", "cookieless_mode": 1, "product_tour_id": 7}},
    ],
)
async def test_what_v1_once_dropped_and_can_be_read_is_stored(api: Api, fine: dict[str, Any]) -> None:
    assert await results(api, event(1, **fine)) == [("ok", None)]
    assert len(captures(api)) == 1


async def test_what_is_absent_or_unknown_is_no_fault(api: Api) -> None:
    bare = {"event": "e", "uuid": uuid(1), "distinct_id": "x" * CAPTURED_ID_CHARS_MAX, "timestamp": TIME}
    unknown = event(2, options={"new": [1], "cookieless_mode": None}, other=1, properties=None)
    assert await results(api, bare, unknown) == [("ok", None)] * 2
    status, _, _ = await post(api, {"batch": [event(3)], "other": 1})
    assert status == 200 and len(captures(api)) == 3


@pytest.mark.parametrize(
    ("number", "kept", "kind"),
    [
        (b"%d" % 2**64, 2.0**64, "integer_rounded"),
        (b"1e400", "1e400", "number_as_text"),
        (b"NaN", "NaN", "number_as_text"),
    ],
)
async def test_numbers_that_no_store_holds_are_repaired(api: Api, number: bytes, kept: Any, kind: str) -> None:
    wide = orjson.dumps(batch(event(1, properties={"x": 7}), event(2))).replace(b'"x":7', b'"x":' + number)
    status, body, _ = await post(api, wide)
    assert status == 200
    assert body["results"][uuid(1)] == {"result": "warning", "details": kind}
    assert body["results"][uuid(2)] == {"result": "ok"}
    assert orjson.loads(bytes(captures(api)[0].properties))["x"] == kept


async def test_an_id_that_many_share_is_stored_without_a_person_and_said_so(api: Api) -> None:
    shared = [*sorted(NOBODYS_IDS), "Anonymous", " undefined ", "NULL", "0", "'id'", "a\0b"]
    sent = [event(index, distinct_id=one, properties={"$set": {"a": 1}}) for index, one in enumerate(shared, 2)]
    assert await results(api, event(1), *sent) == [
        ("ok", None), *[("warning", "person_processing_disabled")] * len(shared)
    ]  # fmt: skip
    first, *others = captures(api)
    assert first.person and len(others) == len(shared)
    assert all((one.person, one.set) == (False, {}) for one in others)


async def test_a_merge_without_a_person_is_dropped_and_said_so(api: Api) -> None:
    merge = {"event": "$identify", "properties": {"$anon_distinct_id": "anon"}}
    off = event(1, **merge, options={"process_person_profile": False})
    assert await results(api, off, event(2, distinct_id="null", **merge)) == [
        ("drop", "person_processing_disabled"),
        ("drop", "person_processing_disabled"),
    ]
    assert api.commands() == []
    assert await results(api, event(3, **merge)) == [("ok", None)]
    assert [one.mode for one in api.commands() if isinstance(one, MergePersons)] == ["identify"]


async def test_options_sessions_and_the_sdks_name_become_properties(api: Api) -> None:
    options = {"process_person_profile": True, "cookieless_mode": True, "product_tour_id": "t",
               "disable_skew_correction": False}  # fmt: skip
    sent = event(1, options=options, session_id="s", window_id="w", properties={"$lib": "own", "a": 1})
    assert await results(api, sent, PostHog_Sdk_Info="posthog/sub / 2.0") == [("warning", "cookieless")]
    assert orjson.loads(bytes(captures(api)[0].properties)) == {
        "a": 1, "$lib": "posthog/sub", "$lib_version": "2.0", "$session_id": "s", "$window_id": "w",
        "$process_person_profile": True, "$cookieless_mode": True, "$product_tour_id": "t", "$ignore_sent_at": False,
    }  # fmt: skip


async def test_an_sdk_that_names_itself_badly_is_not_named(api: Api) -> None:
    for index, info in enumerate(["no-slash", "/1.0", "name/", "x/" + "9" * SDK_INFO_CHARS_MAX], 1):
        assert await results(api, event(index, properties={"$lib": "own"}), PostHog_Sdk_Info=info) == [("ok", None)]
    assert [orjson.loads(bytes(one.properties)) for one in captures(api)] == [{"$lib": "own"}] * 4


async def test_the_senders_skew_is_taken_off_unless_the_event_says_no(api: Api) -> None:
    def at(name: str) -> dict[str, Any]:
        return {"options": {name: True}} if name else {}

    names = ("", "disable_skew_correction", "disable_skew_adjustment")
    events = [event(index, timestamp="2026-11-23T08:38:20Z", **at(name)) for index, name in enumerate(names, 1)]
    await results(api, *events, PostHog_Request_Timestamp="2026-11-23T08:38:21+00:00")
    hour = 3_600_000_000
    assert [one.timestamp for one in captures(api)] == [NOW - 1_000_000, NOW - hour, NOW - hour]


async def test_a_historical_migration_says_so_of_every_event(api: Api) -> None:
    await post(api, batch(event(1), event(2), historical_migration=True))
    await post(api, batch(event(3), historical_migration="true"))
    assert [one.historical for one in captures(api)] == [True, True, False]


async def test_uuids_are_answered_as_they_were_written(api: Api) -> None:
    written = "FE178C48-0000-4000-8000-00000000000A"
    status, body, _ = await post(api, batch(event(uuid=written), event(uuid=f" {uuid(7)} ")))
    assert (status, list(body["results"])) == (200, [written, f" {uuid(7)} "])
    assert {str(one.uuid) for one in captures(api)} == {written.lower(), uuid(7)}


WRONG: list[tuple[Any, int, str]] = [
    (b"", 400, "empty_body"),
    (b"{", 400, "request_parsing_error"),
    (b"NaN", 400, "request_parsing_error"),
    (b"[" * 100_000, 400, "request_parsing_error"),
    ([], 400, "invalid_batch"),
    ({}, 400, "invalid_batch"),
    ({"batch": {}}, 400, "invalid_batch"),
    (batch(), 400, "empty_batch"),
    (batch(1), 400, "invalid_batch"),
    (batch(*[event(index) for index in range(10_001)]), 400, "invalid_batch"),
    (batch(event(), created_at="soon"), 400, "invalid_batch"),
    (batch(event(), created_at=7), 400, "invalid_batch"),
    (batch(event(), event(2, uuid=None)), 400, "missing_event_uuid"),
    (batch(event(), event(2, uuid="")), 400, "missing_event_uuid"),
    (batch(event(), event(2, uuid="x")), 400, "invalid_event_uuid"),
    (batch(event(), event(2, uuid=7)), 400, "invalid_event_uuid"),
    (batch(event(), event(2, uuid=[])), 400, "invalid_event_uuid"),
    (batch(event(10), event(10, uuid=uuid(10).upper())), 400, "duplicate_event_uuid"),
    (b" " * (20 * 1_048_576 + 1), 413, "payload_too_large"),
]


async def test_what_is_wrong_with_a_whole_request_stores_nothing(api: Api) -> None:
    for body, status, error in WRONG:
        answered, said, headers = await post(api, body, Origin="https://shop.example")
        assert (answered, said["error"]) == (status, error)
        assert set(said) == {"error", "error_description", "error_uri"} and said["error_description"]
        assert headers["Access-Control-Allow-Origin"] == "https://shop.example"
        assert headers["Content-Type"] == "application/json"
    assert api.commands() == []


async def test_a_body_that_is_not_what_its_encoding_says_is_refused(api: Api) -> None:
    for encoding, compress in COMPRESS.items():
        whole = compress(orjson.dumps(RECORDED))
        for body in (b"garbage", b"\x00", whole[:-5], whole + b"x", whole[:1]):
            status, said, _ = await post(api, body, Content_Encoding=encoding)
            assert (status, said["error"]) == (400, "request_decoding_error"), (encoding, body[:20])
    assert api.commands() == []


async def test_a_bomb_is_413_in_every_encoding(api: Api) -> None:
    for encoding, compress in COMPRESS.items():
        status, said, _ = await post(api, compress(b" " * 50_000_000), Content_Encoding=encoding)
        assert (status, said["error"]) == (413, "payload_too_large"), encoding


WRONG_HEADERS: list[tuple[dict[str, str | None], int, str]] = [
    ({"Authorization": None}, 401, "missing_authorization"),
    ({"Authorization": "Bearer "}, 401, "missing_authorization"),
    ({"Authorization": f"Basic {TOKEN}"}, 401, "missing_authorization"),
    ({"Authorization": "Bearer phc_nobody"}, 401, "invalid_api_token"),
    ({"Authorization": f"Bearer {PERSONAL_KEY}"}, 401, "invalid_api_token"),
    ({"PostHog-Attempt": "0"}, 400, "invalid_header_value"),
    ({"PostHog-Attempt": "one"}, 400, "invalid_header_value"),
    ({"PostHog-Attempt": "-1"}, 400, "invalid_header_value"),
    ({"PostHog-Request-Id": "x"}, 400, "invalid_header_value"),
    ({"PostHog-Request-Timestamp": "1795426700"}, 400, "invalid_header_value"),
    ({"PostHog-Request-Timestamp": "2026-13-01T00:00:00Z"}, 400, "invalid_header_value"),
    ({"Content-Type": "text/plain"}, 415, "unsupported_content_type"),
    ({"Content-Type": None}, 415, "unsupported_content_type"),
    ({"Content-Encoding": "lz4"}, 415, "unsupported_encoding"),
    ({"Content-Encoding": "gzip, br"}, 415, "unsupported_encoding"),
]


async def test_a_header_that_is_wrong_is_named(api: Api) -> None:
    for headers, status, error in WRONG_HEADERS:
        answered, said, answer = await post(api, batch(event()), **headers)
        assert (answered, said["error"]) == (status, error), headers
        assert ("WWW-Authenticate" in answer) == (status == 401)
    assert api.commands() == []


async def test_all_missing_headers_are_named_at_once(api: Api) -> None:
    status, said, _ = await post(api, batch(event()), **dict.fromkeys(REQUIRED))
    assert (status, said["error"]) == (400, "missing_required_headers")
    assert all(name in said["error_description"] for name in REQUIRED)
    _, said, _ = await post(api, batch(event()), PostHog_Attempt=None, PostHog_Sdk_Info=" ")
    assert "PostHog-Sdk-Info, PostHog-Attempt." in said["error_description"]
    assert api.commands() == []


async def test_the_bearer_scheme_is_read_in_any_case(api: Api) -> None:
    assert (await post(api, batch(event()), Authorization=f"bearer   {TOKEN} "))[0] == 200


async def test_a_log_that_is_away_is_503_for_the_whole_and_a_second_attempt_is_stored(api: Api) -> None:
    api.log.away = True
    status, said, headers = await post(api, RECORDED, Origin="https://shop.example")
    assert (status, said["error"], headers["Retry-After"]) == (503, "service_unavailable", "1")
    assert "Retry-After" in headers["Access-Control-Expose-Headers"]
    api.log.away = False
    assert (await post(api, RECORDED, PostHog_Attempt="2"))[0] == 200
    assert len(captures(api)) == 3


async def test_a_body_that_never_ends_is_408(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.http.guards.admission.BODY_SECONDS_MAX", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n{lines}\r\n{{".encode())
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"}")
    assert b" 408 " in answer and b'"error":"request_timeout"' in answer
    writer.close()
    await writer.wait_closed()


async def test_preflights_are_answered_and_other_methods_are_405(api: Api) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Headers": "authorization,posthog-attempt"}
    async with api.client.options(PATH, headers=asked) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Headers"] == "authorization,posthog-attempt"
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
        async with api.client.request(method, PATH, headers=asked) as response:
            assert response.status == 405 and response.headers["Access-Control-Allow-Origin"] == asked["Origin"]
