"""The answer of a capture is the same by every way it is made: by the express way, as ready bytes, by aiohttp."""

from __future__ import annotations

import socket

import orjson
import pytest

from tests.support.processes import TOKEN, Stack

EVENT = orjson.dumps({"api_key": TOKEN, "event": "seen", "distinct_id": "ada"})
OTHERS = {"date", "server", "connection", "position"}
"""Headers whose values differ by time, by connection, or by what was appended."""


def request(path: str = "/capture/", version: str = "1.1", **headers: str) -> bytes:
    sent = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(EVENT))} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in sent.items())
    return f"POST {path} HTTP/{version}\r\n{lines}\r\n".encode() + EVENT


def answers(stack: Stack, sent: bytes, count: int = 1) -> list[tuple[str, dict[str, str], bytes]]:
    """(status line, headers, body) of each answer on one connection."""
    found = []
    with socket.create_connection(("127.0.0.1", stack.port), timeout=20) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as read:
            for _ in range(count):
                status = read.readline().decode().strip()
                lines = iter(lambda: read.readline().decode().strip(), "")
                headers = dict(line.lower().split(": ", 1) for line in lines)
                found.append((status, headers, read.read(int(headers.get("content-length", 0)))))
    return found


def told(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in OTHERS}


def test_plain_requests_on_one_connection_are_answered_in_their_order(stack: Stack) -> None:
    found = answers(stack, request() * 5, 5)
    assert {(status, body) for status, _, body in found} == {("HTTP/1.1 200 OK", b'{"status":"Ok"}')}
    offsets = [int(headers["position"].rpartition(".")[2]) for _, headers, _ in found]
    assert offsets == list(range(offsets[0], offsets[0] + 5))


@pytest.mark.parametrize(
    "other",
    [
        request() + b"\r\n",  # more than a request: not for the express way
        request(Connection="close"),
        request(version="1.0"),
        request("/capture/?ip=1"),
    ],
)
def test_a_request_that_is_not_plain_gets_the_same_answer(stack: Stack, other: bytes) -> None:
    (_, plain, body), (status, headers, same) = *answers(stack, request()), *answers(stack, other)
    assert (status.split(" ", 1)[1], same) == ("200 OK", body)
    assert told(headers) == told(plain)
    assert plain.keys() >= {"date", "position"} <= headers.keys()


def test_a_page_of_another_origin_gets_its_headers_too(stack: Stack) -> None:
    ((_, headers, body),) = answers(stack, request(Origin="https://shop.example"))
    assert (headers["access-control-allow-origin"], body) == ("https://shop.example", b'{"status":"Ok"}')


def test_a_beacon_gets_no_body(stack: Stack) -> None:
    ((status, _, body),) = answers(stack, request("/e/?beacon=1"))
    assert (status, body) == ("HTTP/1.1 204 No Content", b"")
