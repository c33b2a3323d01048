"""A small REST list on a real port that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

Reply = tuple[int, Any, dict[str, str]]
"""Status, body (bytes, or what becomes JSON), headers."""


class Listing:
    """`answer` makes the reply to (which request it is, its path)."""

    def __init__(self, answer: Callable[[int, str], Reply]) -> None:
        self.asked: list[tuple[str, str]] = []  # (path, Authorization)
        listing = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listing.asked.append((self.path, self.headers.get("Authorization", "")))
                status, body, headers = answer(len(listing.asked), self.path)
                content = body if isinstance(body, bytes) else orjson.dumps(body)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815  # the library asks for this name

            def log_message(self, *said: Any) -> None:
                """Nothing: `asked` remembers."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def listing(answer: Callable[[int, str], Reply]) -> Iterator[Listing]:
    served = Listing(answer)
    try:
        yield served
    finally:
        served.stop()
