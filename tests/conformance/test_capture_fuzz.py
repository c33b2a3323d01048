"""Mutated bodies in every shape and encoding, over the real HTTP stack: no 5xx, and the log has what was said, no more.

Seeded, so that a fault comes again; one request at a time, so that each is held against what it left in the log.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs, quote
from uuid import UUID

import brotli
import orjson
import pytest
import zstandard

from services.api.capture import payload
from services.api.http.errors import ApiError
from shared.domain.commands import Capture, Command, decode
from shared.domain.errors import BadInput
from shared.domain.ids import COMMANDS, IDENTITY, Position
from shared.log.memory import MemoryReader
from tests.support.api import TOKEN, Api, serving
from tests.support.recorded import ANON, BROWSER_SDK, NODE_SDK, PYTHON_SDK
from tests.support.tier import sized

BODIES = sized(dev=1_000, ci=10_000, soak=51_000)
"""`make soak` sends the 51,000 of which docs/reliability.md tells."""

SEED = 20_261_123
PATHS = ("/batch", "/capture", "/e", "/i/v0/e", "/track", "/engage")
V1 = "/i/v1/analytics/events"
HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "PostHog-Sdk-Info": "fuzz/1.0",
    "PostHog-Attempt": "1",
    "PostHog-Request-Id": str(UUID(int=7)),
    "PostHog-Request-Timestamp": "2026-11-23T09:38:20Z",
}
Sent = tuple[str, bytes, dict[str, str]]
"""A path with its query, a body, and headers."""

LEFT_OUT = {"An event must be an object.", "An event needs a name.", "An event needs a distinct_id."}
"""Why an event is left out whole; everything else is repaired."""

_MERGES = ("$identify", "$create_alias", "$merge_dangerously", "$groupidentify")


@pytest.fixture
async def api(migrated_url: str) -> AsyncIterator[Api]:
    async with serving(migrated_url) as served:
        yield served


async def test_no_body_makes_a_5xx_and_nothing_refused_reaches_the_log(
    api: Api, record_property: Callable[[str, object], None]
) -> None:
    dice, tail = random.Random(SEED), await Tail.of(api)
    seen: Counter[tuple[str, str, int]] = Counter()
    stored: Counter[str] = Counter()
    connection = await asyncio.open_connection("127.0.0.1", api.client.port)
    for number in range(BODIES):
        protocol = "v1" if dice.random() < 0.4 else "v0"
        (target, body, headers), how = (_v1 if protocol == "v1" else _v0)(dice)
        status, content, closed = await ask(connection, target, body, headers)
        if closed:
            connection[1].close()
            connection = await asyncio.open_connection("127.0.0.1", api.client.port)
        seen[protocol, how, status] += 1
        what = f"{number}: {target} {headers} {body!r}"[:600]
        sent = events_in(target, body, headers) if protocol == "v0" and status in (200, 400) else []
        kind, events = judge(protocol, status, content, await tail.read(), sent, what)
        stored[kind] += events
    connection[1].close()
    everything = {*(("v0", how) for how in _V0), *(("v1", how) for how in _V1)}
    for fine in (True, False):
        assert {(protocol, how) for protocol, how, status in seen if (status < 300) is fine} == everything
    assert min(stored[kind] for kind in ("whole", "told", "v1")) > BODIES // 40, stored
    refused = sum(count for (*_, status), count in seen.items() if status >= 300)
    record_property(
        "faults", f"capture fuzz: {BODIES:,} bodies, {refused:,} of them refused, {sum(stored.values()):,} events "
        "stored; 0 answers of 5xx, 0 records that no answer told of",
    )  # fmt: skip


def judge(
    protocol: str, status: int, content: bytes, found: list[Command], sent: list[Any], what: str
) -> tuple[str, int]:
    """The answer has a documented status and shape, and the log got what it says: how many events. `sent` are the
    events of a v0 request."""
    captured = sum(isinstance(command, Capture) for command in found)
    assert status in {200, 204, 400, 401, 413} | ({415} if protocol == "v1" else set()), (status, what)
    if protocol == "v1" and status == 200:
        results = orjson.loads(content)["results"].values()
        assert all(set(one) <= {"result", "details"} for one in results), what
        kept = sum(one["result"] in ("ok", "warning") for one in results)
        assert captured == kept and all(one["result"] in ("ok", "warning", "drop") for one in results), what
        return "v1", captured
    if protocol == "v1":
        assert found == [] and set(orjson.loads(content)) == {"error", "error_description", "error_uri"}, what
        return "none", 0
    if status >= 300:
        assert found == [] and set(orjson.loads(content)) == {"type", "code", "detail", "attr"}, what
        return "none", 0
    if not content:  # a beacon
        return "whole", captured
    answer = orjson.loads(content)
    warnings = answer.pop("warnings", [])
    assert answer == {"status": "Ok"}, what
    assert all(set(one) == {"index", "field", "why"} for one in warnings), what
    left_out = {one["index"] for one in warnings if one["why"] in LEFT_OUT}
    assert left_out == {index for index, event in enumerate(sent) if not is_event(event, "/engage" in what)}, what
    dropped = sum(is_dropped(event) for index, event in enumerate(sent) if index not in left_out)
    assert captured == len(sent) - len(left_out) - dropped, what
    return "told" if warnings else "whole", captured


def events_in(target: str, body: bytes, headers: dict[str, str]) -> list[Any]:
    """The events of a v0 request, as far as there are any."""
    query = {name: value[0] for name, value in parse_qs(target.partition("?")[2]).items()}
    content_type = headers.get("Content-Type", "")
    try:
        return payload.decode(body, content_type, query, headers.get("Content-Encoding", "")).events
    except (ApiError, BadInput):
        return []


def is_event(event: Any, is_engage: bool) -> bool:
    """Whether there is a name and a distinct id."""
    if not isinstance(event, dict):
        return False
    name = event.get("event")
    name = "$identify" if name is None and is_engage else name
    return isinstance(name, str) and bool(name.strip()) and bool(ids_of(event))


def ids_of(event: dict[str, Any]) -> list[Any]:
    """What may be its distinct id; the first one counts."""
    places = (event.get("distinct_id"), event.get("$distinct_id"), properties_of(event).get("distinct_id"))
    return [one for one in places if isinstance(one, bool | int | float) or (isinstance(one, str) and one.strip())]


def properties_of(event: dict[str, Any]) -> dict[str, Any]:
    properties = event.get("properties")
    return properties if isinstance(properties, dict) else {}


def is_dropped(event: dict[str, Any]) -> bool:
    """A merge without person processing means nothing; a cookieless one is kept as an event."""
    properties = properties_of(event)
    name = event.get("event")
    return (
        (name is None or name in _MERGES)
        and properties.get("$process_person_profile") is False
        and properties.get("$cookieless_mode") is not True
        and ids_of(event)[0] != "$posthog_cookieless"
    )


class Tail:
    """What the log got since it was last asked; reading it shows that it can be read."""

    def __init__(self, api: Api, readers: list[MemoryReader]) -> None:
        self._api, self._readers, self._heads = api, readers, {COMMANDS: -1, IDENTITY: -1}

    @classmethod
    async def of(cls, api: Api) -> Tail:
        readers = [api.log.reader(topic, "fuzz") for topic in (COMMANDS, IDENTITY)]
        for reader in readers:
            await reader.start()
            for partition in reader.assigned():
                reader.seek(Position(reader.topic, partition, -1))
        return cls(api, readers)

    async def read(self) -> list[Command]:
        found: list[Command] = []
        for reader in self._readers:
            head = sum(position.offset for position in await self._api.log.heads(reader.topic))
            if head != self._heads[reader.topic]:  # to ask for none would wait
                self._heads[reader.topic] = head
                fetched = await reader.fetch(records_max=100_000, wait_seconds=0.0)
                found += [decode(record.value) for record in fetched]
        return found


async def ask(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], target: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes, bool]:
    """One request on a connection that is kept; aiohttp's client would cost as much as the server."""
    reader, writer = connection
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    method = "GET" if not body and "data=" in target else "POST"
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body)
    async with asyncio.timeout(30):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", head)
        content = await reader.readexactly(int(length[1]) if length is not None else 0)
    return int(head.split()[1]), content, b"connection: close" in head


