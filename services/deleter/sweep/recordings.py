"""Blocks of recordings out of the object store. Never touches the rows that say where they are:
those go afterwards.

An object is read and written once a run, for all requests that have a block in it. Rows come before
their object: of a young one it may still be on its way, and is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from shared.domain.errors import PersonlogError
from shared.runtime import telemetry
from shared.store.clickhouse.client import Store
from shared.store.objects import SETTLED_SECONDS, Objects, Span
from shared.store.targets import ObjectBlocks, blocks

OBJECTS_AT_ONCE = 8
"""Each is held in memory twice, and a bucket answers in some 50 ms: 160 a second."""

LOOK_SECONDS = 1.0
"""Between two looks at the window's end while waiting."""

REASON_CHARS_MAX = 300


@dataclass(slots=True, kw_only=True)
class ErasureOutcome:
    """Objects erased in by fragment, why others were not, and whether there was time for all of
    them."""

    objects: dict[UUID, int] = field(default_factory=dict)
    failed: dict[UUID, str] = field(default_factory=dict)
    complete: bool = True


async def erase(
    store: Store,
    objects: Objects,
    statements: Sequence[dict[str, Any]],
    now_us: int,
    in_time: Callable[[], bool],
) -> ErasureOutcome:
    """Erase what these statements reach, object by object; each for itself, so that one that fails
    stops no other."""
    outcome = ErasureOutcome()
    groups = _together(
        [
            group
            for parameters in statements
            for group in await blocks(store, parameters)
        ]
    )
    if not groups:
        return outcome
    if not await wait_for_objects(
        max(group.newest for group in groups), now_us, in_time
    ):
        outcome.complete = False
        return outcome
    try:
        home = await objects.home()
        await objects.tidy()
    except PersonlogError as error:
        outcome.failed = {
            fragment: error.detail for group in groups for fragment in group.fragments
        }
        return outcome
    for start in range(0, len(groups), OBJECTS_AT_ONCE):
        if not in_time():
            outcome.complete = False
            break
        chunk = groups[start : start + OBJECTS_AT_ONCE]
        reasons = await asyncio.gather(
            *(_erase_object(objects, home, group) for group in chunk)
        )
        for group, reason in zip(chunk, reasons, strict=True):
            for fragment in set(group.fragments):
                if reason:
                    outcome.failed[fragment] = reason
                else:
                    outcome.objects[fragment] = outcome.objects.get(fragment, 0) + 1
    return outcome


async def wait_for_objects(
    newest: int, now_us: int, in_time: Callable[[], bool]
) -> bool:
    """Wait until every object with blocks of up to this moment has come, or never will; False when
    time ran out.

    At most SETTLED_SECONDS by our own clock, whatever the other one says: what is waited for was
    there when we began.
    """
    until = time.monotonic() + min(
        SETTLED_SECONDS, SETTLED_SECONDS + (newest - now_us) / 1e6
    )
    while (seconds := until - time.monotonic()) > 0:
        if not in_time():
            return False
        await asyncio.sleep(min(seconds, LOOK_SECONDS))
    return True


def _together(groups: Sequence[ObjectBlocks]) -> list[ObjectBlocks]:
    """One entry an object: two statements may reach into the same one."""
    by_object: dict[str, ObjectBlocks] = {}
    for group in groups:
        earlier = by_object.get(group.object, ObjectBlocks(group.object, [], [], [], 0))
        by_object[group.object] = ObjectBlocks(
            group.object,
            earlier.fragments + group.fragments,
            earlier.starts + group.starts,
            earlier.lengths + group.lengths,
            max(earlier.newest, group.newest),
        )
    return list(by_object.values())


async def _erase_object(objects: Objects, home: str, group: ObjectBlocks) -> str:
    """Why it could not be done; empty when it was."""
    if not group.object.startswith(f"{home}/"):
        return f"The object {group.object} lies in another store than {home}."
    try:
        done = await objects.erase(group.object, map(Span, group.starts, group.lengths))
    except PersonlogError as error:
        return error.detail[:REASON_CHARS_MAX]
    telemetry.ERASED_OBJECTS.labels("deleted" if done.deleted else "rewritten").inc()
    telemetry.REWRITTEN_BYTES.labels("objects").inc(done.written)
    return ""
