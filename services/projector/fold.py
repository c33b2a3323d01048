"""Commands to rows, with caches of what is loaded. Never awaits; the rules are the domain's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

from services.projector.batch import Batch, Foldable
from services.projector.shares import FRAGMENT_COMMANDS
from services.projector.tables import rows as r
from services.projector.tables.clickhouse import Closed
from services.projector.tables.rows import (
    FragmentState,
    IdentityState,
    StateKey,
    StateRow,
)
from shared.domain.commands import (
    Capture,
    Command,
    MergePersons,
    RecordBlock,
    Restore,
    Revive,
    SplitPerson,
)
from shared.domain.commands import Delete as DeleteCommand
from shared.domain.errors import BadRecord
from shared.domain.ids import COMMANDS, IDENTITY
from shared.domain.person.fragment import FoldOutcome, Fragment
from shared.domain.person.fragment_events import FragmentChanged, PropertiesLeftOut
from shared.domain.person.identity import Membership, addressed, handle
from shared.log.port import Record
from shared.store.timeline import timeline_row

CACHE_MAX = 50_000
"""Fragments or memberships kept in memory: about 100 MB of persons with twenty properties."""

CACHE_BYTES_MAX = 64_000_000
"""Of the rows of cached fragments, about; in memory they are three times as large. Persons may have
a megabyte each."""

ROW_BYTES = 200
"""Of a fragment's row, without its properties and cells."""

REVIVED_MAX = 100
"""Closed lives opened again in one batch: each is read from the timeline."""

IDENTITY_COMMANDS = (MergePersons, SplitPerson, DeleteCommand, Restore)
UNSEEN = frozenset((FoldOutcome.DUPLICATE, FoldOutcome.DROPPED, FoldOutcome.SKIPPED))
"""Outcomes of a captured event that is no event of its own."""

WRITTEN = frozenset((FoldOutcome.CHANGED, FoldOutcome.REMEMBERED, FoldOutcome.REFUSED))
"""Outcomes that may have written the row."""


class Folder(Protocol):
    """How the records of one topic become rows."""

    topic: str

    def keys_to_load(self, commands: Iterable[Command]) -> list[StateKey]:
        """What must be loaded before `fold`; ask again after `admit`, until there is nothing."""

    def admit(self, keys: list[StateKey], rows: Sequence[StateRow]) -> None:
        """Take loaded rows; what was wanted and has no row was never written."""

    def cut(self, commands: Sequence[Command | None]) -> int:
        """How many of the commands can be folded together: what one of them must load, another must
        have written."""

    def closed(self, commands: Iterable[tuple[Command | None, Record]]) -> list[Closed]:
        """The closed lives that `fold` needs; all that was folded before must be visible when they
        are loaded."""

    def open(self, closed: Closed, life: Fragment) -> None:
        """Take a loaded life."""

    def fold(self, pairs: Iterable[Foldable], batch: Batch) -> None:
        """Fold commands into the batch, each before the next is asked for. Raises BadRecord for one
        that has no business in this topic; which one it is, whoever gave them knows."""

    def trim(self, batch: Batch) -> None:
        """Keep the cache within its bound. Called when nothing is in flight: what was flushed can
        be loaded again, but what this batch touched cannot."""

    def state(self, batch: Batch) -> list[StateRow]: ...

    def drop(self) -> None:
        """Forget everything loaded: the tables are the truth again."""


