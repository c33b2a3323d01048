"""The points of source=changes: the facts in the order of their stamps, in which versions need not rise."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from services.api.history.changes import replay
from shared.domain.commands import Purge
from shared.store.timeline import Fact, timeline_row
from tests.unit.test_fragment import KEY, Folded


def changes(one: Folded) -> list[tuple[dict[str, Any], list[str]]]:
    command = Purge(id=uuid4(), project=1, at=1, fragment=KEY, names=(), before=1, request=uuid4())
    facts = [Fact(*timeline_row(event, command)) for event in one.events()]
    return [(change.after, change.keys) for change in replay(1, KEY, facts)]


def test_an_import_comes_before_what_was_written_before_it() -> None:
    one = Folded()
    one.write(at=1_000, set={"a": "now"})
    one.capture(timestamp=500, historical=True, set={"b": "then"})
    assert changes(one) == [({"b": "then"}, ["b"]), ({"b": "then", "a": "now"}, ["a"])]


def test_a_purge_that_was_folded_later_than_a_newer_value() -> None:
    one = Folded()
    one.write(at=10, set={"a": "old", "b": 1})
    one.write(at=30, set={"a": "new"})
    one.fold(Purge(id=uuid4(), project=1, at=40, fragment=KEY, names=("a", "b"), before=20, request=uuid4()))
    assert changes(one)[-1] == ({"a": "new"}, ["a"])


def test_what_a_purge_left_is_a_change_at_its_own_time() -> None:
    one = Folded()
    one.write(at=10, set={"a": None})
    one.write(at=30, set_once={"a": "new"})
    one.fold(Purge(id=uuid4(), project=1, at=40, fragment=KEY, names=("a",), before=20, request=uuid4()))
    assert changes(one) == [({"a": None}, ["a"]), ({}, ["a"]), ({"a": "new"}, ["a"])]
