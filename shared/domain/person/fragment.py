"""The fragment: everything set through one distinct id, and the one place that says what an
operation does.

Pure: no clock, no I/O, no randomness. Reads, as-of, rebuild and un-merge replay the same events.
"""

from __future__ import annotations

from enum import IntEnum
from uuid import UUID

from shared.domain.commands import (
    Capture,
    Erase,
    FragmentCommand,
    PropertyMap,
    Purge,
    Revive,
    Write,
    first_known_at,
    imported_at,
)
from shared.domain.ids import number_of
from shared.domain.operations import UNWEIGHED, LeftOut, Room, Weight, operations_of
from shared.domain.person.cells import (
    ONCE,
    UNSET,
    Cell,
    Changes,
    Operations,
    apply,
    once_above,
)
from shared.domain.person.fragment_events import (
    FragmentChanged,
    FragmentErased,
    FragmentEvent,
    FragmentPurged,
    FragmentRestored,
    PropertiesLeftOut,
    WriteRefused,
)
from shared.domain.retries import KEY_REUSED, Remembered, recall, remember

EVENTS_MAX = 256
"""Recent captured events of a fragment: SDKs resend whole batches of 100, and two of them may
overlap."""

HOUR_US = 3_600_000_000

_LOW64 = (1 << 64) - 1
_LIFE = (
    "cells",
    "properties",
    "distinct_id",
    "created_at",
    "erased",
    "erased_at",
    "restored",
    "purged",
)


class FoldOutcome(IntEnum):
    """What one record did. Exactly one outcome per record."""

    SKIPPED = 0  # its version is not newer than the row: a redelivery
    NOTHING = 1  # no effect, nothing to write
    REMEMBERED = 2  # no effect, but the row keeps its key
    CHANGED = 3
    REFUSED = 4
    DUPLICATE = 5  # its key or uuid was seen before
    # an import of something older than the erasure, or a birth that a later delete has overtaken
    DROPPED = 6
    RECORDED = (
        7  # a block of a recording: a row of its own, and nothing to the fragment
    )


