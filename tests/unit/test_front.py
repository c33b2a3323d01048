"""The front of HTTP: which requests it answers itself, in which order, and what goes to aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from services.api.http.guards import admission
from services.api.http.transports import front as front_module
from shared.runtime.process import connections
from tests.support.fronts import SECONDS_MAX, Served, fronting, post, responses
from tests.support.wires import Wire

PROXY = (
    b"X-Forwarded-For: 10.0.0.1\r\nX-Request-Id: 5f1c\r\nCookie: a=b\r\nOrigin: https://x\r\n"
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
)
CHUNKED = b"POST /in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with fronting() as found:
        yield found


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not check():
            await asyncio.sleep(0)


async def connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", served.port)


async def exchanged(served: Served, *pieces: bytes) -> list[tuple[int, bytes]]:
    """The answers to requests on one connection, each sent when the one before was answered."""
    reader, writer = await connect(served)
    found = []
    for piece in pieces:
        writer.write(piece)
        found += await responses(reader)
    writer.close()
    return found


@pytest.mark.parametrize("path", ["/in", "/task", "/in?x=1&y=%20"])
@pytest.mark.parametrize("more", [b"", PROXY], ids=["plain", "proxy"])
async def test_a_whole_plain_request_is_answered_here_whatever_headers_a_proxy_adds(
    served: Served, path: str, more: bytes
) -> None:
    found = await exchanged(served, post(path, b"a", more), post(path, b"", more), post(path, b"c", more))
    assert found == [(200, b"got:a"), (200, b"got:"), (200, b"got:c")]
    assert (served.front.answered, served.front.handed_over) == (3, 0)


async def test_a_request_in_pieces_is_answered_here_wherever_it_is_cut(served: Served) -> None:
    request = post("/in", b"abc", PROXY)
    reader, writer = await connect(served)
    for cut in range(1, len(request)):
        writer.write(request[:cut])
        await until(lambda: True)
        await asyncio.sleep(0)
        writer.write(request[cut:])
        assert await responses(reader) == [(200, b"got:abc")]
    writer.close()
    assert served.front.handed_over == 0


async def test_a_connection_that_the_client_ends_is_closed_after_the_answer(served: Served) -> None:
    reader, writer = await connect(served)
    writer.write(post("/in", b"a", b"Connection: close\r\n"))
    async with asyncio.timeout(SECONDS_MAX):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head and body == b"got:a"
    assert served.front.handed_over == 0
    writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "body"),
    [
        (post("/indirect", b"a"), b"got:a"),
        (post("/in", b"a", b"Expect: 100-continue\r\n"), b"got:a"),
        (post("/in", b"a", b"X-Twice: 1\r\nX-Twice: 2\r\n"), b"got:a"),
        (post("/in", b"x" * 300_000), b"got:" + b"x" * 300_000),
        (post("/in", b"a", b"X-Long: %b\r\n" % (b"x" * 8_150)), b"got:a"),
        (CHUNKED, b"got:a"),
        (post("//in", b"a"), b"Endpoint not found."),
        (post("/none", b"a"), b"Endpoint not found."),
        (post("/in", b"a").replace(b"1.1", b"1.0", 1).replace(b"Host", b"Connection: keep-alive\r\nHost"), b"got:a"),
    ],
    ids=["indirect", "expect", "twice", "large", "long head", "chunked", "slashes", "nowhere", "1.0"],
)
async def test_anything_else_goes_to_aiohttp_and_the_connection_for_good(
    served: Served, request_bytes: bytes, body: bytes
) -> None:
    reader, writer = await connect(served)
    writer.write(request_bytes)
    if b"Expect" in request_bytes:
        async with asyncio.timeout(SECONDS_MAX):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    ((_, got),) = await responses(reader)
    assert body in got
    writer.write(post("/in", b"b"))
    assert await responses(reader) == [(200, b"got:b")]
    assert (served.front.answered, served.front.handed_over) == (0, 1)
    writer.close()


async def test_several_requests_in_one_piece_are_answered_in_order(served: Served) -> None:
    reader, writer = await connect(served)
    writer.write(post("/in", b"a") + post("/in", b"b") + post("/in", b"c")[:-1])
    assert await responses(reader, 2) == [(200, b"got:a"), (200, b"got:b")]
    writer.write(b"c")
    assert await responses(reader) == [(200, b"got:c")]
    assert served.front.handed_over == 1
    writer.close()


async def test_no_part_of_a_body_or_a_header_becomes_a_request(served: Served) -> None:
    hidden = post("/in", b"hidden")
    reader, writer = await connect(served)
    writer.write(b"POST /in HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nX-Text: " % len(hidden))
    await until(lambda: len(served.front.connections) == 1)
    writer.write(hidden.split(b"\r\n")[0] + b"\r\n\r\n" + hidden)
    writer.write(post("/in", b"b"))
    assert await responses(reader, 2) == [(200, b"got:" + hidden), (200, b"got:b")]
    assert served.endpoints.bodies == [hidden, b"b"]
    writer.close()


async def test_what_comes_before_the_answer_waits_for_it(served: Served) -> None:
    reader, writer = await connect(served)
    writer.write(post("/later", b"a"))
    await until(lambda: len(served.endpoints.waiting) == 1)
    writer.write(post("/in", b"b"))
    await asyncio.sleep(0.01)
    assert served.endpoints.bodies == [b"a"]
    served.endpoints.waiting[0].set_result(b"first")
    assert await responses(reader, 2) == [(200, b"first"), (200, b"got:b")]
    writer.close()


async def test_a_shutdown_waits_for_the_answer_and_closes_what_is_idle(served: Served) -> None:
    reader, writer = await connect(served)
    idle, _ = await connect(served)
    writer.write(post("/later", b"a"))
    await until(lambda: len(served.endpoints.waiting) == 1 and len(served.front.connections) == 2)
    ending = asyncio.create_task(served.listener.cleanup())
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await idle.readexactly(1)
    assert not ending.done()
    served.endpoints.waiting[0].set_result(b"first")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head and b"Connection: close" in head
    assert await reader.read() == b"first"
    await ending
    writer.close()


async def test_a_client_that_goes_before_its_answer_harms_nobody(served: Served) -> None:
    _, gone = await connect(served)
    gone.write(post("/later", b"a"))
    await until(lambda: len(served.endpoints.waiting) == 1)
    gone.transport.abort()
    await until(lambda: len(served.front.connections) == 0)
    served.endpoints.waiting[0].set_result(b"first")
    assert await exchanged(served, post("/in", b"b")) == [(200, b"got:b")]
    assert served.front.pipeline.admission.bytes == 0


async def test_an_endpoint_that_fails_is_a_500_and_says_nothing(served: Served) -> None:
    with capture_logs() as logs:
        found = await exchanged(served, post("/fails"), post("/in", b"b"))
    assert [status for status, _ in found] == [500, 200] and b"inside" not in found[0][1]
    assert [line["error"] for line in logs] == ["RuntimeError"]


async def test_what_is_cancelled_ends_the_connection(served: Served) -> None:
    reader, writer = await connect(served)
    writer.write(post("/later", b"a"))
    await until(lambda: len(served.endpoints.waiting) == 1)
    served.endpoints.waiting[0].cancel()
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()


@pytest.mark.parametrize(
    "broken",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        post("/in", b"a", b"Content-Length: 2\r\n"),
        post("/in", b"a", b"Transfer-Encoding: chunked\r\n"),
        post("/in", b"a", b" folded: x\r\n"),
        post("/in", b"a", b"X-Nul: a\0b\r\n"),
        post("/in", b"a").replace(b"\r\n", b"\n"),
        post("/in", b"a").replace(b"Host: x\r\n", b""),
    ],
)
async def test_a_request_that_cannot_be_parsed_is_refused_in_the_standard_shape(served: Served, broken: bytes) -> None:
    reader, writer = await connect(served)
    writer.write(broken)
    async with asyncio.timeout(SECONDS_MAX):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"Connection: close" in head and b"Server:" not in head
    assert b'"code":"parse_error"' in body
    assert served.endpoints.bodies == []
    writer.close()


async def test_a_body_is_counted_while_it_comes_and_no_longer(served: Served) -> None:
    bodies = served.front.pipeline.admission
    _, writer = await connect(served)
    writer.write(post("/in", b"x" * 1_000)[:-1])
    await until(lambda: bodies.bytes == 1_000)
    writer.transport.abort()
    await until(lambda: bodies.bytes == 0)


async def test_a_body_that_finds_no_room_is_told_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "RECEIVED_BYTES_MAX", 10)
    (status, body), *_ = await exchanged(served, post("/in", b"x" * 11))
    assert status == 503 and b"bodies being handled" in body


async def test_a_body_that_does_not_come_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "BODY_SECONDS_MAX", 0.05)
    async with fronting() as served:
        reader, writer = await connect(served)
        writer.write(post("/in", b"abc")[:-1])
        assert [status for status, _ in await responses(reader)] == [408]
        assert await reader.read() == b""
        assert served.endpoints.bodies == [] and served.front.pipeline.admission.bytes == 0
        writer.close()


@pytest.mark.parametrize("beginning", [b"", b"POST /in HTT", post("/in", b"a")[:-4]], ids=["silent", "line", "head"])
async def test_a_connection_without_a_whole_head_ends(monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS_MAX", 0.05)
    async with fronting() as served:
        reader, writer = await connect(served)
        writer.write(beginning)
        async with asyncio.timeout(SECONDS_MAX):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.close()


@pytest.mark.parametrize("first", [post("/in", b"a"), post("/indirect", b"a")], ids=["here", "aiohttp"])
async def test_a_second_head_that_drips_ends_the_connection_too(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    async with fronting() as served:
        monkeypatch.setattr(served.front.connections.heads, "_seconds", 0.05)
        reader, writer = await connect(served)
        writer.write(first)
        assert await responses(reader) == [(200, b"got:a")]
        writer.write(b"POST /in HTTP/1.1\r\n")
        async with asyncio.timeout(SECONDS_MAX):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.close()


async def test_a_client_that_does_not_read_is_not_answered_on(served: Served) -> None:
    """Its next request waits, unread, until it reads."""
    connection = served.front.connect()
    wire = Wire(connection)
    connection.pause_writing()
    await wire.send([post("/in", b"a"), post("/in", b"b")])
    assert served.endpoints.bodies == [] and not wire.is_reading()
    connection.resume_writing()
    await wire.send([])
    assert b"".join(served.endpoints.bodies) == b"ab"
    wire.abort()


@pytest.mark.parametrize("path", ["/in", "/indirect"])
async def test_a_pause_before_a_connection_is_handed_over_is_aiohttps_too(served: Served, path: str) -> None:
    connection = served.front.connect()
    wire = Wire(connection)
    await wire.send([post(path, b"a")])
    connection.pause_writing()
    connection.resume_writing()
    await wire.send([post("/indirect", b"b")])
    connection.pause_writing()
    connection.resume_writing()
    assert served.endpoints.bodies == [b"a", b"b"]
    wire.abort()
