"""POST /s: session recordings as posthog-js sends them. Answers 200 only when every block is
durable, rows and bytes.

Never looks into a snapshot beyond its time, and never changes one: packed parts are texts of any
code point from 0 to 255, which cleaning would break.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from services.api.calls import CaptureCall
from services.api.capture import operations
from services.api.capture.event_times import event_time
from services.api.capture.events import (
    event_uuid,
    sent_id_of,
)
from services.api.capture.payload import (
    CaptureBatch,
    batch_of,
    decompress,
    parse,
)
from services.api.capture.request_context import RequestContext
from services.api.capture.v0 import (
    BODY_BYTES_MAX,
    capture_route,
    conclusion,
    preflight,
    project_of,
    refusal_of,
    request_context_of,
    warnings_of,
)
from services.api.context import Context
from services.api.http.messages import Request, Response
from services.api.http.routing import Route
from services.api.writes.block_writer import INLINE_BYTES_MAX, Block, pack
from shared.domain.errors import BadInput
from shared.domain.ids import fragment_id
from shared.inputs.ids import stored_id
from shared.inputs.repairs import Repairs
from shared.inputs.times import time_us_of
from shared.inputs.values import text_without_nul
from shared.runtime import telemetry

PATH = "/s"

WINDOW_CHARS_MAX = 200
"""A window's id; SDKs send a uuid."""

DATA = "$snapshot_data"

_SESSION = re.compile(r"[A-Za-z0-9-]{1,70}")

T = TypeVar("T")


class _Timed(msgspec.Struct):
    """What is read of a snapshot."""

    timestamp: Any = None


async def record(call: CaptureCall) -> Response:
    """One request of `$snapshot` events: the good ones are stored. The answer warns of the others,
    and names the first one when nothing could be stored."""
    context = call.context
    batch, good, refused = await _decode_blocks(call.request, context)
    positions = await context.blocks.store(good) if good else []
    telemetry.RECORDED.labels("stored").inc(len(good))
    telemetry.RECORDED.labels("refused").inc(len(refused))
    refusal = refusal_of(batch, refused) if refused and not good else None
    return conclusion(call.request, refusal, positions, warnings_of({}, refused))


ROUTES: tuple[Route, ...] = (
    capture_route(
        "POST",
        PATH + "{slash}",
        record,
        body_bytes_max=BODY_BYTES_MAX,
        operation=operations.record(),
        name="record_sessions",
    ),
    capture_route(
        "OPTIONS",
        PATH + "{slash}",
        preflight,
        gated=False,
        operation=operations.preflight("/s/"),
        name="preflight_record_sessions",
    ),
)


async def _decode_blocks(
    request: Request, context: Context
) -> tuple[CaptureBatch, list[Block], list[tuple[int, BadInput]]]:
    """The good blocks, and the refused ones by their place. The body and what it became end here:
    they are large, and the store may let us wait for seconds."""
    body = request.body
    encoding = request.headers.get("Content-Encoding", "")
    batch = await _aside(
        body,
        lambda: decode(
            decompress(body, request.content_type, request.query, encoding), request
        ),
    )
    project = project_of(context, batch)
    context.quotas.take(project.id, len(batch.events), batch.size)
    request_context = request_context_of(context, batch, project, request.arrived)
    good, refused = await _aside(body, lambda: _blocks(batch, request_context))
    return replace(batch, events=[]), good, refused


async def _aside(body: bytes, work: Callable[[], T]) -> T:
    """In a thread when it takes long: packing lets go of the interpreter."""
    return await asyncio.to_thread(work) if len(body) > INLINE_BYTES_MAX else work()


def decode(body: bytes, request: Request) -> CaptureBatch:
    """The events of a body of any shape, all but their snapshots decoded."""
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode("utf-8", "replace").encode()
    value: Any = _members(body)
    if isinstance(value, list):
        value = [_event(raw) for raw in value]
    elif isinstance(value, dict) and _is_list(value.get("batch")):
        value = {name: parse(raw) for name, raw in value.items() if name != "batch"} | {
            "batch": [_event(raw) for raw in _members(value["batch"])]
        }
    else:
        value = _event(body)
    return batch_of(value, request.query, len(body))


def _members(raw: bytes) -> Any:
    """A list's or an object's values as they were sent; anything else decoded."""
    kind: Any = {b"[": list[Raw], b"{": dict[str, Raw]}.get(raw.lstrip()[:1], Any)
    value = parse(raw, kind)
    if kind is Any:
        return value
    return (
        [bytes(item) for item in value]
        if isinstance(value, list)
        else {name: bytes(item) for name, item in value.items()}
    )


