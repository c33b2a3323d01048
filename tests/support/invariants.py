"""What must hold of tables and log (ARCHITECTURE.md, Invariants): one pass over the log, and the oracle, judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from services.projector.rebuild.derive import Derived, RebuildReport
from services.projector.tables import rows as r
from services.projector.tables.clickhouse import Closed
from services.projector.tables.marks import BEFORE_THE_FIRST, mark_of, position_row
from services.projector.tables.memory import MemoryTables, life_of
from shared.domain.commands import Capture, Erase, Purge, RecordBlock, Revive, Write, decode
from shared.domain.errors import BadRecord
from shared.domain.ids import COMMANDS, IDENTITY, Position, partition_of, position_of, version_of
from shared.domain.person.fragment import FoldOutcome, Fragment
from shared.domain.person.fragment_events import FragmentChanged, FragmentEvent, FragmentPurged
from shared.domain.person.identity import Membership, handle
from shared.domain.person.replay import Replay
from shared.domain.purged import Cut, cuts_of, without
from shared.log.memory import MemoryLog
from shared.log.port import Record
from shared.store.timeline import Row, event_of, timeline_row
from tests.support.oracle import Oracle

_NO_COMMAND = Write(id=UUID(int=0), project=0, at=0, fragment=UUID(int=0))

UNTOUCHED = (FoldOutcome.DUPLICATE, FoldOutcome.DROPPED, FoldOutcome.SKIPPED)


class Expected:
    """One pass of the domain's folds over the log, record by record: what every table must come to hold."""

    def __init__(self, logs: Sequence[MemoryLog]) -> None:
        """`logs` are the generations so far; others may come."""
        self._logs = logs
        self.right: dict[tuple[str, int], list[Record]] | None = None
        """The right log's records, while another one lies in its place, which happens in the first generation only."""
        self.fragments: dict[UUID, Fragment] = {}
        self.memberships: dict[UUID, Membership] = {}
        self.timeline: dict[tuple[int, UUID, int, str], Row] = {}
        self.captured: dict[tuple[int, UUID, UUID], Row] = {}
        self.numbers: dict[tuple[int, int], UUID] = {}
        self.blocks: dict[tuple[int, UUID, str, UUID], Row] = {}
        self.erasures: list[Erase] = []
        self.swept: set[tuple[Any, ...]] = set()
        """Keys of rows that a window has erased, behind the table's name."""
        self._folded: dict[tuple[int, str, int], list[tuple[list[Any], list[tuple[int, UUID]]]]] = {}
        self._verified: dict[tuple[int, str, int], int] = {}

    def forget(self) -> None:
        """The tables are others now: everything is to be verified again."""
        self._verified.clear()

    def visible(self, tables: MemoryTables, topic: str, positions: Sequence[Position]) -> None:
        """I3: these positions are visible now, so all that their records did must be."""
        for position in positions:
            key = (position.generation, topic, position.partition)
            done = self._folded.setdefault(key, [])
            for former in self._logs[: position.generation - 1]:  # a partition takes over from several of those
                for (other, partition), records in self._records(former).items():
                    self._catch_up((former.generation, other, partition), records)
            records = self._records(self._logs[position.generation - 1])[topic, position.partition]
            self._catch_up(key, records[: position.offset + 1])
            for offset in range(self._verified.get(key, 0), position.offset + 1):
                facts, touched = done[offset]
                for fact in facts:
                    written = fact in tables.timeline or fact in tables.blocks or ("timeline", *fact) in self.swept
                    assert written, f"I3: {position} is visible, and the fact {fact} is not"
                for one in touched:
                    row = tables.state[topic].get(one)
                    assert row and row[2] >= version_of(offset, position.generation), (
                        f"I3: {position} is visible, and the state {one} is not"
                    )
            self._verified[key] = max(self._verified.get(key, 0), position.offset + 1)

    def finish(self) -> None:
        """Fold what is left."""
        for log in self._logs:
            for (topic, partition), records in log._records.items():
                self._catch_up((log.generation, topic, partition), records)

    def _records(self, log: MemoryLog) -> dict[tuple[str, int], list[Record]]:
        """What lies there, or would."""
        return log._records if self.right is None else self.right

    def _catch_up(self, key: tuple[int, str, int], records: Sequence[Record]) -> None:
        done = self._folded.setdefault(key, [])
        while key[1] in (COMMANDS, IDENTITY) and len(done) < len(records):
            done.append(self._fold(records[len(done)]))

    def _fold(self, record: Record) -> tuple[list[Any], list[tuple[int, UUID]]]:
        """(keys of its facts, keys of the rows that it wrote)."""
        version = record.position.version
        try:
            command = decode(record.value)
        except BadRecord as error:
            return [self._keep(r.failure_row(record, error.detail))], []
        touched: list[Any] = []
        if isinstance(command, RecordBlock):
            row = r.block_row(command, version)
            self.blocks[row[:4]] = row
            return [row[:4]], []
        if record.topic == COMMANDS:
            assert isinstance(command, Capture | Write | Erase | Revive | Purge)
            blank = Fragment(command.project, command.fragment)
            fragment = self.fragments.setdefault(command.fragment, blank)
            life = None
            if isinstance(command, Revive):
                closed = Closed(command.project, command.fragment, command.iver, version)
                life = life_of(self.timeline.values(), self.captured.values(), closed)
            outcome = fragment.handle(command, version, record.partition, life)
            touched = [fragment] if outcome not in (*UNTOUCHED, FoldOutcome.NOTHING) else []
            if isinstance(command, Capture) and outcome not in UNTOUCHED:
                row = r.captured_row(command, version, fragment.purged)
                self.captured[row[0], row[1], row[3]] = row
            events = [(event, command) for event in fragment.collect_events()]
            for event, _ in events:
                if isinstance(event, FragmentChanged) and event.number:
                    self.numbers[command.project, event.number] = fragment.id
        else:
            book = self.memberships
            decision = handle(
                command, version, lambda key: book.setdefault(key, Membership(command.project, key))
            )  # type: ignore[arg-type]
            touched = list(decision.touched)
            events = [(event, command) for one in decision.touched for event in one.collect_events()]
            self.erasures += [one for one in decision.followups if isinstance(one, Erase)]
        keys = [self._keep(timeline_row(event, one)) for event, one in events]  # type: ignore[arg-type]
        return keys, [(one.project, one.id) for one in touched if one.version == version]

    def _keep(self, row: Row) -> Any:
        key = (row[0], row[1], row[2], row[3])
        self.timeline[key] = row
        return key


