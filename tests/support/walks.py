"""Which files a request, a record and a deletion pass: the real services in one process, traced.

`python -m tests.support.walks` prints them, and with `--write` puts them into ARCHITECTURE.md. API, projector and
deleter run as their processes do (`run(settings)`), on the embedded log and an engine of their own. The tracer notes
each call into a file of services/ or shared/ from another file, and knows by the task whose work it is: what a service
does by itself, such as looking at its log every two seconds, is no part of a walk.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import re
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

from services import cli
from services.api import app as api
from services.deleter import app as deleter
from services.projector import app as projector
from shared.domain.ids import fragment_id
from shared.runtime.settings import SECRETS_OF, Settings, read, with_keys
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from tests.support.engine import EngineProcess
from tests.support.processes import ROOT, free_port

SECONDS_MAX = 240.0
"""Of one walk. The longest takes some 4 s, for the deleter waits until the files of rewritten parts are gone; on a busy
machine its load guard pauses."""

WORKERS = {"Worker.run": "projector", "Intake.run": "deleter", "Deleter.sweep_in_windows": "deleter"}
"""The tasks whose work is a walk's, by the name of their coroutine. In the API it is whatever a connection began."""

BACKGROUND = ""

DOCUMENT = ROOT / "ARCHITECTURE.md"
BLOCK = re.compile(r"^```walk: (.+)\n((?:(?!```).*\n)*)```$", re.M)
ARROW, COLUMNS = "→", 118

_service: contextvars.ContextVar[str] = contextvars.ContextVar("service", default=BACKGROUND)
_work: contextvars.ContextVar[str] = contextvars.ContextVar("work", default=BACKGROUND)


def walked(text: str) -> dict[str, list[str]]:
    """The walks that a document shows, each as its files in their order.

    A block begins with three backticks and `walk: NAME`. In it a word with a slash at its end is a folder, and what
    follows are the files of that folder; arrows are for people.
    """
    walks: dict[str, list[str]] = {}
    for name, block in BLOCK.findall(text):
        folder = ""
        files = walks.setdefault(name, [])
        for word in block.split():
            if word.endswith("/"):
                folder = word
            elif word != ARROW:
                files.append(f"{folder}{word}.py")
    return walks


def block_of(files: list[str]) -> str:
    """The files of a walk as a document shows them: folder by folder, and a folder stays in its line."""
    folders: list[list[str]] = []
    for file in files:
        folder, _, name = file.rpartition("/")
        if not folders or folders[-1][0] != f"{folder}/":
            folders.append([f"{folder}/"])
        folders[-1].append(name.removesuffix(".py"))
    lines: list[str] = []
    for words in folders:
        shown = " ".join(words)
        if lines and len(f"{lines[-1]} {ARROW} {shown}") <= COLUMNS:
            lines[-1] += f" {ARROW} {shown}"
        else:
            lines += [f"{ARROW} {shown}" if lines else shown]
    return "".join(f"{line}\n" for line in lines)


def rewritten(text: str, walks: dict[str, list[str]]) -> str:
    """A document with these walks in its blocks."""
    return BLOCK.sub(lambda found: f"```walk: {found[1]}\n{block_of(walks[found[1]])}```", text)


class Tracer:
    """Calls from file to file, of one service at a time. On all threads that begin after `installed`."""

    def __init__(self) -> None:
        self.service = BACKGROUND
        self.files: list[str] = []
        self.again: set[tuple[str, str]] = set()
        self._known: set[FrameType] = set()  # a coroutine is called anew each time that it goes on
        self._names: dict[str, str] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]  # as its documentation says

    @contextmanager
    def following(self, service: str) -> Iterator[dict[str, list[str]]]:
        """Note what this service does while the block runs, in `files` and `again`."""
        found: dict[str, list[str]] = {}
        self.files, self.again = [], set()
        self.service = service
        try:
            yield found
        finally:
            self.service = BACKGROUND
            found["files"] = self.files
            found["again"] = sorted(f"{file} from {caller}" for file, caller in self.again)
            self._known.clear()

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not self.service:
            return
        file = self._file(frame)
        if not file or frame.f_code.co_name == "<module>" or frame in self._known or self._doer() != self.service:
            return
        self._known.add(frame)
        callers = list(self._callers(frame))
        if callers and callers[0] == file:
            return
        if file not in self.files:
            self.files.append(file)
        if file in callers:
            self.again.add((file, callers[0]))

    def _callers(self, frame: FrameType) -> Iterator[str]:
        above = frame.f_back
        while above is not None:
            if file := self._file(above):
                yield file
            above = above.f_back

    def _file(self, frame: FrameType) -> str:
        """The file of a frame below the root, or nothing for one of a library's."""
        path = frame.f_code.co_filename
        if path not in self._names:
            name = path.removeprefix(f"{ROOT}/")
            self._names[path] = name if name.startswith(("services/", "shared/")) else ""
        return self._names[path]

    def _doer(self) -> str:
        """Which service's walk a call belongs to; none for what a service does by itself."""
        if threading.current_thread() is not threading.main_thread():
            return _work.get()
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return BACKGROUND
        return _work.get() if task is not None else _callback()