class FragmentFolder:
    """The commands topic: each record changes one fragment, or says where a block of a recording
    lies."""

    topic = COMMANDS

    def __init__(self) -> None:
        self._cache: OrderedDict[int, _CacheEntry] = (
            OrderedDict()
        )  # by the uuid's integer
        self._bytes = 0
        self._lives: dict[
            tuple[int, int], Fragment
        ] = {}  # by the uuid's integer and the version that opens it

    def keys_to_load(self, commands: Iterable[Command]) -> list[StateKey]:
        cache = self._cache
        projects: dict[UUID, int] = {}
        for command in commands:
            if isinstance(command, FRAGMENT_COMMANDS):
                key = command.fragment.int
                if key in cache:
                    cache.move_to_end(key)
                else:
                    projects[command.fragment] = command.project
        return [(project, fragment) for fragment, project in projects.items()]

    def admit(self, keys: list[StateKey], rows: Sequence[StateRow]) -> None:
        for row in rows:
            assert isinstance(row, FragmentState)
            self._cache[row.fragment.int] = entry = _CacheEntry(
                r.fragment_of(row), row.characters
            )
            self._bytes += entry.size
        for project, fragment in keys:
            if fragment.int not in self._cache:
                self._cache[fragment.int] = _CacheEntry(
                    Fragment(project, fragment), ROW_BYTES
                )
                self._bytes += ROW_BYTES

    def cut(self, commands: Sequence[Command | None]) -> int:
        if not any(type(command) is Revive for command in commands):  # nearly always
            return len(commands)
        fragments: set[UUID] = set()
        revived = 0
        for index, command in enumerate(commands):
            if isinstance(command, Revive):
                revived += 1
                if command.fragment in fragments or revived > REVIVED_MAX:
                    return index
            if isinstance(command, FRAGMENT_COMMANDS):
                fragments.add(command.fragment)
        return len(commands)

    def closed(self, commands: Iterable[tuple[Command | None, Record]]) -> list[Closed]:
        lives = []
        for command, record in commands:
            if isinstance(command, Revive):
                fragment, version = (
                    self._cache[command.fragment.int].fragment,
                    record.version,
                )
                if fragment.version < version and fragment.erased == command.iver:
                    lives.append(
                        Closed(command.project, command.fragment, command.iver, version)
                    )
        return lives

    def open(self, closed: Closed, life: Fragment) -> None:
        self._lives[closed.fragment.int, closed.version] = life

    def fold(self, pairs: Iterable[Foldable], batch: Batch) -> None:
        cache, lives, conclude = self._cache, self._lives, batch.conclude
        timeline, captured, numbers = (
            batch.facts.timeline,
            batch.facts.captured,
            batch.facts.numbers,
        )
        touched, outcomes = batch.touched, batch.outcomes
        for record, command in pairs:
            if not isinstance(command, FRAGMENT_COMMANDS):
                self._fold_other(record, command, batch)
                continue
            version = record.version
            key = command.fragment.int
            entry = cache[key]
            fragment = entry.fragment
            life = lives.pop((key, version), None) if lives else None
            outcome = fragment.handle(command, version, record.partition, life)
            if fragment.facts:
                for event in fragment.collect_events():
                    timeline.append(timeline_row(event, command))
                    if (
                        isinstance(event, FragmentChanged | PropertiesLeftOut)
                        and event.left_out is not None
                    ):
                        batch.left_out += event.left_out.names
                    if isinstance(event, FragmentChanged) and event.number:
                        numbers.append((command.project, event.number, fragment.id))
            if outcome not in UNSEEN and isinstance(command, Capture):
                captured.append(r.captured_row(command, version, fragment.purged))
            if outcome in WRITTEN and fragment.version == version:
                size = len(record.value) if life is None else _size(life)
                entry.size += size
                self._bytes += size
                batch.bytes += size if key in touched else entry.size
                touched[key] = fragment
            outcomes[outcome] += 1
            conclude(record, fragment.stamp)

    def _fold_other(self, record: Record, command: Command, batch: Batch) -> None:
        """What concerns no fragment: a block of a recording, whose row is a function of the record
        alone."""
        if not isinstance(command, RecordBlock):
            raise BadRecord(
                f"A {type(command).__name__} does not belong into {self.topic}."
            )
        batch.facts.blocks.append(r.block_row(command, record.version))
        batch.outcomes[FoldOutcome.RECORDED] += 1
        batch.conclude(record, 0)

    def trim(self, batch: Batch) -> None:
        cache = self._cache
        while len(cache) > CACHE_MAX or (self._bytes > CACHE_BYTES_MAX and cache):
            if next(iter(cache)) in batch.touched:
                return
            self._bytes -= cache.popitem(last=False)[1].size

    def state(self, batch: Batch) -> list[StateRow]:
        rows = [
            r.fragment_row(fragment)
            for fragment in batch.touched.values()
            if isinstance(fragment, Fragment)
        ]
        for key, row in zip(
            batch.touched, rows, strict=True
        ):  # what was only added up until now is known again
            entry, size = self._cache[key], row.characters + ROW_BYTES
            self._bytes += size - entry.size
            entry.size = size
        return list(rows)

    def drop(self) -> None:
        self._cache.clear()
        self._bytes = 0
        self._lives.clear()


