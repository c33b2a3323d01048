"""Submitting a write: its commands are appended, and reads waited for as long as the client
prefers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from services.api.calls import RestCall
from services.api.http.messages import Request
from services.api.reads.watermarks import WAIT_SECONDS_MAX
from shared.domain.commands import Command
from shared.domain.errors import NotYet, Transient
from shared.domain.ids import Position

ANSWER_SECONDS_MAX = 9.0
"""A write is answered by then, visible or not: what the log took is not waited for again."""

_WAIT = re.compile(r"\bwait\s*=\s*\"?(\d{1,4})\b")


async def append_and_wait(
    call: RestCall, commands: Sequence[Command]
) -> tuple[list[Position], bool]:
    """Append; wait until reads see it. False when the client prefers not to wait, or the projection
    lags."""
    time = asyncio.get_running_loop().time
    began = time()
    positions = await call.context.append(commands)
    seconds = patience(call.request, ANSWER_SECONDS_MAX - (time() - began))
    if seconds is None:
        return positions, False
    try:
        await call.context.watermarks.wait(positions, min(seconds, WAIT_SECONDS_MAX))
    except (NotYet, Transient):
        return (
            positions,
            False,
        )  # durable all the same, and that is what the client learns
    return positions, True


def patience(request: Request, limit: float) -> float | None:
    """How many seconds the client prefers to wait (RFC 7240: respond-async, wait=3), at most
    `limit`; None for not at all."""
    preferences = request.headers.get("Prefer", "").lower()
    waiting = _WAIT.search(preferences)
    if "respond-async" in preferences and waiting is None:
        return None
    return min(float(waiting[1]) if waiting is not None else limit, limit)
