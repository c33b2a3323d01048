"""Bytes of HTTP requests, good, odd and hostile, drawn by a seed."""

from __future__ import annotations

import base64
import gzip
import random
from collections.abc import Callable
from urllib.parse import quote

import orjson

TOKEN, KEY = "phc_test", "phx_test"
UUID = "55379864-2afb-5e1c-adf7-decb022461c5"

_EVENTS = (
    {"api_key": TOKEN, "event": "a", "distinct_id": "ada", "properties": {"$set": {"a": 1}}},
    {"api_key": TOKEN, "event": "", "distinct_id": "ada"},
    {"api_key": "phc_wrong", "event": "a", "distinct_id": "ada"},
    {"api_key": TOKEN, "batch": [{"event": "a", "distinct_id": "b"}, {"event": "a"}]},
    [{"token": TOKEN, "event": "$identify", "distinct_id": "c", "properties": {"$anon_distinct_id": "d"}}],
    {"api_key": TOKEN, "batch": []},
)
_V1 = {
    "batch": [{"event": "a", "uuid": UUID, "distinct_id": "ada", "timestamp": "2026-11-23T10:00:00Z"}],
}
_V1_HEADS = (
    b"PostHog-Sdk-Info: web/1", b"PostHog-Attempt: 1", b"PostHog-Request-Id: " + UUID.encode(),
    b"PostHog-Request-Timestamp: 2026-11-23T10:00:00Z", b"Content-Type: application/json",
)  # fmt: skip
_PROXY = (
    b"X-Forwarded-For: 10.1.2.3", b"X-Request-Id: 81f0", b"Cookie: a=1; b=2", b"User-Agent: x/1", b"Accept: */*",
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"Accept-Encoding: gzip, br",
    b"Origin: https://shop.example", b"Access-Control-Request-Headers: X-A, X-B",
)  # fmt: skip
_ODD_HEADERS = (
    b"X-A: 1\r\nX-A: 2", b"X-Empty:", b"x-lower: y", b"X-Tab:\tz\t", b"X-Latin: \xe9", b"X-Utf: \xc3\xa9",
    b"Expect: 100-continue", b"Expect: nothing", b"Connection: keep-alive", b"Connection: close",
    b"Connection: upgrade\r\nUpgrade: h2c", b"Connection: Upgrade\r\nUpgrade: websocket", b"Content-Encoding: gzip",
    b"Content-Encoding: br", b"Accept: text/csv", b"Accept: image/png", b"Min-Position: c.1.1",
    b"Min-Position: nonsense",
    b"Idempotency-Key: 1", b"Idempotency-Key: " + b"x" * 300, b"If-Match: nonsense", b"Prefer: respond-async",
    b"Host: y", b"X-Long: " + b"x" * 4_000, b"X-Longer: " + b"x" * 9_000, b"Range: bytes=0-1",
    b"Content-Type: multipart/form-data", b"Sec-WebSocket-Key1: x",
)  # fmt: skip
_HOSTILE_HEADERS = (
    b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: -1", b"Content-Length: +3", b"Content-Length: 0x3",
    b"Content-Length: 3, 3", b"Content-Length: ", b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\x0bchunked", b" folded: x", b"\tfolded", b"X-Nul: a\0b", b"X-Nul\0: a", b"X-Cr: a\rb",
    b"X-Lf: a\nX-B: c", b"X Space: a", b"No-Colon", b": empty", b"X-Del: \x7f", b"X-Bell: \x07", b"\xff: a",
)  # fmt: skip


