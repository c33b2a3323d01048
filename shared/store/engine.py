"""The embedded engine host: one chDB path behind ClickHouse's HTTP protocol. Never reads or writes rows of its own.

Any ClickHouse HTTP client talks to it: ours, an analyst's, curl. Each worker is one thread. A worker keeps a session
(a chDB connection, 0.5 ms to make) for every set of settings it was asked for, so settings are never put back: a
session that got `readonly=1` stays read-only, as the engine demands.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple
from uuid import uuid4

from aiohttp import web

from shared.domain.errors import Corrupt
from shared.runtime.ops import add_ops
from shared.store.protocol import BODY_BYTES_MAX, EngineError, Request, authenticate, parse

READ_WORKERS, WRITE_WORKERS = 3, 2
"""A read of a person takes two at a time, and the third is for who counts for long, as the deleter does: with two, its
counts made one read in twenty wait. More only queue inside the engine, and starve the host."""

QUEUE_REQUESTS_MAX = 512
"""Requests that may wait for a worker of one kind; past it the client is told to come back (code 202)."""

SESSIONS_PER_WORKER_MAX = 8
"""Sets of settings kept ready by a worker: the store client uses three."""

GRACE_SECONDS, STOP_SECONDS_MAX = 0.5, 2.0
"""A stop lets running statements end, kills them after the first and gives up on them after the second."""

MERGE_THREADS = max(1, (os.cpu_count() or 1) // 2)
"""For merges and mutations; queries always have the other half of the cores. On two cores with a thread on each, reads
beside an erasure had 1.5 times the p99 of idle ones, with one 1.4; without engine.xml's nice value it was 2.2."""

SERVER_SETTINGS = {
    "mark_cache_size": 134_217_728,
    "index_mark_cache_size": 16_777_216,
    "background_pool_size": MERGE_THREADS,
    "config-file": Path(__file__).with_suffix(".xml"),
}
"""The default caps are 5 GB each; 128 MB hold the marks of some million persons. The file says what has no option."""

STATUS_BY_CODE = {516: 401, 164: 403, 60: 404, 81: 404, 202: 503, 48: 501, 62: 400, 396: 413}
"""Everything else answers 500, as a server does."""

CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
}
"""Enough for a browser to show what it got."""

_LOCAL_FILE = re.compile(rb"\b(?:OUTFILE|INFILE)\b", re.IGNORECASE)
_NAME = rb"(?:`[^`]*`|\"[^\"]*\"|\w+)"
_INSERT_DATA = re.compile(
    rb"\s*(INSERT\s+INTO\s+(?:TABLE\s+)?" + _NAME + rb"(?:\." + _NAME + rb")?"
    rb"\s*(?:\((?:[^()`\"]|`[^`]*`|\"[^\"]*\")*\))?)\s*((?:SETTINGS\s[^()]*?\s)?)\s*FORMAT\s+(\w+)[ \t\f]*\r?\n?",
    re.IGNORECASE,
)
"""An INSERT whose rows follow the statement, in the format it names."""


class Answer(NamedTuple):
    body: bytes
    summary: dict[str, str]


class Engine:
    """One chDB path, opened, with its workers."""

    def __init__(self, data: Path) -> None:
        chdb = import_module("chdb._chdb")  # 0.6 s and 170 MB, so only in the process that serves
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = "&".join(f"{name}={value}" for name, value in SERVER_SETTINGS.items())
        self._open = partial(chdb.connect, f"{data.resolve()}?{options}")
        try:
            self._control = self._open()
        except RuntimeError as error:
            raise Corrupt(f"{data} is open in another engine process, or cannot be opened ({error})") from error
        self._reads = _Workers(READ_WORKERS, self._open)
        self._writes = _Workers(WRITE_WORKERS, self._open)
        zone, version = self._control.query("SELECT timezone(), version()", "TSV", params={}).bytes().split()
        self.zone, self.version = zone.decode(), version.decode()

    async def run(self, request: Request) -> Answer:
        """Run one statement; EngineError if the engine refuses it."""
        insert = _INSERT_DATA.match(request.sql)
        if insert is not None:
            if request.parameters:
                raise EngineError("INSERT with rows takes no query parameters", 48, "NOT_IMPLEMENTED")
            return await self._writes.run(partial(_insert, request, insert))
        kind = self._classify(request.sql)
        if kind == "CONTROL":
            return await self._writes.run(partial(_query, request), forget=True)
        return await (self._writes if kind == "MUTATING" else self._reads).run(partial(_query, request))

    def _classify(self, sql: bytes) -> str:
        """READ_ONLY, MUTATING, CONTROL, or UNKNOWN for what does not parse; 20 microseconds in the engine's parser."""
        if _LOCAL_FILE.search(sql):
            # chDB obeys them as a command-line client would, even with readonly=1; a server's HTTP refuses them too.
            raise EngineError("INTO OUTFILE and FROM INFILE are not allowed", 358, "INTO_OUTFILE_NOT_ALLOWED")
        report = self._control.classify_query(sql.decode("utf-8", "replace"), "default")
        if report["statement_count"] > 1:
            raise EngineError("Syntax error: multi-statements are not allowed", 62, "SYNTAX_ERROR")
        return str(report["query_class"].name)

    def kill_queries(self) -> None:
        """End what runs; its clients get error 394."""
        with suppress(RuntimeError):
            self._control.query("KILL QUERY WHERE query NOT LIKE 'KILL QUERY%' ASYNC", "Null", params={})

    async def close(self) -> None:
        """Close the connections; an acknowledged insert is on disk already."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await asyncio.gather(self._reads.close(), self._writes.close())
        self._control.close()


def application(engine: Engine, *, user: str, password: str) -> web.Application:
    """ClickHouse's HTTP interface: `/ping` and `/`. The caller may add routes of its own."""

    async def ping(_: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def statement(http: web.Request) -> web.Response:
        headers = {"X-ClickHouse-Query-Id": http.query.get("query_id") or str(uuid4())}
        try:
            authenticate(http, user, password)
            request = await parse(http)
            if not request.sql.strip():
                return web.Response(text="Ok.\n", headers=headers)
            answer = await engine.run(request)
        except EngineError as error:
            headers["X-ClickHouse-Exception-Code"] = str(error.code)
            if error.code == 516:
                headers["WWW-Authenticate"] = 'Basic realm="ClickHouse"'
            return web.Response(status=STATUS_BY_CODE.get(error.code, 500), text=f"{error}\n", headers=headers)
        headers["X-ClickHouse-Summary"] = json.dumps(answer.summary)
        headers["X-ClickHouse-Timezone"] = engine.zone
        headers["X-ClickHouse-Format"] = request.format
        headers["Content-Type"] = CONTENT_TYPES.get(request.format, "application/octet-stream")
        return web.Response(body=answer.body, headers=headers)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_get("/ping", ping)
    app.router.add_route("*", "/", statement)
    return app


async def serve(
    *, data: Path, host: str, port: int, user: str, password: str, ready: Callable[[], None] | None = None
) -> None:
    """Serve the engine at `data` until cancelled; `ready` is called once it answers."""
    engine = Engine(data)
    app = application(engine, user=user, password=password)
    add_ops(app, {})
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS_MAX)
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        if ready is not None:
            ready()
        await asyncio.Event().wait()
    finally:
        stop = asyncio.create_task(runner.cleanup())  # takes no more requests, lets the running ones end
        await asyncio.wait({stop}, timeout=GRACE_SECONDS)
        engine.kill_queries()
        await stop
        await engine.close()


