"""Which partitions a run rewrites together."""

from __future__ import annotations

from services.deleter.sweep.rewriting import STEP_BYTES_MAX, STEP_PARTITIONS_MAX, Step, steps


def test_small_partitions_of_a_table_are_one_step_and_the_smallest_step_is_first() -> None:
    found = steps([("timeline", "202402", 30), ("search", "all", 70), ("timeline", "202401", 20)])
    assert found == [Step("timeline", ("202401", "202402"), 50), Step("search", ("all",), 70)]
    assert [str(step) for step in found] == ["timeline 202401 … 202402", "search all"]


def test_a_step_has_no_more_bytes_than_its_bound_but_for_one_partition_that_has() -> None:
    half, large = STEP_BYTES_MAX // 2, STEP_BYTES_MAX * 3
    found = steps([("t", "1", half), ("t", "2", half), ("t", "3", half), ("t", "4", large)])
    assert found == [Step("t", ("3",), half), Step("t", ("1", "2"), half * 2), Step("t", ("4",), large)]


def test_a_step_has_no_more_partitions_than_its_bound() -> None:
    found = steps([("t", f"{number:03}", 1) for number in range(STEP_PARTITIONS_MAX + 1)])
    assert sorted(len(step.partitions) for step in found) == [1, STEP_PARTITIONS_MAX]
    assert sorted(name for step in found for name in step.partitions) == [
        f"{n:03}" for n in range(STEP_PARTITIONS_MAX + 1)
    ]


def test_nothing_to_rewrite_is_no_step() -> None:
    assert steps([]) == []
