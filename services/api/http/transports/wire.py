"""Responses as HTTP/1.1 has them. Both transports write the same bytes."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

from services.api.http.messages import Response

STATUS_LINES = {int(status): f"{status:d} {status.phrase}" for status in HTTPStatus}

BODILESS = frozenset((204, 304))
"""Statuses of answers that have no body, and no length of one."""


class _Date:
    """The header Date, formatted once a second."""

    second = 0
    text = ""


def date() -> str:
    """The time as HTTP has it."""
    second = int(time.time())
    if second != _Date.second:
        _Date.second = second
        _Date.text = formatdate(second, usegmt=True)
    return _Date.text


def head_of(response: Response, *, version: str = "1.1", connection: str = "") -> bytes:
    """Status line and headers, to the empty line. A body that comes in pieces is chunked, where
    HTTP/1.1 is spoken."""
    body = response.body
    headers = response.headers
    if not "".join(headers.values()).isprintable():
        headers = {name: _line(value) for name, value in headers.items()}
    lines = [f"HTTP/{version} {STATUS_LINES[response.status]}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    if isinstance(body, bytes):
        if response.status not in BODILESS:
            lines.append(f"Content-Length: {len(body)}\r\n")
    elif is_chunked(response, version):
        lines.append("Transfer-Encoding: chunked\r\n")
    if connection:
        lines.append(f"Connection: {connection}\r\n")
    lines.append(f"Date: {date()}\r\n\r\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def is_chunked(response: Response, version: str) -> bool:
    """Whether a body is sent in chunks: its length is not known, and the client speaks HTTP/1.1."""
    return (
        not isinstance(response.body, bytes)
        and "Content-Length" not in response.headers
        and version == "1.1"
    )


def _line(value: str) -> str:
    """A header's value without anything that would end its line."""
    return value.replace("\r", " ").replace("\n", " ").replace("\0", " ")
