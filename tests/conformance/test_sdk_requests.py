"""What SDKs ask when they start, and their recorded requests replayed: answers, and what is in the log afterwards."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.api.capture.sdk_endpoints import STATIC_SECONDS, STUBS
from shared.domain.commands import Capture, Command, MergePersons
from shared.domain.errors import NotFound
from shared.store.clickhouse.access import set_recordings
from tests.support.api import NOW, TOKEN, Api, serving
from tests.support.recorder import RECORDINGS

SHOP = "http://shop.example"
STORY = [
    ("$identify", "ada", {"plan": "free"}, {"first_plan": "free"}, ()),
    ("$set", "ada", {"plan": "pro", "theme": "dark"}, {}, ()),
    ("$set_once", "ada", {}, {"first_plan": "pro"}, ()),
    ("tidied", "ada", {}, {}, ("theme",)),
]
"""What changes her, as commands: event, id, set, set_once, unset."""

CHANGES = {
    "python": STORY,
    "node": [
        STORY[0], ("upgraded", "ada", {"plan": "pro", "theme": "dark"}, {"first_plan": "pro"}, ()), STORY[3],
    ],
    "browser": [
        STORY[0], ("$set", "ada", {"plan": "pro", "theme": "dark"}, {"first_plan": "pro"}, ()),
        ("$set", "ada", {}, {}, ("theme",)),
    ] * 2,
}  # fmt: skip
CHANGES |= {
    "rust": CHANGES["node"],
    "go": [
        STORY[0], ("$identify", "ada", {"plan": "pro", "theme": "dark"}, {}, ()),
        ("upgraded", "ada", {}, {"first_plan": "pro"}, ()), STORY[3],
    ],
}  # fmt: skip
CHANGES |= {f"{name}-v1": CHANGES[name] for name in ("python", "node", "rust")}

RECORDED = sorted(path.stem for path in RECORDINGS.glob("*.json"))


@pytest.fixture
def static(tmp_path: Path) -> str:
    (tmp_path / "dist" / "2.0.0").mkdir(parents=True)
    for name in ("array.js", "array.js.map", "integrity.json", "2.0.0/array.js"):
        (tmp_path / "dist" / name).write_text(name)
    (tmp_path / "secret.js").write_text("secret")
    return str(tmp_path / "dist")


@pytest.fixture
async def api(migrated_url: str, static: str) -> AsyncIterator[Api]:
    async with serving(migrated_url, static=static) as served:
        yield served


@pytest.fixture
async def own_api(engine_url: str) -> AsyncIterator[Api]:
    """On a database of its own, whose project may be changed."""
    async with serving(engine_url) as served:
        yield served


async def get(api: Api, path: str, **headers: str) -> tuple[int, bytes, Any]:
    async with api.client.get(path, headers=headers, allow_redirects=False) as response:
        return response.status, await response.read(), response.headers


@pytest.mark.parametrize("name", RECORDED)
async def test_what_an_sdk_really_sent_is_answered_and_stored_as_it_was_meant(migrated_url: str, name: str) -> None:
    async with serving(migrated_url) as api:
        for asked in orjson.loads((RECORDINGS / f"{name}.json").read_bytes()):
            body = base64.b64decode(asked["body"])
            headers = asked["headers"]
            async with api.client.request(asked["method"], asked["path"], data=body, headers=headers) as response:
                assert response.status == asked["status"] == 200, asked["path"]
                assert response.headers.get("Access-Control-Allow-Origin") == headers.get("Origin")
                assert await response.read() != b""
        commands = api.commands()
    assert changes(commands) == CHANGES[name]
    merges = [one for one in commands if isinstance(one, MergePersons)]
    anonymous = {one.distinct_id for one in captures(commands) if one.event == "viewed"}
    assert {(one.into_id, one.source_id, one.mode) for one in merges} == {
        ("ada", "ada-2", "alias"), *(("ada", source, "identify") for source in anonymous)
    }  # fmt: skip
    personless = {one.event for one in captures(commands) if not one.person}
    assert {"viewed"} <= personless <= {"viewed", "$pageview", "nobody"}


def captures(commands: list[Command]) -> list[Capture]:
    """In the order in which they were sent."""
    return sorted((one for one in commands if isinstance(one, Capture)), key=lambda one: one.at)


def changes(commands: list[Command]) -> list[Any]:
    """What was set through her id, without what the SDK adds about the machine."""
    ours = {"plan", "first_plan", "theme", "name"}
    made = [
        (
            one.event, one.distinct_id, {key: value for key, value in one.set.items() if key in ours},
            {key: value for key, value in one.set_once.items() if key in ours}, tuple(one.unset),
        )
        for one in captures(commands)
    ]  # fmt: skip
    return [change for change in made if any(change[2:])]


def test_every_sdk_is_recorded() -> None:
    assert set(RECORDED) == set(CHANGES)


async def test_the_configuration_switches_everything_optional_off(api: Api) -> None:
    status, body, headers = await get(api, f"/array/{TOKEN}/config", Origin=SHOP)
    config = orjson.loads(body)
    assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (200, SHOP, "Origin")
    assert config["analytics"] == {"endpoint": "/i/v0/e/"} and config["supportedCompression"] == ["gzip-js"]
    off = {"hasFeatureFlags", "surveys", "heatmaps", "capturePerformance", "sessionRecording", "captureDeadClicks"}
    assert {name: config[name] for name in off} == dict.fromkeys(off, False)
    assert config["autocapture_opt_out"] is True and config["siteApps"] == []


async def test_the_script_leaves_the_same_where_posthog_js_looks(api: Api) -> None:
    _, config, _ = await get(api, f"/array/{TOKEN}/config")
    status, script, headers = await get(api, f"/array/{TOKEN}/config.js", Origin=SHOP)
    assert (status, headers.getall("Content-Type")) == (200, ["text/javascript; charset=utf-8"])
    assert headers["Access-Control-Allow-Origin"] == SHOP
    shape = r"\(window\.(\w+)=window\.\1\|\|\{\}\)\[(.+?)\]=\{config:(.+),siteApps:\[\]\};"
    left = re.fullmatch(shape, script.decode())
    assert left is not None and left[1] == "_POSTHOG_REMOTE_CONFIG"
    assert (orjson.loads(left[2]), orjson.loads(left[3])) == (TOKEN, orjson.loads(config))


@pytest.mark.parametrize("token", ["a']=alert(1);//", "</script><script>", 'x"]=0;(', "\u2028", "__proto__"])
async def test_no_token_breaks_out_of_the_script(api: Api, token: str) -> None:
    from urllib.parse import quote

    status, script, headers = await get(api, f"/array/{quote(token, safe='')}/config.js")
    if "/" in token:  # it may not name a token at all
        assert status in (200, 404)
    if status == 200:
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert f"[{json.dumps(token, ensure_ascii=False)}]=".encode() in script


async def test_a_project_that_records_says_where_to(own_api: Api) -> None:
    api = own_api
    row = await set_recordings(api.context.store, 1, True, NOW + 1)
    assert (row.recordings, row.name, row.token) == (True, "Default project", TOKEN)
    await api.context.access.refresh()
    _, body, _ = await get(api, f"/array/{TOKEN}/config")
    assert orjson.loads(body)["sessionRecording"]["endpoint"] == "/s/"
    await set_recordings(api.context.store, 1, False, NOW + 2)
    await api.context.access.refresh()
    _, body, _ = await get(api, f"/array/{TOKEN}/config")
    assert orjson.loads(body)["sessionRecording"] is False


async def test_a_project_that_does_not_exist_cannot_record(api: Api) -> None:
    with pytest.raises(NotFound):
        await set_recordings(api.context.store, 99, True, NOW + 1)


async def test_an_unknown_token_is_no_error_and_records_nothing(api: Api) -> None:
    status, body, _ = await get(api, "/array/phc_nobody/config")
    assert status == 200 and orjson.loads(body)["sessionRecording"] is False


@pytest.mark.parametrize("path", ["/flags/?v=2", "/flags?v=4", "/decide/?v=3"])
@pytest.mark.parametrize("body", [b"", b"{", orjson.dumps({"token": TOKEN, "distinct_id": "a"}), b"\x1f\x8b\x08 no"])
async def test_there_are_no_flags_whoever_asks(api: Api, path: str, body: bytes) -> None:
    async with api.client.post(path, data=body, headers={"Origin": SHOP}) as response:
        answer = orjson.loads(await response.read())
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, SHOP)
    none = {"flags": {}, "featureFlags": {}, "featureFlagPayloads": {}, "errorsWhileComputingFlags": False}
    assert none.items() <= answer.items() and answer["requestId"] and answer["evaluatedAt"] == NOW // 1_000
    assert ("supportedCompression" in answer) == path.startswith("/decide")


@pytest.mark.parametrize("sent", ["json", "gzip", "form", "query"])
async def test_older_sdks_get_flags_and_the_projects_configuration_in_one(own_api: Api, sent: str) -> None:
    api = own_api
    await set_recordings(api.context.store, 1, True, NOW + 1)
    await api.context.access.refresh()
    plain = orjson.dumps({"token": TOKEN, "distinct_id": "ada"})
    data = base64.b64encode(plain).decode()
    body: Any = {"json": plain, "gzip": gzip.compress(plain), "form": {"data": data}, "query": None}[sent]
    path = "/decide/?v=3" if sent != "json" else "/flags/?v=2&config=true"
    method = "POST" if body is not None else "GET"
    query = {"data": data} if sent == "query" else {}
    async with api.client.request(method, path, data=body, params=query) as response:
        answer = orjson.loads(await response.read())
    assert (answer["flags"], answer["sessionRecording"]["endpoint"], answer["token"]) == ({}, "/s/", TOKEN)


@pytest.mark.parametrize("path", [stub.path.replace("{token}", TOKEN) for stub in STUBS])
async def test_every_stub_may_be_asked_from_any_page(api: Api, path: str) -> None:
    asked = {"Origin": SHOP, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-posthog"}
    async with api.client.options(path, headers=asked) as response:
        assert response.status == 200 and response.headers["Access-Control-Allow-Headers"] == "x-posthog"
    for slash in ("", "/"):
        status, body, headers = await get(api, path + slash, Origin=SHOP)
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, SHOP) and body != b""
    assert api.commands() == []


@pytest.mark.parametrize(
    ("path", "file"),
    [("array.js", "array.js"), ("array.js?v=1.449.2", "array.js"), ("1.449.2/array.js", "array.js"),
     ("2.0.0/array.js", "2.0.0/array.js"), ("1/array.js.map", "array.js.map")],
)  # fmt: skip
async def test_posthog_js_is_served_from_its_folder_with_and_without_a_version(api: Api, path: str, file: str) -> None:
    status, body, headers = await get(api, f"/static/{path}", Origin=SHOP)
    assert (status, body, headers["Access-Control-Allow-Origin"]) == (200, file.encode(), "*")
    assert headers["Cache-Control"] == f"public, max-age={STATIC_SECONDS}"
    assert headers["X-Content-Type-Options"] == "nosniff"
    again, _, _ = await get(api, f"/static/{path}", **{"If-None-Match": headers["ETag"]})
    assert again == 304


async def test_a_packed_file_goes_to_who_takes_it(api: Api, tmp_path: Path) -> None:
    (tmp_path / "dist" / "array.js.gz").write_bytes(gzip.compress(b"packed"))
    for asked, encoding in (("gzip", "gzip"), ("identity", None)):
        async with api.client.get("/static/array.js", headers={"Accept-Encoding": asked}) as response:
            assert (response.status, response.headers.get("Content-Encoding")) == (200, encoding)
            assert response.content_type == "text/javascript"
            assert await response.read() == (b"packed" if encoding else b"array.js")


@pytest.mark.parametrize(
    "path", ["../secret.js", "..%2fsecret.js", "%2e%2e/secret.js", "1/../../secret.js", "1%2f..%2f..%2fsecret.js",
             "integrity.json", "none.js", "2.0.0", "2.0.0/", "x/array.js", "%00.js", ".js"]
)  # fmt: skip
async def test_nothing_else_is_served(api: Api, path: str) -> None:
    from yarl import URL

    url = api.client.make_url("/").join(URL(f"/static/{path}", encoded=True))
    async with api.client.session.get(url) as response:
        body = orjson.loads(await response.read())
        assert (response.status, body["type"], body["code"]) == (404, "invalid_request", "not_found")


async def test_without_a_folder_the_answer_names_the_setting(migrated_url: str) -> None:
    async with serving(migrated_url) as api:
        status, body, headers = await get(api, "/static/array.js", Origin=SHOP)
    assert (status, headers["Access-Control-Allow-Origin"]) == (404, "*")
    assert "PERSONLOG_STATIC" in orjson.loads(body)["detail"]
