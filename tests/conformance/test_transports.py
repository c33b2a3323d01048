"""The same bytes by the front and by aiohttp alone: the same answers to the byte, and the same commands in the log."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from services.api.app import pipeline_of
from services.api.http.guards import admission
from services.api.http.transports import front
from services.api.http.transports.aiohttp_adapter import Adapter, Handler
from services.api.http.transports.front import Front
from shared.runtime.process.lifecycle import AIOHTTP
from tests.support.api import Api, serving
from tests.support.requests_sent import Draw
from tests.support.tier import sized
from tests.support.wires import Wire

REQUESTS = sized(dev=300, ci=10_000, soak=10_000)
SEED = int(os.environ.get("PERSONLOG_TEST_SEED", "20261130"))

LAST = b"GET /livez HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"
"""Ends a connection. Where it is taken for a part of a body, more of it follow, until something closes."""

SECONDS, TURNS_MAX = 0.3, 40
"""Between two looks, and how many."""

BODY_SECONDS = 0.5
"""aiohttp waits for a body whose chunks are broken as for one that does not come."""

LINGERING_SECONDS = 0.5
"""So long aiohttp waits for the rest of a body that it did not read, before it closes."""


class Pair:
    """Two servers of the same API, each with a log of its own: with the front, and aiohttp alone."""

    def __init__(self, ours: Api, theirs: Api) -> None:
        self.ours, self.theirs = ours, theirs
        self.front = Front(pipeline_of(ours.context))
        self._adapter = web.Server(Adapter(pipeline_of(theirs.context)).handle)

    def protocols(self) -> tuple[asyncio.Protocol, asyncio.Protocol]:
        loop = asyncio.get_running_loop()
        return self.front.connect(), Handler(self._adapter, loop=loop, keepalive_timeout=75.0, **AIOHTTP)

    async def answers(self, pieces: list[bytes]) -> tuple[bytes, bytes]:
        ours, theirs = [await exchanged(protocol, pieces) for protocol in self.protocols()]
        return ours, theirs


@pytest.fixture
async def pair(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr(admission, "BODY_SECONDS_MAX", BODY_SECONDS)
    monkeypatch.setattr(front, "BODY_SECONDS_MAX", BODY_SECONDS)
    monkeypatch.setitem(AIOHTTP, "lingering_time", LINGERING_SECONDS)
    async with serving(migrated_url) as ours, serving(migrated_url) as theirs:
        pair = Pair(ours, theirs)
        yield pair
        await pair.front.end()


async def exchanged(protocol: asyncio.Protocol, pieces: list[bytes]) -> bytes:
    """All that a server answers, without what differs between two answers to the same."""
    wire = Wire(protocol)
    await wire.send([*pieces, LAST])
    for _ in range(TURNS_MAX):
        if await wire.closed(SECONDS):
            break
        await wire.send([LAST])
    else:
        raise AssertionError(f"nothing ends this: {pieces!r}")
    return _comparable(bytes(wire.written))


def _comparable(written: bytes) -> bytes:
    written = re.sub(rb"\r\nDate: [^\r]+", b"", written)
    return re.sub(rb'"requestId":"[^"]+"', b"", written)


async def test_the_front_and_aiohttp_alone_answer_the_same_and_append_the_same(pair: Pair) -> None:
    draw = Draw(SEED)
    for number in range(REQUESTS):
        pieces = draw.connection()
        ours, theirs = await pair.answers(pieces)
        assert ours == theirs, f"request {number}: {pieces!r}\nfront:   {ours!r}\naiohttp: {theirs!r}"
    assert pair.front.answered > REQUESTS / 5 and pair.front.handed_over > REQUESTS / 5
    assert _shown(pair.ours.commands()) == _shown(pair.theirs.commands())
    assert len(pair.ours.commands()) > REQUESTS / 20


@pytest.mark.parametrize("cut", ["every byte", "once"])
async def test_a_request_is_answered_the_same_wherever_it_is_cut(pair: Pair, cut: str) -> None:
    body = b'{"api_key":"phc_test","event":"a","distinct_id":"ada"}'
    head = b"POST /e/?x=%%20 HTTP/1.1\r\nHost: x\r\nX-Request-Id: 1\r\nContent-Length: %d\r\n\r\n" % len(body)
    request = head + body
    whole, _ = await pair.answers([request])
    pieces = (
        [[request[at : at + 1] for at in range(len(request))]]
        if cut == "every byte"
        else [[request[:at], request[at:]] for at in range(1, len(request))]
    )
    for each in pieces:
        ours, theirs = await pair.answers(each)
        assert ours == theirs
        assert _without_position(ours) == _without_position(whole)
    assert pair.front.handed_over <= 2 + len(pieces)  # for the last request, which closes


def _without_position(answers: bytes) -> bytes:
    return re.sub(rb"\r\nPosition: [^\r]+", b"", answers)


def _shown(commands: list[Any]) -> list[tuple[Any, ...]]:
    """Commands without what is minted for each."""
    fields: Callable[[Any], tuple[Any, ...]] = lambda one: (  # noqa: E731  # a name for one line
        type(one).__name__, one.project, getattr(one, "distinct_id", None), getattr(one, "event", None)
    )
    return [fields(command) for command in commands]
