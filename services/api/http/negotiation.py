"""Which format an answer has: what the URL or `Accept` asks for. Never renders anything."""

from __future__ import annotations

import re
from typing import Literal

from aiohttp import web

from services.api.http import errors

Format = Literal["json", "csv"]

_WEIGHT = re.compile(r"[01](\.\d{0,3})?")


def format_of(request: web.Request, only: str) -> Format:
    """What the URL or `Accept` asks for; a route that produces something else has nothing but that."""
    asked = request.match_info.get("suffix", "").lstrip(".") or request.query.get("format", "")
    if asked:
        if asked not in ("json", "csv") or only:
            raise errors.not_found("Not found.")
        return "csv" if asked == "csv" else "json"
    takes: dict[str, Format] = {only: "json"} if only else {"application/json": "json", "text/csv": "csv"}
    for kind in _accepted(request.headers.get("Accept", "*/*")):
        for made, shown in takes.items():
            if kind in ("", "*/*", made, made.partition("/")[0] + "/*"):
                return shown
    raise errors.not_acceptable(" or ".join(takes))


def _accepted(header: str) -> list[str]:
    """The types that `Accept` allows, the most wanted first."""
    weighed = []
    for part in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        weighed.append((float(weight) if _WEIGHT.fullmatch(weight) else 1.0, kind))
    return [kind for weight, kind in sorted(weighed, key=lambda one: -one[0]) if weight > 0]
