"""What clients and logs hear of an engine that fails: the code at most, never a word of its text."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import pytest
import structlog
from aiohttp import web

from services.api.app import ROUTES
from services.api.http.routing import Route
from shared.runtime.process.lifecycle import serve
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.failures import SAID_CODES, TRANSIENT_CODES
from shared.store.clickhouse.queries import Query
from tests.support import api
from tests.support.processes import free_port

CANARY = "canary-of-ann@example.com"
TEXT = (
    f"Code: %d. DB::Exception: Unknown expression '{CANARY}' near '{CANARY}': while executing 'match({CANARY})'."
    " (SOME_NAME) (version 26.9.2.1)"
)
CODES = sorted(TRANSIENT_CODES | SAID_CODES | {1, 6, 36, 43, 53, 395, 1000, 1002})
BODIES: dict[str, Any] = {
    "batch_by_uuids": {"uuids": [str(UUID(int=1))]}, "batch_by_distinct_ids": {"distinct_ids": ["a"]},
    "bulk_delete": {"distinct_ids": ["a"]}, "merge": {"distinct_id": "b"}, "split": {},
    "update_property": {"key": "a", "value": 1}, "delete_property": {"$unset": "a"}, "purge_property": {"key": "a"},
    "reset_person_distinct_id": {"distinct_id": "a"},
}  # fmt: skip
PERSONS = 300


class FailingEngine:
    """A way to the engine that can answer with an error instead, after some more statements."""

    def __init__(self, engine: str) -> None:
        self.port = free_port()
        self.code = 0
        self.left = 0
        self._engine = engine
        self._session: aiohttp.ClientSession | None = None

    def fail(self, code: int, after: int = 0) -> None:
        self.code, self.left = code, after

    async def handle(self, http: web.Request) -> web.Response:
        body = await http.read()
        if self.code and self.left <= 0:
            headers = {"X-ClickHouse-Exception-Code": str(self.code)}
            return web.Response(status=500, text=TEXT % self.code, headers=headers)
        self.left -= 1
        assert self._session is not None
        kept = {name: value for name, value in http.headers.items() if name.lower() not in ("host", "content-length")}
        async with self._session.request(http.method, self._engine + http.path_qs, data=body, headers=kept) as answer:
            content = await answer.read()
            named = {name: value for name, value in answer.headers.items() if name.lower().startswith("x-")}
            kind = {"Content-Type": answer.headers.get("Content-Type", "text/plain")}
            return web.Response(status=answer.status, body=content, headers=named | kind)


@asynccontextmanager
async def failing(engine_url: str) -> AsyncIterator[tuple[FailingEngine, str]]:
    parts = urlsplit(engine_url)
    engine = FailingEngine(f"http://127.0.0.1:{parts.port}")
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", engine.handle)
    async with aiohttp.ClientSession() as session:
        engine._session = session
        runner = await serve(app, "127.0.0.1", engine.port)
        try:
            yield engine, engine_url.replace(f":{parts.port}/", f":{engine.port}/")
        finally:
            await runner.cleanup()


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, as it would be printed."""
    said = io.StringIO()
    kept = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(said),
        cache_logger_on_first_use=False,
    )
    yield said
    structlog.configure(**kept)


def asked(route: Route) -> tuple[str, str, Any]:
    path = route.path.replace("{id}", str(UUID(int=1))).replace("{request}", str(UUID(int=2)))
    path = path.replace("{session}", "s-1").replace("{key}", "plan")
    query = "timestamp=2026-11-01T00:00:00Z&distinct_id=a" if path == "/properties_at_time" else ""
    query = "key=plan" if path == "/values" else query
    body = BODIES.get(path.rpartition("/")[2]) if route.method == "POST" else None
    body = {"properties": {"a": 1}} if route.method == "PATCH" else body
    return route.method, f"/api/projects/1/persons{path}/?{query}", body


async def test_no_text_of_the_engine_reaches_a_client_or_a_log(engine_url: str, logged: io.StringIO) -> None:
    key = {"Authorization": f"Bearer {api.PERSONAL_KEY}"}
    async with failing(engine_url) as (engine, url), api.serving(url) as served:
        answered = 0
        for route in ROUTES:
            method, path, body = asked(route)
            for code in (47, 241, 6):
                engine.fail(code)
                async with served.client.request(method, path, json=body, headers=key) as answer:
                    text = await answer.text()
                assert CANARY not in text + str(answer.headers), (path, code)
                assert "SOME_NAME" not in text, (path, code)
                assert answer.status in (202, 400, 404, 500, 503), (path, code, text)
                answered += answer.status in (500, 503)
        assert answered > len(ROUTES), "most of them ask the engine"
        for code in CODES:
            engine.fail(code)
            persons = "/api/projects/1/persons"
            for path in (f"{persons}/?search=a", f"{persons}/{UUID(int=1)}/", "/readyz?verbose"):
                async with served.client.get(path, headers=key) as answer:
                    assert CANARY not in await answer.text()
                    assert answer.status in (500, 503), (path, code)
        assert "code 47" in logged.getvalue()
        assert CANARY not in logged.getvalue()
        engine.fail(0)


async def test_an_answer_that_fails_in_the_middle_breaks_off_without_a_word(
    engine_url: str, logged: io.StringIO
) -> None:
    key = {"Authorization": f"Bearer {api.PERSONAL_KEY}"}
    async with failing(engine_url) as (engine, url), api.serving(url) as served:
        store = await Store.connect(engine_url)
        await store.command(Query(name="persons", sql=(
            "INSERT INTO fragments (project, fragment, version, distinct_id, created_at, properties, cells)"
            " SELECT 1, toUUID(concat('00000000-0000-0000-0000-', leftPad(toString(number), 12, '0'))), 1,"
            " toString(number), number + 1, '{}', '{}' FROM numbers({rows:UInt64})"
        )), rows=PERSONS)  # fmt: skip
        await store.close()
        path = "/api/projects/1/persons/?limit=1000"
        async with served.client.get(path, headers=key) as answer:
            assert len((await answer.json())["results"]) == PERSONS
        engine.fail(47, after=5)  # the page, and two rounds of its persons
        async with served.client.get(path, headers=key) as answer:
            assert answer.status == 200
            got = b""
            with pytest.raises(aiohttp.ClientError):
                async for part in answer.content.iter_any():
                    got += part
        assert CANARY.encode() not in got
        assert "an answer broke off" in logged.getvalue()
        assert CANARY not in logged.getvalue()
        for form in ("?format=csv", f"{UUID(int=1)}/export/"):  # whole before they are sent: a proper error
            engine.fail(241, after=5 if form.startswith("?") else 3)
            async with served.client.get(f"/api/projects/1/persons/{form}", headers=key) as answer:
                assert (answer.status, CANARY in await answer.text()) == (503, False)
        assert served.context.spools.bytes == 0
        assert (served.context.gate.running, served.context.gate.waiting) == (0, 0)
        engine.fail(0)
