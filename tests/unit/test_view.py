"""Whose properties a person shows when its distinct ids hold too much."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.person import view
from shared.domain.person.view import Member, counted
from shared.store import person
from shared.store.person import FragmentRow, assemble, unread_of

MOST = 100
SIZES = st.lists(st.integers(0, 60), max_size=12).map(lambda sizes: [(n, UUID(int=i)) for i, n in enumerate(sizes)])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MERGED_BYTES_MAX", MOST)
    monkeypatch.setattr(person, "MERGED_BYTES_MAX", MOST)


@given(SIZES, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter_and_the_smallest_come_first(sizes: Any, chosen: Any) -> None:
    found = counted(sizes)
    assert sum(size for size, fragment in sizes if fragment in found) <= MOST
    left = [one for one in sizes if one[1] not in found]
    assert all(one < other for one in sizes if one[1] in found for other in left)
    if left:
        assert sum(size for size, fragment in sizes if fragment in found) + min(left)[0] > MOST
    shuffled = list(sizes)
    chosen.shuffle(shuffled)
    assert counted(shuffled) == found


@given(SIZES, st.sets(st.integers(0, 11)))
def test_nobody_is_left_out_because_somebody_else_has_left(sizes: Any, leaving: set[int]) -> None:
    """So a split takes nothing from who stays, and what a dry run of a merge has read is all that it needs."""
    stay = [one for one in sizes if one[1].int not in leaving]
    assert counted(sizes) & {fragment for _, fragment in stay} <= counted(stay)


def member(number: int, properties: dict[str, Any], size: int | None = None) -> Member:
    text = orjson.dumps(properties).decode()
    cells = orjson.dumps({name: [1, number, 0] for name in properties}).decode()
    return Member(
        fragment=UUID(int=number), distinct_id=f"id-{number}", number=number, created_at=1, effect=1, erased=0,
        seen_at=0, properties=text, cells=cells, root=UUID(int=1), identified=False, erase=0,
        size=len(text) + len(cells) if size is None else size,
    )  # fmt: skip


def test_a_person_says_of_how_many_distinct_ids_it_shows_nothing() -> None:
    group = [member(1, {"a": 1}), member(2, {"b": "x" * 200}), member(3, {"c": "y" * 300})]
    found = assemble(1, UUID(int=1), group)
    assert found is not None
    assert (found.to_json()["properties"], found.to_json()["properties_left_out"]) == ({"a": 1}, {"distinct_ids": 2})
    assert found.distinct_ids == ["id-1", "id-2", "id-3"]
    alone = assemble(1, UUID(int=2), [group[1]])
    assert alone is not None
    assert (alone.document(), alone.to_json()["properties_left_out"]) == ({}, {"distinct_ids": 1})
    small = assemble(1, UUID(int=1), [group[0]])  # the same members, looked at again
    assert small is not None
    assert "properties_left_out" not in small.to_json()


def test_only_rows_that_a_person_shows_are_read_whole() -> None:
    def row(number: int, size: int, *, cut: bool) -> FragmentRow:
        return FragmentRow(1, UUID(int=number), 1, f"id-{number}", number, 1, 1, 1, 0, 0, "" if cut else "{}", "", size)

    rows = [row(1, 10, cut=False), row(2, 60, cut=True), row(3, 70, cut=True), row(4, 5_000_000, cut=True)]
    assert unread_of([(one.fragment, one, None) for one in rows]) == [UUID(int=2)]
