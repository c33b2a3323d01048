"""A purge of names: what it takes from a fragment and from its past, and what it leaves."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import msgspec
import orjson

from services.api.history.export import operations
from services.api.history.properties_timeline import CapturedEvent, points
from services.projector.rebuild.derive import Derived, RebuildReport
from services.projector.tables import rows as r
from shared.domain.commands import Capture, Purge, Write, decode, encode
from shared.domain.ids import version_of
from shared.domain.person.cells import ONCE, UNSET
from shared.domain.person.fragment import FoldOutcome, Fragment
from shared.domain.person.fragment_events import FragmentChanged, FragmentErased, FragmentEvent, FragmentPurged
from shared.domain.person.lifted import copies
from shared.domain.person.replay import Replay
from shared.domain.person.view import Member, merged_properties
from shared.domain.purged import Cut, cuts_of, stripped, without
from shared.domain.restore import ClosedLife
from shared.store.person import Person
from shared.store.timeline import Fact, event_of, timeline_row
from tests.unit.test_fragment import KEY, Folded
from tests.unit.test_restore import Lives

REQUEST = UUID(int=7)


def purge(*names: str, before: int) -> Purge:
    return Purge(id=uuid4(), project=1, at=before, fragment=KEY, names=names, before=before, request=REQUEST)


def derived(events: list[Any]) -> Fragment:
    """The fragment that the facts make, as a rebuild does."""
    cuts = cuts_of(event for event in events if isinstance(event, FragmentPurged))
    one = Derived(Replay(1, KEY), (2**63, 2**63), cuts)
    report = RebuildReport()
    for event in events:
        cause = purge(before=event.at if isinstance(event, FragmentErased) else event.timestamp)
        one.fold(timeline_row(event, cause), report)
    assert report.corrupt == 0, report.findings
    return one.replay.fragment


def same_rows(one: Fragment, other: Fragment) -> None:
    skipped = {
        r.FRAGMENTS.index(name) for name in ("version", "seen_at", "keys", "key_digests", "key_versions", "events")
    }
    rows = [[cell for place, cell in enumerate(r.fragment_row(each)) if place not in skipped] for each in (one, other)]
    assert rows[0] == rows[1]


def swept(events: list[Any]) -> list[Any]:
    cuts = cuts_of(event for event in events if isinstance(event, FragmentPurged))
    return [without(event, cuts) if isinstance(event, FragmentEvent) else event for event in events]


def test_set_and_set_once_of_before_are_gone_and_other_names_stay() -> None:
    one = Folded()
    one.write(at=10, set={"ssn": 1, "a": 2})
    one.write(at=11, set_once={"first": 3})
    assert one.fold(purge("ssn", "first", before=20)) is FoldOutcome.CHANGED
    assert one.shown == {"a": 2}
    assert one.fragment.cells["ssn"] == one.fragment.cells["first"] == (UNSET, 20, 0)


def test_a_value_set_after_the_request_stays_though_the_command_comes_later() -> None:
    one = Folded()
    one.write(at=10, set={"ssn": "old", "x": "old"})
    one.write(at=30, set={"ssn": "new"})
    one.fold(purge("ssn", "x", before=20))
    assert one.shown == {"ssn": "new"}


def test_a_set_once_of_after_the_request_stays_and_shows() -> None:
    one = Folded()
    one.write(at=10, set={"ssn": None})
    one.write(at=30, set_once={"ssn": "new"})
    one.fold(purge("ssn", before=20))
    assert one.shown == {"ssn": "new"}
    assert one.events()[-1].kinds == (ONCE,)


def test_no_import_of_before_brings_a_value_back_and_later_ones_count() -> None:
    one = Folded()
    one.write(at=1_000, set={"ssn": 1})
    one.fold(purge("ssn", before=2_000))
    for changes in ({"set": {"ssn": 2}}, {"set_once": {"ssn": 3}}, {"lifted": {"ssn": 4}}):
        assert one.capture(timestamp=2_000, historical=True, **changes) is FoldOutcome.REMEMBERED
        assert "ssn" not in one.shown
    one.write(at=3_000, set={"ssn": 5})
    one.capture(timestamp=1_500, historical=True, set={"ssn": 6})
    assert one.shown["ssn"] == 5
    one.capture(timestamp=9_000, historical=True, set={"ssn": 7})
    assert one.shown["ssn"] == 7


def test_a_set_once_comes_in_after_the_tombstone() -> None:
    one = Folded()
    one.write(at=10, set={"ssn": 1})
    one.fold(purge("ssn", before=20))
    one.write(at=30, set_once={"ssn": 2})
    assert one.shown == {"ssn": 2}


def test_the_tombstone_is_written_where_nothing_was_and_only_once() -> None:
    one = Folded()
    one.write(at=10, set={"a": 1})
    assert one.fold(purge("ssn", before=20)) is FoldOutcome.CHANGED
    assert one.fold(purge("ssn", before=20)) is FoldOutcome.NOTHING
    assert one.fold(purge("ssn", before=19)) is FoldOutcome.NOTHING
    assert one.fold(purge("ssn", "a", before=20)) is FoldOutcome.CHANGED
    assert one.events()[-1].names == ("a",)
    one.capture(timestamp=15, historical=True, set={"ssn": 1})
    assert one.shown == {}


def test_a_fragment_that_does_not_live_is_not_born_by_a_purge_and_remembers_it() -> None:
    one = Folded()
    assert one.fold(purge("ssn", before=20)) is FoldOutcome.CHANGED
    assert not one.fragment.alive
    assert one.fragment.cells == {}
    one.capture(timestamp=15, historical=True, set={"ssn": 1, "a": 2})
    assert one.shown == {"a": 2}
    same_rows(one.fragment, derived(one.events()))


def test_an_erasure_takes_the_names_of_what_was_purged_too() -> None:
    one = Folded()
    one.write(at=10, set={"ssn": 1})
    one.fold(purge("ssn", before=20))
    one.erase(iver=5, at=30)
    assert one.fragment.purged == {}
    assert one.fragment.stamp == 30


def test_the_fact_carries_no_purged_value_and_comes_back_from_its_row() -> None:
    one = Folded()
    one.write(at=10, set={"ssn": "SECRET"})
    one.events()
    command = purge("ssn", before=20)
    one.fold(command)
    (event,) = one.events()
    row = timeline_row(event, command)
    assert "SECRET" not in str(row)
    assert (row[8], row[12:16], row[20]) == ("purge_property", (["ssn"], [UNSET], [""], [""]), REQUEST)
    assert event_of(row) == event
    assert decode(encode(command)) == command
    assert r.fragment_of(r.fragment_row(one.fragment)).purged == {"ssn": 20}


def test_a_merged_person_shows_what_the_others_set_later() -> None:
    one, other = Folded(), Folded()
    one.write(at=10, set={"ssn": 1})
    other.write(at=15, set={"ssn": 2})
    one.fold(purge("ssn", before=20))
    members = [(UUID(int=n), each.fragment.cells, each.fragment.properties) for n, each in enumerate((one, other))]
    assert merged_properties(members) == {}
    other.write(at=25, set={"ssn": 3})
    assert merged_properties(members) == {"ssn": 3}


def test_facts_lose_the_elements_and_say_no_more_what_was_before() -> None:
    one = Folded()
    one.write(at=10, set={"ssn": "SECRET", "a": 1})
    one.write(at=30, set={"ssn": "new"})
    one.fold(purge("ssn", before=20))
    one.write(at=40, set={"ssn": "newer"})
    first, second, third, fourth = swept(one.events())
    assert (first.names, first.values) == (("a",), (1,))
    assert (second.names, second.values, len(second.before)) == (("ssn",), ("new",), 1)
    assert isinstance(third, FragmentPurged)
    assert (fourth.values, fourth.before) == (("newer",), ("new",))
    assert "SECRET" not in str([timeline_row(event, purge(before=1)) for event in (first, second, third, fourth)])


def test_a_rebuild_gives_the_same_before_and_after_the_values_left_the_facts() -> None:
    one = Folded()
    one.write(at=10, set={"a": 1, "ssn": 1, "x": 1})
    one.write(at=11, set_once={"first": 1})
    one.write(at=30, set={"ssn": 2, "b": 1})
    one.fold(purge("ssn", "x", "first", "lacking", before=20))
    one.write(at=40, set_once={"x": 3})
    events = one.events()
    same_rows(one.fragment, derived(events))
    same_rows(one.fragment, derived(swept(events)))


def test_an_import_that_is_purged_may_have_replaced_a_later_set_once() -> None:
    one = Folded()
    one.write(at=30, set_once={"ssn": "later"})
    one.capture(timestamp=15, historical=True, set_once={"ssn": "earlier"})
    one.fold(purge("ssn", before=20))
    assert one.shown == {}
    same_rows(one.fragment, derived(swept(one.events())))


def replaced_by_an_import() -> Folded:
    """A set_once that an import replaced, and an import that took that one; then the set_once that shows."""
    one = Folded()
    one.write(at=30, set_once={"ssn": "first", "a": 1})
    one.capture(timestamp=10, historical=True, set_once={"ssn": "imported"})
    one.fold(Write(id=uuid4(), project=1, at=39, fragment=KEY, distinct_id="ada", since=15, unset=("ssn",)))
    one.write(at=40, set_once={"ssn": "second"})
    assert one.shown == {"a": 1, "ssn": "second"}
    return one


def test_what_a_purge_left_is_the_same_before_and_after_the_values_left_the_facts() -> None:
    one = replaced_by_an_import()
    one.fold(purge("ssn", before=20))
    assert one.shown == {"a": 1, "ssn": "second"}
    one.write(at=50, set={"b": 2})
    events = one.events()
    assert [event.remains for event in events if isinstance(event, FragmentPurged)] == [((40, "second"),)]
    same_rows(one.fragment, derived(events))
    same_rows(one.fragment, derived(swept(events)))


def test_what_a_purge_left_is_in_its_row_and_rows_of_before_have_none() -> None:
    one = replaced_by_an_import()
    command = purge("ssn", "other", before=20)
    one.fold(command)
    event = one.events()[-1]
    row = timeline_row(event, command)
    assert row[14:16] == (["", ""], ['[40,"second"]', ""])
    assert event_of(row) == event
    former = event_of((*row[:15], ["", ""], *row[16:]))
    assert isinstance(former, FragmentPurged)
    assert (former.kinds, former.remains) == ((ONCE, ONCE), (None, None))


def test_the_archive_shows_a_purge_without_what_it_left() -> None:
    one = replaced_by_an_import()
    one.fold(purge("ssn", before=20))
    *_, second, purged = (Fact(*timeline_row(event, purge(before=1))) for event in one.events())
    assert operations(second) == [{"key": "ssn", "operation": "set_once", "before": None, "value": "second"}]
    assert operations(purged) == [{"key": "ssn", "operation": "purge", "before": None, "value": None}]


def test_points_of_events_stop_before_what_a_purge_left() -> None:
    one = replaced_by_an_import()
    one.fold(purge("ssn", before=20))
    rows = [timeline_row(event, purge(before=1)) for event in swept(one.events())]
    times = {"created_at": 10, "seen_at": 0}
    member = Member(
        fragment=KEY, distinct_id="ada", number=1, effect=0, erased=0, properties={}, cells={}, root=KEY,
        identified=False, erase=0, size=0, **times,
    )  # fmt: skip
    person = Person(
        project=1, uuid=KEY, number=1, distinct_ids=["ada"], properties={}, identified=False, members=[member], **times
    )
    seen = [CapturedEvent(KEY, uuid4(), "e", 50, version_of(one.offset), 50)]
    found = {}
    for until in (39, 40):
        (point,) = points(person, seen, [Fact(*row) for row in rows if row[5] <= until], [], until)
        found[until] = point["properties"]
    assert found == {39: {"a": 1, "ssn": "first"}, 40: {"a": 1, "ssn": "second"}}


def test_a_later_purge_takes_what_an_earlier_one_left() -> None:
    one = replaced_by_an_import()
    one.fold(purge("ssn", before=20))
    one.fold(purge("other", before=60))
    one.fold(purge("ssn", before=39))
    assert one.shown["ssn"] == "second"
    events = one.events()
    assert [event.remains for event in swept(events)[-3:]] == [((40, "second"),), (None,), ((40, "second"),)]
    one.fold(purge("ssn", before=40))
    assert one.shown == {"a": 1}
    events += one.events()
    assert "second" not in str([timeline_row(event, purge(before=1)) for event in swept(events)])
    first, *_ = (event for event in swept(events) if isinstance(event, FragmentPurged))
    assert (first.names, first.kinds, first.remains) == (("ssn",), (UNSET,), (None,))
    same_rows(one.fragment, derived(events))
    same_rows(one.fragment, derived(swept(events)))


def test_as_of_a_moment_before_its_stamp_what_a_purge_left_does_not_count() -> None:
    one = replaced_by_an_import()
    one.fold(purge("ssn", before=20))
    shown = {}
    events = swept(one.events())
    for until in (19, 20, 29, 30, 39, 40):
        replay = Replay(1, KEY, until)
        for event in events:
            replay.apply(event)
        shown[until] = replay.fragment.properties
    first = {"a": 1, "ssn": "first"}
    assert shown == {19: {}, 20: {}, 29: {}, 30: first, 39: first, 40: {"a": 1, "ssn": "second"}}


def test_what_was_left_of_a_later_life_does_not_replace_what_a_closed_one_was_set() -> None:
    one = Lives()
    one.write(at=30, set_once={"ssn": "of the closed life"})
    one.erase(iver=5)
    one.write(at=60, set_once={"ssn": "of the next"})
    one.fold(purge("ssn", before=20))
    assert one.fragment.properties == {"ssn": "of the next"}
    same_rows(one.fragment, derived(one.facts))
    one.revive(iver=5)
    assert one.fragment.properties == {"ssn": "of the closed life"}
    undone = [fact for fact in one.facts if not isinstance(fact, FragmentErased)]
    same_rows(one.fragment, derived(undone))
    same_rows(one.fragment, derived(swept(undone)))


def test_a_closed_life_is_given_back_alike_on_both_sides_of_a_window() -> None:
    found = []
    for window in (False, True):
        one = Lives()
        one.write(at=10, set={"ssn": "purged", "a": 1})
        one.erase(iver=5)
        one.write(at=30, set_once={"ssn": "set later"})
        one.fold(purge("ssn", before=29))
        one.facts = swept(one.facts) if window else one.facts
        one.revive(iver=5)
        found.append((one.told(), one.fragment.purged))
        assert one.fragment.properties == {"a": 1, "ssn": "set later"}
    assert found[0] == found[1]


def test_a_captured_event_loses_both_levels_and_what_it_was_lifted_from() -> None:
    sent = {
        "$set": {"$browser": "B", "a": 1}, "$set_once": {"$initial_browser": "B", "b": 2}, "$browser": "B",
        "ssn": "the event's own", "deep": {"$set": {"$browser": "stays: it sets nothing"}}, "price": 1.0,
    }  # fmt: skip
    assert stripped(sent, copies("$browser")) == {
        "$set": {"a": 1}, "$set_once": {"b": 2}, "ssn": "the event's own", "deep": sent["deep"], "price": 1.0,
    }  # fmt: skip
    assert stripped({"$set": {"ssn": 1}, "ssn": 2}, copies("ssn")) == {"$set": {}, "ssn": 2}
    assert stripped({"$set": ["ssn"]}, ["ssn"]) == {"$set": ["ssn"]}


def test_an_import_is_kept_without_what_a_purge_had_taken() -> None:
    one = Folded()
    one.fold(purge("ssn", before=2_000))
    command = one_capture(timestamp=1_500, historical=True)
    assert orjson.loads(r.captured_row(command, 1, one.fragment.purged)[7]) == {"$set": {}, "n": 1.0}
    live = one_capture(timestamp=1_500, historical=False)
    assert orjson.loads(r.captured_row(live, 1, one.fragment.purged)[7]) == {"$set": {"ssn": "S"}, "n": 1.0}


def one_capture(**more: Any) -> Capture:
    raw = orjson.dumps({"$set": {"ssn": "S"}, "n": 1.0})
    return Capture(id=uuid4(), project=1, at=3_000, fragment=KEY, distinct_id="ada", uuid=uuid4(), event="e",
                   properties=msgspec.Raw(raw), **more)  # fmt: skip


def test_a_purge_of_a_former_life_touches_nothing_of_the_next() -> None:
    cuts = [Cut("ssn", 50, 3)]
    later = FragmentChanged(originator_id=KEY, originator_version=4, timestamp=40, names=("ssn",), kinds=(1,),
                            values=("new life",), before=("x",))  # fmt: skip
    assert without(later, cuts) is later


def test_a_purge_of_a_closed_life_counts_when_that_is_given_back() -> None:
    one = Folded()
    one.write(at=10, set={"ssn": "SECRET", "a": 1})
    one.write(at=30, set_once={"first": "of after the cut-off"})
    one.erase(iver=5, at=40)
    one.fold(purge("ssn", "first", before=20))
    events = one.events()
    life = ClosedLife(1, KEY, 5, [event for event in events if isinstance(event, FragmentErased)])
    for event in swept(events):
        life.replay(event)
    assert life.fragment.properties == {"a": 1, "first": "of after the cut-off"}
    assert life.fragment.purged == {"ssn": 20, "first": 20}
    assert life.fragment.cells["ssn"] == (UNSET, 20, 0)


def test_a_purge_in_a_new_life_leaves_what_the_closed_one_was_set_after_the_cut_off() -> None:
    one = Folded()
    one.write(at=30, set_once={"first": "of after the cut-off"})
    one.erase(iver=5, at=40)
    one.write(at=50, set={"a": 1})
    one.fold(purge("first", before=20))
    events = one.events()
    life = ClosedLife(1, KEY, 5, [event for event in events if isinstance(event, FragmentErased)])
    for event in swept(events):
        life.replay(event)
    assert life.fragment.properties == {"first": "of after the cut-off", "a": 1}
