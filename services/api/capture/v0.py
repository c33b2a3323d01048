"""Capture v0: what SDKs send. Answers 200 only when every event is durable. Never waits for the projection."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

from services.api.capture.events import Scene, commands_of, time_of, token_of
from services.api.capture.payload import Captured, decode
from services.api.context import CONTEXT, Context, position_header
from services.api.http import errors
from services.api.http.decompression import INFLATED_BYTES_MAX
from services.api.http.guards.access import Project
from services.api.http.guards.load import unfolded
from services.api.http.raw_response import Observe, Ready, answer_of, is_plain, refused
from services.api.http.routing import read_body
from shared.domain.errors import BadInput, PersonlogError
from shared.domain.ids import Position, format_positions
from shared.log.port import Entry
from shared.runtime import telemetry
from shared.runtime.express import Head, Taken

PATHS = ("/batch", "/capture", "/e", "/i/v0/e", "/track", "/engage")

BODY_BYTES_MAX = INFLATED_BYTES_MAX
"""Of a body as sent; after decompression the same limit holds."""

Outcome = list[Entry] | BadInput
"""Of one event: what to append, or why it is refused."""

OK = b'{"status":"Ok"}'

_STORED, _REFUSED = (telemetry.CAPTURED.labels(outcome) for outcome in ("stored", "refused"))


def register(app: web.Application) -> None:
    """Add the capture routes; a trailing slash is optional. Plain texts: no pattern is tried for each request."""
    for path in (named + slash for named in PATHS for slash in ("", "/")):
        resource = app.router.add_resource(path)
        resource.add_route("POST", capture)
        resource.add_route("GET", capture)
        resource.add_route("OPTIONS", preflight)
    mirror(app, *PATHS)


def mirror(app: web.Application, *paths: str) -> None:
    """CORS on every answer of these paths, whoever makes it: a browser cannot read an error without it."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        if request.path.removesuffix("/") in paths:
            response.headers.update(cors(request))

    app.on_response_prepare.append(add)


async def preflight(request: web.Request) -> web.Response:
    return web.Response(headers=cors(request), body=OK, content_type="application/json")


async def capture(request: web.Request) -> web.StreamResponse:
    """One request of events: the good ones are appended in one piece, the first bad one is named."""
    context = request.app[CONTEXT]
    body = await read_body(request, BODY_BYTES_MAX)
    captured = decode(body, request.content_type, request.query, request.headers.get("Content-Encoding", ""))
    project = project_of(context, captured)
    context.quotas.take(project.id, len(captured.events), captured.size)
    outcomes = outcomes_of(context, captured, project, unnamed=unnamed_at(request.path))
    refused = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, BadInput)]
    refusal = refusal_of(captured, refused, sum(map(is_stored, outcomes)))
    del body, captured  # up to 25 times a body's bytes, and the log may let us wait for seconds
    return told(request, refusal, await append(context, outcomes))


class ExpressCapture:
    """Captures that are small, plain and all good, answered without a task each. Whatever else there is to say is said
    by `capture`, which then begins anew: nothing has been appended."""

    def __init__(self, context: Context, observe: Observe) -> None:
        paths = (path + slash for path in PATHS for slash in ("", "/"))
        self._lines = {f"POST {path} HTTP/1.1".encode(): path for path in paths}
        self._context, self._observe = context, observe

    def line(self, line: bytes) -> str | None:
        """The path."""
        return self._lines.get(line)

    def headers(self, headers: CIMultiDictProxy[str]) -> str | None:
        """The encoding; forms are rare and slow."""
        if "form" in headers.get("Content-Type", "").lower():
            return None
        return headers.get("Content-Encoding", "")

    def take(self, head: Head, body: bytes) -> Taken | None:
        context, before = self._context, None
        if context.watch.mismatch is not None or not context.load.spare(unfolded(body)):
            return None
        try:
            captured = decode(body, "", {}, head.headers)
            project = project_of(context, captured)
            before = context.quotas.take(project.id, len(captured.events), captured.size)
            outcomes = outcomes_of(context, captured, project, unnamed=unnamed_at(head.line))
            entries = [entry for outcome in outcomes if not isinstance(outcome, BadInput) for entry in outcome]
            if not entries or any(isinstance(outcome, BadInput) for outcome in outcomes):
                context.quotas.restore(project.id, before)
                return None
            return Taken(context.log.submit(entries), sum(map(bool, outcomes)))
        except (PersonlogError, errors.ApiError):
            if before is not None:
                context.quotas.restore(project.id, before)
            return None

    def answer(self, head: Head, taken: Taken, seconds: float) -> bytes:
        error = taken.future.exception()
        if error is None:
            _STORED.inc(taken.note)
            self._observe("POST", head.line, 200, seconds)
            return answer_of(200, OK, {"Position": format_positions(taken.future.result())})
        status, answer = refused(error, head.line)
        self._observe("POST", head.line, status, seconds)
        return answer