class Fragment:
    """Everything set through one distinct id. `version` is that of the last record that wrote its
    row."""

    __slots__ = (
        "cells",
        "created_at",
        "distinct_id",
        "effect",
        "erased",
        "erased_at",
        "events",
        "facts",
        "id",
        "keys",
        "number",
        "project",
        "properties",
        "purged",
        "restored",
        "seen_at",
        "stamp",
        "version",
        "weight",
    )

    def __init__(self, project: int, fragment: UUID) -> None:
        """A fragment that nobody has written to."""
        self.project = project
        self.id = fragment
        self.version = 0
        self.distinct_id = ""
        self.number = 0
        self.created_at = 0
        self.effect = 0
        self.stamp = 0
        self.erased = 0
        self.erased_at = 0
        self.restored = 0
        self.purged: dict[str, int] = {}
        self.seen_at = 0
        self.properties: PropertyMap = {}
        self.cells: dict[str, Cell] = {}
        self.weight = Weight()
        self.keys: list[Remembered] = []
        self.events: dict[int, None] = {}
        """Uuids of recent captured events, as 64 bits, the oldest first."""
        self.facts: list[FragmentEvent] = []
        """Facts that nobody has collected yet."""

    @property
    def alive(self) -> bool:
        return self.created_at != 0

    def bear(self, distinct_id: str, number: int, created_at: int) -> None:
        """Begin a life, or an earlier beginning of it."""
        self.distinct_id = distinct_id
        self.number = number
        self.created_at = created_at

    def collect_events(self) -> list[FragmentEvent]:
        """The facts since the last time."""
        facts = self.facts
        self.facts = []
        return facts

    def handle(
        self,
        command: FragmentCommand,
        version: int,
        partition: int,
        life: Fragment | None = None,
    ) -> FoldOutcome:
        """Fold one command of the log at (partition, version); its events wait in `collect_events`.

        `life` is what a `Revive` gives back: the fragment as the facts below `version` make it
        without that erasure.
        """
        if version <= self.version:
            return FoldOutcome.SKIPPED
        if isinstance(command, Capture):
            return self._capture(command, version, partition)
        if isinstance(command, Write):
            return self._write(command, version, partition)
        if isinstance(command, Revive):
            return self._revive(command, version, life)
        if isinstance(command, Purge):
            return self._purge(command, version)
        return self._erase(command, version)

    def _erase(self, command: Erase, version: int) -> FoldOutcome:
        if command.iver <= max(self.erased, self.restored):
            return FoldOutcome.NOTHING
        self._trigger(
            FragmentErased(
                originator_id=self.id,
                originator_version=version,
                timestamp=max(command.at, self.stamp),
                iver=command.iver,
                at=command.at,
                number=self.number,
            )
        )
        return FoldOutcome.CHANGED

    def _revive(
        self, command: Revive, version: int, life: Fragment | None
    ) -> FoldOutcome:
        if (
            command.iver != self.erased
        ):  # it was taken back before, or the fragment was erased again
            return FoldOutcome.NOTHING
        assert life is not None, "the facts of the closed life were not loaded"
        for name in _LIFE:
            setattr(self, name, getattr(life, name))
        self.weight = Weight(UNWEIGHED)
        self.seen_at = max(self.seen_at, life.seen_at)
        stamp = max(command.at, self.stamp)
        self._trigger(
            FragmentRestored(
                originator_id=self.id,
                originator_version=version,
                timestamp=stamp,
                iver=command.iver,
            )
        )
        return FoldOutcome.CHANGED

    def _purge(self, command: Purge, version: int) -> FoldOutcome:
        """A tombstone for each name, of what the fragment lacks as well; none where a later one is
        already."""
        names = tuple(
            name for name in command.names if self.purged.get(name, 0) < command.before
        )
        if not names:
            return FoldOutcome.NOTHING
        remains = [
            once_above(self.cells, self.properties, name, command.before)
            for name in names
        ]
        emptied = [
            name in self.cells and once is None
            for name, once in zip(names, remains, strict=True)
        ]
        self._trigger(
            FragmentPurged(
                originator_id=self.id,
                originator_version=version,
                timestamp=command.before,
                names=names,
                kinds=tuple(
                    UNSET if nothing_left else ONCE for nothing_left in emptied
                ),
                remains=tuple(remains),
                request=command.request,
                iver=self.erased,
            )
        )
        return FoldOutcome.CHANGED

    def _write(self, command: Write, version: int, partition: int) -> FoldOutcome:
        since = imported_at(command)
        stamp = self._stamp(command, since)
        if (first := recall(self.keys, command)) is not None:
            return (
                FoldOutcome.DUPLICATE
                if first[1] == command.digest
                else self._refuse(KEY_REUSED, version, stamp)
            )
        if 0 < since < self.erased_at or 0 < command.iver < self.erased:
            return FoldOutcome.DROPPED
        if command.expect is not None and command.expect != self.effect:
            outcome = self._refuse("precondition_failed", version, stamp)
        else:
            outcome = self._change(command, version, since, partition)
        if not command.key:
            return outcome
        remember(self.keys, command, version)
        self.version = version
        return max(outcome, FoldOutcome.REMEMBERED)

    def _refuse(self, reason: str, version: int, stamp: int) -> FoldOutcome:
        self._trigger(
            WriteRefused(
                originator_id=self.id,
                originator_version=version,
                timestamp=stamp,
                reason=reason,
            )
        )
        return FoldOutcome.REFUSED

    def _capture(self, command: Capture, version: int, partition: int) -> FoldOutcome:
        if not command.person:
            return FoldOutcome.NOTHING
        uuid = command.uuid.int
        key = (uuid ^ uuid >> 64) & _LOW64
        events = self.events
        if key in events:
            return FoldOutcome.DUPLICATE
        since = imported_at(command)
        if 0 < since < self.erased_at:
            return FoldOutcome.DROPPED
        outcome = self._change(command, version, since, partition)
        if command.timestamp >= self.seen_at + HOUR_US:
            self.seen_at = command.timestamp // HOUR_US * HOUR_US
        if not key:  # the nil uuid names no event
            return outcome
        events[key] = None
        while len(events) > EVENTS_MAX:
            del events[next(iter(events))]
        self.version = version
        return max(outcome, FoldOutcome.REMEMBERED)

    def _change(
        self, command: Capture | Write, version: int, since: int, partition: int
    ) -> FoldOutcome:
        """Do what the command asks for, as far as there is room, and make the fact of it."""
        stamp = self._stamp(command, since)
        operations = operations_of(command)
        changes, left_out = (
            self._do(operations, stamp)
            if operations
            else (Changes([], [], [], []), None)
        )
        names, kinds, values, before = changes
        first = first_known_at(command, since)
        born = not self.created_at or 0 < first < self.created_at
        if not names and not born:
            return self._leave_out(left_out, version, stamp)
        if born:
            number = self.number or number_of(partition, version)
            self.bear(command.distinct_id, number, first or command.at)
        if stamp > self.stamp:
            self.stamp = stamp
        self.effect = self.version = version
        self.facts.append(
            FragmentChanged(
                originator_id=self.id,
                originator_version=version,
                timestamp=stamp,
                names=tuple(names),
                kinds=tuple(kinds),
                values=tuple(values),
                before=tuple(before),
                distinct_id=self.distinct_id if born else "",
                number=self.number if born else 0,
                created_at=self.created_at if born else 0,
                left_out=left_out,
            )
        )
        return FoldOutcome.CHANGED

    def _do(self, operations: Operations, stamp: int) -> tuple[Changes, LeftOut | None]:
        """Apply operations for which there is room; the others are told of."""
        weight = self.weight
        cells, properties, purged = self.cells, self.properties, self.purged
        bound = weight.bound_with(operations, len(cells))
        if not bound:
            room = Room(weight, cells, properties, stamp)
            return apply(
                cells, properties, operations, stamp, purged, room.admit
            ), room.left_out
        changes = apply(
            cells, properties, operations, stamp, purged
        )  # nearly always there is room for everything
        if changes.names:
            weight.bytes = bound
            weight.exact = False
        return changes, None

    def _leave_out(
        self, left_out: LeftOut | None, version: int, stamp: int
    ) -> FoldOutcome:
        """Nothing took effect: for lack of room, or because nothing would."""
        if left_out is None:
            return FoldOutcome.NOTHING
        self._trigger(
            PropertiesLeftOut(
                originator_id=self.id,
                originator_version=version,
                timestamp=stamp,
                left_out=left_out,
            )
        )
        return FoldOutcome.REFUSED

    def _stamp(self, command: Capture | Write, since: int) -> int:
        """Of an import its own time, else above every stamp of the fragment before it."""
        return since or max(command.at, self.stamp + 1)

    def _trigger(self, event: FragmentEvent) -> None:
        event.mutate(self)
        self.facts.append(event)
