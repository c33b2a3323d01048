"""What a rebuild derives, and how it is compared with what is live. Pure: never reads or writes a
table.

The events' own folds make the rows; nothing here knows what an operation does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from services.projector.tables import rows as r
from services.projector.tables.rows import StateKey, StateRow
from shared.domain.errors import NewerVersion
from shared.domain.ids import COMMANDS, IDENTITY
from shared.domain.person.fragment_events import FragmentErased
from shared.domain.person.identity_events import MembershipEvent
from shared.domain.person.replay import Replay
from shared.domain.purged import Cut, without
from shared.store.timeline import Row, event_of

FINDINGS_MAX = 20
"""Differences and corrupt rows that are named; all are counted."""

START = (0, UUID(int=0))
END = (2**32 - 1, UUID(int=2**128 - 1))

_CARRIED = {
    COMMANDS: ("version", "seen_at", "keys", "key_digests", "key_versions", "events"),
    IDENTITY: ("version", "keys", "key_digests", "key_versions"),
}
"""What the timeline does not tell: the memory of retries, and when somebody was last seen. The live
row's is kept."""


class RebuildReport(msgspec.Struct, kw_only=True):
    """What a rebuild found; kept in `rebuilds`, so that one that was killed goes on where it
    was."""

    state: str = "deriving"
    generation: int = 0
    positions: dict[str, list[int]] = {}
    cursor: StateKey = START
    total: int = 0
    facts: int = 0
    fragments: int = 0
    identities: int = 0
    compared: int = 0
    differences: int = 0
    corrupt: int = 0
    invented: int = 0
    findings: list[str] = msgspec.field(default_factory=list, name="named")
    updated_at: int = 0

    def differ(self, topic: str, row: StateRow, how: str) -> None:
        self.differences += 1
        table = "fragments" if topic == COMMANDS else "identity"
        self.name(
            f"difference: {table} project {row.project} fragment {row.fragment} {how}"
        )

    def name(self, text: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(text)


class Derived(msgspec.Struct):
    """One key's state, folded so far from its facts up to the limits of its partitions, without
    what was purged."""

    replay: Replay
    limits: tuple[int, int]
    cuts: Sequence[Cut] = ()
    corrupt: bool = False
    erased_by: int = 0

    def fold(self, row: Row, report: RebuildReport) -> None:
        """Apply one fact; a row that is none is named and counted, and its key derived no
        further."""
        report.facts += 1
        try:
            event = event_of(row)
            if event is None:
                raise ValueError("no fact of a fragment")
            if self.corrupt:
                return
            if isinstance(event, MembershipEvent):
                if event.originator_version <= self.limits[1]:
                    self.replay.apply(event)
            elif event.originator_version <= self.limits[0]:
                self.replay.apply(without(event, self.cuts))
                if isinstance(event, FragmentErased):
                    self.erased_by = event.originator_version
                if self.replay.fragment.cells and not self.replay.fragment.alive:
                    raise ValueError("a change before the birth")
        except Exception as error:  # noqa: BLE001  # whatever a broken row raises: it is named, counted and left out
            self.corrupt = True
            report.corrupt += 1
            # other texts may carry values
            harmless = type(error) in (ValueError, NewerVersion)
            kind = str(error) if harmless else type(error).__name__
            project, fragment, version, topic, *_ = row
            place = (
                f"project {project} fragment {fragment} version {version} topic {topic}"
            )
            report.name(f"corrupt: timeline {place}: {kind}")

    def settled(
        self, topic: str, live: StateRow | None, report: RebuildReport
    ) -> StateRow | None:
        """The row for the shadow, None for no row. Counts a difference from the live row, unless
        that has moved on."""
        commands = topic == COMMANDS
        row = (
            r.fragment_row(self.replay.fragment)
            if commands
            else r.membership_row(self.replay.membership)
        )
        exists = row.version > 0
        if live is None or live.version > self.limits[0 if commands else 1]:
            if live is None and exists:
                report.differ(topic, row, "has no live row")
            return row if exists else None
        merged = row._replace(**{name: getattr(live, name) for name in _CARRIED[topic]})
        wrong = [
            name
            for name in row._fields
            if not _equal(getattr(merged, name), getattr(live, name))
        ]
        report.compared += 1
        if wrong or row.version > live.version:
            report.differ(
                topic,
                row,
                f"differs in {', '.join(wrong) or 'version'}"
                if exists
                else "has no fact",
            )
            if not exists:
                report.invented += 1
                return None
        return merged._replace(version=max(row.version, live.version))


def _equal(derived: Any, live: Any) -> bool:
    return bool(
        derived == live or (isinstance(derived, list) and derived == list(live))
    )
