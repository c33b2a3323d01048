"""What each SDK really asks: a server between it and personlog that keeps every request, and the files of a recording.

    python -m tests.support.recorder

tells the story of `tests.support.sdks` by each SDK to a personlog of its own and writes tests/golden/sdk/*.json anew.
Everybody in the story is made up; what is kept of a machine is its operating system and the versions of its programs.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.chromium import browsing, shop
from tests.support.processes import PERSONAL_KEY, ROOT, Stack, running, wait_for
from tests.support.sdks import BUNDLES, SECONDS_MAX, captured, told_by_browser, told_by_node, told_by_python, write_shop

RECORDINGS = ROOT / "tests" / "golden" / "sdk"
HEADERS = ("authorization", "content-type", "content-encoding", "origin", "access-control-request-headers",
           "access-control-request-method", "posthog-")  # fmt: skip
"""What a request is understood by; the rest is the transport's."""

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
FORWARD_SECONDS_MAX = 60.0


class _Between(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    port = 0
    kept: list[dict[str, Any]]

    def handle_one_request(self) -> None:
        self.raw_requestline = b""
        with contextlib.suppress(ConnectionResetError):  # a browser lets go of what it does not need
            self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=FORWARD_SECONDS_MAX)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        if not self.path.startswith("/static/"):
            headers = {name: value for name, value in self.headers.items() if name.lower().startswith(HEADERS)}
            self.kept.append({
                "method": self.command, "path": self.path, "headers": headers, "status": answer.status,
                "body": base64.b64encode(body).decode(),
            })  # fmt: skip
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *values: Any) -> None:
        """Say nothing."""


@contextmanager
def recording(port: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server that passes everything on to a port, and what it keeps."""
    kept: list[dict[str, Any]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Between", (_Between,), {"port": port, "kept": kept})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", kept
        finally:
            server.shutdown()
            thread.join()


def _browse(host: str, stack: Stack, folder: Path) -> None:
    """Both pages, the second as another visitor, and the end of each in a beacon."""
    write_shop(folder / "shop", host)
    with shop(folder / "shop") as origin, browsing(folder) as browser:
        for number, how in enumerate(("bundle", "snippet"), 1):
            page = browser.page()
            told_by_browser(page, f"{origin}/{how}.html", stack)
            page.close()
            wait_for(partial(_left, stack, number), SECONDS_MAX, "the beacon")
            assert page.noise == []


def _left(stack: Stack, number: int) -> bool:
    return len(captured(stack, "left")) == number


def main() -> None:
    """Record all of them, or those that are named."""
    how: dict[str, Callable[[str, Stack, Path], Any]] = {
        "python": lambda host, stack, folder: told_by_python(host, key=PERSONAL_KEY),
        "python-v1": lambda host, stack, folder: told_by_python(host, "v1"),
        "node": lambda host, stack, folder: told_by_node(host, key=PERSONAL_KEY),
        "node-v1": lambda host, stack, folder: told_by_node(host, "v1"),
        "browser": _browse,
    }
    RECORDINGS.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or how:
        with tempfile.TemporaryDirectory() as folder:
            with running(Path(folder) / "data", PERSONLOG_STATIC=str(BUNDLES)) as stack:
                with recording(stack.port) as (at, kept):
                    how[name](at, stack, Path(folder))
        (RECORDINGS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{name}: {len(kept)} requests")


if __name__ == "__main__":
    main()
