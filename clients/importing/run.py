"""Run an import: read rows, turn them into events, send and settle them window by window.

While one window is sent the next is read. After a kill it resumes behind the last settled window;
events that are sent again are the same by their uuids.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import chain

import msgspec

from clients.importing.index import SourceIndex
from clients.importing.parcels import Manner, Parcel, parcel_of
from clients.importing.sources.files import SourceRow
from clients.importing.state import ImportLedger, ImportState
from clients.importing.target import ImportTarget, Refusal, RowEvent, RowMerge
from clients.importing.translate import translate
from shared.domain.errors import BadInput

LANES = 4
"""Batches in flight. A person's events share a lane, so they keep the order of the source."""

WINDOW_EVENTS_MAX, WINDOW_BYTES_MAX = 1_000, 4 * 1_048_576
"""Size of a window, exceeded by one row at most.

A batch has at most 20 MiB, and SDKs send some hundred events in one.
"""

WINDOW_ROWS_MAX = 100_000
"""Rows of a window, for those that are left out make no events."""


class ImportWindow(msgspec.Struct):
    """Rows that are sent and settled together."""

    lanes: list[list[RowEvent]]
    merges: list[RowMerge]
    refusals: list[Refusal]
    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    unmarked: int = 0
    events: int = 0
    last: SourceRow | None = None


class RowReader:
    """Rows of a source as parcels; those before `skip` only tell the index what they say."""

    def __init__(
        self,
        rows: AsyncIterator[SourceRow],
        manner: Manner,
        index: SourceIndex,
        skip: int,
    ) -> None:
        self._rows = rows
        self._manner = manner
        self._index = index
        self._skip = skip

    async def window(self) -> ImportWindow:
        """Read the next window; the one behind the last row has no `last`."""
        window = ImportWindow([[] for _ in range(LANES)], [], [])
        size = 0
        while (
            window.events < WINDOW_EVENTS_MAX
            and len(window.refusals) < WINDOW_EVENTS_MAX
            and window.kinds.total() < WINDOW_ROWS_MAX
            and size < WINDOW_BYTES_MAX
        ):
            row = await anext(self._rows, None)
            if row is None:
                return window
            if row.number > self._skip:
                size += self._pack(row, window)
                window.last = row
            else:
                with suppress(BadInput):
                    translate(row.value, row.number, self._manner.kind, self._index)
        return window

    def _pack(self, row: SourceRow, window: ImportWindow) -> int:
        """Put one row into the window; return the bytes of its events."""
        kind = "refused"
        parcels: list[Parcel] = []
        try:
            if isinstance(row.value, BadInput):
                raise row.value
            kind, rows = translate(
                row.value, row.number, self._manner.kind, self._index
            )
            parcels = [
                parcel_of(row_kind, value, self._manner) for row_kind, value in rows
            ]
        except BadInput as error:
            kind = "refused"
            window.refusals.append(
                Refusal(row=row.number, reason=error.detail, attr=error.attr)
            )
        window.kinds[kind] += 1
        return sum(_add(row.number, parcel, window) for parcel in parcels)


async def run(
    reader: RowReader,
    target: ImportTarget,
    ledger: ImportLedger,
    report_progress: Callable[[int, ImportState], None],
) -> ImportState:
    """Import all rows; `report_progress` gets the bytes of the file and the state so far."""
    window = await reader.window()
    while window.last is not None:
        # an error of the reading is raised once the outcome of the window is settled
        refusals, following = await asyncio.gather(
            _deliver(window, target), reader.window(), return_exceptions=True
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


def _add(number: int, parcel: Parcel, window: ImportWindow) -> int:
    """Add the events and merges of a row's parcel; return the bytes of its events."""
    lane = zlib.crc32(parcel.lane.encode(errors="replace")) % LANES
    window.lanes[lane] += [(number, event) for event in parcel.events]
    window.merges += [
        RowMerge(number, into, source, parcel.when) for into, source in parcel.merges
    ]
    window.refusals += [
        Refusal(row=number, reason=reason, attr="distinct_ids")
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
    state.kinds = dict(Counter(state.kinds) + window.kinds)
    ledger.settle(
        sorted([*window.refusals, *refusals], key=lambda refusal: refusal.row)
    )
