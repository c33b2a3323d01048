"""What a fragment has room for: docs/contract.md §2, "A person holds at most 512 KiB", bound by bound."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.projector.tables import rows as r
from shared.domain import operations
from shared.domain.commands import Write
from shared.domain.ids import fragment_id, version_of
from shared.domain.operations import FRAGMENT_BYTES_MAX, FRAGMENT_NAMES_MAX, bytes_of
from shared.domain.person.fragment import FoldOutcome, Fragment
from shared.domain.person.fragment_events import FragmentChanged, PropertiesLeftOut
from shared.store.timeline import event_of, timeline_row

KEY = fragment_id(1, "ada")


class Folded:
    """A fragment, the next offset and the facts so far; `cold` folds each command on the row as it was stored."""

    def __init__(self, *, cold: bool = False) -> None:
        self.fragment, self.offset, self.cold = Fragment(1, KEY), 0, cold
        self.facts: list[Any] = []

    def write(self, **changes: Any) -> FoldOutcome:
        self.offset += 1
        command = Write(id=uuid4(), project=1, at=1_000 + self.offset, fragment=KEY, distinct_id="ada", **changes)
        if self.cold:
            self.fragment = r.fragment_of(r.fragment_row(self.fragment))
        outcome = self.fragment.handle(command, version_of(self.offset), 0)
        self.facts += [(one, command) for one in self.fragment.collect_events()]
        return outcome

    @property
    def last(self) -> Any:
        return self.facts[-1][0]


def big(count: int, of: str = "x") -> str:
    return of * count


def test_what_goes_over_the_bytes_is_left_out_by_itself_and_the_others_count() -> None:
    one = Folded()
    one.write(set={"a": big(400_000)})
    assert one.write(set={"b": 1, "c": big(200_000), "d": 2}) is FoldOutcome.CHANGED
    assert one.fragment.properties.keys() == {"a", "b", "d"}
    assert (one.last.left_out.names, one.last.left_out.first) == (1, ("c",))
    assert one.last.left_out.bytes == len(orjson.dumps({"c": big(200_000)})) - 1
    assert one.last.names == ("b", "d")


def test_the_order_of_the_command_decides_for_which_there_is_room() -> None:
    one = Folded()
    one.write(set={"a": big(400_000)})
    one.write(set={"c": big(100_000)}, set_once={"e": big(100_000)}, unset=("a",))
    assert one.fragment.properties.keys() == {"c", "e"}  # an unset comes first


def test_what_takes_no_more_than_it_replaces_always_has_room() -> None:
    one = Folded()
    one.write()
    one.fragment.properties = {"a": big(600_000), "b": 1}
    one.fragment.cells = {"a": (1, 1, 0), "b": (1, 1, 0)}
    one.fragment.weight = operations.Weight(operations.UNWEIGHED)  # of before the bounds
    assert one.write(set={"b": 22}) is FoldOutcome.REFUSED
    assert one.write(set={"b": 2, "a": big(600_000, "y")}) is FoldOutcome.CHANGED
    assert one.last.left_out is None
    assert one.write(unset=("b",)) is FoldOutcome.CHANGED
    assert one.write(set={"a": big(10)}) is FoldOutcome.CHANGED
    assert one.write(set={"b": big(400_000)}) is FoldOutcome.CHANGED


def test_names_are_bounded_with_tombstones_and_those_that_are_there_may_change() -> None:
    one = Folded()
    one.write(unset=tuple(f"gone-{number}" for number in range(1_000)))
    one.write(set={f"name-{number}": number for number in range(999)})
    one.write(set={"last": 1, "surplus": 2, "gone-1": 3, "name-1": "new"})
    assert len(one.fragment.cells) == FRAGMENT_NAMES_MAX
    assert one.last.left_out.first == ("surplus",)
    assert [one.fragment.properties[name] for name in ("last", "gone-1", "name-1")] == [1, 3, "new"]
    assert one.write(unset=("never",)) is FoldOutcome.REFUSED
    assert one.write(unset=("last",)) is FoldOutcome.CHANGED


def test_names_of_tombstones_take_room_too() -> None:
    one = Folded()
    for part in range(4):
        one.write(unset=tuple(f"{part}{number:03}{big(340)}" for number in range(499)))
    assert one.write(unset=(big(400),)) is FoldOutcome.REFUSED
    assert bytes_of(one.fragment.cells, one.fragment.properties) <= FRAGMENT_BYTES_MAX


def test_a_command_of_which_nothing_has_room_is_a_fact_that_changes_nothing() -> None:
    one = Folded()
    one.write(set={"a": big(524_000)})
    before = r.fragment_row(one.fragment)
    sent = {f"{number:03}{big(397)}": number for number in range(900)}
    assert one.write(set=sent) is FoldOutcome.REFUSED
    after = r.fragment_row(one.fragment)
    assert [name for name, was, now in zip(r.FRAGMENTS, before, after, strict=True) if was != now] == ["version"]
    assert isinstance(one.last, PropertiesLeftOut)
    assert one.last.left_out.names == 900
    told = timeline_row(*one.facts[-1])[-1]
    assert len(told) < 1_000
    assert one.last.left_out.first[0] == f"000{big(97)}"


def test_a_birth_counts_whatever_is_left_out() -> None:
    one = Folded()
    assert one.write(set={"a": big(600_000)}) is FoldOutcome.CHANGED
    assert one.fragment.alive
    assert (one.last.names, one.last.left_out.names) == ((), 1)


def test_facts_come_back_from_the_timeline_with_what_was_left_out() -> None:
    one = Folded()
    one.write(set={"a": big(500_000), "é": big(100_000)})
    one.write(set={"b": big(100_000)})
    for fact, command in one.facts:
        assert event_of(timeline_row(fact, command)) == fact


NAMES = st.sampled_from(["p", "q", "é", "\n", "longer name"])
VALUES = st.one_of(st.none(), st.text(max_size=30), st.floats(allow_nan=False, allow_infinity=False),
                   st.integers(-9, 10**9), st.lists(st.text(max_size=5), max_size=4), st.booleans())  # fmt: skip
PROPERTIES = st.dictionaries(NAMES, VALUES, max_size=4)
CHANGES = st.fixed_dictionaries({"set": PROPERTIES, "set_once": PROPERTIES, "unset": st.lists(NAMES, max_size=2)})


@given(st.lists(CHANGES, max_size=20), st.integers(1, 120), st.integers(1, 5))
def test_the_bounds_hold_and_who_has_just_loaded_the_row_decides_the_same(
    history: list[dict[str, Any]], most: int, names: int
) -> None:
    """Whether the bytes are counted exactly or estimated must never show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "FRAGMENT_BYTES_MAX", most)
        patch.setattr(operations, "FRAGMENT_NAMES_MAX", names)
        warm, cold, replayed = Folded(), Folded(cold=True), Fragment(1, KEY)
        for changes in history:
            sent = changes | {"unset": tuple(changes["unset"])}
            assert warm.write(**sent) is cold.write(**sent)
            fragment = warm.fragment
            assert bytes_of(fragment.cells, fragment.properties) <= most
            assert len(fragment.cells) <= names
            assert fragment.weight.bytes >= bytes_of(fragment.cells, fragment.properties)
            shown = fragment.properties
            assert len(msgspec.json.encode(shown)) <= most + 1
    for fact, _ in warm.facts:
        fact.mutate(replayed)
    assert [fact for fact, _ in warm.facts] == [fact for fact, _ in cold.facts]
    assert replayed.properties == warm.fragment.properties == cold.fragment.properties
    assert replayed.cells == warm.fragment.cells
    assert all(isinstance(fact, FragmentChanged | PropertiesLeftOut) for fact, _ in warm.facts)
