"""The processes of a stack one by one, without `up`: each may end by itself, and the API goes on."""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.health import answers
from shared.runtime.process.processes import living
from tests.support.processes import READY_SECONDS_MAX, Stack, wait_for

LOOK_SECONDS_MAX = 30.0
"""One look at whether a process answers: a readiness check may wait for the log and the store."""


class Parts:
    """Engine, API, projector and deleter on their own data folder."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.stack = Stack(data, **environment)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.run("engine")
        ping = f"http://127.0.0.1:{self.stack.engine_port}/ping"
        wait_for(lambda: answers(ping, LOOK_SECONDS_MAX), READY_SECONDS_MAX, "engine")
        migrated = self.stack.call("migrate")
        assert migrated.returncode == 0, migrated.stderr
        for name in ("api", "projector", "deleter"):
            self.run(name)
        self.wait_ready()
        for name in ("projector", "deleter"):
            self.wait_running(name)

    def run(self, name: str) -> None:
        self.processes[name] = self.stack.spawn(name, log=f"{name}.log")

    def run_again(self, name: str) -> None:
        """As after a kill -9."""
        self.processes[name].kill()
        self.processes[name].wait(timeout=30)
        self.run(name)

    def ready(self) -> bool:
        return self.stack.ready()

    def wait_ready(self) -> None:
        wait_for(self.ready, READY_SECONDS_MAX, "the API to be ready")

    def wait_unready(self) -> None:
        wait_for(lambda: not self.ready(), READY_SECONDS_MAX, "the API not to be ready")

    def wait_running(self, name: str) -> None:
        """Until a process is past its start: it has compared log and tables, and is listed."""
        pid = self.processes[name].pid
        wait_for(lambda: any(one.pid == pid for one in living(self.stack.data)), READY_SECONDS_MAX, f"{name} to run")

    def code(self, name: str) -> int:
        """The exit code of a process that ends by itself."""
        wait_for(lambda: self.processes[name].poll() is not None, READY_SECONDS_MAX, f"{name} to end")
        return int(self.processes[name].returncode)

    def last_line(self, name: str) -> str:
        return (self.stack.data / f"{name}.log").read_text().splitlines()[-1]

    def stop(self) -> None:
        for name in ("api", "projector", "deleter", "engine"):
            process = self.processes.get(name)
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(timeout=5)


@contextmanager
def started(data: Path, **environment: str) -> Iterator[Parts]:
    parts = Parts(data, **environment)
    try:
        parts.start()
        yield parts
    finally:
        parts.stop()


class Writer:
    """Captures persons without end, one after the other, and keeps whose event was acknowledged, and when."""

    def __init__(self, stack: Stack, prefix: str) -> None:
        self.acknowledged: dict[str, float] = {}
        self.refused = 0
        self._stack, self._prefix = stack, prefix
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def wait(self, count: int) -> None:
        """Until so many more were acknowledged."""
        goal = len(self.acknowledged) + count
        wait_for(lambda: len(self.acknowledged) >= goal, READY_SECONDS_MAX, f"{count} more acknowledged")

    def wait_refused(self, count: int) -> None:
        goal = self.refused + count
        wait_for(lambda: self.refused >= goal, READY_SECONDS_MAX, f"{count} more refused")

    def end(self) -> None:
        self._ending.set()
        self._thread.join(60)

    def _write(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            name = f"{self._prefix}-{number}"
            try:
                answer = self._stack.capture(event="came", distinct_id=name, properties={"$set": {"name": name}})
                taken = answer.status == 200
            except (OSError, http.client.HTTPException):
                taken = False
            if taken:
                self.acknowledged[name] = time.monotonic()
            else:
                self.refused += 1
                time.sleep(0.02)
