"""Judgement of a request's head: its format, its headers and its parameters. Each is judged whether
the call has a use for it or not."""

from __future__ import annotations

import re
from collections.abc import Mapping

from services.api.http.messages import Request
from services.api.http.negotiation import format_of
from services.api.http.routing import Route
from shared.domain.errors import BadInput

KEY_CHARS_MAX = 255
"""An Idempotency-Key: a uuid has 36."""

KEY_PATTERN = "^[!-~]([ -~]*[!-~])?$"
"""Printable ASCII, as headers have it."""

_TAGS = re.compile(r'\*|(W/)?"[!#-~]*"(\s*,\s*(W/)?"[!#-~]*")*')


def has_body(headers: Mapping[str, str]) -> bool:
    """Whether a request with these headers has a body."""
    return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers


def judge_head(request: Request, route: Route) -> None:
    """Judge headers and parameters, and note the format. BadInput, 404 or 406 for a wrong one."""
    request.format = format_of(request, route.produces, lines=route.streams)
    headers = request.headers
    key = headers.get("Idempotency-Key") if route.writes else None
    if key is not None and (
        len(key) > KEY_CHARS_MAX or not re.fullmatch(KEY_PATTERN, key)
    ):
        raise BadInput(
            f"An Idempotency-Key has 1 to {KEY_CHARS_MAX} printable characters."
        )
    if 412 in route.errors and not _TAGS.fullmatch(headers.get("If-Match", "*")):
        raise BadInput('If-Match must be * or entity tags: "3-1f".')
    if not route.plain_errors:
        judge_parameters(request, route)


def judge_parameters(request: Request, route: Route) -> None:
    """Judge each parameter of the query that the route declares."""
    for parameter in route.query:
        parameter.of(request.query)
