"""`personlog up`: supervise engine, api, projector and deleter as child processes.

The supervisor touches no data, and imports no heavy library: it stays small, and does not crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from services.health import answers
from shared.domain.ids import hash64
from shared.runtime.process.exits import BAD_USAGE, DONE, WRONG_LOG
from shared.runtime.process.ports import check_port
from shared.runtime.settings import (
    GENERATED,
    PREFIX,
    SECRETS_OF,
    Settings,
    SettingsError,
)

BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 0.1, 5.0
"""Between two starts of a child: soon after a kill, and no busy loop when it cannot start."""

HEALTHY_SECONDS = 30.0
"""A child that ran at least this long is restarted without back-off."""

STOP_SECONDS_MAX = 8.0
"""Children that have not ended by then are killed: a stop must take at most 10 s in all."""

READY_SECONDS_MAX = 120.0
"""A longer start has failed; it takes 3 s on a quiet machine."""

LOG_BYTES_MAX = 10_000_000
"""Of one child's log file; the previous file is kept as .1."""

LINE_BYTES_MAX = 65_536
"""Longer lines of a child's output are cut."""

OPS_PORT_OFFSETS = {"deleter": 1}
"""Offsets of the children's ports from PERSONLOG_OPS_PORT; the projector has that port itself."""

OBJECT_STORE_USERS = frozenset(("api", "deleter"))
OBJECT_STORE_VARIABLES = ("AWS_", "GOOGLE_", "AZURE_")
"""Children that use the object store, and prefixes of variables that may hold its credentials."""

_PR_SET_PDEATHSIG = 1


def up(settings: Settings, *, announce_keys: bool) -> int:
    """Supervise until SIGTERM, SIGINT, or a child with the wrong log; return the exit code."""
    run = settings.data / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with folder_lock(run / "up.lock", settings.data):
        ports = [("API", settings.host, settings.port)]
        if settings.embedded:
            ports.append(("engine", "127.0.0.1", settings.engine_port))
        if settings.ops_port:
            ports += [
                (name, "127.0.0.1", _ops_port(settings, name))
                for name in ("projector", "deleter")
            ]
        for name, host, port in ports:
            check_port(name, host, port)
        _check_distinct(ports)
        if announce_keys:
            print(f"generated keys, kept in {settings.data / 'keys.env'}:", flush=True)
            print(f"  PERSONLOG_PERSONAL_KEY={settings.personal_key}", flush=True)
            print(f"  PERSONLOG_PROJECT_TOKEN={settings.project_token}", flush=True)
        return asyncio.run(Supervisor(settings).run())


