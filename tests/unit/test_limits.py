"""The limit of a key: a burst, then an even rate."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.errors import ApiError
from services.api.limits import SECOND_US, Limits

KEY, OTHER = UUID(int=1), UUID(int=2)


def test_without_a_rate_nothing_is_counted() -> None:
    limits = Limits(0, 1)
    assert [limits.take(KEY, 0) for _ in range(1_000)] == [{}] * 1_000


def test_a_burst_passes_at_once_and_the_next_one_waits() -> None:
    limits = Limits(2.0, 3)
    remaining = [limits.take(KEY, 0)["RateLimit-Remaining"] for _ in range(3)]
    assert remaining == ["2", "1", "0"]
    with pytest.raises(ApiError) as refused:
        limits.take(KEY, 0)
    assert (refused.value.status, refused.value.kind, refused.value.code) == (429, "throttled_error", "throttled")
    assert refused.value.headers["Retry-After"] == "1"
    assert refused.value.headers["RateLimit-Remaining"] == "0"
    assert limits.take(OTHER, 0)["RateLimit-Limit"] == "3"  # another key has its own
    with pytest.raises(ApiError):
        limits.take(KEY, SECOND_US // 2 - 1)
    assert limits.take(KEY, SECOND_US // 2)["RateLimit-Remaining"] == "0"
    assert limits.take(KEY, 100 * SECOND_US)["RateLimit-Remaining"] == "2"


@given(st.lists(st.integers(0, 400_000), max_size=200), st.integers(1, 8), st.sampled_from([1.0, 5.0, 50.0]))
def test_never_more_than_a_burst_and_the_rate_in_any_span(gaps: list[int], burst: int, rate: float) -> None:
    limits, now, passed = Limits(rate, burst), 0, []
    for gap in gaps:
        now += gap
        try:
            limits.take(KEY, now)
            passed.append(now)
        except ApiError as error:
            assert int(error.headers["Retry-After"]) >= 1
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - start) * rate / SECOND_US + 1e-6
