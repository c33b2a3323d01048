"""Capture v0 over HTTP: the recorded requests of real SDKs, and the documented answers."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
import pytest

from services.api.capture.v0 import WARNINGS_MAX
from shared.domain.commands import Capture, MergePersons, Write
from shared.domain.ids import parse_positions
from shared.inputs.times import time_us_of
from tests.support.api import NOW, PERSONAL_KEY, TOKEN, Api, serving
from tests.support.recorded import ANON, BROWSER_SDK, NODE_SDK, PYTHON_SDK

PATHS = ("/batch", "/capture", "/e", "/i/v0/e", "/track", "/engage")
OK = b'{"status":"Ok"}'
LZ64 = "N4IgLg9g1gpgdiAXCADgCwMYH0wwM5ggA0IMAbvIcjMSACYCWBDcGYWDdSIA5gE4AfuAAJAvBuAAPZABfIA="
"""An event of `grün 😀` by lzstring, as old posthog-js sent it."""


@pytest.fixture
async def api(migrated_url: str) -> AsyncIterator[Api]:
    async with serving(migrated_url) as served:
        yield served


def event(**changed: Any) -> dict[str, Any]:
    return {"api_key": TOKEN, "event": "e", "distinct_id": "d"} | changed


async def post(api: Api, body: Any, path: str = "/batch/", **headers: str) -> tuple[int, bytes, Any]:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with api.client.post(path, data=data, headers=sent) as response:
        return response.status, await response.read(), response.headers


async def test_the_python_sdks_batch_is_stored_as_it_was_meant(api: Api) -> None:
    status, body, headers = await post(api, PYTHON_SDK, Content_Type="application/json")
    assert (status, body) == (200, OK)
    captures = {one.event: one for one in api.commands() if isinstance(one, Capture)}
    assert len(captures) == 6
    order = captures["order placed"]
    assert (order.set, order.unset) == ({"plan": "pro"}, ("old_prop",))
    assert order.set_once == {"first_seen": "2026-01-01", "$initial_os": "Linux"}
    assert order.lifted == {"$os": "Linux"}
    assert captures["$set"].set == {"email": "a@b.c"}
    assert captures["personless ev"].person is False
    assert captures["$groupidentify"].set == {}
    (merge,) = (one for one in api.commands() if isinstance(one, MergePersons))
    assert (merge.into_id, merge.source_id, merge.mode) == ("anon-1", "u1", "alias")
    positions = parse_positions(headers["Position"])
    assert {position.topic for position in positions} == {"personlog.commands", "personlog.identity"}


async def test_the_events_of_a_batch_keep_their_order_in_their_stamps(api: Api) -> None:
    await post(api, PYTHON_SDK)
    stamps = {one.event: one.at for one in api.commands() if isinstance(one, Capture)}
    assert sorted(stamps, key=lambda name: stamps[name]) == [one["event"] for one in PYTHON_SDK["batch"]]
    assert len(set(stamps.values())) == len(stamps)


async def test_the_node_sdks_gzip_with_its_header_is_read(api: Api) -> None:
    status, body, _ = await post(
        api, gzip.compress(orjson.dumps(NODE_SDK)), Content_Type="application/json", Content_Encoding="gzip"
    )
    assert (status, body) == (200, OK)
    assert [type(one) for one in api.commands()].count(MergePersons) == 1


@pytest.mark.parametrize("path", ["/e/", "/i/v0/e/"])
async def test_the_browsers_gzip_without_any_hint_is_read_and_merges(api: Api, path: str) -> None:
    status, body, headers = await post(
        api, gzip.compress(orjson.dumps(BROWSER_SDK)), path, Content_Type="text/plain", Origin="https://shop.example"
    )
    assert (status, body) == (200, OK)
    assert headers["Access-Control-Allow-Origin"] == "https://shop.example"
    capture = next(one for one in api.commands() if isinstance(one, Capture))
    assert (capture.distinct_id, capture.set) == ("u1", {"email": "a@b.c"})
    sent_time = time_us_of(BROWSER_SDK["batch"][0]["timestamp"])
    assert capture.timestamp == sent_time, "two minutes are no wrong clock"
    birth = next(one for one in api.commands() if isinstance(one, Write))
    assert birth.distinct_id == ANON
    assert next(one for one in api.commands() if isinstance(one, MergePersons)).mode == "identify"


async def test_every_path_takes_every_shape_with_and_without_a_slash(api: Api) -> None:
    shapes = (event(), [event(), event()], {"token": TOKEN, "batch": [{"event": "e", "distinct_id": "d"}]})
    for path in PATHS:
        for shape, slash in zip(shapes, ("", "/", ""), strict=True):
            assert (await post(api, shape, path + slash))[:2] == (200, OK), (path, shape)
    assert len(api.commands()) == len(PATHS) * 4


async def test_forms_and_queries_are_read(api: Api) -> None:
    plain = base64.b64encode(orjson.dumps(event(properties={"text": ">>>???"}))).decode()
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert (await post(api, f"data={quote(plain)}".encode(), "/e/?compression=base64", **form))[:2] == (200, OK)
    assert (await post(api, f"data={plain}".encode(), "/e/", **form))[:2] == (200, OK)
    async with api.client.get(f"/e/?data={quote(plain)}") as response:
        assert (response.status, await response.read()) == (200, OK)
    async with api.client.get("/e/", params={"data": orjson.dumps(event()).decode()}) as response:
        assert response.status == 200
    assert len(api.commands()) == 4


async def test_lz64_is_read_in_a_body_a_form_and_a_query(api: Api) -> None:
    params = {"compression": "lz64"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    data = quote(LZ64)
    async with api.client.post("/e/", params=params, data=LZ64) as response:
        assert response.status == 200
    async with api.client.post("/e/", data=f"compression=lz64&data={data}", headers=form) as response:
        assert response.status == 200
    async with api.client.get("/e/", params=params | {"data": LZ64}) as response:
        assert response.status == 200
    assert [one.distinct_id for one in api.commands() if isinstance(one, Capture)] == ["grün 😀"] * 3
    async with api.client.post("/e/", params=params, data=LZ64[:-8]) as response:
        assert (response.status, (await response.json())["code"]) == (400, "invalid_input")


async def test_engage_without_a_name_means_identify(api: Api) -> None:
    nameless = {"token": TOKEN, "$distinct_id": "d", "$set": {"a": 1}}
    for path in ("/engage", "/engage/"):
        assert (await post(api, nameless, path))[:2] == (200, OK)
    assert (await post(api, event(), "/engage/"))[0] == 200
    assert (await post(api, nameless, "/track/"))[0] == 400
    stored = sorted((one.event, one.set.get("a")) for one in api.commands() if isinstance(one, Capture))
    assert stored == [("$identify", 1), ("$identify", 1), ("e", None)]


async def test_sent_at_of_the_query_corrects_the_clock_and_a_cache_buster_does_not(api: Api) -> None:
    hour, at = 3_600_000_000, NOW - 3_600_000_000
    timely = event(timestamp=at // 1_000_000)
    for query in (f"_={at // 1_000}", f"sent_at={at // 1_000}", "_=5", f"_={at // 1_000_000}"):
        assert (await post(api, timely, f"/e/?{query}"))[0] == 200
    times = sorted(one.timestamp for one in api.commands() if isinstance(one, Capture))
    assert times == [NOW - hour, NOW - hour, NOW, NOW]


async def test_a_beacon_is_answered_with_nothing(api: Api) -> None:
    assert (await post(api, event(), "/e/?beacon=1"))[:2] == (204, b"")
    assert len(api.commands()) == 1


async def test_preflights_mirror_what_they_ask_for(api: Api) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Headers": "content-type,x-y"}
    async with api.client.options("/batch/", headers=asked) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        assert response.headers["Access-Control-Allow-Headers"] == "content-type,x-y"
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert response.headers["Access-Control-Allow-Methods"] == "GET, POST, OPTIONS"


async def test_errors_can_be_read_by_a_browser_too(api: Api) -> None:
    for body in (b"{", {"batch": [event()], "api_key": "phc_nobody"}, {"batch": [{}, {}], "token": TOKEN}):
        status, _, headers = await post(api, body, Origin="https://shop.example")
        assert status in (400, 401) and headers["Access-Control-Allow-Origin"] == "https://shop.example"


async def test_every_answer_can_be_read_by_a_browser_whoever_makes_it(api: Api) -> None:
    origin = {"Origin": "https://shop.example"}
    for method in ("HEAD", "PUT", "PATCH", "DELETE"):
        for path in (*PATHS, "/batch/"):
            async with api.client.request(method, path, headers=origin) as response:
                assert response.status == 405 and response.headers["Access-Control-Allow-Origin"] == origin["Origin"]
                assert {"GET", "OPTIONS", "POST"} == set(response.headers["Allow"].split(", "))
                body = await response.read()
                assert method == "HEAD" or orjson.loads(body)["code"] == "method_not_allowed"
    status, content, headers = await post(api, b" " * (20 * 1_048_576 + 1), **origin)
    assert (status, orjson.loads(content)["code"]) == (413, "too_large")
    assert headers["Access-Control-Allow-Origin"] == origin["Origin"]


async def test_flags_are_answered_with_none(api: Api) -> None:
    for path in ("/flags/?v=4", "/decide/"):
        status, body, _ = await post(api, {"api_key": TOKEN, "distinct_id": "d"}, path)
        assert status == 200 and orjson.loads(body)["flags"] == {}
    assert api.commands() == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"event": "e", "distinct_id": "d"}, 401, "not_authenticated"),
        (event(api_key=""), 401, "not_authenticated"),
        (event(api_key="phc_nobody"), 401, "authentication_failed"),
        (event(api_key=PERSONAL_KEY), 401, "authentication_failed"),
        ([event(), event(api_key="phc_other")], 401, "authentication_failed"),
        ([event(), {"event": "e", "distinct_id": "d"}], 401, "authentication_failed"),
        ({"api_key": TOKEN, "batch": []}, 400, "invalid_input"),
        ([], 400, "invalid_input"),
    ],
)
async def test_what_is_wrong_with_a_whole_request_stores_nothing(api: Api, body: Any, status: int, code: str) -> None:
    answered, content, headers = await post(api, body)
    assert (answered, orjson.loads(content)["code"]) == (status, code)
    assert ("WWW-Authenticate" in headers) == (status == 401)
    assert api.commands() == []


async def test_the_batchs_token_wins_over_those_of_its_events(api: Api) -> None:
    batch = {"api_key": TOKEN, "batch": [event(api_key="phc_other"), {"event": "e", "distinct_id": "d"}]}
    assert (await post(api, batch))[0] == 200
    assert len(api.commands()) == 2


async def test_good_events_are_stored_and_the_others_are_told(api: Api) -> None:
    huge = event(properties={"text": "y" * 1_100_000})
    batch = [event(distinct_id="good-1"), event(distinct_id=" "), huge, event(distinct_id="good-2")]
    status, content, headers = await post(api, {"api_key": TOKEN, "batch": batch})
    body = orjson.loads(content)
    assert (status, body["status"]) == (200, "Ok")
    assert [(one["index"], one["field"]) for one in body["warnings"]] == [(1, "distinct_id"), (2, "")]
    assert all(set(one) == {"index", "field", "why"} and one["why"] for one in body["warnings"])
    assert {one.distinct_id for one in api.commands() if isinstance(one, Capture)} == {"good-1", "good-2"}
    assert parse_positions(headers["Position"])


async def test_warnings_are_bounded_and_everything_is_stored(api: Api) -> None:
    batch = [event(timestamp="soon", uuid=str(UUID(int=number))) for number in range(1, WARNINGS_MAX + 10)]
    status, content, _ = await post(api, {"api_key": TOKEN, "batch": batch})
    assert status == 200 and len(orjson.loads(content)["warnings"]) == WARNINGS_MAX
    assert len(api.commands()) == len(batch)


async def test_what_is_dropped_by_rule_is_not_told(api: Api) -> None:
    merge = event(event="$identify", properties={"$anon_distinct_id": "a", "$process_person_profile": False})
    status, content, _ = await post(api, [event(), merge, event(distinct_id="")])
    assert status == 200 and [one["index"] for one in orjson.loads(content)["warnings"]] == [2]
    assert len(api.commands()) == 1


async def test_an_event_too_large_for_the_log_does_not_take_its_neighbours_along(api: Api) -> None:
    huge = event(properties={"text": "y" * 1_100_000})
    status, content, _ = await post(api, [event(), huge])
    assert status == 200 and [one["index"] for one in orjson.loads(content)["warnings"]] == [1]
    assert len(api.commands()) == 1
    status, content, _ = await post(api, huge)
    assert (status, orjson.loads(content)["code"]) == (413, "too_large")
    assert len(api.commands()) == 1


@pytest.mark.parametrize("path", ["//batch/", "//e/", "/i//v0/e/", "//capture", "//track//"])
async def test_doubled_slashes_in_the_path_are_taken(api: Api, path: str) -> None:
    content = orjson.dumps(event())
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 ") and len(api.commands()) == 1


async def test_padding_that_shrinks_a_thousand_times_is_still_an_event(api: Api) -> None:
    padded = event(properties={"text": "y" * 900_000})
    assert (await post(api, gzip.compress(orjson.dumps(padded))))[:2] == (200, OK)


async def test_a_resent_batch_says_the_same_with_the_same_keys(api: Api) -> None:
    """Duplicates are the fold's to recognise; the API must only not blur them."""
    for _ in range(2):
        assert (await post(api, NODE_SDK))[0] == 200
    captures = [one for one in api.commands() if isinstance(one, Capture)]
    merges = [one for one in api.commands() if isinstance(one, MergePersons)]
    assert len(captures) == 4 and len({one.uuid for one in captures}) == 2
    assert len(merges) == 2 and len({one.key for one in merges}) == 1 and merges[0].key


