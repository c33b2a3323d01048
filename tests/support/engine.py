"""A real engine host process for tests, and the fixture `engine_url`. Never shared between test sessions."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.store.engine import serve
from tests.support.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "default", "se:cret /ä"
START_SECONDS_MAX = 30.0
"""Half a second on a quiet machine; other test processes may hold both cores."""


class EngineProcess:
    """One engine host in a process of its own; may be killed and started again on the same path and port."""

    def __init__(self, data: Path, port: int | None = None) -> None:
        self.data, self.port = data, port or free_port()
        self.process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, database: str) -> str:
        from urllib.parse import quote

        return f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def spawn(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.engine", str(self.data), str(self.port)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def start(self) -> EngineProcess:
        self.process = self.spawn()
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the engine host ended: {self.process.communicate()}")
            try:
                with urllib.request.urlopen(f"{self.address}/ping", timeout=1):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"the engine host did not answer within {START_SECONDS_MAX} s")

    def kill(self) -> None:
        """kill -9."""
        self.stop(signal.SIGKILL)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """End the process; the seconds it took."""
        began = time.monotonic()
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()
        self.process = None
        return time.monotonic() - began


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    host = EngineProcess(tmp_path_factory.mktemp("engine") / "data").start()
    yield host
    host.stop()


_databases = iter(range(1, 1_000_000))


@pytest.fixture
def engine_url(engine: EngineProcess) -> str:
    """The URL of a database that does not exist yet: `migrate` makes it, and no other test uses it."""
    return engine.url(f"test_{os.getpid()}_{next(_databases)}")


async def _serve(data: Path, port: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await serve(data=data, host="127.0.0.1", port=port, user=USER, password=PASSWORD)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(arguments.data, arguments.port))


if __name__ == "__main__":
    main()
