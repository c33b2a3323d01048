"""A captured request's bytes to events: decompression, decoding, cleaning, all bounded. Pure; never
stores anything."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
from msgspec.structs import replace

from services.api.capture import lz64
from services.api.http import errors
from services.api.http.decompression import (
    GZIP,
    INFLATED_BYTES_MAX,
    ZLIB,
    inflate,
    inflated_bytes_max,
)
from shared.domain.errors import BadInput
from shared.inputs.values import decode_lenient

FORM_BYTES_MAX = 2 * 1_048_576
"""Forms come from old browsers' beacons, and undoing their percent signs is slow: 4 s for 20 MiB,
0.4 s for this."""

FORM_FIELDS_MAX = 100
"""Fields of a form; SDKs send three."""

CONTAINERS_MAX = 1_000_000
"""Objects and lists of one body, be they text or not: 20 MiB of `{}` became 500 MB of memory."""

EVENTS_MAX = 10_000
"""Events of one request; SDKs send 100."""

TOKEN_PLACES = ("token", "api_key", "$token")
"""Where a batch or an event names its project; the first one counts."""

_MILLISECONDS = re.compile(r"(1[6-9]|[2-9][0-9])[0-9]{11}")
BOM = b"\xef\xbb\xbf"
"""Some editors and Windows programs put it before a text."""

_BEYOND = re.compile(rb"NaN|Infinity|[0-9][eE]\+?[0-9]{3}|[0-9]{300}")
"""What may be a number that no float can hold."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class CaptureBatch(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a request, as sent, and what it says of all of them."""

    events: list[Any]
    token: str | None = None
    sent_at: Any = None
    historical: bool = False
    is_batch: bool = False
    size: int = 0
    """Bytes of its JSON, unpacked."""
    lenient: bool = False
    """Whether it has numbers beyond every float, which are texts by now."""


def decode(
    body: bytes, content_type: str, query: Mapping[str, str], encoding: str = ""
) -> CaptureBatch:
    """The events of a request. Raises ApiError or BadInput in the documented shapes."""
    body = decompress(body, content_type, query, encoding)
    value, lenient = parse_lenient(body)
    return replace(batch_of(value, query, len(body)), lenient=lenient)


def decompress(
    body: bytes, content_type: str, query: Mapping[str, str], encoding: str = ""
) -> bytes:
    """The JSON of a request, out of form, base64 and compression.

    gzip is what begins like gzip: hints and headers are often missing, and sometimes wrong.
    """
    compression = query.get("compression", "")
    field = None
    body = body.removeprefix(BOM)
    if not body and "data" in query:
        field = query["data"].encode("utf-8", "replace")
    elif content_type == "application/x-www-form-urlencoded" and not body.startswith(
        (b"{", b"[", GZIP)
    ):
        form = _form(body)
        compression = compression or form.get("compression", "")
        field = form.get("data", "").encode("latin-1")
    text = body if field is None else field
    if compression == "lz64" and not text.lstrip().startswith((b"{", b"[", GZIP)):
        body = lz64.expand(
            text.strip().replace(b" ", b"+"),
            inflated_bytes_max(text, INFLATED_BYTES_MAX),
        )
    elif field is not None:
        body = _data(field)
    elif compression == "base64" or body.lstrip()[:1] not in (b"{", b"[", b"\x1f"):
        body = _base64(body) or body
    if body.startswith(GZIP) or (encoding == "deflate" and body.startswith(ZLIB)):
        body = inflate(body)
    elif compression in ("gzip", "gzip-js") and not encoding:
        raise BadInput("The body is not gzip.", attr="compression")
    return body


def parse_lenient(body: bytes) -> tuple[Any, bool]:
    """JSON as `parse` reads it, also with NaN and numbers that no float can hold, as NumberText;
    whether it needed that."""
    try:
        return parse(body), False
    except errors.ApiError as error:
        if _BEYOND.search(body) is None:
            raise
        try:
            text = _replace_lone_surrogates(body.decode("utf-8", "replace")).decode()
            value = decode_lenient(text)
        except (ValueError, RecursionError):
            raise error from None
        if not isinstance(value, dict | list):
            raise
        return value, True


