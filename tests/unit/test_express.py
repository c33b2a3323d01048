"""Requests that are answered without a task: which are taken, in which order they are answered, and what is left to
aiohttp."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDictProxy

from shared.runtime import express
from shared.runtime.express import UNKNOWN_IN_A_ROW_MAX, Express, Head, Taken
from shared.runtime.lifecycle import serve

HEAD = b"POST /in HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n"
OURS, THEIRS = b"ours:", b"theirs:"
SECONDS_MAX = 60.0


class Fake:
    """Takes every body but `no`; answers when told to, or at once."""

    def __init__(self) -> None:
        self.at_once = True
        self.taken: list[bytes] = []
        self.waiting: list[asyncio.Future[bytes]] = []

    def line(self, line: bytes) -> str | None:
        return "/in" if line == b"POST /in HTTP/1.1" else None

    def headers(self, headers: CIMultiDictProxy[str]) -> str | None:
        return None if "X-No" in headers else "headers"

    def take(self, head: Head, body: bytes) -> Taken | bytes | None:
        if body == b"no":
            return None
        if body == b"take raises":
            raise RuntimeError
        if body == b"at once":
            return answer(body)
        self.taken.append(body)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self.at_once:
            future.set_result(body)
        self.waiting.append(future)
        return Taken(future, body)

    def answer(self, head: Head, taken: Taken, seconds: float) -> bytes:
        if taken.note == b"answer raises":
            raise RuntimeError
        taken.future.result()
        return answer(taken.note)


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(OURS + body), OURS + body)


happened: Counter[str] = Counter()
"""In this test: bytes that the connections of servers have read, and how many of the connections have ended."""


@pytest.fixture(autouse=True)
def count(monkeypatch: pytest.MonkeyPatch) -> None:
    received, lost = express.Connection.data_received, express.Connection.connection_lost

    def count_received(self: express.Connection, data: bytes) -> None:
        happened["read"] += len(data)
        received(self, data)

    def count_lost(self: express.Connection, error: BaseException | None) -> None:
        happened["lost"] += 1
        lost(self, error)

    happened.clear()
    monkeypatch.setattr(express.Connection, "data_received", count_received)
    monkeypatch.setattr(express.Connection, "connection_lost", count_lost)


async def until(what: str, number: int) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while happened[what] < number:
            await asyncio.sleep(0)


@asynccontextmanager
async def server(taker: Fake) -> AsyncIterator[tuple[web.AppRunner, int]]:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=THEIRS + await request.read())

    app = web.Application()
    app.router.add_route("*", "/in", handle)
    runner = await serve(app, "127.0.0.1", 0, express=Express(taker))
    try:
        yield runner, runner.addresses[0][1]
    finally:
        await runner.cleanup()


def sent(body: bytes, more: bytes = b"") -> bytes:
    return HEAD % (len(body), more) + body


async def answers(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    found = []
    async with asyncio.timeout(SECONDS_MAX):
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            found.append(await reader.readexactly(length))
    return found


async def exchanged(pieces: list[bytes], counts: Sequence[int] = (), taker: Fake | None = None) -> list[bytes]:
    """The answers to what is sent piece by piece, each piece read by the server and answered before the next is sent.

    `counts` says how many answers each piece gets; one, if nothing is said.
    """
    found: list[bytes] = []
    async with server(taker or Fake()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, count in enumerate(counts or [1] * len(pieces), 1):
            writer.write(pieces[number - 1])
            await until("read", len(b"".join(pieces[:number])))
            found += await answers(reader, count)
        writer.close()
    return found


async def in_flight(taker: Fake, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose request was taken and has no answer yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent(b"a"))
    async with asyncio.timeout(SECONDS_MAX):
        while not taker.waiting:
            await asyncio.sleep(0.01)
    return reader, writer


async def test_a_whole_plain_request_is_taken() -> None:
    assert await exchanged([sent(b"a"), sent(b"b"), sent(b"")]) == [b"ours:a", b"ours:b", b"ours:"]


async def test_a_request_may_be_answered_at_once() -> None:
    found = await exchanged([sent(b"at once"), sent(b"a"), sent(b"at once")])
    assert found == [b"ours:at once", b"ours:a", b"ours:at once"]


async def test_a_taker_that_fails_leaves_the_request_to_aiohttp() -> None:
    assert await exchanged([sent(b"take raises"), sent(b"a")]) == [b"theirs:take raises", b"ours:a"]


async def test_an_answer_that_cannot_be_made_ends_the_connection() -> None:
    async with server(Fake()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent(b"answer raises"))
        async with asyncio.timeout(SECONDS_MAX):
            assert await reader.read() == b""
        writer.close()


async def test_what_is_cancelled_ends_the_connection() -> None:
    taker = Fake()
    taker.at_once = False
    async with server(taker) as (_, port):
        reader, writer = await in_flight(taker, port)
        taker.waiting[0].cancel()
        async with asyncio.timeout(SECONDS_MAX):
            assert await reader.read() == b""
        writer.close()


async def test_what_is_not_taken_goes_to_aiohttp_and_the_next_is_offered_again() -> None:
    assert await exchanged([sent(b"no"), sent(b"a")]) == [b"theirs:no", b"ours:a"]


@pytest.mark.parametrize(
    "other",
    [
        sent(b"a", b"Origin: https://x\r\n"),
        sent(b"a").replace(b"POST", b"PUT"),
        sent(b"a").replace(b"/in", b"/in?x=1"),
        sent(b"a")
        .replace(b"Content-Length: 1", b"Transfer-Encoding: chunked")
        .replace(b"\r\na", b"\r\n1\r\na\r\n0\r\n\r\n"),
    ],
    ids=["origin", "method", "query", "chunked"],
)
async def test_a_request_that_is_not_plain_makes_the_connection_ordinary(other: bytes) -> None:
    assert await exchanged([other, sent(b"b")]) == [b"theirs:a", b"theirs:b"]


async def test_a_body_in_two_pieces_is_aiohttps_and_the_next_request_is_ours() -> None:
    whole = sent(b"long body")
    assert await exchanged([whole[:-4], whole[-4:], sent(b"b")], [0, 1, 1]) == [b"theirs:long body", b"ours:b"]


async def test_a_head_in_two_pieces_makes_the_connection_ordinary_whatever_the_second_looks_like() -> None:
    smuggled = sent(b"hidden").replace(b"Host: x\r\n", b"")
    first = b"POST /in HTTP/1.1\r\nHost: x\r\nX-Text: "
    assert await exchanged([first, smuggled, sent(b"b")], [0, 1, 1]) == [b"theirs:hidden", b"theirs:b"]


async def test_more_than_one_request_in_a_piece_is_answered_in_order() -> None:
    assert await exchanged([sent(b"a") + sent(b"b"), sent(b"c")], [2, 1]) == [b"theirs:a", b"theirs:b", b"theirs:c"]


async def test_what_comes_before_the_answer_waits_for_it() -> None:
    taker = Fake()
    taker.at_once = False
    async with server(taker) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, body in enumerate((b"a", b"b"), 1):
            writer.write(sent(body))
            await until("read", number * len(sent(body)))
        assert taker.taken == [b"a"]
        taker.at_once = True
        taker.waiting[0].set_result(b"a")
        assert await answers(reader, 2) == [b"ours:a", b"ours:b"]
        writer.close()


async def test_a_shutdown_waits_for_the_answer() -> None:
    taker = Fake()
    taker.at_once = False
    async with server(taker) as (runner, port):
        reader, writer = await in_flight(taker, port)
        ending = asyncio.create_task(runner.cleanup())
        await asyncio.sleep(0.05)  # a shutdown that does not wait would have ended
        assert not ending.done()
        taker.waiting[0].set_result(b"a")
        assert await answers(reader, 1) == [b"ours:a"]
        await ending
        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_goes_before_its_answer_harms_nobody() -> None:
    taker = Fake()
    taker.at_once = False
    async with server(taker) as (_, port):
        _, gone = await in_flight(taker, port)
        gone.transport.abort()
        await until("lost", 1)
        taker.waiting[0].set_result(b"a")
        taker.at_once = True
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent(b"b"))
        assert await answers(reader, 1) == [b"ours:b"]
        writer.close()


async def test_heads_that_are_new_each_time_are_not_judged_twice_for_ever() -> None:
    pieces = [sent(b"a", b"X-Trace: %d\r\n" % number) for number in range(UNKNOWN_IN_A_ROW_MAX + 2)]
    found = await exchanged(pieces)
    assert found == [b"ours:a"] * UNKNOWN_IN_A_ROW_MAX + [b"theirs:a"] * 2


async def test_the_heads_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express, "HEADS_MAX", 3)
    offered = Express(Fake())
    for number in range(10):
        line, headers = parts(HEAD % (number, b""))
        head: Any = offered.head(line, headers)
        assert head[1:] == (number, "/in", "headers")
    assert sum(offered.known(parts(HEAD % (number, b""))[1]) for number in range(10)) <= 3


@pytest.mark.parametrize(
    "text",
    [
        b"POST /in\r\n\r\n",
        HEAD % (1, b"Content-Length: 2\r\n"),
        HEAD % (10**7, b""),
        HEAD % (1, b"Expect: 100-continue\r\n"),
        HEAD % (1, b"X-No: x\r\n"),
        HEAD.replace(b"1.1", b"1.0") % (1, b""),
        HEAD % (1, b" folded: x\r\n"),
        HEAD % (1, b"Connection: close\r\n"),
    ],
)
async def test_a_head_that_is_broken_or_unusual_is_aiohttps(text: bytes) -> None:
    assert Express(Fake()).head(*parts(text)) is None


def parts(text: bytes) -> tuple[bytes, bytes]:
    """First line and headers."""
    line, end, rest = text.partition(b"\r\n")
    return line, end + rest
