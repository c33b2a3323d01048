"""Capture v0: what SDKs send. Answers 200 only when every event is durable. Never waits for the
projection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import orjson
from msgspec.structs import replace

from services.api.calls import CaptureCall
from services.api.capture import operations
from services.api.capture.event_times import skew_of
from services.api.capture.events import (
    commands_of,
    token_of,
)
from services.api.capture.payload import CaptureBatch, decode
from services.api.capture.request_context import RequestContext
from services.api.context import Context, position_header
from services.api.http import errors
from services.api.http.decompression import INFLATED_BYTES_MAX
from services.api.http.guards.access import Project
from services.api.http.guards.authorisation import project_of_tokens
from services.api.http.messages import Deferred, Request, Response
from services.api.http.rendering import JSON
from services.api.http.routing import Route
from shared.domain.errors import BadInput
from shared.domain.ids import Position
from shared.inputs.repairs import Repairs
from shared.inputs.times import time_us_of
from shared.log.port import Entry
from shared.runtime import telemetry

PATHS = {
    "/capture": "events",
    "/batch": "batch",
    "/e": "events_e",
    "/i/v0/e": "events_i_v0_e",
    "/track": "events_track",
    "/engage": "events_engage",
}
"""The paths of one and the same endpoint, and what their operations are called by."""

BODY_BYTES_MAX = INFLATED_BYTES_MAX
"""Of a body as sent; after decompression the same limit holds."""

EventOutcome = list[Entry] | BadInput
"""Of one event: what to append, or why it is left out."""

WARNINGS_MAX = 100
"""Warnings of one answer; a sender that makes one mistake makes it in every event."""

OK = b'{"status":"Ok"}'

NO_REPAIRS: Mapping[int, Repairs] = {}

_STORED, _REFUSED = (
    telemetry.CAPTURED.labels(outcome) for outcome in ("stored", "refused")
)


def preflight(call: CaptureCall) -> Response:
    return Response(headers={"Content-Type": JSON}, body=OK)


def capture(call: CaptureCall) -> Response | Deferred[list[Position], Response]:
    """One request of events: all that can be stored are appended in one piece. The answer warns of
    what was repaired or left out."""
    context, request = call.context, call.request
    encoding = request.headers.get("Content-Encoding", "")
    batch = decode(request.body, request.content_type, request.query, encoding)
    project = project_of(context, batch)
    context.quotas.take(project.id, len(batch.events), batch.size)
    outcomes, repairs = outcomes_of(
        context, batch, project, request.arrived, unnamed_at(request.path)
    )
    refused = [
        (index, outcome)
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, BadInput)
    ]
    refusal = None
    if refused and not any(map(is_stored, outcomes)):
        refusal = refusal_of(batch, refused)
    warnings = warnings_of(repairs, refused) if repairs or refused else []
    return append_outcomes(
        context,
        outcomes,
        lambda positions: conclusion(request, refusal, positions, warnings),
    )


def warnings_of(
    repairs: Mapping[int, Repairs], refused: Iterable[tuple[int, BadInput]]
) -> list[dict[str, Any]]:
    """What the answer says of each event that was not stored as it came, in their order."""
    warnings = [
        {"index": index, "field": error.attr or "", "why": error.detail}
        for index, error in refused
    ]
    for index, made in repairs.items():
        warnings += [
            {"index": index, "field": repair.field, "why": repair.why}
            for repair in made
        ]
    warnings.sort(key=itemgetter("index"))
    return warnings[:WARNINGS_MAX]


def append_outcomes(
    context: Context,
    outcomes: list[EventOutcome],
    conclude: Callable[[list[Position]], Response],
) -> Response | Deferred[list[Position], Response]:
    """Append what there is, in one piece; `conclude` answers once it is durable."""
    entries: list[Entry] = []
    stored_count = refused_count = 0
    for outcome in outcomes:
        if isinstance(outcome, BadInput):
            refused_count += 1
        elif outcome:
            stored_count += 1
            entries += outcome

    def finish(positions: list[Position]) -> Response:
        _STORED.inc(stored_count)
        if refused_count:
            _REFUSED.inc(refused_count)
        return conclude(positions)

    if not entries:
        return finish([])
    future = context.log.submit(entries)
    del (
        entries,
        outcomes,
    )  # up to 25 times a body's bytes, and the log may let us wait for seconds
    return Deferred(future, lambda done: finish(done.result()))


def conclusion(
    request: Request,
    refusal: errors.ApiError | None,
    positions: list[Position],
    warnings: Sequence[dict[str, Any]] = (),
) -> Response:
    """The answer that what could be stored is durable; the refusal, raised, when nothing could."""
    if refusal is not None:
        refusal.headers |= position_header(positions)
        raise refusal
    headers = position_header(positions)
    if request.query.get("beacon") == "1":
        return Response(status=204, headers=headers)
    headers["Content-Type"] = JSON
    body = orjson.dumps({"status": "Ok", "warnings": warnings}) if warnings else OK
    return Response(headers=headers, body=body)


def outcomes_of(
    context: Context,
    batch: CaptureBatch,
    project: Project,
    arrived: float,
    unnamed: str | None = None,
    earlier: Mapping[int, Repairs] = NO_REPAIRS,
) -> tuple[list[EventOutcome], dict[int, Repairs]]:
    """What becomes of each event, in their order: what to append, or why it is left out; and the
    repairs of those that needed any, by their place, with those that were made `earlier`. An event
    may be a refusal already."""
    request_context = request_context_of(context, batch, project, arrived, unnamed)
    first = context.stamps.reserve(len(batch.events))
    outcomes: list[EventOutcome] = []
    repairs: dict[int, Repairs] = {}
    counts = context.log.partitions()
    unused = Repairs()
    for index, event in enumerate(batch.events):
        if isinstance(event, BadInput):
            outcomes.append(event)
            continue
        event_repairs = earlier.get(index, unused)
        try:
            commands = commands_of(event, first + index, request_context, event_repairs)
            outcomes.append(context.entries(commands, counts))
        except BadInput as error:
            outcomes.append(error.with_traceback(None))  # which holds the whole request
        if event_repairs:
            repairs[index] = event_repairs
            unused = Repairs()
    for repair in (repair for made in repairs.values() for repair in made):
        telemetry.REPAIRED.labels(repair.kind).inc()
    return outcomes, repairs


def unnamed_at(path: str) -> str | None:
    """What an event without a name is called that was sent there."""
    return "$identify" if path.lstrip("/").startswith("engage") else None


def is_stored(outcome: EventOutcome) -> bool:
    """Neither refused nor, as a merge without person processing is, dropped by rule."""
    return not isinstance(outcome, BadInput) and bool(outcome)


def request_context_of(
    context: Context,
    batch: CaptureBatch,
    project: Project,
    arrived: float,
    unnamed: str | None = None,
) -> RequestContext:
    """What the events of a request share that arrived then, by `time.perf_counter`."""
    received_at = context.clock.now_us()
    # whole seconds: a body takes some, or no time that matters beside a wrong clock
    arrived_at = received_at - int(time.perf_counter() - arrived) * 1_000_000
    sent_at = time_us_of(batch.sent_at)
    return RequestContext(
        project=project.id,
        received_at=received_at,
        arrived_at=arrived_at,
        skew=skew_of(sent_at, arrived_at),
        historical=batch.historical,
        merge_dangerously=project.merge_dangerously,
        server_only=project.server_only,
        mint=context.mint,
        unnamed=unnamed,
        lenient=batch.lenient,
    )


def project_of(context: Context, batch: CaptureBatch) -> Project:
    """The project of a batch's token; without one every event must carry the same."""
    tokens: list[Any] = (
        [batch.token] if batch.token else [token_of(event) for event in batch.events]
    )
    return project_of_tokens(context.access, tokens)


