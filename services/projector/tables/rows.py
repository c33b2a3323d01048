"""Domain objects to table rows and back: the one place that knows the columns. Never does I/O.

A row has the names of its table's columns, in their order; what is only written is a plain tuple of
them. JSON is text; times are integer microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.projector.tables.marks import (
    POSITION,
    Mark,
    Vouched,
    mark_of,
    position_row,
)
from shared.domain.commands import Capture, RecordBlock, imported_at
from shared.domain.ids import COMMANDS, position_key
from shared.domain.operations import Weight
from shared.domain.person.fragment import Fragment
from shared.domain.person.identity import Membership
from shared.domain.purged import stripped
from shared.domain.retries import Remembered
from shared.log.port import Record
from shared.store.timeline import FAILED, NOBODY, Row


class FragmentState(NamedTuple):
    """A row of `fragments`."""

    project: int
    fragment: UUID
    version: int
    distinct_id: str
    number: int
    created_at: int
    effect: int
    stamp: int
    erased: int
    erased_at: int
    seen_at: int
    properties: str
    cells: str
    keys: Sequence[int]
    key_digests: Sequence[int]
    key_versions: Sequence[int]
    events: Sequence[int]
    restored: int
    purged: str

    @property
    def characters(self) -> int:
        """Of its texts, which are nearly all of it."""
        return len(self.properties) + len(self.cells)


class IdentityState(NamedTuple):
    """A row of `identity`."""

    project: int
    fragment: UUID
    version: int
    root: UUID
    members: Sequence[UUID]
    identified: int
    erase: int
    stamp: int
    keys: Sequence[int]
    key_digests: Sequence[int]
    key_versions: Sequence[int]
    erased_at: int


StateRow = FragmentState | IdentityState

StateKey = tuple[int, UUID]
"""The key of such a row: project and fragment."""


class NumberRow(NamedTuple):
    """A row of `numbers`."""

    project: int
    number: int
    fragment: UUID


class CapturedRow(NamedTuple):
    """A row of `captured_events`."""

    project: int
    fragment: UUID
    timestamp: int
    uuid: UUID
    version: int
    event: str
    distinct_id: str
    properties: str
    received_at: int
    repairs: Sequence[str]


class BlockRow(NamedTuple):
    """A row of `recording_blocks`."""

    project: int
    fragment: UUID
    session: str
    block: UUID
    version: int
    object: str
    start: int
    length: int
    started_at: int
    ended_at: int
    received_at: int
    window: str
    uuid: UUID


FRAGMENTS, IDENTITY = FragmentState._fields, IdentityState._fields
NUMBERS, CAPTURED_EVENTS, BLOCKS = (
    NumberRow._fields,
    CapturedRow._fields,
    BlockRow._fields,
)

DEFAULTS: dict[str, Any] = {
    "distinct_id": "",
    "number": 0,
    "created_at": 0,
    "erased": 0,
    "erased_at": 0,
    "keys": [],
    "key_digests": [],
    "key_versions": [],
    "events": [],
    "root": NOBODY,
    "members": [],
    "identified": 0,
    "erase": 0,
    "peer": NOBODY,
    "reason": "",
    "scope": "",
    "restored": 0,
    "purged": "",
    "left_out": "",
}
"""Columns that often have nothing to say, and what their types default to."""

TIME_US_MIN, TIME_US_MAX = -2_208_988_800_000_000, 10_413_791_999_000_000
"""DateTime64 holds the years 1900 to 2299; what lies outside is clamped rather than wrapped."""

CHARACTER_BYTES_MAX = 4
"""Of UTF-8."""


def fragment_row(fragment: Fragment) -> FragmentState:
    return FragmentState(
        fragment.project,
        fragment.id,
        fragment.version,
        fragment.distinct_id,
        fragment.number,
        fragment.created_at,
        fragment.effect,
        fragment.stamp,
        fragment.erased,
        fragment.erased_at,
        fragment.seen_at,
        orjson.dumps(fragment.properties).decode(),
        orjson.dumps(fragment.cells).decode(),
        *_columns_of(fragment.keys),
        list(fragment.events),
        fragment.restored,
        _text_of(fragment.purged),
    )


def fragment_of(row: FragmentState) -> Fragment:
    fragment = Fragment(row.project, row.fragment)
    fragment.version = row.version
    fragment.distinct_id = row.distinct_id
    fragment.number = row.number
    fragment.created_at = row.created_at
    fragment.effect = row.effect
    fragment.stamp = row.stamp
    fragment.erased = row.erased
    fragment.erased_at = row.erased_at
    fragment.seen_at = row.seen_at
    fragment.properties = orjson.loads(row.properties)
    fragment.cells = {
        name: (kind, hard, once)
        for name, (kind, hard, once) in orjson.loads(row.cells).items()
    }
    fragment.keys = _remembered(row)
    fragment.events = dict.fromkeys(row.events)
    fragment.restored = row.restored
    fragment.purged = orjson.loads(row.purged) if row.purged else {}
    fragment.weight = Weight(CHARACTER_BYTES_MAX * row.characters)
    return fragment


def membership_row(membership: Membership) -> IdentityState:
    return IdentityState(
        membership.project,
        membership.id,
        membership.version,
        membership.root,
        list(membership.members),
        int(membership.identified),
        membership.erase,
        membership.stamp,
        *_columns_of(membership.keys),
        membership.erased_at,
    )


def membership_of(row: IdentityState) -> Membership:
    membership = Membership(row.project, row.fragment)
    membership.version = row.version
    membership.root = row.root
    membership.members = tuple(row.members)
    membership.identified = bool(row.identified)
    membership.erase = row.erase
    membership.stamp = row.stamp
    membership.keys = _remembered(row)
    membership.erased_at = row.erased_at
    return membership


def state_of(topic: str, row: Row) -> StateRow:
    """A row of the topic's table with its names, of one that has its columns first."""
    if topic == COMMANDS:
        return FragmentState._make(row[: len(FRAGMENTS)])
    return IdentityState._make(row[: len(IDENTITY)])


