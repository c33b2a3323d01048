"""Purges among sets, imports and erasures of one fragment: the fold against the oracle, and a rebuild against the fold,
with the values in the timeline and after a window took them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.commands import Capture, Erase, Purge, Write
from shared.domain.fragment import Fragment
from shared.domain.ids import version_of
from tests.support.oracle import Oracle
from tests.support.tier import sized
from tests.unit.test_fragment import KEY
from tests.unit.test_purged import derived, same_rows, swept

NAMES = st.sampled_from("pq")
VALUES = st.sampled_from(["x", "y", None])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), NAMES, VALUES),
        st.tuples(st.just("set_once"), NAMES, st.sampled_from(["x", "y"])),
        st.tuples(st.just("unset"), NAMES, st.none()),
        st.tuples(st.just("import"), NAMES, st.integers(0, 60)),
        st.tuples(st.just("purge"), st.sampled_from(("p", "pq", "q")), st.integers(0, 60)),
        st.tuples(st.just("erase"), NAMES, st.none()),
    ),
    max_size=14,
)


def command_of(number: int, step: tuple[str, str, Any]) -> Any:
    """The step's command, sent at its place in time; an import and a purge reach back as many microseconds."""
    kind, name, what = step
    at, one = 1_000 + 10 * number, UUID(int=number + 1)
    common: dict[str, Any] = {"id": one, "project": 1, "at": at, "fragment": KEY}
    if kind == "purge":
        return Purge(**common, names=tuple(name), before=at - what, request=one)
    if kind == "erase":
        return Erase(**common, iver=number + 1)
    if kind == "import":  # `moved` says why it has no unset and no null
        own = {"uuid": one, "event": "e", "timestamp": at - what, "historical": True}
        return Capture(**common, **own, distinct_id="ada", set={name: f"imported {number}"})
    changes: dict[str, Any] = {"unset": (name,)} if kind == "unset" else {kind: {name: what}}
    return Write(**common, distinct_id="ada", **changes)


@settings(max_examples=sized(dev=500, ci=3_000, soak=30_000), deadline=None)
@given(STEPS)
def test_nothing_of_before_shows_and_a_rebuild_never_differs(steps: list[tuple[str, str, Any]]) -> None:
    fragment, oracle, events = Fragment.blank(1, KEY), Oracle(), []
    for number, step in enumerate(steps):
        command = command_of(number, step)
        fragment.handle(command, version_of(number), 0)
        oracle.apply(command, version_of(number))
        events += list(fragment.collect_events())
        one = oracle.fragment(KEY)
        assert fragment.properties == oracle.shown(one)
        assert fragment.created_at == (one["born"] or 0)
    same_rows(fragment, derived(events))
    same_rows(fragment, derived(swept(events)))
