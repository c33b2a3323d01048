"""Real personlog processes for end-to-end and fault tests: start, kill by pid, restart, ask over HTTP."""

from __future__ import annotations

import copy
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import psutil

from services.health import answers
from shared.domain.ids import fragment_id

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS_MAX = 180.0
"""A loaded two-core machine starts everything in a few seconds; a test that waits longer has found a fault."""

ANSWER_SECONDS_MAX = 60.0
"""The API answers within nine; this is for a machine that has other things to do."""

PERSONAL_KEY = "phx_" + "t" * 43
TOKEN = "phc_" + "t" * 43
OWN_KEY = "the stack's own"
"""Stands for `Stack.key` where a key may be given."""


def free_port() -> int:
    """A port below the ephemeral range, where other people's TIME_WAIT sockets do not live; never the same one twice.

    Three ports behind it are nobody else's, for an engine takes the next free one as well.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(200):
        port = random.randrange(20_000 + 4 * (worker % 2), 32_000, 8)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError("no free port")


_given: set[int] = set()


def wait_for(check: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until `check` gives something truthy; fail naming `what`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


def lives(process: psutil.Process) -> bool:
    """An orphan that has ended stays a zombie until somebody reaps it."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


class Answer:
    """One HTTP answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Stack:
    """`personlog up` on its own data folder and ports, spoken to as one project with one key."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data, self.port, self.engine_port = data, free_port(), free_port()
        self.project, self.token, self.key = 1, TOKEN, PERSONAL_KEY
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("PERSONLOG_")} | {
            "PERSONLOG_DATA": str(data),
            "PERSONLOG_PORT": str(self.port),
            "PERSONLOG_ENGINE_PORT": str(self.engine_port),
            "PERSONLOG_PERSONAL_KEY": PERSONAL_KEY,
            "PERSONLOG_PROJECT_TOKEN": TOKEN,
            **environment,
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self._up: subprocess.Popen[bytes] | None = None
        self._extra: list[subprocess.Popen[bytes]] = []

    def as_project(self, project: int, token: str, key: str) -> Stack:
        """The same processes, spoken to as another project with another key."""
        other = copy.copy(self)
        other.project, other.token, other.key = project, token, key
        own = {"PERSONLOG_PERSONAL_KEY": key, "PERSONLOG_PROJECT_TOKEN": token}
        other.environment = self.environment | own
        return other

    def uuid(self, name: str) -> str:
        """The uuid of the person that is born by this distinct id."""
        return str(fragment_id(self.project, name))

    def start(self) -> float:
        """Start everything; the seconds until `ready`."""
        began = time.monotonic()
        log = self.data / "up.log"
        before = log.stat().st_size if log.exists() else 0  # what an earlier start said
        self._up = self.run("up", log="up.log")
        wait_for(
            lambda: self._alive() and f"ready {self.url}".encode() in log.read_bytes()[before:],
            READY_SECONDS_MAX,
            "the line that says ready",
        )
        return time.monotonic() - began

    def begin(self) -> None:
        """Start everything, and wait for nothing."""
        self._up = self.run("up", log="up.log")

    def ended(self, seconds: float) -> int:
        """The exit code of `up`, which ends by itself."""
        assert self._up is not None
        return self._up.wait(timeout=seconds)

    def run(self, *command: str, log: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one personlog command of this stack in the background."""
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / log).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "services.cli", *command],
                cwd=ROOT,
                env=self.environment | environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def spawn(self, *command: str, log: str, **environment: str) -> subprocess.Popen[bytes]:
        """Like `run`, and ended with the stack."""
        process = self.run(*command, log=log, **environment)
        self._extra.append(process)
        return process

    def call(self, *command: str, seconds: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run one personlog command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def pid(self, name: str) -> int:
        return int((self.data / "run" / f"{name}.pid").read_text())

    def kill(self, name: str) -> int:
        """kill -9 of one process; the pid that is gone. One that is just being started again is waited for."""

        def killed() -> int:
            pid = self.pid(name)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return 0
            return pid

        return int(wait_for(killed, 30.0, f"{name} to be there"))

    def wait_restarted(self, name: str, old: int, seconds: float = 60.0) -> None:
        wait_for(lambda: self.pid(name) != old, seconds, f"{name} to be started again")

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = OWN_KEY, **headers: str
    ) -> Answer:
        """One request; header names are written with underscores."""
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        request = urllib.request.Request(self.url + path, data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if key is not None:
            request.add_header("Authorization", f"Bearer {self.key if key == OWN_KEY else key}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())

    def ready(self) -> bool:
        """Whether the API is there, and ready."""
        return answers(f"{self.url}/readyz", ANSWER_SECONDS_MAX)

    def capture(self, **event: Any) -> Answer:
        return self.ask("POST", "/capture/", {"api_key": self.token, **event}, key=None)

    def persons(self, path: str = "", method: str = "GET", body: Any = None, **headers: str) -> Answer:
        return self.ask(method, f"/api/projects/{self.project}/persons{path}", body, **headers)

    def engine_password(self) -> str:
        """That of the engine's owner, `personlog`."""
        kept = dict(line.split("=", 1) for line in (self.data / "keys.env").read_text().splitlines())
        return kept["PERSONLOG_ENGINE_PASSWORD"]

    def engine_url(self) -> str:
        """For a `Store` beside the services."""
        return f"http://personlog:{self.engine_password()}@127.0.0.1:{self.engine_port}/personlog"

    def query(self, sql: str) -> str:
        """One statement, asked of the embedded engine as its owner."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.engine_port}/?database=personlog", sql.encode())
        request.add_header("X-ClickHouse-User", "personlog")
        request.add_header("X-ClickHouse-Key", self.engine_password())
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as response:
            return str(response.read().decode().strip())

    def stop(self) -> float:
        """SIGTERM; the seconds until everything has ended."""
        began = time.monotonic()
        for process in [*self._extra, *([self._up] if self._up else [])]:
            if process.poll() is None:
                process.terminate()
        for process in [*self._extra, *([self._up] if self._up else [])]:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=5)
        self._extra, self._up = [], None
        return time.monotonic() - began

    def _alive(self) -> bool:
        assert self._up is not None
        if self._up.poll() is not None:
            raise AssertionError("up ended:\n" + (self.data / "up.log").read_text(errors="replace")[-4000:])
        return True


@contextmanager
def running(data: Path, **environment: str) -> Iterator[Stack]:
    """A started stack that is stopped at the end."""
    stack = Stack(data, **environment)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