class SelectedRows(NamedTuple):
    """What one SELECT of a table's newest rows has found."""

    marks: dict[UUID, Mark]
    """Position rows, by the key of their partition."""
    rows: list[StateRow]
    large: dict[StateKey, int]
    """Rows that came without their texts for their size, and their bytes."""


def selected_rows(topic: str, answer: Sequence[Row]) -> SelectedRows:
    """Rows of `load_fragments` or `load_identity`: the table's columns, of fragments the bytes of a
    large row, and the columns of position rows."""
    selected = SelectedRows({}, [], {})
    for row in answer:
        if row[0] == 0:
            selected.marks[row[1]] = mark_of(topic, row)
        elif topic == COMMANDS and row[len(FRAGMENTS)]:
            selected.large[row[0], row[1]] = row[len(FRAGMENTS)]
        else:
            selected.rows.append(state_of(topic, row))
    return selected


def state_columns(
    topic: str, state: Sequence[StateRow], vouched: Sequence[Vouched]
) -> dict[str, list[Any]]:
    """One INSERT block of a table: rows of state, and behind them the position rows of its
    partitions."""
    names = FRAGMENTS if topic == COMMANDS else IDENTITY
    positions = [position_row(*mark) for mark in vouched]
    block = columns(names, [*state, *(row[: len(names)] for row in positions)])
    defaults: dict[str, Any] = {"kind": ""}
    for place, name in enumerate(POSITION if positions else (), start=len(names)):
        block[name] = [defaults.get(name, 0)] * len(state) + [
            row[place] for row in positions
        ]
    return block


def failure_row(record: Record, reason: str) -> Row:
    """The outcome of a record that went to the dead letters; it belongs to no project that we know.

    Its key is the partition's: offsets of two partitions are equal numbers, and one row would
    replace the other. Of the reason it has the kind only: behind that may stand a value, and no
    erasure reaches this row. The dead letter has it whole, and the log forgets.
    """
    kind = reason.partition(":")[0]
    return (
        0,
        position_key(record.topic, record.partition),
        record.position.version,
        FAILED,
        record.at,
        record.at,
        NOBODY,
        "",
        record.topic,
        "",
        0,
        0,
        [],
        [],
        [],
        [],
        NOBODY,
        [],
        0,
        0,
        NOBODY,
        f"partition {record.partition}: {kind}"[:200],
        "",
        0,
        "",
    )


def captured_row(command: Capture, version: int, purged: Mapping[str, int]) -> Row:
    """`purged` are the cut-offs of the event's fragment: an import from before one says nothing of
    that name."""
    timestamp = min(max(command.timestamp, TIME_US_MIN), TIME_US_MAX)
    properties = str(command.properties, "utf-8")
    if purged and (
        names := [
            name
            for name, cutoff in purged.items()
            if 0 < imported_at(command) <= cutoff
        ]
    ):
        properties = orjson.dumps(stripped(orjson.loads(properties), names)).decode()
    return (
        command.project,
        command.fragment,
        timestamp,
        command.uuid,
        version,
        command.event,
        command.distinct_id,
        properties,
        command.at,
        list(command.repairs),
    )


def block_row(command: RecordBlock, version: int) -> Row:
    return (
        command.project,
        command.fragment,
        command.session,
        command.id,
        version,
        command.object,
        command.start,
        command.length,
        command.started_at,
        command.ended_at,
        command.at,
        command.window,
        command.uuid,
    )


def _text_of(purged: dict[str, int]) -> str:
    return orjson.dumps(purged, option=orjson.OPT_SORT_KEYS).decode() if purged else ""


def _columns_of(keys: list[Remembered]) -> tuple[list[int], list[int], list[int]]:
    return (
        [key for key, _, _ in keys],
        [digest for _, digest, _ in keys],
        [version for _, _, version in keys],
    )


def _remembered(row: StateRow) -> list[Remembered]:
    """Rows of before the second and third column were there have them empty."""
    return list(zip_longest(row.keys, row.key_digests, row.key_versions, fillvalue=0))


def columns(names: tuple[str, ...], rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows turned into columns for a column-wise insert: 531 k rows/s against 271 k row-wise. A
    column that has nothing but what its type defaults to is left out: of facts about fragments,
    that is nine of 22."""
    turned = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return {
        name: values
        for name, values in turned.items()
        if name not in DEFAULTS or values.count(DEFAULTS[name]) < len(values)
    }
