"""Cross-origin answers: a page of any origin may send what SDKs send, and read how that went."""

from __future__ import annotations

from collections.abc import Mapping

EXPOSED = "Position, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset"
"""Headers that a page may read."""


def cors(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an answer to these headers: origin and requested headers are mirrored."""
    origin = headers.get("Origin")
    if origin is None:
        return {}
    requested = headers.get("Access-Control-Request-Headers", "Content-Type")
    if not (origin.isascii() and requested.isascii()):
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": requested,
        "Access-Control-Expose-Headers": EXPOSED,
        "Vary": "Origin",
    }
