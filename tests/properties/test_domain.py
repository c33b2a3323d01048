"""Random histories: the code against the oracle, in any order, any batches, with replays and duplicates."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.commands import Capture, Command, Delete, Erase, MergePersons, SplitPerson, Write, decode, encode
from shared.domain.ids import NAMESPACE, fragment_id, number_of, version_of
from shared.domain.person.fragment import FoldOutcome, Fragment
from shared.domain.person.identity import Membership, handle
from shared.domain.person.view import merged_properties, ordered_distinct_ids
from shared.store.timeline import event_of, timeline_row
from tests.support.oracle import Oracle

IDS = ("a", "b", "c", "d", "null")
NAMES = ("p", "q", "r")
KEYS = {name: fragment_id(1, name) for name in IDS}
VALUES = st.one_of(st.none(), st.integers(0, 3), st.booleans(), st.sampled_from(["x", "y"]), st.just([1, {"z": None}]))
PROPERTIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)
SOLID = st.dictionaries(st.sampled_from(NAMES), VALUES.filter(lambda value: value is not None), max_size=3)
UNSET = st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple)


@st.composite
def histories(draw: st.DrawFn) -> list[Command]:
    """Commands in the order of a log; ids and times are made from their place."""
    commands: list[Command] = []
    at = 1_000
    for index in range(draw(st.integers(1, 25))):
        at += draw(st.integers(-3, 5))
        one = uuid5(NAMESPACE, f"command {index}")
        name = draw(st.sampled_from(IDS))
        common: dict[str, Any] = {"id": one, "project": 1, "at": at}
        kind = draw(st.sampled_from(KINDS))
        if kind == "write":
            key = draw(st.sampled_from([0, 0, 0, 7, 8]))
            commands.append(
                Write(**common, key=key, fragment=KEYS[name], distinct_id=name, set=draw(PROPERTIES),
                      set_once=draw(PROPERTIES), unset=draw(UNSET))
            )  # fmt: skip
        elif kind in ("capture", "import"):
            values = PROPERTIES if kind == "capture" else SOLID  # `moved` says why imports have no unset and no null
            commands.append(
                Capture(**common, fragment=KEYS[name], distinct_id=name, uuid=one, event="e",
                        timestamp=draw(st.integers(900, 1_100)), set=draw(values), lifted=draw(values),
                        set_once=draw(values), unset=draw(UNSET) if kind == "capture" else (),
                        historical=kind == "import",
                        person=draw(st.sampled_from([True, True, True, False])))
            )  # fmt: skip
        elif kind == "merge":
            other = draw(st.sampled_from(IDS))
            mode = draw(st.sampled_from(["identify", "alias", "dangerous", "operator"]))
            named: dict[str, Any] = {} if mode == "operator" else {"into_id": name, "source_id": other}
            if named and draw(st.booleans()):
                named["since"] = at - draw(st.integers(0, 10))
            commands.append(MergePersons(**common, into=KEYS[name], source=KEYS[other], mode=mode, **named))
        elif kind == "split":
            form = draw(st.sampled_from(["keep", "leave"]))
            if form == "keep":
                commands.append(SplitPerson(**common, person=KEYS[name], keep=KEYS[name]))
            else:
                leave = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True))
                commands.append(SplitPerson(**common, person=KEYS[name], leave=tuple(KEYS[one] for one in leave)))
        elif kind == "delete":
            commands.append(Delete(**common, person=KEYS[name], request=one))
        elif commands:
            commands.append(draw(st.sampled_from(commands)))
    return commands


KINDS = "write write capture capture import merge merge split delete again".split()
HARMLESS = (FoldOutcome.SKIPPED, FoldOutcome.NOTHING, FoldOutcome.DUPLICATE, FoldOutcome.REFUSED, FoldOutcome.DROPPED)


class Machine:
    """The domain's folds over one commands partition and one identity partition, with every fact kept."""

    def __init__(self) -> None:
        self.fragments: dict[UUID, Fragment] = {}
        self.memberships: dict[UUID, Membership] = {}
        self.offsets = {"c": 0, "i": 0}
        self.log: list[tuple[Command, int]] = []
        self.facts: list[Any] = []
        self.pending: list[Erase | Write] = []

    def append(self, command: Command) -> int:
        topic = "c" if isinstance(command, Capture | Write | Erase) else "i"
        version = version_of(self.offsets[topic])
        self.offsets[topic] += 1
        self.log.append((command, version))
        return version

    def fold(self, command: Command, version: int) -> FoldOutcome:
        if isinstance(command, Capture | Write | Erase):
            fragment = self.fragments.setdefault(command.fragment, Fragment(1, command.fragment))
            outcome = fragment.handle(command, version, 3)
            self.facts += [(event, command) for event in fragment.collect_events()]
            return outcome
        assert isinstance(command, MergePersons | SplitPerson | Delete)
        decision = handle(command, version, lambda key: self.memberships.setdefault(key, Membership(1, key)))
        for membership in decision.touched:
            self.facts += [(event, command) for event in membership.collect_events()]
        self.pending += [one for one in decision.followups if isinstance(one, Erase | Write)]
        return decision.outcome

    def persons(self) -> dict[UUID, dict[str, Any]]:
        found = {}
        keys = self.fragments.keys() | self.memberships.keys()
        for key in keys:
            root = self.memberships.get(key) or Membership(1, key)
            if root.root != key:
                continue
            living = [
                self.fragments[member]
                for member in root.members
                if member in self.fragments and self.fragments[member].alive
                and self.fragments[member].erased >= self._erase(member)
            ]  # fmt: skip
            if living:
                found[key] = {
                    "distinct_ids": [one.distinct_id for one in living],
                    "properties": merged_properties((one.id, one.cells, one.properties) for one in living),
                    "created_at": min(one.created_at for one in living),
                    "identified": any(
                        self.memberships[one.id].identified for one in living if one.id in self.memberships
                    ),
                }
        return found

    def _erase(self, key: UUID) -> int:
        return self.memberships[key].erase if key in self.memberships else 0


