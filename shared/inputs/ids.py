"""Distinct ids as clients send them: one reading for capture, REST and import. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from shared.domain.ids import CAPTURED_ID_CHARS_MAX

COOKIELESS = "$posthog_cookieless"
"""What posthog-js sends for every visitor without consent: never a person."""

HASH_CHARS = 16
"""Of the hash at the end of an id that was cut: 64 bits, so that two long ids stay two."""


def id_text(value: Any) -> str | None:
    """A distinct id as it was sent, of a number or a boolean its JSON text; None for what is no id:
    nothing, blanks, objects and lists."""
    if isinstance(value, str):
        text = str(value)
    elif isinstance(value, bool | int | float):
        text = msgspec.json.encode(value).decode()
    else:
        return None
    return text if text.strip() else None


SENT_ID_CHARS_MAX = 16_000
"""Of a distinct id in a request of REST: capture cuts longer ones than it stores, and a token that
serves as an id has thousands."""


def id_spellings(text: str) -> tuple[str, ...]:
    """The ids that a distinct id, as it was sent, may be stored under: whole, as an older version
    or an import stored it, and as capture stores it."""
    stored = stored_id(text)
    return (text,) if stored == text else (text, stored)


def stored_id(text: str) -> str:
    """A distinct id as it is stored: without NUL, and cut with a hash of the whole as its end."""
    text = text.replace("\x00", "\ufffd")
    if len(text) <= CAPTURED_ID_CHARS_MAX:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    kept_chars = CAPTURED_ID_CHARS_MAX - HASH_CHARS - 1
    return f"{text[:kept_chars]}~{digest[:HASH_CHARS]}"