def check_episode(logs: Sequence[MemoryLog], tables: MemoryTables, expected: Expected) -> None:
    """Everything that must hold once all is projected."""
    log = logs[-1]
    expected.finish()
    state = {topic: {key: row for key, row in rows.items() if key[0]} for topic, rows in tables.state.items()}
    fragments = {(one.project, one.id): r.fragment_row(one) for one in expected.fragments.values() if one.version}
    assert state[COMMANDS] == fragments, "I1: fragments are a function of their partition's prefix"
    known = {(one.project, one.id): r.membership_row(one) for one in expected.memberships.values() if one.version}
    assert state[IDENTITY] == known, "I2: identity rows are a function of the identity prefix"
    for table in ("timeline", "captured"):
        told, due = (_left(holder, table, expected) for holder in (tables, expected))
        assert told == due, f"I4: exactly one outcome of every record, in {table}"
    assert tables.numbers == expected.numbers, "I4: numbers"
    assert tables.blocks == expected.blocks, "I4: blocks of recordings"
    check_oracle(logs, state)
    _check_ghosts(state)
    _check_erasures(expected, tables, state)
    for when, timeline in (("", tables.timeline), (", after the purged values left it", swept(tables.timeline))):
        report = RebuildReport()
        derived = _derived(timeline, _limits(log), report)
        for key, one in derived.items():
            for topic in (COMMANDS, IDENTITY):
                one.settled(topic, state[topic].get(key), report)
        assert (report.differences, report.corrupt) == (0, 0), f"I9{when}: {report.findings}"


def swept(timeline: dict[Any, Row]) -> dict[Any, Row]:
    """The timeline as a window leaves it: elements of purged names are gone, never rows."""
    cuts = _cuts(timeline.values())
    found = dict(timeline)
    for key, row in timeline.items():
        event = event_of(row)
        if isinstance(event, FragmentEvent) and event.originator_id in cuts:
            made = timeline_row(without(event, cuts[event.originator_id]), _NO_COMMAND)
            found[key] = (*row[:12], *made[12:16], *row[16:])
    return found


def _cuts(rows: Iterable[Row]) -> dict[UUID, list[Cut]]:
    """What was purged of each fragment."""
    found: dict[UUID, list[Cut]] = {}
    for row in rows:
        if row[3] == FragmentPurged.TOPIC and isinstance(event := event_of(row), FragmentPurged):
            found.setdefault(event.originator_id, []).extend(cuts_of([event]))
    return found


def _left(holder: Any, table: str, expected: Expected) -> dict[Any, Row]:
    """The rows that no window has erased; a zombie may have written such a one again."""
    return {key: row for key, row in getattr(holder, table).items() if (table, *key) not in expected.swept}


def rebuilt(tables: MemoryTables, partitions: dict[str, int]) -> None:
    """Swap in what the timeline gives up to the tables' positions, as a new epoch: what `personlog rebuild` does."""
    marks: dict[str, dict[int, int]] = {topic: {} for topic in (COMMANDS, IDENTITY)}
    for topic, rows in tables.state.items():
        for (project, key), row in rows.items():
            if project == 0:
                marks[topic][key.int >> 64] = row[2]
    limits = {topic: [marks[topic].get(one, 0) for one in range(partitions[topic])] for topic in marks}
    report = RebuildReport()
    derived = _derived(tables.timeline, limits, report)
    for topic, rows in tables.state.items():
        fresh: dict[tuple[int, UUID], Row] = {}
        for key in [*derived, *(key for key in rows if key[0] and key not in derived)]:
            one = derived.get(key) or _blank(key, limits)
            row = one.settled(topic, rows.get(key), report)
            if row is not None:
                fresh[key] = row
        tables.epochs[topic] += 1
        for partition in sorted({*range(partitions[topic]), *marks[topic]}):
            version = marks[topic].get(partition, 0)
            held = next(
                (row for (project, key), row in rows.items() if not project and key.int >> 64 == partition), None
            )
            position = position_of(topic, partition, version)
            mark = mark_of(topic, held) if held else BEFORE_THE_FIRST
            row = position_row(position, mark.stamp, tables.epochs[topic], mark.record)
            fresh[row[0], row[1]] = row
        tables.state[topic] = fresh
    assert (report.differences, report.corrupt) == (0, 0), f"I9, in a running store: {report.findings}"


