"""ClickHouse's HTTP protocol, the host's half: what a request asks for, and errors. Never runs a statement."""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import lz4.frame  # type: ignore[import-untyped]  # it ships no types
from aiohttp import web

BODY_BYTES_MAX = 256 << 20
"""One INSERT, inflated; the projector bounds a batch to 64 MB."""

SESSION_SETTINGS = {
    "max_threads": "2",  # one thread is as fast up to 64 ids and 20 % slower at 256
    "implicit_select": "0",  # chDB's own default takes any word for a SELECT; a server does not
    "allow_introspection_functions": "0",
    "output_format_parallel_formatting": "0",  # its buffers and threads cost more than small answers do
    "input_format_parallel_parsing": "0",
    "max_execution_time": "600",  # a bound for clients that send none
    "max_result_bytes": "1073741824",  # answers are held in memory
}

TRANSPORT_PARAMETERS = {
    *("query", "database", "default_format", "user", "password", "role", "quota_key", "query_id"),
    *("session_id", "session_timeout", "session_check", "client_protocol_version"),
    *("buffer_size", "wait_end_of_query", "stacktrace", "compress", "decompress"),
}
"""URL parameters that are not settings. Sessions are accepted and forgotten: nothing outlives its request."""

_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_CODE = re.compile(r"Code: (\d+)\. DB::Exception")
_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)


class EngineError(Exception):
    """What a ClickHouse server would answer: a code and a text."""

    def __init__(self, text: str, code: int | None = None, name: str = "") -> None:
        super().__init__(f"Code: {code}. DB::Exception: {text} ({name})" if name else text)
        match = _CODE.search(str(self))
        self.code = code or (int(match[1]) if match else 1002)


class Request(NamedTuple):
    """One statement with what it needs."""

    sql: bytes
    parameters: dict[str, str]
    settings: tuple[tuple[str, str], ...]
    database: str
    format: str


def authenticate(http: web.Request, user: str, password: str) -> None:
    """EngineError 516 unless the request carries these, in a header or in the URL."""
    given = (http.query.get("user", "default"), http.query.get("password", ""))
    scheme, _, credentials = http.headers.get("Authorization", "").partition(" ")
    if "X-ClickHouse-User" in http.headers:
        given = (http.headers["X-ClickHouse-User"], http.headers.get("X-ClickHouse-Key", ""))
    elif scheme.lower() == "basic":
        with suppress(ValueError):
            name, _, key = base64.b64decode(credentials).decode().partition(":")
            given = (name, key)
    if not hmac.compare_digest("\0".join(given).encode("utf-8", "replace"), f"{user}\0{password}".encode()):
        raise EngineError(
            f"{given[0]}: Authentication failed: password is incorrect, or there is no user with such name.",
            516,
            "AUTHENTICATION_FAILED",
        )


async def parse(http: web.Request) -> Request:
    """The statement of a request; EngineError for what this host cannot do."""
    fields: dict[str, str] = dict(http.query)
    for header, name in (("X-ClickHouse-Database", "database"), ("X-ClickHouse-Format", "default_format")):
        if header in http.headers:
            fields.setdefault(name, http.headers[header])
    if fields.get("compress") == "1" or fields.get("decompress") == "1":
        raise EngineError(
            "ClickHouse's own block compression is not supported: use Content-Encoding", 48, "NOT_IMPLEMENTED"
        )
    body = b""
    if http.content_type == "multipart/form-data":
        fields |= await _form(http)
    elif http.can_read_body:
        body = await _body(http)
    query = fields.get("query", "").encode("utf-8", "replace")
    if http.method in ("GET", "HEAD") and fields.get("readonly") not in ("1", "2"):
        fields["readonly"] = "2"  # as a server does: a link must not write
    sql = query + b"\n" + body if query and body else query or body
    named = _FORMAT.search(sql[-256:])
    return Request(
        sql=sql,
        parameters={name[6:]: value for name, value in fields.items() if name.startswith("param_")},
        settings=_settings(fields),
        database=fields.get("database", ""),
        format=named[1].decode() if named else fields.get("default_format", "TabSeparated"),
    )


async def _form(http: web.Request) -> dict[str, str]:
    try:
        form = await http.post()
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large() from error
    files = [name for name, value in form.items() if not isinstance(value, str)]
    if files:
        raise EngineError(f"External tables are not supported: {files[0]}", 48, "NOT_IMPLEMENTED")
    return {name: str(value) for name, value in form.items()}


async def _body(http: web.Request) -> bytes:
    """The request's body, inflated: aiohttp undoes gzip, deflate and zstd, and lz4 frames are undone here."""
    try:
        body = await http.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large() from error
    encoding = http.headers.get("Content-Encoding", "identity").lower()
    if encoding == "lz4":
        frame = lz4.frame.LZ4FrameDecompressor()
        try:
            body = await asyncio.to_thread(frame.decompress, body, BODY_BYTES_MAX + 1)
        except RuntimeError as error:
            raise EngineError(f"Cannot decompress the body: {error}", 271, "CANNOT_DECOMPRESS") from error
        if len(body) > BODY_BYTES_MAX:
            raise _too_large()
        if not frame.eof:
            raise EngineError("Cannot decompress the body: it is cut off", 271, "CANNOT_DECOMPRESS")
    elif encoding not in ("identity", "", "gzip", "deflate", "zstd"):
        raise EngineError(f"Unknown compression method {encoding}", 89, "UNKNOWN_COMPRESSION_METHOD")
    return body


def _too_large() -> EngineError:
    return EngineError(f"The body exceeds {BODY_BYTES_MAX} bytes", 396, "TOO_MANY_ROWS_OR_BYTES")


def _settings(fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    settings = dict(SESSION_SETTINGS)
    for name, value in fields.items():
        if name in TRANSPORT_PARAMETERS or name.startswith("param_"):
            continue
        if not _SETTING_NAME.fullmatch(name):
            raise EngineError(f"Unknown setting {name!r}", 115, "UNKNOWN_SETTING")
        settings[name] = value
    # readonly comes last: after it no setting can be changed.
    return tuple(sorted(settings.items(), key=lambda setting: (setting[0] == "readonly", setting[0])))
