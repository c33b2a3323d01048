"""Judgement of a request's head: its format, its headers and its parameters. Each is judged whether
the call has a use for it or not."""

from __future__ import annotations

import re
from collections.abc import Mapping

from services.api.http.guards.authorisation import BODY_KEY, PROJECT_PARAMETER
from services.api.http.messages import Request
from services.api.http.negotiation import FORMAT_PARAMETER, format_of
from services.api.http.routing import Route
from shared.domain.errors import BadInput

KEY_CHARS_MAX = 255
"""An Idempotency-Key: a uuid has 36."""

KEY_PATTERN = "^[!-~]([ -~]*[!-~])?$"
"""Printable ASCII, as headers have it."""

COMMON_PARAMETERS = frozenset((FORMAT_PARAMETER, PROJECT_PARAMETER, BODY_KEY))
"""Parameters of every REST route: the format of the answer, and who asks for which project."""

UNKNOWN_NAME_CHARS_MAX = 100
"""Of a parameter's name in an error: enough to find the mistake, whatever was sent."""

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
    """Judge each parameter that the route declares. BadInput for a wrong one, and for one that the
    route does not know: ignored, a filter would answer with everybody."""
    for name in request.query:
        if name not in COMMON_PARAMETERS and all(
            parameter.name != name for parameter in route.query
        ):
            name = name[:UNKNOWN_NAME_CHARS_MAX]
            raise BadInput(f"This route has no parameter {name!r}.", attr=name)
    for parameter in route.query:
        parameter.of(request.query)
