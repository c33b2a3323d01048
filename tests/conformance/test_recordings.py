"""POST /s over HTTP: what posthog-js sends, what is refused, and an object store that is away, slow or late."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
import pytest

from services.api.writes import block_writer as blocks
from shared.domain.commands import RecordBlock
from shared.domain.ids import fragment_id
from shared.runtime.clock import ManualClock
from shared.store.objects import LANDED_SECONDS_MAX, MARKER
from tests.support import history
from tests.support.api import NOW, PERSONAL_KEY, TOKEN, Api, serving
from tests.support.snapshots import BEGAN_MS, SESSION, WINDOW, body, event, lines, snapshots

OK = b'{"status":"Ok"}'


@pytest.fixture
async def api(migrated_url: str) -> AsyncIterator[Api]:
    async with serving(migrated_url) as served:
        yield served


@pytest.fixture
async def own_api(engine_url: str) -> AsyncIterator[Api]:
    """On a database of its own: for what is projected, whose positions are those of this log."""
    async with serving(engine_url) as served:
        yield served


async def post(api: Api, sent: bytes, path: str = "/s/", kind: str = "text/plain", **more: str) -> tuple[int, Any, Any]:
    headers = {"Content-Type": kind} | {name.replace("_", "-"): value for name, value in more.items()}
    async with api.client.post(path, data=sent, headers=headers) as response:
        raw = await response.read()
        return response.status, orjson.loads(raw) if raw else None, response.headers


def ours(*names: str, **properties: Any) -> list[dict[str, Any]]:
    return [event(name, token=TOKEN, **properties) for name in names]


def records(api: Api) -> list[RecordBlock]:
    return [one for one in api.commands() if isinstance(one, RecordBlock)]


async def objects(api: Api) -> list[str]:
    return [path for path in await api.objects.paths() if path != MARKER]


async def read(api: Api, path: str, sent: Api | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {PERSONAL_KEY}"}
    async with api.client.get(f"/api/projects/1/persons{path}", headers=headers) as response:
        return response.status, await response.read()


async def shown(api: Api, name: str, session: str = SESSION) -> list[Any]:
    """The snapshots of a session as a reader of the API gets them, once all is projected."""
    born = orjson.dumps({"api_key": TOKEN, "event": "e", "distinct_id": name})
    assert (await post(api, born, "/e/", "application/json"))[0] == 200
    await history.projected(api.context.store, api.log)
    status, raw = await read(api, f"/{fragment_id(1, name)}/recordings/{session}")
    assert status == 200, raw
    return [json.loads(line) for line in raw.split(b"\n") if line]


async def test_what_the_browser_sends_is_stored_as_it_is_and_played_line_by_line(own_api: Api) -> None:
    api = own_api
    sent = ours("u1")
    status, answer, headers = await post(api, body(*sent))
    assert (status, answer) == (200, {"status": "Ok"})
    (record,) = records(api)
    assert headers["Position"]
    assert (record.session, record.window, record.uuid) == (SESSION, WINDOW, UUID(sent[0]["uuid"]))
    assert record.fragment == fragment_id(1, "u1")
    assert (record.started_at, record.ended_at) == (BEGAN_MS * 1_000, (BEGAN_MS + 1_077) * 1_000)
    assert await objects(api) == [record.object]
    assert len(await api.objects.read(record.object) or b"") == record.length
    assert await shown(api, "u1") == lines(*sent)


@pytest.mark.parametrize("window", [None, "", WINDOW])
async def test_the_window_is_that_of_the_session_when_there_is_none(api: Api, window: str | None) -> None:
    sent = event("u1", token=TOKEN, **{"$window_id": window})
    assert (await post(api, body(sent)))[0] == 200
    assert records(api)[0].window == (window or SESSION)


async def test_a_clock_that_is_wrong_is_corrected_and_the_snapshots_are_not_changed(own_api: Api) -> None:
    api = own_api
    wrong = ours("u1")[0] | {"sent_at": "2026-11-23T10:38:20Z"}  # an hour ahead: NOW is 09:38:20
    wrong["properties"]["$snapshot_data"] = snapshots(BEGAN_MS + 3_600_000)
    assert (await post(api, body(wrong)))[0] == 200
    assert NOW == 1_795_426_700_000_000
    assert records(api)[0].started_at == BEGAN_MS * 1_000
    assert await shown(api, "u1") == lines(wrong)


ONE = orjson.dumps(event("u1", token=TOKEN))
SHAPES: dict[str, tuple[bytes, str, str]] = {
    "one event": (ONE, "/s/", "application/json"),
    "without a slash": (ONE, "/s", "application/json"),
    "an array": (b"[" + ONE + b"]", "/s/", "text/plain"),
    "a batch": (b'{"api_key":"' + TOKEN.encode() + b'","batch":[' + ONE + b"]}", "/s/", "application/json"),
    "gzip that says something else": (gzip.compress(ONE), "/s/?compression=base64", "application/json"),
    "base64": (base64.b64encode(ONE), "/s/?compression=base64", "text/plain"),
    "a form": (b"data=" + quote(base64.b64encode(ONE)).encode(), "/s/", "application/x-www-form-urlencoded"),
    "pretty": (json.dumps(orjson.loads(ONE), indent=2).encode(), "/s/", "application/json"),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_shape_and_encoding_is_read(own_api: Api, shape: str) -> None:
    api = own_api
    assert (await post(api, *SHAPES[shape]))[0] == 200
    assert await shown(api, "u1") == lines(orjson.loads(ONE))


async def test_one_snapshot_need_not_be_in_a_list(own_api: Api) -> None:
    api = own_api
    alone = snapshots()[0]
    assert (await post(api, body(*ours("u1", **{"$snapshot_data": alone}))))[0] == 200
    assert await shown(api, "u1") == [alone | {"windowId": WINDOW}]


async def test_half_a_character_is_replaced_and_harms_no_neighbour(own_api: Api) -> None:
    api = own_api
    raw = orjson.dumps(ours("u1", **{"$snapshot_data": [{"type": 3, "text": "LONE", "timestamp": 1}]}))
    assert (await post(api, raw.replace(b"LONE", b"a\\ud83dz")))[0] == 200
    assert [one["text"] for one in await shown(api, "u1")] == ["a\ufffdz"]


@pytest.mark.parametrize(
    ("changed", "attr"),
    [
        ({"$session_id": None}, "properties.$session_id"),
        ({"$session_id": 7}, "properties.$session_id"),
        ({"$session_id": "s" * 71}, "properties.$session_id"),
        ({"$session_id": "a_b"}, "properties.$session_id"),
        ({"$session_id": "a\n"}, "properties.$session_id"),
        ({"$window_id": 7}, "properties.$window_id"),
        ({"$window_id": "w" * 201}, "properties.$window_id"),
        ({"$snapshot_data": None}, "properties.$snapshot_data"),
        ({"$snapshot_data": []}, "properties.$snapshot_data"),
        ({"$snapshot_data": "text"}, "properties.$snapshot_data"),
        ({"$snapshot_data": [{}, 7]}, "properties.$snapshot_data"),
        ({"distinct_id": None}, "distinct_id"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_wrong_is_named_and_nothing_of_it_is_stored(api: Api, changed: dict[str, Any], attr: str) -> None:
    status, answer, _ = await post(api, orjson.dumps(event("u1", token=TOKEN, **changed)), kind="application/json")
    assert (status, answer["type"], answer["attr"]) == (400, "validation_error", attr), answer
    assert (api.commands(), await objects(api)) == ([], [])


@pytest.mark.parametrize("session", ["s" * 70, "A-9"])
async def test_a_session_id_at_its_limits_is_taken(api: Api, session: str) -> None:
    assert (await post(api, body(*ours("u1", **{"$session_id": session}))))[0] == 200


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", "parse_error"), (b"[", "parse_error"), (b"7", "parse_error"), (b"[]", "invalid_input"),
        (b"\x1f\x8b\x08broken", "invalid_input"), (b'{"batch":[]}', "invalid_input"),
        (b"[" * 100_000, "parse_error"),
    ],
    ids=range(7),
)  # fmt: skip
async def test_a_body_that_is_none_is_400(api: Api, sent: bytes, code: str) -> None:
    status, answer, _ = await post(api, sent)
    assert (status, answer["code"]) == (400, code)


@pytest.mark.parametrize("element", [7, None, "x", [], {}, {"event": "$snapshot"}, {"properties": 7}])
async def test_an_element_that_is_no_event_is_400_or_401(api: Api, element: Any) -> None:
    status, answer, _ = await post(api, orjson.dumps({"api_key": TOKEN, "batch": [element]}), kind="application/json")
    assert status == 400 and answer["attr"].startswith("batch[0]"), answer
    assert (await post(api, orjson.dumps([element])))[0] == 401


async def test_of_a_batch_the_good_ones_are_stored_and_the_others_are_told(api: Api) -> None:
    good, other = ours("u1", "u2")
    page = {"event": "$pageview", "properties": {"token": TOKEN, "distinct_id": "u1"}}
    status, answer, headers = await post(api, body(good, page, ours("u1", **{"$session_id": "ä"})[0], other))
    assert (status, answer["status"]) == (200, "Ok")
    assert [(one["index"], one["field"]) for one in answer["warnings"]] == [(1, "event"), (2, "properties.$session_id")]
    assert "$snapshot" in answer["warnings"][0]["why"]
    assert headers["Position"] and [one.uuid for one in records(api)] == [UUID(good["uuid"]), UUID(other["uuid"])]


@pytest.mark.parametrize("token", ["", "phc_wrong", None])
async def test_without_a_known_token_nothing_is_taken(api: Api, token: str | None) -> None:
    assert (await post(api, body(event("u1", token=token))))[0] == 401  # type: ignore[arg-type]
    assert (await post(api, body(*ours("u1"), event("u2", token="phc_other"))))[0] == 401
    assert api.commands() == []


async def test_a_page_of_any_origin_may_send_and_read_the_error(api: Api) -> None:
    origin = "https://shop.example"
    async with api.client.options("/s/", headers={"Origin": origin}) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, origin)
    status, _, headers = await post(api, b"[", Origin=origin)
    assert (status, headers["Access-Control-Allow-Origin"]) == (400, origin)
    assert (await post(api, body(*ours("u1")), "/s/?beacon=1", Origin=origin))[:2] == (204, None)


async def test_an_object_store_that_is_away_is_503_and_what_is_sent_again_is_read_once(own_api: Api) -> None:
    """A kill between the rows and the object leaves the same: rows of an object that is not there."""
    api = own_api
    sent = ours("u1")
    await post(api, body(*ours("u2")))  # the store has its name
    api.objects.away = True
    status, answer, headers = await post(api, body(*sent))
    assert (status, answer["code"], headers["Retry-After"]) == (503, "unavailable", "1")
    assert len(records(api)) == 2 and len(await objects(api)) == 1
    assert await shown(api, "u1") == []  # rows, and nothing behind them: no error, no broken line

    api.objects.away = False
    assert (await post(api, body(*sent)))[0] == 200
    assert (await post(api, body(*sent)))[0] == 200  # an answer that was lost
    assert await shown(api, "u1") == lines(*sent)
    _, raw = await read(api, f"/{fragment_id(1, 'u1')}/recordings/")
    (listed,) = orjson.loads(raw)["results"]
    assert (listed["session_id"], listed["blocks"], listed["distinct_ids"]) == (SESSION, 1, ["u1"])


async def test_no_object_is_written_without_its_rows_in_the_log(api: Api) -> None:
    api.log.away = True
    assert (await post(api, body(*ours("u1"))))[0] == 503
    assert await objects(api) == []


async def test_an_object_that_lands_late_is_taken_back(api: Api) -> None:
    clock = api.context.clock
    assert isinstance(clock, ManualClock)

    async def late() -> None:
        clock.us += int(LANDED_SECONDS_MAX * 1e6) + 1

    api.objects.slow = late
    assert (await post(api, body(*ours("u1"))))[0] == 503
    assert len(records(api)) == 1 and await objects(api) == []


async def test_what_comes_while_an_object_is_written_is_the_next_one(own_api: Api) -> None:
    api = own_api
    gate, entered = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        entered.set()
        await gate.wait()

    await post(api, body(*ours("first")))
    api.objects.slow = slow
    waiting = [asyncio.create_task(post(api, body(*ours("u0"))))]
    await entered.wait()
    waiting += [asyncio.create_task(post(api, body(*ours(f"u{number}")))) for number in range(1, 20)]
    while api.context.blocks.waiting < 19:
        await asyncio.sleep(0.005)
    gate.set()
    answers = await asyncio.gather(*waiting)
    assert {status for status, _, _ in answers} == {200}
    assert len(await objects(api)) == 3 and len(records(api)) == 21
    shared = {one.object for one in records(api)[2:]} | {one.object for one in records(api)}
    assert len(shared) == 3
    for number in (0, 7, 19):
        assert len(await shown(api, f"u{number}")) == 3


async def test_beyond_what_may_wait_clients_are_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.context.blocks.capacity, "size_max", 100)
    status, answer, _ = await post(api, body(*ours("u1")))
    assert (status, answer["detail"]) == (503, "The object store does not keep up.")
    assert api.commands() == []


async def test_nobody_waits_longer_than_the_limit_and_what_is_given_up_is_not_written(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "ANSWER_SECONDS_MAX", 0.2)
    gate, entered = asyncio.Event(), asyncio.Event()

    async def stuck() -> None:
        entered.set()
        await gate.wait()

    api.objects.slow = stuck
    first = asyncio.create_task(post(api, body(*ours("u1"))))
    await entered.wait()
    second = await post(api, body(*ours("u2")))
    assert (await first)[0] == second[0] == 503
    gate.set()
    while api.context.blocks.capacity.size:
        await asyncio.sleep(0.005)
    assert [one.fragment for one in records(api)] == [fragment_id(1, "u1")]


async def test_a_body_as_large_as_may_be_and_one_byte_more(api: Api) -> None:
    filling = "x" * (21 * 1_048_576)
    assert (await post(api, gzip.compress(orjson.dumps(ours("u1", filling=filling)), 1)))[0] == 413
    assert (await post(api, orjson.dumps(ours("u1", filling=filling))))[0] == 413
    assert api.commands() == []
