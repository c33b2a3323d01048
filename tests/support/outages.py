"""Failures between an SDK and personlog: the first capture requests are answered badly, stored or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from tests.support.between import Between, Reply, between

Answer = int | Literal["dropped", "cut"]
"""A status; a connection that is closed without an answer, or in the middle of one."""

RETRY_AFTER = ("Retry-After", "1")
"""As personlog says it with each 429 and 503; posthog-rs repeats a 429 only if told when."""


class Failure(NamedTuple):
    """What is answered instead of personlog's answer, and whether personlog has the request all the same."""

    answer: Answer
    forwarded: bool


class _Failing(Between):
    failures: list[Failure]
    answers: list[Answer]

    def serve(self, body: bytes) -> None:
        if self.command != "POST" or self.path.startswith("/flags"):  # no capture
            self.reply(self.forward(body))
            return
        failure = self.failures.pop(0) if self.failures else None
        stored = self.forward(body) if failure is None or failure.forwarded else None
        if failure is None:
            assert stored is not None
            self.answers.append(stored.status)
            self.reply(stored)
            return
        self.answers.append(failure.answer)
        if isinstance(failure.answer, int):
            headers = [RETRY_AFTER] if failure.answer in (429, 503) else []
            self.reply(Reply(failure.answer, headers, b'{"detail": "A failure of a test."}'))
            return
        if failure.answer == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
        self.close_connection = True


@contextmanager
def failing(port: int, failures: Sequence[Failure]) -> Iterator[tuple[str, list[Any]]]:
    """The address of a server that fails so often, each time as told, and then passes everything on; what it answered
    to each capture request."""
    answers: list[Any] = []
    with between(_Failing, port=port, failures=list(failures), answers=answers) as host:
        yield host, answers
