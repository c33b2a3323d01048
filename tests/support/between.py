"""A server between an SDK and personlog: it reads whole requests, and whoever inherits says what becomes of them."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
"""Headers that speak of one connection, and there are two."""

FORWARD_SECONDS_MAX = 60.0


class Reply(NamedTuple):
    """What personlog answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Between(BaseHTTPRequestHandler):
    """Passes each request on, and its answer back."""

    protocol_version = "HTTP/1.1"
    port = 0
    """Where personlog is."""

    def handle_one_request(self) -> None:
        """Read one whole request."""
        self.raw_requestline = b""
        with contextlib.suppress(ConnectionResetError):  # a browser lets go of what it does not need
            self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def serve(self, body: bytes) -> None:
        """Answer a request that has been read."""
        self.reply(self.forward(body))

    def forward(self, body: bytes) -> Reply:
        """The request, as personlog answers it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=FORWARD_SECONDS_MAX)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        reply = Reply(answer.status, answer.getheaders(), answer.read())
        connection.close()
        return reply

    def reply(self, reply: Reply) -> None:
        """Send an answer."""
        self.send_response(reply.status)
        for name, value in reply.headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *values: Any) -> None:
        """Say nothing."""


@contextmanager
def between(handler: type[Between], **state: Any) -> Iterator[str]:
    """The address of such a server; `state` is what all its requests share, `port` first."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), state)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