_ATOMS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e300, 2**63, 2**64, -(2**63) - 1, 10**40, "", " ", "d", "\0", "²", "NaN", "é😀",
    "$posthog_cookieless", {"_h": 0}, [1], 1e16, "2024/01/02 10:00:00",
    "x" * 500, TOKEN, "phc_other", "2026-11-23T09:38:09Z", "9" * 30, "undefined", [], {}, ANON,
    "Mon, 23 Nov 2026 09:38:09 GMT", str(UUID(int=5)),
)  # fmt: skip
_NAMES = (
    "event", "distinct_id", "$distinct_id", "uuid", "properties", "timestamp", "sent_at", "offset", "$set", "$set_once",
    "$unset", "api_key", "token", "$token", "batch", "alias", "$anon_distinct_id", "$process_person_profile",
    "historical_migration", "$os", "a", "", "options", "session_id", "window_id", "created_at", "cookieless_mode",
    "process_person_profile", "disable_skew_correction", "product_tour_id", "$cookieless_mode",
)  # fmt: skip
_EVENTS = ("e", "$identify", "$create_alias", "$merge_dangerously", "$groupidentify", "$set")


def _value(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.random()
    if depth > 3 or kind < 0.6:
        return dice.choice(_ATOMS)
    if kind < 0.75:
        return [_value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {dice.choice(_NAMES): _value(dice, depth + 1) for _ in range(dice.randrange(5))}


def _event(dice: random.Random, **likely: Any) -> Any:
    made = {dice.choice(_NAMES): _value(dice) for _ in range(dice.randrange(4))} if dice.random() < 0.7 else {}
    likely |= {"event": dice.choice(_EVENTS), "distinct_id": "d"}
    likely["properties"] = {dice.choice(_NAMES): _value(dice) for _ in range(dice.randrange(5))}
    return made | {name: value for name, value in likely.items() if dice.random() < 0.95}


def _json(value: Any) -> bytes:
    """By the standard library, because orjson refuses the wide integers that this is about."""
    return json.dumps(value).encode().replace(b'"NaN"', b"NaN")


def _mangled(dice: random.Random, body: bytes) -> bytes:
    """Mostly whole; sometimes a byte changed, a piece cut out, or half a surrogate put in."""
    if dice.random() < 0.8 or not body:
        return body
    at = dice.randrange(len(body))
    return dice.choice(
        [
            body[:at],
            body[:at] + bytes([dice.randrange(256)]) + body[at + 1 :],
            body[:at] + b"\\ud83d" + body[at:],
            body[:at] + b"\xff" + body[at:],
            body + body,
        ]
    )


def lz64(body: bytes) -> bytes:
    """LZString's format, with every unit as new: as valid as the library's, and as long as the text."""
    bits, known, first = "", 3, True
    for unit in map(ord, body.decode("utf-8", "replace")):
        unit = min(unit, 0xFFFD)
        for value, width in ((int(unit > 255), known.bit_length()), (unit, 16 if unit > 255 else 8)):
            bits += f"{value:0{width}b}"[::-1]
        known, first = known + 1 + (not first), False
    bits += f"{2:0{known.bit_length()}b}"[::-1]
    bits += "0" * (-len(bits) % 6 or 6)
    return base64.b64encode(int(bits + "0" * (-len(bits) % 24), 2).to_bytes(-(-len(bits) // 24) * 3, "big"))[
        : len(bits) // 6
    ]


_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_zstd = zstandard.ZstdCompressor(level=1).compress


def _light(body: bytes) -> bytes:
    return brotli.compress(body, quality=1)  # type: ignore[no-any-return]  # it comes without types


_V0: dict[str, Callable[[bytes], Sent]] = {
    "plain": lambda body: ("", body, {}),
    "gzip": lambda body: ("", gzip.compress(body, 1), {}),
    "deflate": lambda body: ("", zlib.compress(body, 1), {"Content-Encoding": "deflate"}),
    "base64": lambda body: ("?compression=base64", base64.b64encode(body), {}),
    "base64 of gzip": lambda body: ("", base64.b64encode(gzip.compress(body, 1)), {}),
    "form": lambda body: ("", b"data=" + quote(body).encode(), _FORM),
    "form of base64": lambda body: ("", b"compression=base64&data=" + quote(base64.b64encode(body)).encode(), _FORM),
    "form of gzip": lambda body: ("?compression=gzip-js", b"data=" + quote(gzip.compress(body, 1)).encode(), _FORM),
    "lz64": lambda body: ("?compression=lz64", lz64(body[:400]), {}),
    "form of lz64": lambda body: ("", b"compression=lz64&data=" + lz64(body[:400]), _FORM),
    "query": lambda body: ("?data=" + quote(base64.b64encode(body)), b"", {}),
}
_V1: dict[str, Callable[[bytes], bytes]] = {
    "": lambda body: body,
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
    "zstd": _zstd,
    "br": _light,
}


def _v0(dice: random.Random) -> tuple[Sent, str]:
    how = dice.choice([*_V0])
    shape = dice.random()
    if shape < 0.5 or "lz64" in how:
        body = _json(_event(dice, api_key=TOKEN))
    elif shape < 0.85:
        body = _json({"api_key": TOKEN, "batch": [_event(dice) for _ in range(dice.randrange(4))]})
    elif shape < 0.9:
        body = _json(_value(dice))
    else:
        body = orjson.dumps(dice.choice([PYTHON_SDK, NODE_SDK, BROWSER_SDK]))
    query, sent, headers = _V0[how](_mangled(dice, body))
    extra = dice.choice(["", "", "", "beacon=1", "_=5", "sent_at=1795426700000", "compression=gzip"])
    target = dice.choice(PATHS) + "/" + query + (("&" if query else "?") + extra if extra else "")
    return (target, _mangled(dice, sent), headers), how


def _v1(dice: random.Random) -> tuple[Sent, str]:
    how = dice.choice([*_V1])
    events = [
        _event(
            dice,
            uuid=str(UUID(int=dice.randrange(1, 2**128))),
            timestamp="2026-11-23T09:38:09Z",
            options=_value(dice, 2) if dice.random() < 0.3 else {dice.choice(_NAMES): dice.choice(_ATOMS[:5])},
        )
        for _ in range(dice.randrange(1, 5))
    ]
    batch: Any = {"created_at": "2026-11-23T09:38:09Z", "batch": events}
    if dice.random() < 0.2:
        batch = batch | {dice.choice(_NAMES): _value(dice)} if dice.random() < 0.7 else _value(dice)
    headers = HEADERS | {"Content-Type": "application/json"} | ({"Content-Encoding": how} if how else {})
    if dice.random() < 0.05:
        headers[dice.choice([*headers])] = dice.choice(["", "x", "0", "²", "gzip", "identity", "Bearer phc_other"])
    return (V1, _mangled(dice, _V1[how](_mangled(dice, _json(batch)))), headers), how
