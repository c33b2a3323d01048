"""Many clients that capture at once, in every encoding; what was answered is kept for `judge`. Never judges itself."""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID, uuid4

import brotli
import orjson
import zstandard

from tests.support.chaos import Acknowledged
from tests.support.processes import TOKEN, Stack

CLIENTS = 64
ORIGIN = "https://shop.example"
EVENTS_MAX = 6
"""Of one request."""

RESEND_SECONDS = 0.25
"""Between a refusal and the same request again; Retry-After says 1, and a test has less time than a client."""

ANSWER_SECONDS_MAX = 60.0
"""A client gives up then, and tells: who waits so long gets no answer at all. 10 s are promised, on a machine that does
nothing else; what they were is reported."""

Events = list[dict[str, Any]]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


def single(events: Events) -> bytes:
    return post("/capture/", orjson.dumps({"api_key": TOKEN, **events[0]}))


def array(events: Events) -> bytes:
    return post("/e/", orjson.dumps([{"token": TOKEN, **event} for event in events]))


def batch(events: Events) -> bytes:
    return post("/batch/", _batch(events))


def in_chunks(events: Events) -> bytes:
    body = _batch(events)
    parts = (body[:100], body[100:], b"")
    return post("/batch/", b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts), Transfer_Encoding="chunked")


def gzip_with_header(events: Events) -> bytes:
    return post("/i/v0/e/", gzip.compress(_batch(events), 1), Content_Encoding="gzip")


def gzip_without_a_hint(events: Events) -> bytes:
    return post("/batch", gzip.compress(_batch(events), 1))


def gzip_as_text(events: Events) -> bytes:
    return post("/e/?compression=gzip-js", gzip.compress(_batch(events), 1), Content_Type="text/plain")


def deflate(events: Events) -> bytes:
    return post("/batch/", zlib.compress(_batch(events), 1), Content_Encoding="deflate")


def base64_form(events: Events) -> bytes:
    body = f"data={quote(base64.b64encode(_batch(events)).decode(), safe='')}&compression=base64".encode()
    return post("/track/", body, Content_Type="application/x-www-form-urlencoded")


def in_the_query(events: Events) -> bytes:
    data = base64.b64encode(orjson.dumps({"api_key": TOKEN, **events[0]})).decode()
    return f"GET /e/?data={quote(data, safe='')} HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\n\r\n".encode()


def v1_gzip(events: Events) -> bytes:
    return _v1(gzip.compress(_v1_batch(events), 1), "gzip")


def v1_zstd(events: Events) -> bytes:
    return _v1(zstandard.compress(_v1_batch(events)), "zstd")


def v1_brotli(events: Events) -> bytes:
    return _v1(brotli.compress(_v1_batch(events), quality=1), "br")


SINGLES: tuple[Callable[[Events], bytes], ...] = (single, in_the_query)
ENCODINGS = (
    *SINGLES, array, batch, in_chunks, gzip_with_header, gzip_without_a_hint, gzip_as_text, deflate, base64_form,
    v1_gzip, v1_zstd, v1_brotli,
)  # fmt: skip


class Flood(threading.Thread):
    """`clients` that each send one request after the other, and resend unchanged what is not answered with 200."""

    def __init__(self, stack: Stack, *, requests: int = 0, clients: int = CLIENTS, seed: int = 1) -> None:
        super().__init__(daemon=True)
        self.stack, self._requests, self._clients, self._seed = stack, requests, clients, seed
        self.answers: list[Acknowledged] = []
        self.taken: dict[str, list[float]] = {encoding.__name__: [] for encoding in ENCODINGS}
        self.refused: list[Reply] = []
        self.refused_by: Counter[int] = Counter()
        self.unanswered = 0
        self.seconds = 0.0
        self.wrong: list[str] = []
        self.stopping = threading.Event()

    @property
    def longest(self) -> float:
        """Of all answers, in seconds."""
        return max([*(reply.seconds for reply in self.refused), *(one for each in self.taken.values() for one in each)])

    def run(self) -> None:
        """Until each client has sent its share of `requests`; without, until stopped."""
        began = time.monotonic()
        asyncio.run(self._all())
        self.seconds = time.monotonic() - began

    async def _all(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self._clients)))

    async def _client(self, number: int) -> None:
        chosen = random.Random(self._seed * 1_000 + number)
        connection = Connection(self.stack.port)
        try:
            turn = 0
            while not self.stopping.is_set() and (not self._requests or turn < self._requests // self._clients):
                encoding = ENCODINGS[(turn + number) % len(ENCODINGS)]
                count = 1 if encoding in SINGLES else chosen.randint(1, EVENTS_MAX)
                events = [_event(f"flood{self._seed}-{number}", chosen) for _ in range(count)]
                if not await self._until_taken(connection, number, encoding, events):
                    return
                turn += 1
        finally:
            connection.close()

    async def _until_taken(
        self, connection: Connection, number: int, encoding: Callable[[Events], bytes], events: Events
    ) -> bool:
        request = encoding(events)
        while True:
            try:
                reply = await connection.ask(request)
            except (OSError, EOFError, TimeoutError) as error:
                self.unanswered += 1
                if isinstance(error, TimeoutError):
                    self.wrong.append(f"{encoding.__name__}: no answer in time")
                    return False
            else:
                if reply.status == 200:
                    self.taken[encoding.__name__].append(reply.seconds)
                    uuids = [UUID(event["uuid"]) for event in events]
                    self.answers.append(Acknowledged(reply.headers["position"], uuids, []))
                    return True
                self.refused.append(reply)
                self.refused_by[number] += 1
                if reply.status != 503:
                    self.wrong.append(f"{encoding.__name__}: {reply.status} {reply.body!r}")
                    return False
            if self.stopping.is_set():
                return False
            await asyncio.sleep(RESEND_SECONDS)


class Connection:
    """One kept-alive connection, opened again when it was lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Reply:
        """One answer. The time counts from when the request is on its way in full."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
                reader, writer = self._streams
                writer.write(request)
                with suppress(ConnectionError):  # it may have been answered, and closed, before it was all sent
                    await writer.drain()
                began = time.monotonic()
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            self.close()
            raise
        return Reply(int(head[0].split(" ")[1]), headers, body, time.monotonic() - began)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A request as bytes; header names are written with underscores."""
    named = {"Host": "x", "Origin": ORIGIN, "Content_Type": "application/json", **headers}
    if "Transfer_Encoding" not in named:
        named["Content_Length"] = str(len(body))
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def _batch(events: Events) -> bytes:
    return orjson.dumps({"api_key": TOKEN, "batch": events})


def _v1(body: bytes, encoding: str) -> bytes:
    return post(
        "/i/v1/analytics/events", body, Content_Encoding=encoding, Authorization=f"Bearer {TOKEN}",
        PostHog_Sdk_Info="posthog-python/7.91.1", PostHog_Attempt="1", PostHog_Request_Id=str(uuid4()),
        PostHog_Request_Timestamp=datetime.now(UTC).isoformat(),
    )  # fmt: skip


def _v1_batch(events: Events) -> bytes:
    at = datetime.now(UTC).isoformat()
    return orjson.dumps({"created_at": at, "batch": [{"timestamp": at, **event} for event in events]})


def _event(distinct_id: str, chosen: random.Random) -> dict[str, Any]:
    changes = {"$set": {f"n{chosen.randrange(8)}": chosen.randrange(99)}, "$set_once": {"first": chosen.randrange(99)}}
    return {"event": "tick", "distinct_id": distinct_id, "uuid": str(uuid4()), "properties": changes}
