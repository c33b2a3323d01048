"""Which processes run, told by locked files; and what the doctor makes of them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from services.health import lines
from shared.runtime.process.processes import announced, living
from tests.support.processes import ROOT, free_port

DIES = """
import os, sys
from pathlib import Path
from shared.runtime.process.processes import announced
with announced(Path(sys.argv[1]), "api", "http://127.0.0.1:1"):
    os._exit(9)
"""


@contextmanager
def answering(status: int, text: str) -> Iterator[str]:
    """A process's readiness; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_who_runs_is_told_as_long_as_it_runs(tmp_path: Path) -> None:
    assert living(tmp_path) == []
    with announced(tmp_path, "projector", "http://127.0.0.1:1"), announced(tmp_path, "api", "http://127.0.0.1:2"):
        assert [one.service for one in living(tmp_path)] == ["api", "projector"]
    assert living(tmp_path) == []


def test_who_was_killed_is_not_told_and_leaves_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], cwd=ROOT, check=False)
    folder = tmp_path / "run" / "processes"
    assert len(list(folder.iterdir())) == 1
    assert living(tmp_path) == []
    assert list(folder.iterdir()) == []


def test_the_doctor_says_of_each_process_its_version_and_what_is_wrong(tmp_path: Path) -> None:
    why = "personlog.commands/3 is stopped: A newer version wrote this; upgrade the projectors first. Offset 7."
    with (
        answering(200, "[+] log ok\n") as well,
        answering(503, f"[-] partitions {why}\n[+] lag ok\n") as ill,
        announced(tmp_path, "api", well),
    ):
        told, ready = lines(tmp_path)
        assert ready
        assert len(told) == 1 and told[0].startswith("api: process ") and told[0].endswith(", ready")
        with announced(tmp_path, "projector", ill), announced(tmp_path, "deleter", f"http://127.0.0.1:{free_port()}"):
            told, ready = lines(tmp_path)
    assert not ready
    assert [line.partition(",")[0].partition(":")[0] for line in told] == ["api", "deleter", "projector"]
    assert "not ready: it does not answer" in told[1]
    assert told[2].endswith(f"not ready: partitions {why}")