async def test_a_log_that_is_away_is_503_with_a_time_to_try_again(api: Api) -> None:
    api.log.away = True
    status, content, headers = await post(api, event(), Origin="https://shop.example")
    assert (status, orjson.loads(content)["code"]) == (503, "unavailable")
    assert headers["Retry-After"] and headers["Access-Control-Allow-Origin"]
    api.log.away = False
    assert (await post(api, event()))[0] == 200


async def test_a_body_that_never_ends_is_408_and_others_are_served_meanwhile(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.http.guards.admission.BODY_SECONDS_MAX", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(b"POST /batch/ HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
    assert (await post(api, event()))[0] == 200
    async with asyncio.timeout(60):
        assert b" 408 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "head",
    [
        b"POST /batch/ HTTP/1.1\r\nOrigin: \xff\xfe\r\n",
        b"POST /batch/ HTTP/1.1\r\nOrigin: https://a\r\nAccess-Control-Request-Headers: \xff\r\n",
        b"POST /batch/?compression=%ff&sent_at=%ed%a0%80 HTTP/1.1\r\n",
        b"POST /batch/ HTTP/1.1\r\nContent-Encoding: gz\xff\r\n",
        b"POST /batch/ HTTP/1.1\r\nContent-Type: \xff/\xff; charset=\xff\r\n",
        b"POST /batch/ HTTP/1.1\r\nContent-Encoding: gzip\r\n",
        b"GET /batch/?data=%ff%fe%ed%a0%80 HTTP/1.1\r\n",
    ],
)
async def test_headers_and_queries_that_are_no_text_never_make_a_5xx(api: Api, head: bytes) -> None:
    body = orjson.dumps(event())
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(head + b"Host: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with asyncio.timeout(60):
        status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    assert status in (200, 400)
    assert len(api.commands()) == (status == 200)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x"])
async def test_a_false_content_encoding_hurts_neither_the_request_nor_the_connection(api: Api, encoding: str) -> None:
    for body in (orjson.dumps(event()), gzip.compress(orjson.dumps(event()))):
        assert (await post(api, body, Content_Encoding=encoding))[:2] == (200, OK)
    assert (await post(api, b"\x1f\x8b\x08garbage", Content_Encoding=encoding))[0] == 400
    assert (await post(api, event()))[0] == 200
