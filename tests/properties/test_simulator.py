"""Episodes of chaos for the real worker: kills, failures, zombies, restores, rebuilds; then all invariants hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest

from tests.support.episodes import (
    Episode,
    episode,
    given_back_without_what_was_purged,
    read_while_another_log_lay_there,
    shrink,
)
from tests.support.simulator import fault, found_wrong, report
from tests.support.tier import sized

EPISODES = sized(dev=400, ci=6_000, soak=60_000)
CHUNKS = 8
"""Parts of a run that may go to other cores; each must be large enough to meet every kind of fault."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_invariant_holds_after_every_episode(chunk: int, record_property: Any) -> None:
    """A seed reproduces a failure: `python -c "from tests.support.simulator import report; print(report(SEED))"`."""
    counts: Counter[str] = Counter()
    each = EPISODES // CHUNKS
    for seed in range(chunk * each, (chunk + 1) * each):
        if found_wrong(seed, counts) is not None:
            pytest.fail(report(seed))
    record_property("simulated", orjson.dumps(counts).decode())
    told = "kills failures ambiguous frozen fenced redeliveries restores rebuilds cancels restored".split()
    told += ["deleters killed", "forgotten", "stopped partitions", "left out", "swaps", "mismatches"]
    for one in [*told, "renewals", "renewals killed", "closed"]:
        assert counts[one], f"no {one} in {each} episodes: the simulator does not do what it should"


def test_an_episode_that_was_wrong_once_is_right() -> None:
    """A person was given back with another value after the purged ones had left the timeline."""
    counts = Counter[str]()
    assert fault(given_back_without_what_was_purged(), counts) is None
    assert counts["restored"] == 1


def test_what_was_read_of_another_log_is_not_folded_once_the_right_one_is_back() -> None:
    counts = Counter[str]()
    assert fault(read_while_another_log_lay_there(), counts) is None
    assert counts["not acknowledged"] == counts["swaps"] == 1


def test_a_failing_episode_is_shrunk_to_the_steps_that_fail() -> None:
    failing = episode(7)
    guilty = [step for step in failing.steps if step[0] == "send"][3]

    def fails(one: Episode) -> bool:
        return guilty in one.steps

    assert shrink(failing, fails).steps == (guilty,)


def test_the_same_seed_is_the_same_episode_with_the_same_end() -> None:
    assert episode(11) == episode(11)
    first, second = Counter[str](), Counter[str]()
    assert found_wrong(11, first) is None
    assert found_wrong(11, second) is None
    assert first == second
