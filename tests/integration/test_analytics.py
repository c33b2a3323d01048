"""docs/analytics.md: every query on it runs as it stands, over histories whose answers are known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from bench.analytics import query
from shared.store.client import Store
from shared.store.migrate import migrate
from shared.store.queries import Query

ADA, BOB, EVE = (UUID(int=number) for number in (1, 2, 3))
"""Ada and Eve are one person now; Bob is by himself."""

HISTORIES: dict[UUID, tuple[tuple[str, str], ...]] = {
    ADA: (("2025-01-01", '"free"'), ("2025-01-31", '"trial"'), ("2025-03-02", '"pro"')),
    BOB: (("2025-06-01", '"free"'), ("2025-09-09", '"trial"'), ("2025-12-31", "")),
    EVE: (("2024-12-02", '"free"'),),
}


@pytest.fixture
async def store(engine_url: str) -> AsyncIterator[Store]:
    store = await Store.connect(engine_url)
    await migrate(store)
    for _ in range(2):  # the second time is a replay after a crash: the same rows, in other parts
        for fragment, history in HISTORIES.items():
            before = ""
            for version, (day, after) in enumerate(history, start=1):
                await store.insert("timeline", _change(fragment, version, day, before, after))
                before = after
    await store.insert("identity", {"project": [1], "fragment": [EVE], "version": [1], "root": [ADA]})
    yield store
    await store.close()


def _change(fragment: UUID, version: int, day: str, before: str, after: str) -> dict[str, list[Any]]:
    at = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000
    return {
        "project": [1], "fragment": [fragment], "version": [version], "topic": ["fragment.changed"], "at": [at],
        "stamp": [at], "command": [uuid4()], "keys": [["name", "plan", "seen"]], "kinds": [[1, 1, 1]],
        "before": [['"x"', before, ""]], "after": [['"x"', after, "1"]],
    }  # fmt: skip


async def test_transitions_count_each_change_once(store: Store) -> None:
    assert await store.rows(query("Transitions of a value")) == [
        ("", '"free"', 3, 3), ('"free"', '"trial"', 2, 2), ('"trial"', "", 1, 1), ('"trial"', '"pro"', 1, 1)
    ]  # fmt: skip


async def test_time_in_a_state_is_that_from_each_change_to_the_next(store: Store) -> None:
    free = 30 + 100 + 395
    assert await store.rows(query("Time in a state")) == [('"free"', free), ('"pro"', 305), ('"trial"', 30 + 113)]


async def test_a_funnel_goes_in_order_and_within_its_time(store: Store) -> None:
    assert await store.rows(query("A funnel over changes")) == [(1, 2), (3, 1)]


async def test_a_count_as_of_a_moment_knows_nothing_later(store: Store) -> None:
    assert await store.rows(query("Counts as of a moment")) == [('"free"', 2), ('"pro"', 1)]


async def test_persons_are_counted_once_with_the_newest_value_of_all_their_ids(store: Store) -> None:
    assert await store.rows(query("Persons instead of fragments")) == [('"pro"', 1)]


async def test_the_view_of_one_property_is_the_view_of_all_for_that_one(store: Store) -> None:
    columns = "fragment, stamp, before, after"
    one = Query(name="one", sql=f"SELECT {columns} FROM changes_of(key = 'plan') ORDER BY ALL")
    all_ = Query(name="all", sql=f"SELECT {columns} FROM property_changes WHERE key = 'plan' ORDER BY ALL")
    assert await store.rows(one) == await store.rows(all_) != []