class Supervisor:
    """The child processes, restarted until a stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run = settings.data / "run"
        self._logs = settings.data / "logs"
        self._stopping = asyncio.Event()
        self._served = False
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._pumps: dict[str, asyncio.Task[str]] = {}
        self._code = DONE
        self._farewell = ""

    async def run(self) -> int:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        _write_pid(self._run / "up.pid", os.getpid())
        keepers: dict[str, asyncio.Task[None]] = {}
        try:
            if self._settings.embedded:
                keepers["engine"] = asyncio.create_task(
                    self._keep("engine"), name="engine"
                )
                url = f"http://127.0.0.1:{self._settings.engine_port}/ping"
                await self._until(partial(answers, url), "engine")
            if not self._stopping.is_set():
                await self._migrate()
            for name in ("api", "projector", "deleter"):
                keepers[name] = asyncio.create_task(self._keep(name), name=name)
            any_host = self._settings.host in ("0.0.0.0", "::")
            host = "127.0.0.1" if any_host else self._settings.host
            url = f"http://{host}:{self._settings.port}"
            await self._until(partial(answers, f"{url}/readyz"), "api")
            if not self._stopping.is_set():
                self._served = True
                print(f"ready {url}", flush=True)
            await self._stopping.wait()
            return self._code
        except SettingsError as error:
            _print_error(f"personlog: {error.detail}")
            return 1
        finally:
            self._stopping.set()
            await self._stop(keepers)
            if self._farewell:  # behind the last output of the children
                await asyncio.wait(self._pumps.values(), timeout=STOP_SECONDS_MAX)
                _print_error(self._farewell)

    async def _keep(self, name: str) -> None:
        """Restart a child whenever it ends, until the stop."""
        backoff = BACKOFF_SECONDS_MIN / 2
        while not self._stopping.is_set():
            began = time.monotonic()
            process = await self._start(name)
            code = await process.wait()
            if self._stopping.is_set():
                return
            if code == WRONG_LOG:
                await self._give_up(name)
                return
            if (
                code == BAD_USAGE and not self._served
            ):  # a restart would fail for the same reason
                self._code = code
                self._stopping.set()
                return
            backoff = next_backoff(backoff, time.monotonic() - began)
            _print_error(f"personlog: {name} ended with {code}; starting it again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)

    async def _give_up(self, name: str) -> None:
        """Stop with the child's last line: a restart does not help."""
        await asyncio.wait({self._pumps[name]}, timeout=STOP_SECONDS_MAX)
        if not self._stopping.is_set():
            self._code = WRONG_LOG
            self._stopping.set()
            last_line = self._pumps[name].result() if self._pumps[name].done() else ""
            hint = f"personlog: the log is not the tables' own; see {self._logs / name}.log"
            self._farewell = last_line or hint

    async def _start(self, name: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.cli",
            name,
            env=self._environment(name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_BYTES_MAX,
            preexec_fn=_die_with(os.getpid()),
            start_new_session=True,
        )
        self._processes[name] = process
        _write_pid(self._run / f"{name}.pid", process.pid)
        self._pumps[name] = asyncio.create_task(
            self._pump(name, process), name=f"log of {name}"
        )
        self._pumps[name].add_done_callback(_report_failure)
        return process

    async def _pump(self, name: str, process: asyncio.subprocess.Process) -> str:
        """Copy a child's output to its log, lines above `info` to stderr too; return the last."""
        assert process.stdout is not None
        log = BoundedLog(self._logs / f"{name}.log")
        line = b""
        try:
            while True:
                try:
                    line = await process.stdout.readuntil(b"\n")
                except asyncio.LimitOverrunError as error:
                    line = await process.stdout.readexactly(error.consumed)
                except asyncio.IncompleteReadError as error:
                    log.write(error.partial)
                    return line.decode(errors="replace").rstrip()
                log.write(line)
                if b'"level": "info"' not in line and b'"level":"info"' not in line:
                    _print_error(f"{name}: {line.decode(errors='replace').rstrip()}")
        finally:
            log.close()

    async def _migrate(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.cli",
            "migrate",
            env=self._environment("migrate"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            preexec_fn=_die_with(os.getpid()),
        )
        code = await process.wait()
        if code == WRONG_LOG:  # it has printed the reason
            self._code = code
            self._stopping.set()
        elif code != DONE:
            raise SettingsError("the tables could not be created; see above")

    async def _until(self, check: Callable[[], bool], service: str) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self._stopping.is_set():
            if await asyncio.to_thread(check):
                return
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"{service} was not ready within {READY_SECONDS_MAX:.0f} s; see {self._logs}"
                )
            await asyncio.sleep(0.03)

    async def _stop(self, keepers: dict[str, asyncio.Task[None]]) -> None:
        """Stop the services first and the engine last, so that a flush in flight can end."""
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for group in (("api", "projector", "deleter"), ("engine",)):
            for name in group:
                self._signal(name, signal.SIGTERM)
            waiting = [keepers[name] for name in group if name in keepers]
            if waiting:
                await asyncio.wait(
                    waiting, timeout=max(0.1, deadline - time.monotonic())
                )
            for name in group:
                self._signal(name, signal.SIGKILL)
            await asyncio.gather(*waiting, return_exceptions=True)
        for name in ("up", *keepers):
            (self._run / f"{name}.pid").unlink(missing_ok=True)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._processes.get(name)
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _environment(self, name: str) -> dict[str, str]:
        foreign = frozenset(GENERATED) - SECRETS_OF[name]
        resolved = {
            PREFIX + field.upper(): str(value)
            for field, value in msgspec.structs.asdict(self._settings).items()
            if field != "data" and field not in foreign
        }
        if self._settings.ops_port:
            resolved[PREFIX + "OPS_PORT"] = str(_ops_port(self._settings, name))
        data = str(self._settings.data.resolve())
        instance = f"{socket.gethostname()}-{hash64(data):x}"
        resolved[PREFIX + "INSTANCE"] = self._settings.instance or instance
        hidden = (
            (PREFIX,)
            if name in OBJECT_STORE_USERS
            else (PREFIX, *OBJECT_STORE_VARIABLES)
        )
        plain = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(hidden)
        }
        return plain | resolved | {PREFIX + "DATA": data, "PYTHONUNBUFFERED": "1"}


class BoundedLog:
    """A log file that is moved to .1 when it is full.

    On a full disk lines are lost: the writer must not block.
    """

    def __init__(self, path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._file: IO[bytes] | None = None

    def write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            if (
                self._file is not None
                and self._file.tell() + len(line) > self._bytes_max
            ):
                self.close()
                self._path.replace(self._path.with_suffix(".log.1"))
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._file.write(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def next_backoff(backoff: float, ran_seconds: float) -> float:
    """Double the back-off, up to the limit; begin anew after a healthy run."""
    if ran_seconds >= HEALTHY_SECONDS:
        return BACKOFF_SECONDS_MIN
    return min(2 * backoff, BACKOFF_SECONDS_MAX)


@contextlib.contextmanager
def folder_lock(path: Path, data: Path) -> Iterator[None]:
    """Hold the lock of `up` on a data folder; raise SettingsError when it is taken."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"personlog up is already running on {data}") from None
        yield


def _ops_port(settings: Settings, name: str) -> int:
    return settings.ops_port + OPS_PORT_OFFSETS.get(name, 0)


def _check_distinct(ports: list[tuple[str, str, int]]) -> None:
    """Refuse two services on one port: both would listen, and share each other's requests."""
    names: dict[int, str] = {}
    for name, _, port in ports:
        if port in names:
            raise SettingsError(
                f"port {port} is set for the {names[port]} and for the {name}"
            )
        names[port] = name


def _die_with(parent: int) -> Callable[[], None]:
    """Let the kernel kill a child with its supervisor; a busy child might not read a pipe."""

    def prepare() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _print_error(line: str) -> None:
    """Print to standard error; on a full disk the line is lost, and supervising goes on."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _write_pid(path: Path, pid: int) -> None:
    """Write a pid file; on a full disk it keeps the previous pid, and supervising goes on."""
    scratch = path.with_suffix(".new")
    try:
        scratch.write_text(f"{pid}\n")
        scratch.replace(path)
    except OSError as error:
        _print_error(f"personlog: {path.name} cannot be written: {error.strerror}")


def _report_failure(task: asyncio.Task[str]) -> None:
    """Print the error of a pump that failed; a pump ends with its child."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _print_error(f"personlog: {task.get_name()}: {error}")
