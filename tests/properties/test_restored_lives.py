"""A deletion that is taken back at once has never been: of whatever history, of fragments and of memberships."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.commands import (
    Capture,
    Delete,
    Erase,
    MergePersons,
    Restore,
    Restored,
    Revive,
    Scope,
    SplitPerson,
    Write,
)
from shared.domain.ids import version_of
from shared.domain.person.fragment import FoldOutcome
from tests.support.tier import sized
from tests.unit.test_identity import Book, of
from tests.unit.test_restore import KEY, Lives

EXAMPLES = sized(dev=200, ci=1_000, soak=10_000)
NAMES = "abcd"

VALUES = st.sampled_from([1, "x", None, True, {"deep": [1]}])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "set": st.dictionaries(st.sampled_from("pq"), VALUES, max_size=2),
        "set_once": st.dictionaries(st.sampled_from("pq"), VALUES, max_size=2),
        "unset": st.lists(st.sampled_from("pq"), max_size=1).map(tuple),
    },
)
KINDS = st.sampled_from(["write", "capture", "import", "nobody"])
STEPS = st.lists(st.tuples(KINDS, CHANGES, st.integers(0, 3), st.booleans()), min_size=1, max_size=14)


def changed(one: Lives, kind: str, changes: dict[str, Any], ago: int, at: int) -> None:
    common: dict[str, Any] = {"id": UUID(int=at), "project": 1, "at": at, "fragment": KEY, "distinct_id": "ada"}
    if kind == "write":
        one.fold(Write(**common, key=at, digest=at, **changes))
        return
    named = {"uuid": UUID(int=at), "event": "e", "timestamp": at - ago * 7}
    if kind == "import":
        one.fold(Capture(**common, **named, historical=True, set=changes.get("set", {})))
    else:
        one.fold(Capture(**common, **named, person=kind != "nobody", **changes))


@settings(max_examples=EXAMPLES, deadline=None)
@given(STEPS)
def test_a_fragment_that_was_erased_and_revived_at_once_goes_on_as_if_nothing_had_been(steps: Any) -> None:
    """Erasures and revivals beside records that do nothing, so that all versions are the same."""
    harmed, unharmed = Lives(), Lives()
    iver = 100
    for number, (kind, changes, ago, deleted) in enumerate(steps):
        at = 1_000 + number * 10
        for one in (harmed, unharmed):
            changed(one, kind, changes, ago, at)
        if deleted:
            iver += 1
            assert harmed.fold(Erase(id=uuid4(), project=1, at=0, fragment=KEY, iver=iver)) is FoldOutcome.CHANGED
            assert harmed.fold(Revive(id=uuid4(), project=1, at=0, fragment=KEY, iver=iver)) is FoldOutcome.CHANGED
            for _ in range(2):
                changed(unharmed, "nobody", {}, 0, at + 1)
        assert harmed.told() == unharmed.told()
        assert harmed.fragment.stamp == unharmed.fragment.stamp
        late = Erase(id=uuid4(), project=1, at=0, fragment=KEY, iver=iver)
        assert not deleted or harmed.fragment.handle(late, version_of(harmed.offset), 0) is FoldOutcome.NOTHING


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["merge", "split", "delete", "restore", "restore"]),
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.sampled_from(["identify", "alias", "dangerous", "operator"]),
    ),
    min_size=2,
    max_size=16,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(ACTS)
def test_a_person_whose_delete_is_taken_back_is_who_it_was(acts: Any) -> None:
    book = Book()
    for kind, name, other, mode in acts:
        if kind == "merge":
            ids = {"into_id": name, "source_id": other}
            book.fold(MergePersons(**book.common(0), into=of(name), source=of(other), mode=mode, **ids))
        elif kind == "split":
            book.fold(SplitPerson(**book.common(0), person=of(name), keep=of(other)))
        else:
            members = book.row(book.row(of(name)).root).members
            before = people(book)
            told = tuple(
                Restored(one, book.row(one).identified, book.row(one).erase, book.row(one).erased_at) for one in members
            )
            common = {"person": members[0], "request": uuid4()}
            book.fold(Delete(**book.common(0), **common, scope=Scope(profile=True)))  # type: ignore[arg-type]
            iver = version_of(book.offset - 1)
            assert all(book.row(one).members == (one,) for one in members)
            if kind == "restore":
                restored = book.fold(Restore(**book.common(0), **common, iver=iver, members=told))  # type: ignore[arg-type]
                assert restored.outcome is FoldOutcome.CHANGED
                assert people(book) == before
        rows = [book.row(of(one)) for one in NAMES]
        assert sorted(member for row in rows for member in row.members) == sorted(row.id for row in rows)


def people(book: Book) -> list[Any]:
    rows = [book.row(of(one)) for one in NAMES]
    return [(row.root, row.members, row.identified, row.erase, row.erased_at) for row in rows]