class Draw:
    """One stream of requests for one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def connection(self) -> list[bytes]:
        """All that one client sends, in the pieces that it is sent in."""
        count = self._random.choice((1, 1, 1, 2, 3))
        return self._cut(b"".join(self.request() for _ in range(count)))

    def request(self) -> bytes:
        kind = self._random.random()
        drawn = self._good()
        if kind < 0.5:
            return drawn
        return self._odd(drawn) if kind < 0.75 else self._hostile(drawn)

    def _cut(self, sent: bytes) -> list[bytes]:
        how = self._random.random()
        if how < 0.45 or len(sent) < 3:
            return [sent]
        if how < 0.55 and len(sent) < 700:
            return [sent[at : at + 1] for at in range(len(sent))]
        cuts = sorted(self._random.sample(range(1, len(sent)), min(self._random.randint(1, 3), len(sent) - 1)))
        return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

    def _good(self) -> bytes:
        makers: tuple[Callable[[], bytes], ...] = (
            self._capture, self._capture, self._by_query, self._v1, self._person, self._patch, self._other,
            self._record,
        )  # fmt: skip
        return self._random.choice(makers)()

    def _head(self, method: str, target: str, *headers: bytes, body: bytes | None = None) -> bytes:
        lines = [f"{method} {target} HTTP/1.1".encode("latin-1"), b"Host: x", *headers]
        lines += self._random.sample(_PROXY, self._random.randint(0, 4))
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")

    def _capture(self) -> bytes:
        path = self._random.choice(("/capture/", "/e/", "/batch", "/i/v0/e/?ip=1", "/engage/", "/track?beacon=1"))
        body = orjson.dumps(self._random.choice(_EVENTS))
        how = self._random.random()
        if how < 0.15:
            return self._head("POST", path, b"Content-Encoding: gzip", body=gzip.compress(body, mtime=0))
        if how < 0.3:
            form = b"data=" + quote(base64.b64encode(body)).encode()
            return self._head("POST", path, b"Content-Type: application/x-www-form-urlencoded", body=form)
        if how < 0.4:
            body = body[: self._random.randint(0, len(body))]
        if how > 0.97:
            body = b" " * self._random.choice((8_000, 70_000, 270_000)) + body
        return self._head("POST", path, b"Content-Type: application/json", body=body)

    def _by_query(self) -> bytes:
        data = quote(base64.b64encode(orjson.dumps(self._random.choice(_EVENTS))))
        return self._head("GET", f"/e/?data={data}&_=1795426700000")

    def _v1(self) -> bytes:
        heads = list(_V1_HEADS)
        if self._random.random() < 0.2:
            heads.pop(self._random.randrange(len(heads)))
        token = self._random.choice((b"phc_test", b"phc_test", b"phc_wrong"))
        body = orjson.dumps(_V1)[: self._random.choice((None, None, 20, 0))]
        return self._head("POST", "/i/v1/analytics/events/", b"Authorization: Bearer " + token, *heads, body=body)

    def _authorization(self) -> bytes:
        return self._random.choice(
            (b"Authorization: Bearer phx_test", b"Authorization: Bearer phx_test", b"authorization: bearer  phx_test ",
             b"Authorization: Basic eA==", b"Authorization: Bearer wrong", b"X-No: key")
        )  # fmt: skip

    def _person(self) -> bytes:
        prefix = self._random.choice(("/api/projects/1/persons", "/api/environments/@current/persons", "/api/person",
                                      "/api/projects/99/persons", "/api/projects/x/persons"))  # fmt: skip
        rest = self._random.choice(
            (f"/{UUID}/", f"/{UUID}", f"/{UUID.upper()}/", f"/{UUID}.json", f"/{UUID}/?format=csv", "/12345/", "/ada/",
             "/%41da/", f"/{UUID}/?as_of=", f"/{UUID}/?personal_api_key=phx_test", "/a%2Fb/", "/values/x/",
             f"/{UUID}//")
        )  # fmt: skip
        method = self._random.choice(("GET", "GET", "GET", "HEAD", "POST"))
        return self._head(method, prefix + rest, self._authorization())

    def _patch(self) -> bytes:
        body = self._random.choice(
            (b'{"properties":{"a":1}}', b"{}", b"[]", b"nonsense", b"",
             b'{"properties":{"a":1},"personal_api_key":"phx_test"}')
        )  # fmt: skip
        prefer = self._random.choice((b"Prefer: respond-async", b"Prefer: wait=1", b"X-None: x"))
        kind = self._random.choice((b"Content-Type: application/json", b"Content-Type: text/plain",
                                    b"Content-Type: application/x-www-form-urlencoded"))  # fmt: skip
        target = f"/api/projects/1/persons/{UUID}/"
        return self._head(self._random.choice(("PATCH", "PUT")), target, self._authorization(), prefer, kind, body=body)

    def _record(self) -> bytes:
        event = {"event": "$snapshot", "properties": {"token": TOKEN, "distinct_id": "ada", "$session_id": "s-1"}}
        return self._head("POST", "/s/", b"Content-Type: application/json", body=orjson.dumps(event))

    def _other(self) -> bytes:
        method, target = self._random.choice(
            (("GET", "/livez"), ("HEAD", "/livez"), ("GET", "/version"), ("GET", "/readyz"), ("OPTIONS", "/e/"),
             ("OPTIONS", "/flags"), ("GET", "/array/phc_test/config"), ("GET", "/array/phc_x/config.js"),
             ("GET", "/api/surveys/"), ("GET", "/static/array.js"), ("GET", "/none"), ("DELETE", "/capture/"),
             ("BREW", "/capture/"), ("GET", "//livez"), ("GET", "/livez#x"), ("GET", "http://x/livez"),
             ("OPTIONS", "*"), ("GET", "/livez?a=%zz&b=%ff"), ("GET", "/li%76ez"), ("GET", "/livez/../livez"),
             ("GET", "/l\xedvez"), ("CONNECT", "x:1"), ("GET", "livez"), ("GET", "/livez x"))
        )  # fmt: skip
        return self._head(method, target)

    def _odd(self, drawn: bytes) -> bytes:
        if self._random.random() < 0.1:
            version = self._random.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1"))
            return drawn.replace(b"HTTP/1.1", version, 1)
        if self._random.random() < 0.1:
            return b"\r\n" + drawn
        return self._with(drawn, self._random.choice(_ODD_HEADERS))

    def _hostile(self, drawn: bytes) -> bytes:
        how = self._random.random()
        head, _, body = drawn.partition(b"\r\n\r\n")
        if how < 0.55:
            return self._with(drawn, self._random.choice(_HOSTILE_HEADERS))
        if how < 0.65:
            return drawn.replace(b"\r\n", b"\n")
        if how < 0.75:  # a request in a chunk, in a head that has a length as well or has not
            chunked = head.replace(b"Content-Length", self._random.choice((b"X-Length", b"Content-Length")))
            inner = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
            size = self._random.choice((b"%x" % len(inner), b"%x;a=b" % len(inner), b"0x5", b"zz", b"%x" % 5))
            return chunked + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + inner + b"\r\n0\r\n\r\n"
        if how < 0.85:
            at = self._random.randrange(len(drawn))
            return drawn[:at] + bytes([self._random.randrange(256)]) + drawn[at + 1 :]
        if how < 0.9:
            host = self._random.choice((b"X: x", b"Host: ", b"Host: a b", b"Host: x\r\nHost: x"))
            return drawn.replace(b"Host: x", host, 1)
        if how < 0.95:
            count = self._random.choice((90, 127, 140))
            return self._with(drawn, b"\r\n".join(b"X-%d: y" % number for number in range(count)))
        return body + drawn

    def _with(self, drawn: bytes, header: bytes) -> bytes:
        head, end, body = drawn.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        lines.insert(self._random.randint(1, len(lines)), header)
        return b"\r\n".join(lines) + end + body