def _callback() -> str:
    """Of what the loop calls itself only the API's is a walk's: its connections, and answers of its log."""
    service = _service.get()
    return service if service == "api" else BACKGROUND


def _task(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """A task that knows whose work it is, and hands that on to the tasks that it makes."""
    context = options.pop("context", None) or contextvars.copy_context()
    name = getattr(coroutine, "__qualname__", "")
    if name in WORKERS:
        context.run(_work.set, WORKERS[name])
    elif asyncio.current_task() is None:
        context.run(_work.set, _callback())
    return asyncio.Task(coroutine, loop=loop, context=context, **options)


def _started(service: str, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    context = contextvars.copy_context()
    context.run(_service.set, service)
    return asyncio.get_running_loop().create_task(main, name=service, context=context)


class Client:
    """The API over HTTP, and the tables beside it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store

    async def send(self, method: str, path: str, body: object = None) -> int:
        return await asyncio.to_thread(self._send, method, path, body)

    async def capture(self, who: str) -> None:
        properties = {"$set": {"plan": "free"}, "$set_once": {"source": "ad"}}
        event = {"event": "visit", "distinct_id": who, "properties": properties}
        assert await self.send("POST", "/capture/", {"api_key": self._settings.project_token, **event}) == 200

    async def projected(self, who: str) -> None:
        await self.until("SELECT count() FROM fragments WHERE fragment = {who:UUID}", fragment_id(1, who))

    async def until(self, sql: str, who: UUID) -> None:
        async with asyncio.timeout(SECONDS_MAX):
            while not (await self._store.rows(Query(name="until", sql=sql), who=who))[0][0]:
                await asyncio.sleep(0.02)

    def _send(self, method: str, path: str, body: object) -> int:
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Content-Type": "application/json", "Authorization": f"Bearer {self._settings.personal_key}",
            "X-Forwarded-For": "192.0.2.1", "X-Request-Id": "1", "traceparent": f"00-{'1' * 32}-{'1' * 16}-01",
        }  # fmt: skip
        url = f"http://127.0.0.1:{self._settings.port}{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=SECONDS_MAX) as answer:
            return int(answer.status)


def person(who: str) -> str:
    return f"/api/projects/1/persons/{fragment_id(1, who)}/"


async def _ready(client: Client) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            try:
                if await client.send("GET", "/readyz") == 200:
                    return
            except OSError:
                await asyncio.sleep(0.05)


async def _walks(settings: Settings, tracer: Tracer) -> dict[str, dict[str, list[str]]]:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(_task)
    store = await Store.connect(settings.store_url("personlog"))
    client = Client(settings, store)
    services = [_started("api", api.run(settings)), _started("projector", projector.run(settings))]
    try:
        await _ready(client)
        await client.capture("first")  # connections, caches and metrics are there then
        await client.projected("first")
        assert await client.send("GET", person("first")) == 200
        assert await client.send("PATCH", person("first"), {"properties": {"plan": "pro"}}) == 200
        walks = {}
        with tracer.following("api") as walks["capture"]:
            await client.capture("ada")
        await client.projected("ada")
        with tracer.following("projector") as walks["record"]:
            await client.capture("eve")
            await client.projected("eve")
        with tracer.following("api") as walks["GET"]:
            assert await client.send("GET", person("ada")) == 200
        with tracer.following("api") as walks["PATCH"]:
            assert await client.send("PATCH", person("ada"), {"properties": {"plan": "pro"}}) == 200
        with tracer.following("api") as walks["DELETE"]:
            assert await client.send("DELETE", person("ada") + "?delete_events=true") == 204
        services.append(_started("deleter", deleter.run(settings)))
        with tracer.following("deleter") as walks["deletion"]:
            receipt = "SELECT count() FROM receipts WHERE position(body, toString({who:UUID})) > 0"
            await client.until(receipt, fragment_id(1, "ada"))
        return walks
    finally:
        for service in services:
            service.cancel()
        await asyncio.gather(*services, return_exceptions=True)
        await store.close()
        loop.set_task_factory(None)


def trace(data: Path) -> dict[str, dict[str, list[str]]]:
    """All walks, of services on this folder, which is empty: the files in their order, and which are entered again."""
    for name in [name for name in os.environ if name.startswith("PERSONLOG_")]:
        del os.environ[name]
    engine = EngineProcess(data)
    os.environ |= {name: value for name, value in engine._environment.items() if name.startswith("PERSONLOG_")}
    os.environ |= {"PERSONLOG_PORT": str(free_port()), "PERSONLOG_PARTITIONS": "1", "PERSONLOG_WINDOW": "* * * * *"}
    deleter.SWEEP_SECONDS, deleter.NICE = 0.1, 0
    engine.start()
    tracer = Tracer()
    try:
        if code := cli.main(["migrate"]):
            sys.exit(code)
        settings, _ = with_keys(read(os.environ), SECRETS_OF["up"])
        with tracer.installed():
            return asyncio.run(_walks(settings, tracer))
    finally:
        engine.stop()


def main() -> None:
    # Services log to what is standard output then; only the walks may stand there.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        walks = trace(Path(folder) / "data")
    if "--write" in sys.argv:
        DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), {name: walk["files"] for name, walk in walks.items()}))
    print(json.dumps(walks, indent=1))


if __name__ == "__main__":
    main()
