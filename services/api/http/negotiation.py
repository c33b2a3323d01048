"""Which format an answer has: what the URL or `Accept` asks for. Never renders anything."""

from __future__ import annotations

import re
from typing import Literal

from services.api.http import errors
from services.api.http.messages import Request

Format = Literal["json", "csv", "ndjson"]

NDJSON = "application/x-ndjson"

FORMAT_PARAMETER = "format"
"""The parameter of a query that names the format."""

_WEIGHT = re.compile(r"[01](\.\d{0,3})?")


def format_of(request: Request, only: str, *, lines: bool = False) -> Format:
    """The format that a request asks for; a route that produces something else has nothing but
    that. `lines` when the route has NDJSON too."""
    types: dict[str, Format] = {"application/json": "json", "text/csv": "csv"}
    if lines:
        types[NDJSON] = "ndjson"
    name = request.parameters.get("suffix", "").lstrip(".") or request.query.get(
        FORMAT_PARAMETER, ""
    )
    if name:
        for format_name in types.values():
            if name == format_name and not only:
                return format_name
        raise errors.not_found("Not found.")
    accept = request.headers.get("Accept", "*/*")
    if accept == "*/*":
        return "json"
    takes: dict[str, Format] = {only: "json"} if only else types
    for kind in _accepted(accept):
        for produced, format_name in takes.items():
            if kind in ("", "*/*", produced, produced.partition("/")[0] + "/*"):
                return format_name
    raise errors.not_acceptable(" or ".join(takes))


def _accepted(header: str) -> list[str]:
    """The types that `Accept` allows, the most preferred first."""
    weighed = []
    for entry in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in entry.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        weighed.append((float(weight) if _WEIGHT.fullmatch(weight) else 1.0, kind))
    return [
        kind
        for weight, kind in sorted(weighed, key=lambda pair: -pair[0])
        if weight > 0
    ]