def _is_list(raw: Any) -> bool:
    return isinstance(raw, bytes) and raw[:1] == b"["


def _event(raw: bytes) -> Any:
    """An event with everything decoded but its snapshots."""
    event = _members(raw)
    if not isinstance(event, dict):
        return None
    properties = _members(event.pop("properties", b"null"))
    decoded = {name: parse(value) for name, value in event.items()}
    if isinstance(properties, dict):
        properties = {
            name: value if name == DATA else parse(value)
            for name, value in properties.items()
        }
    return decoded | {"properties": properties}


def _blocks(
    batch: CaptureBatch, request_context: RequestContext
) -> tuple[list[Block], list[tuple[int, BadInput]]]:
    good: list[Block] = []
    refused: list[tuple[int, BadInput]] = []
    for index, event in enumerate(batch.events):
        try:
            good.append(block_of(event, request_context))
        except BadInput as error:
            refused.append((index, error))
    return good, refused


def block_of(event: Any, request_context: RequestContext) -> Block:
    """The block of one `$snapshot` event; BadInput, with `attr` below the event, when it is none or
    wrong."""
    if not isinstance(event, dict):
        raise BadInput("An event must be an object.", attr="")
    if event.get("event") != "$snapshot":
        raise BadInput(
            "Only $snapshot events are recorded here; others are captured by /e/.",
            attr="event",
        )
    properties = event["properties"]
    if not isinstance(properties, dict):
        raise BadInput("properties must be an object.", attr="properties")
    sent_id = sent_id_of(event, properties)
    repairs = Repairs()
    session, window = properties.get("$session_id"), properties.get("$window_id")
    if not isinstance(session, str) or _SESSION.fullmatch(session) is None:
        raise BadInput(
            "A session id has 1 to 70 letters, digits or hyphens.",
            attr="properties.$session_id",
        )
    window = _window(session if window in (None, "") else window, repairs)
    data = properties.get(DATA)
    content = (sent_id, f"{session} {window}", data if isinstance(data, bytes) else b"")
    uuid = event_uuid(event, content, request_context, repairs)
    if not uuid.int:  # the nil uuid names no event
        uuid = request_context.mint()
    lines, times = _snapshots(data, window)
    moments = [
        event_time(
            {"timestamp": time, "sent_at": event.get("sent_at")},
            properties,
            request_context,
            repairs,
            request_context.received_at,
        )
        for time in ((min(times), max(times)) if times else (event.get("timestamp"),))
    ]
    return Block(
        project=request_context.project,
        fragment=fragment_id(request_context.project, stored_id(sent_id)),
        uuid=uuid,
        session=session,
        window=window,
        started_at=moments[0],
        ended_at=moments[-1],
        content=pack(lines),
    )


def _window(window: Any, repairs: Repairs) -> str:
    field = "properties.$window_id"
    if not isinstance(window, str) or len(window) > WINDOW_CHARS_MAX:
        raise BadInput(
            f"A window id is a text of at most {WINDOW_CHARS_MAX} characters.",
            attr=field,
        )
    return text_without_nul(window, field, repairs)


def _snapshots(data: Any, window: str) -> tuple[list[bytes], list[int | float]]:
    """The snapshots, each a line with the window that it is of, and their times, as sent."""
    wrong = BadInput(
        "$snapshot_data must be a list of objects.", attr=f"properties.{DATA}"
    )
    if not isinstance(data, bytes):
        raise wrong
    snapshots: list[bytes] = _members(data) if _is_list(data) else [data]
    if not snapshots or any(snapshot[:1] != b"{" for snapshot in snapshots):
        raise wrong
    # at the end: of two members a reader takes the last
    ending = b'"windowId":' + msgspec.json.encode(window) + b"}"
    lines = []
    times = []
    for snapshot in snapshots:
        line = snapshot
        # line breaks are between tokens only, and a line must have none
        if b"\n" in line or b"\r" in line:
            line = msgspec.json.format(line, indent=-1)
        time = parse(line, _Timed).timestamp
        if time_us_of(time) is not None and not isinstance(time, str):
            times.append(time)
        lines.append(line[:-1] + (b"," if line[1:-1].strip() else b"") + ending)
    return lines, times