def run(history: list[Command], late: list[bool]) -> tuple[Machine, Oracle]:
    """Fold a history in both; what identity sends to fragments arrives at once, or after the next command."""
    machine, oracle = Machine(), Oracle()
    seen_keys: dict[UUID, list[int]] = {}
    waiting: list[Erase | Write] = []
    for index, command in enumerate(history):
        queue: list[Command] = [command]
        if not (index < len(late) and late[index]):
            queue = [*waiting, command]
            waiting = []
        for one in queue:
            version = machine.append(one)
            if isinstance(one, Write) and one.key:
                keys = seen_keys.setdefault(one.fragment, [])
                if one.key in keys:
                    assert machine.fold(one, version) is FoldOutcome.DUPLICATE
                    continue
                keys.append(one.key)
            machine.fold(one, version)
            oracle.apply(one, version)
        waiting += machine.pending
        machine.pending = []
    for one in waiting:
        version = machine.append(one)
        machine.fold(one, version)
        oracle.apply(one, version)
    return machine, oracle


@given(histories(), st.lists(st.booleans(), max_size=25))
def test_the_folds_agree_with_the_oracle_on_any_history(history: list[Command], late: list[bool]) -> None:
    machine, oracle = run(history, late)
    assert machine.persons() == oracle.persons()


@given(histories(), st.lists(st.booleans(), max_size=25), st.integers(0, 30))
def test_a_replay_from_any_earlier_offset_changes_nothing(history: list[Command], late: list[bool], start: int) -> None:
    """Of commands; identity is replayed only from a position whose rows went back with it, and then folds the same."""
    machine, _ = run(history, late)
    before = machine.persons()
    records = [(one, version) for one, version in machine.log if isinstance(one, Capture | Write | Erase)]
    for command, version in records[start:]:
        assert machine.fold(command, version) in HARMLESS
    assert machine.persons() == before


