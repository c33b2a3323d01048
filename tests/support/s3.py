"""A real S3 endpoint for tests: moto's server as a process of its own, and the fixture `s3`.

It has an environment of its own (`.venv/s3`, made by `make test`): its libraries do not go together with the engine's.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, free_port

SERVER = ROOT / ".venv" / "s3" / "bin" / "moto_server"
START_SECONDS_MAX = 60.0
"""Two seconds on a quiet machine, most of it imports."""


class S3:
    """A running endpoint. `config` is what `Objects` takes, `environment` the same for a process."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.config = {
            "endpoint": self.endpoint, "access_key_id": "test", "secret_access_key": "test", "region": "us-east-1",
        }  # fmt: skip
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }  # fmt: skip

    def make(self, bucket: str) -> None:
        """Make a bucket of this name."""
        request = urllib.request.Request(f"{self.endpoint}/{bucket}", method="PUT")
        with urllib.request.urlopen(request, timeout=START_SECONDS_MAX) as answer:
            assert answer.status == 200


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    if not SERVER.exists():
        pytest.skip(f"{SERVER} is missing: make .venv/s3.stamp")
    port = free_port()
    log: Path = tmp_path_factory.mktemp("s3") / "moto.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=out, stderr=subprocess.STDOUT, cwd=log.parent
        )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not _answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield S3(port)
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return bool(answer.status == 200)
    return False
