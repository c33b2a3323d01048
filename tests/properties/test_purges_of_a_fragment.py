"""Purges among sets, imports, erasures and what takes those back, of one fragment: the fold against the oracle, and a
rebuild against the fold, with the values in the timeline and after windows took them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.domain.commands import Capture, Erase, Purge, Revive, Write
from shared.domain.ids import version_of
from shared.domain.person.fragment_events import FragmentErased, FragmentEvent, FragmentRestored
from tests.support.oracle import Oracle
from tests.support.tier import sized
from tests.unit.test_fragment import KEY
from tests.unit.test_purged import derived, same_rows, swept
from tests.unit.test_restore import Lives

NAMES = st.sampled_from("pq")
VALUES = st.sampled_from(["x", "y", None])
NOTHING = st.none()
BACK = st.integers(0, 60)
PURGES = st.tuples(st.just("purge"), st.sampled_from(("p", "pq", "q")), BACK)
LIVES = st.one_of(
    st.tuples(st.just("set"), NAMES, VALUES),
    st.tuples(st.just("set_once"), NAMES, st.sampled_from(["x", "y"])),
    st.tuples(st.just("unset"), NAMES, NOTHING),
    st.tuples(st.just("import"), NAMES, BACK),
    PURGES,
    st.tuples(st.just("erase"), NAMES, NOTHING),
    st.tuples(st.just("revive"), NAMES, NOTHING),
    st.tuples(st.just("window"), NAMES, NOTHING),
)
IMPORTED: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "import_once": lambda name, value: {"set_once": {name: value}},
    "import_unset": lambda name, value: {"unset": (name,)},
    "import_null": lambda name, value: {"set": {name: None}},
}
"""Imports that the oracle cannot judge: `moved` says why."""

IMPORTS = st.tuples(st.sampled_from(sorted(IMPORTED)), NAMES, BACK)


def command_of(number: int, step: tuple[str, str, Any], erased: int) -> Any:
    """The step's command, sent at its place in time; an import and a purge reach back as many microseconds."""
    kind, name, what = step
    at, one = 1_000 + 10 * number, UUID(int=number + 1)
    common: dict[str, Any] = {"id": one, "project": 1, "at": at, "fragment": KEY}
    if kind == "purge":
        return Purge(**common, names=tuple(name), before=at - what, request=one)
    if kind == "erase":
        return Erase(**common, iver=number + 1)
    if kind == "revive":
        return Revive(**common, iver=erased or 1_000)
    if kind == "import":
        own = {"uuid": one, "event": "e", "timestamp": at - what, "historical": True}
        return Capture(**common, **own, distinct_id="ada", set={name: f"imported {number}"})
    if kind in IMPORTED:
        return Write(**common, distinct_id="ada", since=at - what, **IMPORTED[kind](name, f"imported {number}"))
    changes: dict[str, Any] = {"unset": (name,)} if kind == "unset" else {kind: {name: what}}
    return Write(**common, distinct_id="ada", **changes)


def standing(facts: list[FragmentEvent]) -> list[FragmentEvent]:
    """Without the erasures that were taken back, as a rebuild reads them."""
    taken_back = {fact.iver for fact in facts if isinstance(fact, FragmentRestored)}
    return [fact for fact in facts if not isinstance(fact, FragmentErased) or fact.iver not in taken_back]


def told(lives: Lives, number: int, step: tuple[str, str, Any]) -> Any:
    """The command that the fragment was told with this step; None for a window."""
    if step[0] == "window":
        lives.facts = swept(lives.facts)
        return None
    command = command_of(number, step, lives.fragment.erased)
    lives.offset = number
    lives.fold(command)
    return command


@settings(max_examples=sized(dev=500, ci=3_000, soak=30_000), deadline=None)
@given(st.lists(LIVES, max_size=14))
def test_nothing_of_before_shows_and_a_rebuild_never_differs(steps: list[tuple[str, str, Any]]) -> None:
    lives, oracle = Lives(), Oracle()
    for number, step in enumerate(steps):
        command = told(lives, number, step)
        if command is None:
            continue
        oracle.apply(command, version_of(number))
        one = oracle.fragment(KEY)
        assert lives.fragment.properties == oracle.shown(one)
        assert lives.fragment.created_at == (one["born"] or 0)
    facts = standing(lives.facts)
    same_rows(lives.fragment, derived(facts))
    same_rows(lives.fragment, derived(swept(facts)))


REPLACED = [
    ("set_once", "p", "x"), ("import_once", "p", 60), ("import_unset", "p", 60), ("set_once", "p", "y"),
    ("purge", "p", 50),
]  # fmt: skip
"""What is purged had replaced the first set_once, and the second shows."""


@example(REPLACED)
@settings(max_examples=sized(dev=1_000, ci=6_000, soak=60_000), deadline=None)
@given(st.lists(LIVES | IMPORTS | PURGES, max_size=14))
def test_a_rebuild_never_differs_whatever_is_imported(steps: list[tuple[str, str, Any]]) -> None:
    lives = Lives()
    for number, step in enumerate(steps):
        told(lives, number, step)
    facts = standing(lives.facts)
    same_rows(lives.fragment, derived(facts))
    same_rows(lives.fragment, derived(swept(facts)))