def parse(body: bytes, kind: Any = Any) -> Any:
    """JSON (of this type), with what cannot be text (lone surrogates, broken UTF-8) replaced; else
    a parse_error."""
    body = body.removeprefix(BOM)
    if (
        kind is Any
        and len(body) > CONTAINERS_MAX
        and body.count(b"{") + body.count(b"[") > CONTAINERS_MAX
    ):
        raise BadInput(f"At most {CONTAINERS_MAX} objects and lists at once.")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error, RecursionError) or not (
            _SURROGATE.search(body) or isinstance(error, UnicodeDecodeError)
        ):
            raise errors.parse_error(f"The body is not JSON: {error}"[:300]) from None
    cleaned = _replace_lone_surrogates(body.decode("utf-8", "replace"))
    try:
        return msgspec.json.decode(cleaned, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise errors.parse_error(f"The body is not JSON: {error}"[:300]) from None


def batch_of(value: Any, query: Mapping[str, str], size: int) -> CaptureBatch:
    """The events of a decoded body, whichever of the three shapes it has."""
    sent_at = _sent_at(query)
    if isinstance(value, list):
        batch = CaptureBatch(events=value, sent_at=sent_at, is_batch=True, size=size)
    elif isinstance(value, dict) and isinstance(value.get("batch"), list):
        token = next(
            (value[key] for key in TOKEN_PLACES if isinstance(value.get(key), str)),
            None,
        )
        batch = CaptureBatch(
            events=value["batch"],
            token=token,
            sent_at=value.get("sent_at", sent_at),
            historical=value.get("historical_migration") is True,
            is_batch=True,
            size=size,
        )
    elif isinstance(value, dict):
        historical = value.get("historical_migration") is True
        batch = CaptureBatch(
            events=[value], sent_at=sent_at, historical=historical, size=size
        )
    else:
        raise errors.parse_error(
            "The body must be an event, a list of events, or a batch."
        )
    if not batch.events:
        raise BadInput("The batch is empty.", attr="batch")
    if len(batch.events) > EVENTS_MAX:
        raise BadInput(f"At most {EVENTS_MAX} events at once.", attr="batch")
    return batch


def _sent_at(query: Mapping[str, str]) -> str | None:
    """When a request says it was sent, in milliseconds; a smaller number is a cache buster and
    would move all times."""
    moment = query.get("sent_at", "")
    if moment and not moment.isdigit():
        return moment
    moment = moment or query.get("_", "")
    return moment if _MILLISECONDS.fullmatch(moment) else None


def _form(body: bytes) -> dict[str, str]:
    """The first value of each field, byte for byte as Latin-1."""
    if len(body) > FORM_BYTES_MAX:
        raise errors.too_large(FORM_BYTES_MAX)
    try:
        fields = parse_qs(
            body.decode("latin-1"), encoding="latin-1", max_num_fields=FORM_FIELDS_MAX
        )
    except ValueError:
        raise BadInput(f"A form has at most {FORM_FIELDS_MAX} fields.") from None
    return {name: values[0] for name, values in fields.items()}


def _data(data: bytes) -> bytes:
    """A `data` field, of base64 or not; in base64 a blank was a plus before the URL decoding."""
    return _base64(data.replace(b" ", b"+")) or data


def _base64(body: bytes) -> bytes | None:
    """What base64 stands for, with or without line ends and padding; None for other texts."""
    text = body.translate(None, b"\r\n\t ")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _replace_lone_surrogates(text: str) -> bytes:
    """`\\ud83d` without its other half becomes U+FFFD; whole pairs stay."""
    pair = re.compile(
        r"\\(?:\\"
        r"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
        r"|u[dD][89a-fA-F][0-9a-fA-F]{2})"
    )
    fixed = pair.sub(lambda match: match[0] if len(match[0]) != 6 else "\\ufffd", text)
    return fixed.encode("utf-8", "replace")
