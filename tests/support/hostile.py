"""What strangers, scanners and broken clients send to the engine's two ports. Seeded; never waits without a bound."""

from __future__ import annotations

import gzip
import random
import socket
import struct
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple
from urllib.parse import quote

from tests.support.engine import PASSWORD, USER, EngineProcess

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 2.0
"""A server that says nothing is left after the second: what it does with the rest is its own affair."""

SLOW_BYTES, SLOW_SECONDS = 24, 0.01
"""How much a slow sender sends byte by byte, and how long it rests after each."""

HUGE = 1 << 60
"""A length that no buffer may be made of."""

NOISE_BYTES_MAX, HEADER_BYTES_MAX, HEADERS_MAX = 8_192, 2_000_000, 5_000

HELLO, QUERY, DATA, CANCEL, PING = 0, 1, 2, 3, 4
"""Packets of a client in ClickHouse's native protocol."""

REVISION = 54_058
"""Of the native protocol in these tests: old enough that a hello has no addendum."""

Send = Callable[["Stranger"], bytes]


class Stranger(NamedTuple):
    """One who connects: its own random choices, and the words that must never be written down."""

    chosen: random.Random
    canary: bytes


def number(value: int) -> bytes:
    """LEB128, as lengths and packet types are sent."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return number(len(raw)) + raw


def hello(user: str = USER, password: str = PASSWORD) -> bytes:
    head = number(HELLO) + text("stranger") + number(1) + number(1) + number(REVISION)
    return head + text("default") + text(user) + text(password)


def request(method: str, query: str, body: bytes = b"", *headers: bytes, known: bool = True) -> bytes:
    """Over HTTP, as the owner or as nobody."""
    key = b64encode(f"{USER}:{PASSWORD}".encode())
    lines = [f"{method} /?query={quote(query)} HTTP/1.1".encode(), b"Host: x", *headers]
    lines += [b"Authorization: Basic " + key] if known else []
    if not any(header.lower().startswith((b"content-length", b"transfer-encoding")) for header in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join((*lines, b"", b"")) + body


def noise(one: Stranger) -> bytes:
    return one.chosen.randbytes(one.chosen.randint(1, NOISE_BYTES_MAX)) + one.canary


def whole_request(one: Stranger) -> bytes:
    return request("GET", f"SELECT '{one.canary.decode()}'", known=one.chosen.random() < 0.5)


def half_request(one: Stranger) -> bytes:
    whole = request("POST", "INSERT INTO hostile FORMAT TSV", one.canary * 100)
    return whole[: one.chosen.randrange(1, len(whole))]


def bad_chunks(one: Stranger) -> bytes:
    sizes = (b"ZZ", b"-1", b"%x" % HUGE, b"f" * 40, b"", b"5;" + b"x" * 70_000, b"\x00\xff")
    chunk = b"%x\r\n%b\r\n" % (len(one.canary), one.canary)
    body = chunk + one.chosen.choice(sizes) + b"\r\n" + one.canary + b"\r\n"
    return request("POST", "INSERT INTO hostile FORMAT TSV", body, b"Transfer-Encoding: chunked")


def wrong_length(one: Stranger) -> bytes:
    lengths = (b"-1", b"%d" % HUGE, b"9" * 50, b"abc", b"", b"3, 4")
    header = b"Content-Length: " + one.chosen.choice(lengths)
    return request("POST", "INSERT INTO hostile FORMAT TSV", one.canary, header, header[:-1] + b"7")


def giant_header(one: Stranger) -> bytes:
    return request("GET", "SELECT 1", b"", b"X-A: " + one.canary * (HEADER_BYTES_MAX // len(one.canary)))


def many_headers(one: Stranger) -> bytes:
    headers = [b"X-%d: %b" % (index, one.canary) for index in range(HEADERS_MAX)]
    return request("GET", "SELECT 1", b"", *headers)


def giant_url(one: Stranger) -> bytes:
    return request("GET", f"SELECT '{one.canary.decode() * 20_000}'")


def odd_request_line(one: Stranger) -> bytes:
    lines = (b"GET", b"GET / HTTP/9.9", b"\x00 / HTTP/1.1", b"PRI * HTTP/2.0", b"GET  /%zz?%%% HTTP/1.1", b"A" * 70_000)
    return one.chosen.choice(lines) + one.canary + b"\r\n\r\n"


def broken_compression(one: Stranger) -> bytes:
    kind = one.chosen.choice((b"gzip", b"deflate", b"br", b"lz4", b"zstd", b"snappy", b"xz", b"bz2"))
    body = gzip.compress(one.canary * 10)[: one.chosen.randrange(1, 30)] + one.chosen.randbytes(50)
    return request("POST", "INSERT INTO hostile FORMAT TSV", body, b"Content-Encoding: " + kind)


def broken_block(one: Stranger) -> bytes:
    """A Native block whose counts and lengths lie."""
    big = one.chosen.choice((HUGE, 1 << 31, 1 << 63, 5))
    columns, rows = one.chosen.choice(((1, big), (big, 1), (1, 1)))
    block = number(columns) + number(rows) + text(b"text") + text(b"String") + number(big) + one.canary
    return request("POST", "INSERT INTO hostile (text) FORMAT Native", block)


def broken_rows(one: Stranger) -> bytes:
    form = one.chosen.choice(("TSV", "CSV", "JSONEachRow", "RowBinary", "Parquet", "Values", "Arrow", "MsgPack"))
    return request("POST", f"INSERT INTO hostile FORMAT {form}", one.canary + one.chosen.randbytes(500))


def whole_hello(one: Stranger) -> bytes:
    return hello()


def wrong_hello(one: Stranger) -> bytes:
    return hello(one.canary.decode(), one.canary.decode())


def half_hello(one: Stranger) -> bytes:
    return hello()[: one.chosen.randrange(1, len(hello()))]


def endless_hello(one: Stranger) -> bytes:
    """A string that is said to be longer than any memory."""
    return number(HELLO) + number(one.chosen.choice((HUGE, 1 << 63, 1 << 31, 1 << 24))) + one.canary


def wrong_packet(one: Stranger) -> bytes:
    kind = one.chosen.choice((QUERY, DATA, CANCEL, PING, 5, 7, 11, 99, HUGE))
    return (hello() if one.chosen.random() < 0.7 else b"") + number(kind) + one.chosen.randbytes(200) + one.canary


def endless_query(one: Stranger) -> bytes:
    return hello() + number(QUERY) + text("") + number(1) + number(one.chosen.choice((HUGE, 1 << 40))) + one.canary


def endless_number(one: Stranger) -> bytes:
    return b"\xff" * one.chosen.randint(10, 100) + one.canary


SENDS: tuple[Send, ...] = (
    noise, whole_request, half_request, bad_chunks, wrong_length, giant_header, many_headers, giant_url,
    odd_request_line, broken_compression, broken_block, broken_rows, whole_hello, wrong_hello, half_hello,
    endless_hello, wrong_packet, endless_query, endless_number,
)  # fmt: skip
"""Each goes to both ports: HTTP comes to the native one, too, and a native hello to that of HTTP."""


def strike(port: int, send: Send, one: Stranger) -> str:
    """Send it whole, slowly or in part; then read, hang up, or reset. What was done."""
    data = send(one)
    way, end = one.chosen.choice(("whole", "slow", "cut")), one.chosen.choice(("read", "close", "reset"))
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=CONNECT_SECONDS) as line:
        line.settimeout(ANSWER_SECONDS)
        with suppress(OSError):
            if way == "slow":
                for index in range(min(SLOW_BYTES, len(data))):
                    line.sendall(data[index : index + 1])
                    time.sleep(SLOW_SECONDS)
                data = data[SLOW_BYTES:]
            line.sendall(data[: one.chosen.randrange(len(data) + 1)] if way == "cut" else data)
            if end == "read":
                line.shutdown(socket.SHUT_WR)
                while line.recv(65_536):
                    pass
        if end == "reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return f"{send.__name__}, {way}, {end}"


def speaks_natively(engine: EngineProcess) -> bool:
    """Whether it greets who says hello on the native port, and answers its ping."""
    with socket.create_connection(("127.0.0.1", engine.native_port), timeout=CONNECT_SECONDS) as line:
        line.sendall(hello())
        if line.recv(65_536)[:1] != number(HELLO):
            return False
        line.sendall(number(PING))
        return line.recv(16) == number(PING)


@contextmanager
def idle_connections(ports: Sequence[int], many: int) -> Iterator[None]:
    """So many connections to each that say nothing."""
    with ExitStack() as lines:
        for port in [*ports] * many:
            lines.enter_context(socket.create_connection(("127.0.0.1", port), timeout=CONNECT_SECONDS))
        yield
