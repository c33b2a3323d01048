"""The engine process: ClickHouse's own HTTP and TCP servers on loopback.

The servers run in a thread; the main thread waits for SIGTERM, and then lets queries end before it
ends the servers. No data depends on that: acknowledged writes are on disk, so kill -9 is safe.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from services.engine import config, library
from shared.domain.errors import Corrupt
from shared.runtime.process.ports import check_port
from shared.runtime.process.processes import announced
from shared.runtime.settings import Settings, SettingsError
from shared.runtime.telemetry import setup_logs
from shared.store.clickhouse.queries import load
from shared.store.clickhouse.roles import WORKLOADS
from shared.store.shared_memory.segment import newest, renew

HOST = "127.0.0.1"

TCP_PORTS_TRIED = 100
"""Ports after the HTTP port that are tried until one is free."""

START_SECONDS_MAX = 60.0
"""0.3 s on a quiet machine; reading the parts of a large folder takes longer."""

GRACE_SECONDS, STOP_SECONDS_MAX = 3.5, 4.5
"""A stop lets queries end, kills them after the first and gives up on them after the second."""

POLL_SECONDS, LOOK_SECONDS = 0.02, 1.0
"""Between two checks: while starting and stopping; and whether the servers still run."""

STOP_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT))

LINES_MAX = 50
"""Last lines of the library's output, printed when it ends by itself."""

_QUERIES = Path(__file__).with_name("warden.sql")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises SettingsError for a taken port or a locked folder, and Corrupt when the server ends.
    """
    signal.pthread_sigmask(
        signal.SIG_BLOCK, STOP_SIGNALS
    )  # before any thread: they inherit it
    library.check_version()
    check_port("engine", HOST, settings.engine_port)
    tcp_port = _native_port(settings)
    data = (settings.data / "engine").resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_unlocked(data)
    home = config.home_of(settings)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    warden = Warden(settings.engine_port, secrets.token_urlsafe(32))
    config.write(
        home,
        settings,
        http_port=settings.engine_port,
        tcp_port=tcp_port,
        warden=warden.password,
    )
    renew(newest(settings), secrets.randbits(63) << 1)
    with _captured_output() as lines:
        log = setup_logs("engine")
        server = Server(home, data)
        server.start()
        if not _until_ready(server, warden):
            _raise_ended(lines)
        warden.prepare()
        log.info("started", http=settings.engine_port, native=tcp_port)
        with announced(data.parent, "engine", f"http://{HOST}:{settings.engine_port}"):
            while server.alive() and not _stop_signalled(LOOK_SECONDS):
                pass
        if not server.alive():
            _raise_ended(lines)
        warden.drain(server.alive)


class Server:
    """ClickHouse in a separate thread."""

    def __init__(self, home: Path, data: Path) -> None:
        serve = (
            library.load()
        )  # before chdir: importing would read the config.xml there
        os.chdir(home)
        self._thread = threading.Thread(
            target=serve, args=(data,), name="clickhouse", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()


class Warden:
    """The process's own user of its server, over HTTP."""

    def __init__(self, port: int, password: str) -> None:
        self._port = port
        self.password = password
        names = {"keeper": library.KEEPER, "warden": config.WARDEN}
        self._queries = {
            name: query.filled(**names) for name, query in load(_QUERIES).items()
        }

    def answers(self) -> bool:
        try:
            return self._ask("GET", "/ping") == b"Ok.\n"
        except OSError:
            return False

    def prepare(self) -> None:
        """Create the workloads that schedule queries; they are stored with the tables."""
        for query in load(WORKLOADS).values():
            self._run(query.sql)

    def drain(self, alive: Callable[[], bool]) -> None:
        """Stop new native connections, let queries end, then kill the others and the servers."""
        # Ends the process in time even when a query hangs: the library's cannot be interrupted.
        watchdog = threading.Timer(STOP_SECONDS_MAX, os._exit, (0,))
        watchdog.daemon = True
        watchdog.start()
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            self._run(self._queries["stop_native"].sql)
            while time.monotonic() < deadline and self._queries_run():
                time.sleep(POLL_SECONDS)
            self._run(self._queries["end_queries"].sql)
            self._run(self._queries["end_keeper"].sql)
        except (OSError, Corrupt, http.client.HTTPException):
            pass  # the servers end: that is the goal
        while alive():
            time.sleep(POLL_SECONDS)
        watchdog.cancel()

    def _queries_run(self) -> bool:
        return self._run(self._queries["running"].sql).strip() != b"0"

    def _run(self, sql: str) -> bytes:
        return self._ask("POST", "/", sql)

    def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection(
            HOST, self._port, timeout=STOP_SECONDS_MAX
        )
        user = {"X-ClickHouse-User": config.WARDEN, "X-ClickHouse-Key": self.password}
        try:
            connection.request(method, path, body, user if body else {})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise Corrupt(
                f"the engine refused its warden: {text.decode(errors='replace')[:300]}"
            )
        return text


def _stop_signalled(seconds: float) -> bool:
    """Wait `seconds` for SIGTERM or SIGINT, which every thread has blocked."""
    return signal.sigtimedwait(STOP_SIGNALS, seconds) is not None


def _until_ready(server: Server, warden: Warden) -> bool:
    deadline = time.monotonic() + START_SECONDS_MAX
    while server.alive() and not warden.answers():
        if _stop_signalled(POLL_SECONDS):
            os._exit(0)  # nothing was answered yet
        if time.monotonic() > deadline:
            raise Corrupt(f"the engine did not answer within {START_SECONDS_MAX:g} s")
    return server.alive()


def _raise_ended(lines: deque[str]) -> NoReturn:
    reason = " ".join(line for line in lines if "Code:" in line) or " ".join(lines)
    raise Corrupt(f"the engine ended by itself. {reason}".rstrip())


def _native_port(settings: Settings) -> int:
    """Return the next free port after the HTTP port that no other process of personlog uses."""
    port = settings.engine_port
    reserved = {settings.port, settings.ops_port, settings.ops_port + 1}
    for distance in range(1, TCP_PORTS_TRIED + 1):
        candidate = port + distance if port + distance < 65_536 else port - distance
        if candidate not in reserved:
            with suppress(SettingsError):
                check_port("engine", HOST, candidate)
                return candidate
    raise SettingsError(
        f"none of the {TCP_PORTS_TRIED} ports after {port} is free for the engine's native protocol"
    )


def _check_unlocked(data: Path) -> None:
    """Raise SettingsError when an engine has the folder: ClickHouse locks `status` in it."""
    with (data / "status").open("a") as status:
        try:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"{data} is open in another engine process") from None


@contextmanager
def _captured_output() -> Iterator[deque[str]]:
    """Yield the last lines of the library's output; Python's standard error is not captured."""
    lines: deque[str] = deque(maxlen=LINES_MAX)
    own = os.fdopen(os.dup(2), "w", buffering=1)
    sys.stdout = sys.stderr = own
    reading, writing = os.pipe()
    for descriptor in (1, 2):
        os.dup2(writing, descriptor)
    os.close(writing)

    def collect() -> None:
        with os.fdopen(reading, errors="replace") as pipe:
            for line in pipe:
                lines.append(line.strip())

    threading.Thread(target=collect, name="output", daemon=True).start()
    yield lines
