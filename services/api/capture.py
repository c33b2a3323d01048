"""Capture v0: what SDKs send. Answers 200 only when every event is durable. Never waits for the projection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from services.api import errors
from services.api.access import Project
from services.api.calls import read_body
from services.api.capture_body import INFLATED_BYTES_MAX, Captured, decode
from services.api.capture_events import Scene, commands_of, time_of, token_of
from services.api.context import CONTEXT, Context, position_header
from shared.domain.errors import BadInput, Rejected, Transient
from shared.domain.ids import Position
from shared.log.port import Entry
from shared.runtime import telemetry

PATHS = ("/batch", "/capture", "/e", "/i/v0/e", "/track", "/engage")

BODY_BYTES_MAX = INFLATED_BYTES_MAX
"""Of a body as sent; after decompression the same limit holds."""

OK = b'{"status":"Ok"}'


def register(app: web.Application) -> None:
    """Add the capture routes; a trailing slash is optional."""
    for path in PATHS:
        resource = app.router.add_resource(path + "{slash:/?}")
        resource.add_route("POST", capture)
        resource.add_route("GET", capture)
        resource.add_route("OPTIONS", preflight)
    for path in ("/flags", "/decide"):
        resource = app.router.add_resource(path + "{slash:/?}")
        resource.add_route("POST", flags)
        resource.add_route("OPTIONS", preflight)


async def preflight(request: web.Request) -> web.Response:
    return web.Response(headers=cors(request), body=OK, content_type="application/json")


async def flags(request: web.Request) -> web.Response:
    """No flags: what keeps an SDK quiet."""
    body = b'{"flags":{},"featureFlags":{},"errorsWhileComputingFlags":false}'
    return web.Response(headers=cors(request), body=body, content_type="application/json")


async def capture(request: web.Request) -> web.Response:
    """One request of events: the good ones are appended in one piece, the first bad one is named."""
    return await for_browsers(request, _capture)


async def for_browsers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.Response]]
) -> web.Response:
    """What the handler answers, and its errors as well, for a page of any origin to read."""
    try:
        return await handler(request)
    except (errors.ApiError, Rejected, Transient) as error:
        answer = error if isinstance(error, errors.ApiError) else errors.of(error)
        answer.headers |= cors(request)
        raise answer from None


async def _capture(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    body = await read_body(request, BODY_BYTES_MAX)
    captured = decode(body, request.content_type, request.query, request.headers.get("Content-Encoding", ""))
    project = project_of(context, captured)
    good, refused = _entries(context, captured, project)
    positions = await context.log.append(good) if good else []
    telemetry.CAPTURED.labels("stored").inc(len(captured.events) - len(refused))
    telemetry.CAPTURED.labels("refused").inc(len(refused))
    return told(request, captured, refused, positions)


def told(
    request: web.Request, captured: Captured, refused: list[tuple[int, BadInput]], positions: list[Position]
) -> web.Response:
    """That every event is durable, or the first refused one, raised."""
    if refused:
        stored = len(captured.events) - len(refused)
        refusal = refusal_of(captured, refused, stored)
        refusal.headers |= position_header(positions)
        raise refusal
    headers = cors(request) | position_header(positions)
    if request.query.get("beacon") == "1":
        return web.Response(status=204, headers=headers)
    return web.Response(body=OK, headers=headers, content_type="application/json")


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
        "Access-Control-Expose-Headers": "Position",
        "Vary": "Origin",
    }


def _entries(context: Context, captured: Captured, project: Project) -> tuple[list[Entry], list[tuple[int, BadInput]]]:
    scene = scene_of(context, captured, project)
    first = context.stamps.reserve(len(captured.events))
    good: list[Entry] = []
    refused: list[tuple[int, BadInput]] = []
    for index, event in enumerate(captured.events):
        try:
            good += context.entries(commands_of(event, first + index, scene))
        except BadInput as error:
            refused.append((index, error))
    return good, refused


def scene_of(context: Context, captured: Captured, project: Project) -> Scene:
    """What the events of this request share, received now."""
    received_at = context.clock.now_us()
    sent_at = time_of(captured.sent_at)
    return Scene(
        project=project.id,
        received_at=received_at,
        skew=0 if sent_at is None else sent_at - received_at,
        historical=captured.historical,
        mint=context.mint,
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


def refusal_of(captured: Captured, refused: list[tuple[int, BadInput]], stored: int) -> errors.ApiError:
    """The first bad event by its place, and how many were stored all the same."""
    index, error = refused[0]
    if not captured.batch:
        return errors.of(error)
    attr = ".".join(part for part in (f"batch[{index}]", error.attr) if part)
    detail = f"{error.detail} {stored} stored, {len(refused)} refused."
    return errors.ApiError(400, "validation_error", error.slug, detail, attr=attr)