class _CacheEntry:
    """A cached fragment, and how many bytes its row has at most."""

    __slots__ = ("fragment", "size")

    def __init__(self, fragment: Fragment, size: int) -> None:
        self.fragment, self.size = fragment, size


class IdentityFolder:
    """The identity topic: each record changes who is one person."""

    topic = IDENTITY

    def __init__(self) -> None:
        self._cache: dict[UUID, Membership] = {}

    def keys_to_load(self, commands: Iterable[Command]) -> list[StateKey]:
        projects: dict[UUID, int] = {}
        for command in commands:
            if isinstance(command, IDENTITY_COMMANDS):
                for fragment in addressed(command):
                    for needed in self._needed(fragment):
                        projects[needed] = command.project
        return [(project, fragment) for fragment, project in projects.items()]

    def admit(self, keys: list[StateKey], rows: Sequence[StateRow]) -> None:
        for row in rows:
            assert isinstance(row, IdentityState)
            self._cache[row.fragment] = r.membership_of(row)
        for project, fragment in keys:
            if fragment not in self._cache:
                self._cache[fragment] = Membership(project, fragment)

    def cut(self, commands: Sequence[Command | None]) -> int:
        return len(commands)

    def closed(self, commands: Iterable[tuple[Command | None, Record]]) -> list[Closed]:
        return []

    def open(self, closed: Closed, life: Fragment) -> None:
        raise AssertionError("no identity is read from a closed life")

    def fold(self, pairs: Iterable[Foldable], batch: Batch) -> None:
        for record, command in pairs:
            if not isinstance(command, IDENTITY_COMMANDS):
                raise BadRecord(
                    f"A {type(command).__name__} does not belong into {self.topic}."
                )
            decision = handle(command, record.version, self._cache.__getitem__)
            for membership in decision.touched:
                facts = membership.collect_events()
                batch.facts.timeline.extend(
                    timeline_row(event, command) for event in facts
                )
                batch.touched[membership.id.int] = membership
                batch.bytes += 100 + 16 * len(membership.members)
            batch.followups.extend(decision.followups)
            batch.outcomes[decision.outcome] += 1
            batch.conclude(
                record,
                max((membership.stamp for membership in decision.touched), default=0),
            )

    def trim(self, batch: Batch) -> None:
        if len(self._cache) > CACHE_MAX:
            self._cache = {
                membership.id: membership
                for membership in batch.touched.values()
                if isinstance(membership, Membership)
            }

    def state(self, batch: Batch) -> list[StateRow]:
        return [
            r.membership_row(member)
            for member in batch.touched.values()
            if isinstance(member, Membership)
        ]

    def drop(self) -> None:
        self._cache.clear()

    def _needed(self, fragment: UUID) -> list[UUID]:
        """What is not loaded yet of the person that holds `fragment`: itself, then its root, then
        all members."""
        cache = self._cache
        if (membership := cache.get(fragment)) is None:
            return [fragment]
        if (root := cache.get(membership.root)) is None:
            return [membership.root]
        return [member for member in root.members if member not in cache]


def _size(fragment: Fragment) -> int:
    """Bytes of a fragment's row, about."""
    return r.fragment_row(fragment).characters + ROW_BYTES