@given(histories(), st.lists(st.booleans(), max_size=25))
def test_memberships_partition_the_fragments(history: list[Command], late: list[bool]) -> None:
    machine, _ = run(history, late)
    for key, membership in machine.memberships.items():
        root = machine.memberships.get(membership.root, Membership(1, membership.root))
        assert root.root == root.id
        assert list(root.members).count(key) == 1
        if membership.root != key:
            assert membership.members == ()
    rooted = [one for one in machine.memberships.values() if one.root == one.id]
    members = [member for one in rooted for member in one.members]
    assert len(members) == len(set(members))


@given(histories(), st.lists(st.booleans(), max_size=25))
def test_dissolving_everybody_gives_back_exactly_what_each_id_was_set(history: list[Command], late: list[bool]) -> None:
    machine, oracle = run(history, late)
    for name in IDS:
        command = SplitPerson(
            id=uuid5(NAMESPACE, f"dissolve {name}"), project=1, at=9_999, person=KEYS[name], keep=KEYS[name]
        )
        machine.fold(command, machine.append(command))
    for key, person in machine.persons().items():
        assert person["properties"] == oracle.shown(oracle.fragment(key))


@given(histories(), st.lists(st.booleans(), max_size=25))
def test_replaying_the_timeline_gives_the_same_fragments_and_identities(
    history: list[Command], late: list[bool]
) -> None:
    machine, _ = run(history, late)
    fragments: dict[UUID, Fragment] = {}
    memberships: dict[UUID, Membership] = {}
    for event, command in machine.facts:
        again = event_of(timeline_row(event, decode(encode(command))))
        assert again == event
        if event.TOPIC.startswith("fragment."):
            again.mutate(fragments.setdefault(event.originator_id, Fragment(1, event.originator_id)))
        else:
            again.mutate(memberships.setdefault(event.originator_id, Membership(1, event.originator_id)))
    for key, fragment in machine.fragments.items():
        mine = fragments.get(key, Fragment(1, key))
        for field in ("distinct_id", "number", "created_at", "effect", "erased", "properties", "cells"):
            assert getattr(mine, field) == getattr(fragment, field), field
    for key, membership in machine.memberships.items():
        mine_too = memberships.get(key, Membership(1, key))
        for field in ("root", "members", "identified", "erase"):
            assert getattr(mine_too, field) == getattr(membership, field), field


@given(histories(), st.lists(st.booleans(), max_size=25), st.randoms(use_true_random=False))
def test_the_merged_view_does_not_depend_on_the_order_of_members(
    history: list[Command], late: list[bool], random: Any
) -> None:
    machine, _ = run(history, late)
    members = [(one.id, one.cells, one.properties) for one in machine.fragments.values() if one.alive]
    shuffled = list(members)
    random.shuffle(shuffled)
    assert merged_properties(members) == merged_properties(shuffled)


@given(histories())
def test_commands_survive_the_log_unchanged(history: list[Command]) -> None:
    for command in history:
        assert msgspec.to_builtins(decode(encode(command))) == msgspec.to_builtins(command)


@given(st.lists(st.text(alphabet="abc0189-", max_size=40), max_size=8))
def test_distinct_ids_keep_their_order_but_for_anonymous_ones(ids: list[str]) -> None:
    ordered = ordered_distinct_ids(ids)
    assert sorted(ordered) == sorted(ids)
    assert ordered == ordered_distinct_ids(ordered)


@given(st.integers(0, 2**37 - 1), st.integers(0, 1_023), st.integers(1, 63))
def test_integer_ids_stay_below_what_javascript_can_count(offset: int, partition: int, generation: int) -> None:
    number = number_of(partition, version_of(offset, generation))
    assert 0 < number < 2**53
    assert (number >> 16, number >> 6 & 1_023, number & 63) == (offset, partition, generation)