class _Worker:
    """One thread and the sessions it keeps."""

    def __init__(self, open_connection: Callable[[], Any]) -> None:
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._open = open_connection
        self._sessions: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def run(self, job: Callable[[Callable[[Request], Any]], Answer], forget: bool) -> Answer:
        try:
            return job(self._session)
        except (RuntimeError, UnicodeError) as error:
            forget = True  # whatever the failure left behind goes with the session
            raise EngineError(str(error)) from None
        finally:
            if forget and self._sessions:
                self._sessions.popitem()[1].close()

    def close(self) -> None:
        while self._sessions:
            self._sessions.popitem()[1].close()

    def _session(self, request: Request) -> Any:
        key = (request.database, request.settings)
        connection = self._sessions.pop(key, None)
        if connection is None:
            connection = self._open()
            try:
                _prepare(connection, request)
            except RuntimeError:
                connection.close()
                raise
        self._sessions[key] = connection
        if len(self._sessions) > SESSIONS_PER_WORKER_MAX:
            self._sessions.popitem(last=False)[1].close()
        return connection


class _Workers:
    """Workers of one kind, handed out one job at a time."""

    def __init__(self, count: int, open_connection: Callable[[], Any]) -> None:
        self._workers = [_Worker(open_connection) for _ in range(count)]
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._waiting = 0
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def run(self, job: Callable[[Callable[[Request], Any]], Answer], forget: bool = False) -> Answer:
        if self._waiting >= QUEUE_REQUESTS_MAX:
            raise EngineError(
                f"Too many simultaneous queries: {self._waiting} wait", 202, "TOO_MANY_SIMULTANEOUS_QUERIES"
            )
        self._waiting += 1
        try:
            worker = await self._idle.get()
        finally:
            self._waiting -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(worker.thread, worker.run, job, forget)
        finally:
            self._idle.put_nowait(worker)

    async def close(self) -> None:
        for worker in self._workers:
            await asyncio.get_running_loop().run_in_executor(worker.thread, worker.close)
            worker.thread.shutdown(wait=False)


def _prepare(connection: Any, request: Request) -> None:
    if request.database:
        connection.query("USE {name:Identifier}", "Null", params={"name": request.database})
    values = ", ".join(f"{name}={_quoted(value)}" for name, value in request.settings)
    connection.query(f"SET {values}", "Null", params={})


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _query(request: Request, session: Callable[[Request], Any]) -> Answer:
    began = perf_counter_ns()
    result = session(request).query(request.sql, request.format, params=request.parameters)
    return Answer(result.bytes(), _summary(result, began))


def _insert(request: Request, insert: re.Match[bytes], session: Callable[[Request], Any]) -> Answer:
    """Rows as a file that the engine reads. Not chDB's streaming insert: that one reports success for rows that were
    refused after they were parsed (too many parts, a constraint, a full disk), and they would be lost."""
    began = perf_counter_ns()
    connection = session(request)
    with _file_of(request.sql[insert.end() :]) as path:
        sql = b"%b FROM INFILE '%b' %b FORMAT %b" % (insert[1], path.encode(), insert[2], insert[3])
        return Answer(b"", _summary(connection.query(sql, "Null", params={}), began))


@contextmanager
def _file_of(rows: bytes) -> Iterator[str]:
    """A file in memory, which nothing outlives; on the disk where there is no such thing."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(rows)
            file.flush()
            yield file.name
        return
    with os.fdopen(os.memfd_create("insert"), "wb") as file:
        file.write(rows)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _summary(result: Any, began: int) -> dict[str, str]:
    return {
        "read_rows": str(result.storage_rows_read()),
        "read_bytes": str(result.storage_bytes_read()),
        "written_rows": str(result.rows_written()),
        "written_bytes": str(result.bytes_written()),
        "elapsed_ns": str(perf_counter_ns() - began),
    }