def _derived(
    timeline: dict[Any, Row], limits: dict[str, list[int]], report: RebuildReport
) -> dict[tuple[int, UUID], Derived]:
    found: dict[tuple[int, UUID], Derived] = {}
    taken_back = {
        (row[1], row[19])
        for row in timeline.values()
        if row[3] == "fragment.restored" and row[2] <= _blank((row[0], row[1]), limits).limits[0]
    }
    cuts = _cuts(row for row in timeline.values() if row[2] <= _blank((row[0], row[1]), limits).limits[0])
    for row in sorted(timeline.values(), key=lambda row: row[2]):
        if row[0] and not (row[3] == "fragment.erased" and (row[1], row[19]) in taken_back):
            key = (row[0], row[1])
            if key not in found:
                found[key] = _blank(key, limits)
                found[key].cuts = cuts.get(key[1], ())
            found[key].fold(row, report)
    return found


def _blank(key: tuple[int, UUID], limits: dict[str, list[int]]) -> Derived:
    reach = (
        limits[COMMANDS][partition_of(key[1], len(limits[COMMANDS]))],
        limits[IDENTITY][key[0] % len(limits[IDENTITY])],
    )
    return Derived(Replay(*key), reach)


def _limits(log: MemoryLog) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {COMMANDS: [], IDENTITY: []}
    for (topic, _), records in log._records.items():
        if topic in found:
            found[topic].append(version_of(len(records), log.generation))
    return found


def check_oracle(logs: Sequence[MemoryLog], state: dict[str, dict[tuple[int, UUID], Row]]) -> None:
    """Against the model written again from the contract's text, project by project."""
    oracles: dict[int, Oracle] = {}
    seen: set[tuple[UUID, int]] = set()
    for topic in (IDENTITY, COMMANDS):
        for record in [one for log in logs for one in log.records(topic)]:
            try:
                command: Any = decode(record.value)
            except BadRecord:
                continue
            addressed = next(
                getattr(command, name) for name in ("fragment", "into", "person") if hasattr(command, name)
            )
            if command.key and (addressed, command.key) in seen:
                continue
            done = oracles.setdefault(command.project, Oracle()).apply(command, record.position.version)
            if command.key and done:
                seen.add((addressed, command.key))
    for (project, key), row in state[COMMANDS].items():
        one, fragment = oracles[project].fragment(key), r.fragment_of(row)
        told = (one["born"] or 0, one["erased"], one["erased_at"], one["name"], one["hour"])
        found = (fragment.created_at, fragment.erased, fragment.erased_at, fragment.distinct_id, fragment.seen_at)
        assert found == told, "I1, by the oracle"
        assert fragment.properties == oracles[project].shown(one), "I1, by the oracle"
    for project, oracle in oracles.items():
        people = {key: person for person in oracle.people for key in person}
        assert len(people) == sum(map(len, oracle.people)), "I5"
        for (other, key), row in state[IDENTITY].items():
            if other == project:
                person = people.get(key, [key])
                members = person if key == person[0] else []
                assert (row[3], row[4], bool(row[5])) == (person[0], members, key in oracle.marked), "I5, by the oracle"
                assert row[6] == oracle.erase.get(key, 0), "I6: whom a delete covers"


def _check_ghosts(state: dict[str, dict[tuple[int, UUID], Row]]) -> None:
    """Nobody leads from an erased fragment to others: it is alone until it lives again."""
    for (project, root), row in state[IDENTITY].items():
        for member in row[4] if len(row[4]) > 1 else ():
            fragment = state[COMMANDS].get((project, member))
            dead = fragment is not None and fragment[8] and not fragment[5]
            assert not dead, f"the person {root} holds the erased fragment {member}"


def _check_erasures(expected: Expected, tables: MemoryTables, state: dict[str, dict[tuple[int, UUID], Row]]) -> None:
    """I6: a delete reaches each member at least once and counts once. (I7 is I1: dissolving changes no fragment.)"""
    counted = [(row[1], row[19]) for row in tables.timeline.values() if row[3] == "fragment.erased"]
    assert len(counted) == len(set(counted)), "I6: an erasure counted twice"
    for erase in expected.erasures:
        row = state[COMMANDS].get((erase.project, erase.fragment))
        assert row is not None and max(row[8], row[17]) >= erase.iver, "I6: an erasure that did not arrive"