def refusal_of(
    batch: CaptureBatch, refused: list[tuple[int, BadInput]]
) -> errors.ApiError:
    """The first bad event by its place: nothing of the request is stored."""
    index, error = refused[0]
    if not batch.is_batch:
        return errors.of(error)
    attr = ".".join(filter(None, (f"batch[{index}]", error.attr)))
    detail = f"{error.detail} 0 stored, {len(refused)} refused."
    return errors.ApiError(400, "validation_error", error.slug, detail, attr=attr)


def capture_route(
    method: str, path: str, endpoint: Callable[[CaptureCall], Any], **more: Any
) -> Route:
    """A row of the route table for what any page may send."""
    return Route(
        method, path, "", endpoint, cross_origin=True, **({"access": "open"} | more)
    )


_WITH_SLASH = tuple(
    route
    for path, noun in PATHS.items()
    for route in (
        capture_route(
            "POST",
            f"{path}/",
            capture,
            body_bytes_max=BODY_BYTES_MAX,
            operation=operations.capture(),
            name=f"capture_{noun}",
        ),
        capture_route(
            "OPTIONS",
            f"{path}/",
            preflight,
            gated=False,
            operation=operations.preflight(f"{path}/"),
            name=f"preflight_capture_{noun}",
        ),
        capture_route(
            "GET",
            f"{path}/",
            capture,
            body_bytes_max=BODY_BYTES_MAX,
            operation=operations.capture_by_query(),
            name=f"capture_{noun}_by_query",
        ),
    )
)
ROUTES = tuple(
    replace(route, path=path, operation=operation)
    for route in _WITH_SLASH
    for path, operation in (
        (route.path, route.operation),
        (route.path.removesuffix("/"), None),
    )
)
"""With and without the slash, each a text of its own: no pattern is tried for each request."""
