"""An import: rows are read, made events, sent in windows, and settled window by window. Never stores anything itself.

While one window is sent the next is read. Killed anywhere, it goes on behind the last settled window; what is sent
again is the same by its uuids.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable

import msgspec

from clients.importing.files import Row
from clients.importing.rows import Manner, parcel_of
from clients.importing.state import Ledger, State
from clients.importing.target import Merge, Refusal, Sent, Target
from shared.domain.errors import BadInput

LANES = 4
"""Batches in flight. What is of one person has one lane, so it comes in the order of the source."""

WINDOW_EVENTS_MAX, WINDOW_BYTES_MAX = 1_000, 4 * 1_048_576
"""Of a window, one row more at most: a batch has at most 20 MiB, and SDKs send some hundred events in one."""


class Window(msgspec.Struct):
    """Rows that are sent, and settled, together."""

    lanes: list[list[Sent]]
    merges: list[Merge]
    refusals: list[Refusal]
    unmarked: int = 0
    events: int = 0
    last: Row | None = None


async def run(
    rows: AsyncIterator[Row], target: Target, ledger: Ledger, manner: Manner, tell: Callable[[int, State], None]
) -> State:
    """Import to the end of the rows; `tell` hears how far it is, in bytes of a file and in rows."""
    window = await _read(rows, manner)
    while window.last is not None:
        sent, following = await asyncio.gather(
            _deliver(window, target), _read(rows, manner), return_exceptions=True
        )  # with the window's outcome known, whatever ended the reading
        if isinstance(sent, BaseException):
            raise sent
        _settle(window, sent, ledger)
        tell(window.last.done, ledger.state)
        if isinstance(following, BaseException):
            raise following
        window = following
    ledger.state.ended = True
    ledger.passed([])
    return ledger.state


async def _read(rows: AsyncIterator[Row], manner: Manner) -> Window:
    window = Window([[] for _ in range(LANES)], [], [])
    size = 0
    while window.events < WINDOW_EVENTS_MAX and len(window.refusals) < WINDOW_EVENTS_MAX and size < WINDOW_BYTES_MAX:
        row = await anext(rows, None)
        if row is None:
            return window
        size += _pack(row, manner, window)
        window.last = row
    return window


def _pack(row: Row, manner: Manner, window: Window) -> int:
    """Put one row into the window; the bytes of its events."""
    try:
        if isinstance(row.value, BadInput):
            raise row.value
        parcel = parcel_of(row.value, manner)
    except BadInput as error:
        window.refusals.append(Refusal(row=row.number, reason=error.detail, attr=error.attr))
        return 0
    lane = zlib.crc32(parcel.lane.encode(errors="replace")) % LANES
    window.lanes[lane] += [(row.number, event) for event in parcel.events]
    window.merges += [Merge(row.number, into, source, parcel.when) for into, source in parcel.merges]
    window.refusals += [Refusal(row=row.number, reason=one, attr="distinct_ids") for one in parcel.refused]
    window.unmarked += parcel.unmarked
    window.events += len(parcel.events)
    return sum(map(len, parcel.events))


async def _deliver(window: Window, target: Target) -> list[Refusal]:
    sending = [target.send(lane) for lane in window.lanes if lane]
    refused = [one for part in await asyncio.gather(*sending) for one in part]
    return refused + (await target.merge(window.merges) if window.merges else [])


def _settle(window: Window, refused: list[Refusal], ledger: Ledger) -> None:
    assert window.last is not None
    state, last = ledger.state, window.last
    state.rows, state.page, state.index = last.number, last.page, last.index
    state.events += window.events - len(refused)
    state.unmarked += window.unmarked
    ledger.passed(sorted([*window.refusals, *refused], key=lambda one: one.row))
