"""The limits of a key and of a project's token: a burst, then an even rate."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http.errors import ApiError
from services.api.http.guards.rate_limit import CaptureQuotas, RateLimiter
from shared.domain.quota import SECOND_NS, Quota

KEY, OTHER = UUID(int=1), UUID(int=2)
SECOND_US = 1_000_000


def test_without_a_rate_nothing_is_counted() -> None:
    limits = RateLimiter(0, 1)
    assert [limits.take(KEY, 0) for _ in range(1_000)] == [{}] * 1_000


def test_a_burst_passes_at_once_and_the_next_one_waits() -> None:
    limits = RateLimiter(2.0, 3)
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
    limits, now, passed = RateLimiter(rate, burst), 0, []
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


@given(
    st.lists(st.tuples(st.integers(0, 3 * SECOND_NS), st.integers(1, 30)), max_size=100),
    st.sampled_from([0.5, 1.0, 7.0, 1_000.0]),
    st.integers(1, 20),
)
def test_what_is_taken_in_any_span_is_a_burst_and_the_rate(
    asked: list[tuple[int, int]], rate: float, burst: int
) -> None:
    quota, now, due, taken = Quota(rate, burst), 0, 0, list[tuple[int, int]]()
    for gap, cost in asked:
        now += gap
        after, wait = quota.spend(due, now, cost)
        if wait:
            assert after == due  # nothing was taken
            assert quota.spend(due, now + wait, cost)[1] == 0
            assert wait == 1 or quota.spend(due, now + wait - 1, cost)[1] > 0  # and not a nanosecond sooner
        else:
            taken.append((now, cost))
            due = after
    for first, (start, _) in enumerate(taken):
        sums = 0
        for moment, cost in taken[first:]:
            # a request above the burst is owed whole: what follows waits for it, so only the last one can exceed
            assert sums + min(cost, burst) <= burst + (moment - start) * rate / SECOND_NS + 1e-3
            sums += cost


def test_what_is_more_than_the_burst_passes_when_nothing_is_owed_and_is_owed_whole() -> None:
    quota = Quota(10, 10)
    due, wait = quota.spend(0, SECOND_NS, 30)
    assert (due, wait) == (4 * SECOND_NS, 0)
    assert quota.spend(due, SECOND_NS, 1) == (due, 21 * SECOND_NS // 10)
    assert quota.spend(due, SECOND_NS, 30) == (due, 3 * SECOND_NS)


class Clock:
    ns = 10**15

    def __call__(self) -> int:
        return self.ns


def test_a_project_has_a_quota_of_events_and_one_of_bytes() -> None:
    clock = Clock()
    quotas = CaptureQuotas(10, 1_000, 2, clock)
    for _ in range(4):
        quotas.take(1, 5, 100)
    with pytest.raises(ApiError) as refused:
        quotas.take(1, 5, 100)
    assert (refused.value.status, refused.value.kind, refused.value.code) == (429, "throttled_error", "throttled")
    assert refused.value.headers == {
        "Retry-After": "1", "RateLimit-Limit": "20", "RateLimit-Remaining": "0", "RateLimit-Reset": "2",
    }  # fmt: skip
    quotas.take(2, 20, 2_000)  # another project has its own
    with pytest.raises(ApiError) as refused:
        quotas.take(2, 0, 1)
    assert refused.value.headers["RateLimit-Limit"] == "2000"
    clock.ns += SECOND_NS // 2
    quotas.take(1, 5, 100)


def test_a_refused_request_counts_nothing() -> None:
    clock = Clock()
    quotas = CaptureQuotas(10, 10, 1, clock)
    quotas.take(1, 10, 0)
    with pytest.raises(ApiError):
        quotas.take(1, 1, 10)  # events are too many: its bytes are not counted
    clock.ns += SECOND_NS
    quotas.take(1, 10, 10)


def test_without_rates_a_project_sends_what_it_likes() -> None:
    quotas = CaptureQuotas(0, 0, 1, Clock())
    for _ in range(100):
        quotas.take(1, 10_000, 20_000_000)
