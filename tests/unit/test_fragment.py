"""What an operation does to a fragment: docs/contract.md §13, "Values of a property, exactly", sentence by sentence."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.domain.commands import Capture, Erase, Write
from shared.domain.ids import fragment_id, version_of
from shared.domain.person.fragment import EVENTS_MAX, FoldOutcome, Fragment
from shared.domain.person.fragment_events import FragmentChanged
from shared.domain.person.view import merged_properties
from shared.domain.retries import KEYS_MAX

KEY = fragment_id(1, "ada")


class Folded:
    """A fragment and the next offset."""

    def __init__(self, key: UUID = KEY) -> None:
        self.fragment = Fragment(1, key)
        self.offset = 0

    def write(self, at: int = 0, **changes: Any) -> FoldOutcome:
        return self.fold(
            Write(id=uuid4(), project=1, at=at or 1_000 + self.offset, fragment=KEY, distinct_id="ada", **changes)
        )

    def capture(self, at: int = 0, uuid: UUID | None = None, timestamp: int = 500, **changes: Any) -> FoldOutcome:
        common = {"id": uuid4(), "project": 1, "at": at or 1_000 + self.offset, "fragment": KEY, "distinct_id": "ada"}
        return self.fold(Capture(**common, uuid=uuid or uuid4(), event="e", timestamp=timestamp, **changes))

    def erase(self, iver: int, at: int = 0) -> FoldOutcome:
        return self.fold(Erase(id=uuid4(), project=1, at=at or 1_000 + self.offset, fragment=KEY, iver=iver))

    def fold(self, command: Any) -> FoldOutcome:
        self.offset += 1
        return self.fragment.handle(command, version_of(self.offset - 1), 0)

    @property
    def shown(self) -> dict[str, Any]:
        return self.fragment.properties

    def events(self) -> list[Any]:
        return list(self.fragment.collect_events())


def test_set_replaces_and_null_is_a_value_that_shows() -> None:
    one = Folded()
    one.write(set={"a": 1, "b": 2})
    one.write(set={"a": None})
    assert one.shown == {"a": None, "b": 2}


def test_a_set_once_never_replaces_a_value() -> None:
    one = Folded()
    one.write(set={"a": 1})
    assert one.write(set_once={"a": 2}) is FoldOutcome.NOTHING
    assert one.shown == {"a": 1}


def test_a_set_once_comes_in_where_nothing_or_null_shows() -> None:
    one = Folded()
    one.write(set={"a": None, "b": 1})
    one.write(unset=("b",))
    one.write(set_once={"a": 1, "b": 2, "c": 3})
    assert one.shown == {"a": 1, "b": 2, "c": 3}


def test_the_first_set_once_stays() -> None:
    one = Folded()
    one.write(set_once={"a": 1})
    one.write(set_once={"a": 2})
    assert one.shown == {"a": 1}


def test_a_set_once_of_null_is_ignored() -> None:
    one = Folded()
    one.write(set={"x": 1})
    assert one.write(set_once={"a": None}) is FoldOutcome.NOTHING
    assert one.shown == {"x": 1}


def test_a_later_set_or_unset_clears_a_set_once() -> None:
    one = Folded()
    one.write(set_once={"a": 1, "b": 1})
    one.write(set={"a": None}, unset=("b",))
    assert one.shown == {"a": None}


def test_within_one_event_unset_beats_set_beats_set_once() -> None:
    one = Folded()
    one.capture(set={"a": 1, "b": 1}, set_once={"a": 2, "b": 2, "c": 2}, unset=("a",))
    assert one.shown == {"b": 1, "c": 2}


def test_an_unset_of_a_name_that_is_not_there_writes_its_tombstone() -> None:
    one = Folded()
    one.write(set={"x": 1})
    assert one.write(unset=("a", "a")) is FoldOutcome.CHANGED
    assert one.fragment.cells["a"][0] == 3
    assert one.events()[-1].names == ("a",)


def test_repeating_an_explicit_set_restamps_and_is_an_effect() -> None:
    one = Folded()
    one.write(set={"a": 1})
    before = one.fragment.cells["a"]
    assert one.write(set={"a": 1}) is FoldOutcome.CHANGED
    assert one.fragment.cells["a"] > before


@pytest.mark.parametrize(("value", "again"), [(1, True), ("x", "y"), ([1], [True]), ({"a": 1}, {"a": 1.0})])
def test_an_equal_lifted_value_is_no_effect_and_equality_is_that_of_json(value: Any, again: Any) -> None:
    one = Folded()
    one.capture(lifted={"$os": value})
    effect = one.fragment.effect
    assert one.capture(lifted={"$os": value}) is FoldOutcome.REMEMBERED
    assert one.fragment.effect == effect
    assert one.capture(lifted={"$os": again}) is FoldOutcome.CHANGED
    assert one.shown == {"$os": again}


def test_any_captured_event_with_a_person_gives_birth_and_one_without_does_not() -> None:
    one = Folded()
    assert one.capture(person=False, set={"a": 1}) is FoldOutcome.NOTHING
    assert not one.fragment.alive
    assert one.capture() is FoldOutcome.CHANGED
    (event,) = one.events()
    assert isinstance(event, FragmentChanged)
    assert (event.distinct_id, event.number, event.names) == ("ada", one.fragment.number, ())


def test_the_same_event_uuid_or_key_has_no_second_effect() -> None:
    one, uuid = Folded(), uuid4()
    one.capture(uuid=uuid, set={"a": "old"})
    one.write(key=7, set={"a": "new"})
    assert one.capture(uuid=uuid, set={"a": "old"}) is FoldOutcome.DUPLICATE
    assert one.write(key=7, set={"a": "again"}) is FoldOutcome.DUPLICATE
    assert one.shown == {"a": "new"}


def test_recent_keys_are_kept_up_to_their_bounds() -> None:
    one, first = Folded(), uuid4()
    one.capture(uuid=first)
    one.write(key=1)
    for number in range(EVENTS_MAX - 1):
        one.capture()
        one.write(key=number + 2)
    assert one.capture(uuid=first) is FoldOutcome.DUPLICATE
    assert len(one.fragment.keys) == KEYS_MAX
    one.capture()
    assert len(one.fragment.events) == EVENTS_MAX
    assert one.capture(uuid=first, set={"a": 1}) is FoldOutcome.CHANGED


def test_a_stamp_never_falls_below_the_fragments_last_whatever_the_clocks_say() -> None:
    one = Folded()
    one.write(at=5_000, set={"a": 1})
    one.write(at=4_000, set={"a": 2})
    assert one.shown == {"a": 2}
    assert one.fragment.stamp == 5_001


def test_an_import_carries_its_own_time_and_never_overwrites_a_newer_value() -> None:
    one = Folded()
    one.capture(at=1_000, set={"a": "now"})
    one.capture(historical=True, timestamp=600, set={"a": "then", "b": "then"})
    one.capture(historical=True, timestamp=700, set_once={"b": "once", "c": "once"})
    one.capture(historical=True, timestamp=650, set_once={"c": "earlier"})
    assert one.shown == {"a": "now", "b": "then", "c": "earlier"}


def test_an_import_from_before_the_birth_is_the_birth_whatever_came_first() -> None:
    one = Folded()
    one.capture(at=1_000, timestamp=1_000, set={"a": "now"})
    number = one.fragment.number
    assert one.capture(historical=True, timestamp=600, set={"a": "then"}) is FoldOutcome.CHANGED
    assert one.write(at=1_100, since=500, reason="merge") is FoldOutcome.CHANGED
    one.capture(historical=True, timestamp=700)
    assert (one.fragment.created_at, one.fragment.number, one.shown) == (500, number, {"a": "now"})


def test_a_person_is_never_younger_than_its_oldest_event() -> None:
    one = Folded()
    one.capture(at=1_000, timestamp=700, set={"a": 1})
    assert one.fragment.created_at == 700
    assert one.capture(at=2_000, timestamp=1_500) is not FoldOutcome.CHANGED
    assert one.capture(at=3_000, timestamp=600) is FoldOutcome.CHANGED
    assert (one.fragment.created_at, one.shown) == (600, {"a": 1})
    assert one.capture(at=4_000, timestamp=9_000) is not FoldOutcome.CHANGED
    assert one.write(at=5_000, set={"b": 2}) is FoldOutcome.CHANGED
    one.capture(at=6_000, timestamp=-5)
    assert one.fragment.created_at == 1  # 0 says that there is none


def test_a_fragment_that_a_write_bore_is_as_old_as_an_older_event() -> None:
    one = Folded()
    one.write(at=1_000, set={"a": 1})
    assert one.fragment.created_at == 1_000
    one.capture(at=2_000, timestamp=1_999)
    assert one.fragment.created_at == 1_000
    one.capture(at=3_000, timestamp=400)
    assert one.fragment.created_at == 400


def test_what_an_imported_merge_gives_birth_with_is_dropped_when_it_is_older_than_the_erasure() -> None:
    one = Folded()
    one.write(set={"a": 1})
    one.erase(iver=5, at=2_000)
    assert one.write(at=3_000, since=1_999, reason="merge") is FoldOutcome.DROPPED
    assert not one.fragment.alive
    assert one.write(at=3_000, since=2_000, reason="merge") is FoldOutcome.CHANGED
    assert (one.fragment.alive, one.fragment.created_at) == (True, 2_000)


def test_an_erasure_forgets_everything_but_the_number_and_counts_once() -> None:
    one = Folded()
    one.write(set={"a": 1}, key=9)
    number = one.fragment.number
    assert one.erase(iver=5) is FoldOutcome.CHANGED
    assert (one.shown, one.fragment.cells, one.fragment.distinct_id, one.fragment.alive) == ({}, {}, "", False)
    one.write(set={"b": 2})
    assert one.erase(iver=5) is FoldOutcome.NOTHING
    assert (one.shown, one.fragment.number) == ({"b": 2}, number)
    assert one.write(key=9, set={"a": 1}) is FoldOutcome.DUPLICATE


def test_an_import_of_something_older_than_the_erasure_is_dropped() -> None:
    one = Folded()
    one.write(set={"a": 1})
    one.erase(iver=5, at=2_000)
    assert one.capture(historical=True, timestamp=1_999, set={"a": 1}) is FoldOutcome.DROPPED
    assert one.capture(historical=True, timestamp=2_000, set={"a": 2}) is FoldOutcome.CHANGED
    assert one.shown == {"a": 2}


def test_a_birth_by_the_identity_fold_follows_its_own_delete_and_no_later_one() -> None:
    one = Folded()
    one.write(set={"a": 1})
    one.erase(iver=5, at=2_000)
    assert one.write(iver=5, reason="merge") is FoldOutcome.CHANGED
    assert (one.fragment.alive, one.shown) == (True, {})
    assert one.write(iver=5, reason="merge") is FoldOutcome.NOTHING
    one.erase(iver=7, at=3_000)
    assert one.write(iver=5, reason="merge") is FoldOutcome.DROPPED  # a worker that was killed has sent it again
    assert not one.fragment.alive


def test_a_conditional_write_is_refused_when_the_fragment_changed_since() -> None:
    one = Folded()
    one.write(set={"a": 1})
    seen = one.fragment.effect
    assert one.write(set={"a": 2}, expect=seen) is FoldOutcome.CHANGED
    assert one.write(set={"a": 3}, expect=seen) is FoldOutcome.REFUSED
    assert one.shown == {"a": 2}


def test_a_record_that_is_not_newer_than_the_row_is_skipped() -> None:
    one = Folded()
    one.write(set={"a": 1})
    one.offset = 0
    assert one.write(set={"a": 2}) is FoldOutcome.SKIPPED
    assert one.shown == {"a": 1}


def test_last_seen_is_floored_to_the_hour_and_only_goes_forward() -> None:
    one, hour = Folded(), 3_600_000_000
    one.capture(timestamp=5 * hour + 17)
    one.capture(timestamp=3 * hour)
    assert one.fragment.seen_at == 5 * hour


def test_merged_the_newest_hard_cell_wins_else_the_oldest_once_newer_than_it() -> None:
    a, b = UUID(int=1), UUID(int=2)
    one = (a, {"p": (1, 10, 0), "q": (0, 0, 30), "r": (3, 20, 0), "s": (2, 40, 0)}, {"p": "a", "q": "a", "s": None})
    two = (
        b,
        {"p": (1, 20, 0), "q": (0, 0, 20), "r": (0, 0, 10), "s": (0, 0, 10)},
        {"p": "b", "q": "b", "r": "b", "s": "b"},
    )
    assert merged_properties([one, two]) == {"p": "b", "q": "b", "s": None}
