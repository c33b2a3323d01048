"""Each rule that bounds what clients take, taken away alone: the tests that hold it must miss it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.api.http.guards import costly as admission
from services.api.http.guards.costly import Gate
from services.api.http.spool import Spool
from services.api.persons import patterns
from shared.domain.quota import Quota
from tests.unit import test_admission, test_limits, test_patterns, test_spool

Plant = Callable[[pytest.MonkeyPatch], None]


def no_share(patch: pytest.MonkeyPatch) -> None:
    """One project may take all places."""
    patch.setattr(Gate, "_may", lambda gate, project: gate.running < gate._places)


def no_turns(patch: pytest.MonkeyPatch) -> None:
    """Who came first goes on first, whosoever it is."""
    kept = admission.OrderedDict

    class Queue(kept):  # type: ignore[misc, valid-type]
        def move_to_end(self, key: Any, last: bool = True) -> None: ...

    patch.setattr(admission, "OrderedDict", Queue)


def no_end_of_the_queue(patch: pytest.MonkeyPatch) -> None:
    """Any number may wait."""
    patch.setattr(Gate, "waiting", 0)


def half_price(patch: pytest.MonkeyPatch) -> None:
    """What is taken is owed by half."""
    spend = Quota.spend
    patch.setattr(Quota, "spend", lambda quota, due, now, cost: spend(quota, due, now, cost // 2))


def free_when_large(patch: pytest.MonkeyPatch) -> None:
    """Above the burst only the burst is owed."""
    spend = Quota.spend
    patch.setattr(Quota, "spend", lambda quota, due, now, cost: spend(quota, due, now, min(cost, quota.burst)))


def no_products(patch: pytest.MonkeyPatch) -> None:
    """A repetition costs as much as one."""
    patch.setattr(patterns._Group, "repeat", lambda group, copies: group.add(1))


def each_alone(patch: pytest.MonkeyPatch) -> None:
    """Each filter has the whole budget."""
    judge = patterns.judge

    def judged(found: Any, attr: str) -> None:
        for one in found:
            judge([one], attr)

    patch.setattr("services.api.persons.filters.judge", judged)


def kept_space(patch: pytest.MonkeyPatch) -> None:
    """What an answer took is never given back."""
    patch.setattr(Spool, "free", lambda spool: None)


def rates(patch: pytest.MonkeyPatch) -> None:
    test_limits.test_a_burst_passes_at_once_and_the_next_one_waits()


def large(patch: pytest.MonkeyPatch) -> None:
    test_limits.test_what_is_more_than_the_burst_passes_when_nothing_is_owed_and_is_owed_whole()


def all_filters(patch: pytest.MonkeyPatch) -> None:
    test_patterns.test_a_request_has_one_budget_for_all_its_filters()


def one_pattern(patch: pytest.MonkeyPatch) -> None:
    test_patterns.test_what_multiplies_is_refused_and_its_filter_named(test_patterns.TOO_MUCH[1])


def shares(patch: pytest.MonkeyPatch) -> None:
    test_admission.test_a_project_has_half_of_the_places_and_another_one_gets_its_turn()


def turns(patch: pytest.MonkeyPatch) -> None:
    test_admission.test_projects_take_turns()


def queue(patch: pytest.MonkeyPatch) -> None:
    test_admission.test_a_queue_has_an_end_for_each_project_and_for_all(patch)


def space(patch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    test_spool.test_all_files_together_have_a_bound_and_each_gives_its_part_back(tmp_path)


@pytest.mark.parametrize(("plant", "held_by"), [
    (no_share, shares), (no_turns, turns), (no_end_of_the_queue, queue), (half_price, rates),
    (free_when_large, large), (no_products, one_pattern), (each_alone, all_filters),
])  # fmt: skip
def test_a_rule_that_is_taken_away_is_missed(
    plant: Plant, held_by: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_by(monkeypatch)
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        held_by(monkeypatch)


def test_space_that_is_kept_is_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    space(monkeypatch, tmp_path)
    kept_space(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        space(monkeypatch, tmp_path)
