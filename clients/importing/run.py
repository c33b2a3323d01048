"""Run an import: read rows, turn them into events, send and settle them window by window.

While one window is sent the next is read. After a kill it resumes behind the last settled window;
events that are sent again are the same by their uuids.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from itertools import chain

import msgspec

from clients.importing.files import SourceRow
from clients.importing.rows import Manner, parcel_of
from clients.importing.state import ImportLedger, ImportState
from clients.importing.target import ImportTarget, Refusal, RowEvent, RowMerge
from shared.domain.errors import BadInput

LANES = 4
"""Batches in flight. A person's events share a lane, so they keep the order of the source."""

WINDOW_EVENTS_MAX, WINDOW_BYTES_MAX = 1_000, 4 * 1_048_576
"""Size of a window, exceeded by one row at most.

A batch has at most 20 MiB, and SDKs send some hundred events in one.
"""


class ImportWindow(msgspec.Struct):
    """Rows that are sent and settled together."""

    lanes: list[list[RowEvent]]
    merges: list[RowMerge]
    refusals: list[Refusal]
    unmarked: int = 0
    events: int = 0
    last: SourceRow | None = None


async def run(
    rows: AsyncIterator[SourceRow],
    target: ImportTarget,
    ledger: ImportLedger,
    manner: Manner,
    report_progress: Callable[[int, ImportState], None],
) -> ImportState:
    """Import all rows; `report_progress` gets the bytes of the file and the state so far."""
    window = await _read(rows, manner)
    while window.last is not None:
        # an error of the reading is raised once the outcome of the window is settled
        refusals, following = await asyncio.gather(
            _deliver(window, target), _read(rows, manner), return_exceptions=True
        )
        if isinstance(refusals, BaseException):
            raise refusals
        _settle(window, refusals, ledger)
        report_progress(window.last.done, ledger.state)
        if isinstance(following, BaseException):
            raise following
        window = following
    ledger.state.ended = True
    ledger.settle([])
    return ledger.state


async def _read(rows: AsyncIterator[SourceRow], manner: Manner) -> ImportWindow:
    window = ImportWindow([[] for _ in range(LANES)], [], [])
    size = 0
    while (
        window.events < WINDOW_EVENTS_MAX
        and len(window.refusals) < WINDOW_EVENTS_MAX
        and size < WINDOW_BYTES_MAX
    ):
        row = await anext(rows, None)
        if row is None:
            return window
        size += _pack(row, manner, window)
        window.last = row
    return window


def _pack(row: SourceRow, manner: Manner, window: ImportWindow) -> int:
    """Put one row into the window; return the bytes of its events."""
    try:
        if isinstance(row.value, BadInput):
            raise row.value
        parcel = parcel_of(row.value, manner)
    except BadInput as error:
        window.refusals.append(
            Refusal(row=row.number, reason=error.detail, attr=error.attr)
        )
        return 0
    lane = zlib.crc32(parcel.lane.encode(errors="replace")) % LANES
    window.lanes[lane] += [(row.number, event) for event in parcel.events]
    window.merges += [
        RowMerge(row.number, into, source, parcel.when)
        for into, source in parcel.merges
    ]
    window.refusals += [
        Refusal(row=row.number, reason=reason, attr="distinct_ids")
        for reason in parcel.refusals
    ]
    window.unmarked += parcel.unmarked
    window.events += len(parcel.events)
    return sum(map(len, parcel.events))


async def _deliver(window: ImportWindow, target: ImportTarget) -> list[Refusal]:
    sending = [target.send(lane) for lane in window.lanes if lane]
    refusals = list(chain.from_iterable(await asyncio.gather(*sending)))
    return refusals + (await target.merge(window.merges) if window.merges else [])


def _settle(
    window: ImportWindow, refusals: list[Refusal], ledger: ImportLedger
) -> None:
    assert window.last is not None
    state, last = ledger.state, window.last
    state.rows, state.page, state.index = last.number, last.page, last.index
    state.events += window.events - len(refusals)
    state.unmarked += window.unmarked
    ledger.settle(
        sorted([*window.refusals, *refusals], key=lambda refusal: refusal.row)
    )
