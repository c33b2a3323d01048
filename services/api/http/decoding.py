"""The JSON of a REST body, and its fields."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from services.api.http import errors
from services.api.http.decompression import GZIP, inflate
from services.api.http.messages import Request
from services.api.http.routing import BODY_BYTES_MAX
from shared.domain.errors import BadInput

_FIELD = re.compile(r"`\$\.([^`.\[]+)")
_MISSING = re.compile(r"missing required field `([^`]+)`")

B = TypeVar("B")


def json_of(request: Request) -> Any:
    """The value of the body; an empty object without one."""
    content_type = request.content_type
    if content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
        raise errors.unsupported_media_type(content_type)
    raw = request.body
    if not raw:
        return {}
    if raw.startswith(GZIP):
        raw = inflate(raw, BODY_BYTES_MAX)
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.parse_error(f"The body is not JSON: {error}") from None


def object_of(request: Request) -> dict[str, Any]:
    """The JSON object that was sent."""
    value = json_of(request)
    if not isinstance(value, dict):
        raise errors.parse_error("The body must be a JSON object.")
    return value


def struct_of(value: dict[str, Any], kind: type[B]) -> B:
    """A decoded body as this struct. BadInput names the field that is missing or wrong."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None


def _wrong_field(text: str) -> BadInput:
    """msgspec's words as ours: the field is in the path that they end with."""
    match = _MISSING.search(text)
    if match is not None:
        return BadInput("This field is required.", attr=match[1], slug="required")
    detail, _, path = text.partition(" - at ")
    field = _FIELD.search(path)
    return BadInput(
        f"{detail}.".replace("`", ""), attr=field[1] if field is not None else None
    )