def told(request: web.Request, refusal: errors.ApiError | None, positions: list[Position]) -> web.StreamResponse:
    """That every event is durable, or the first refused one, raised."""
    if refusal is not None:
        refusal.headers |= position_header(positions)
        raise refusal
    if is_plain(request):
        return Ready(200, OK, Position=format_positions(positions))
    headers = position_header(positions)
    if request.query.get("beacon") == "1":
        return web.Response(status=204, headers=headers)
    return web.Response(body=OK, headers=headers, content_type="application/json")


def outcomes_of(context: Context, captured: Captured, project: Project, *, unnamed: str | None = None) -> list[Outcome]:
    """What becomes of each event, in their order: what to append, or why it is refused."""
    scene = scene_of(context, captured, project, unnamed)
    first = context.stamps.reserve(len(captured.events))
    outcomes: list[Outcome] = []
    counts = context.log.partitions()
    for at, event in enumerate(captured.events, first):
        try:
            outcomes.append(context.entries(commands_of(event, at, scene), counts))
        except BadInput as error:
            outcomes.append(error.with_traceback(None))  # which holds the whole request
    return outcomes


async def append(context: Context, outcomes: list[Outcome]) -> list[Position]:
    """Append what there is, in one piece; durable on return."""
    entries = [entry for outcome in outcomes if not isinstance(outcome, BadInput) for entry in outcome]
    positions = await context.log.append(entries) if entries else []
    _STORED.inc(sum(map(is_stored, outcomes)))
    if len(entries) < len(outcomes):
        _REFUSED.inc(sum(isinstance(outcome, BadInput) for outcome in outcomes))
    return positions


def unnamed_at(path: str) -> str | None:
    """What an event without a name is called that was sent there."""
    return "$identify" if path.startswith("/engage") else None


def is_stored(outcome: Outcome) -> bool:
    """Neither refused nor, as a merge without person processing is, dropped by rule."""
    return not isinstance(outcome, BadInput) and bool(outcome)


def cors(request: web.Request) -> dict[str, str]:
    """Browsers of any origin may send: origin and requested headers are mirrored."""
    origin = request.headers.get("Origin")
    asked = request.headers.get("Access-Control-Request-Headers", "Content-Type")
    if origin is None or not (origin.isascii() and asked.isascii()):
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": asked,
        "Access-Control-Expose-Headers": "Position, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset",
        "Vary": "Origin",
    }


def scene_of(context: Context, captured: Captured, project: Project, unnamed: str | None = None) -> Scene:
    """What the events of this request share, received now."""
    received_at = context.clock.now_us()
    sent_at = time_of(captured.sent_at)
    return Scene(
        project=project.id,
        received_at=received_at,
        skew=0 if sent_at is None else sent_at - received_at,
        historical=captured.historical,
        mint=context.mint,
        unnamed=unnamed,
    )


def project_of(context: Context, captured: Captured) -> Project:
    """The batch's token wins; else every event must carry the same one."""
    tokens: set[Any] = {captured.token} if captured.token else {token_of(event) for event in captured.events}
    if len(tokens) > 1:
        raise errors.authentication_failed("The events carry different tokens.")
    token = tokens.pop()
    if not token:
        raise errors.not_authenticated()
    project = context.access.by_token(token)
    if project is None:
        raise errors.authentication_failed("No project has this token.")
    return project


def refusal_of(captured: Captured, refused: list[tuple[int, BadInput]], stored: int) -> errors.ApiError | None:
    """The first bad event by its place, and how many are stored all the same; None when none was refused."""
    if not refused:
        return None
    index, error = refused[0]
    if not captured.batch:
        return errors.of(error)
    attr = ".".join(part for part in (f"batch[{index}]", error.attr) if part)
    detail = f"{error.detail} {stored} stored, {len(refused)} refused."
    return errors.ApiError(400, "validation_error", error.slug, detail, attr=attr)
