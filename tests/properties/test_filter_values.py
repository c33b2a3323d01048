"""Filters by value, on the real engine: every JSON value is found by `exact` and left out by `is_not`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import services.api.reads
from services.api.persons.filters import Filter
from shared.store.clickhouse.client import Store
from shared.store.lives import load_with_lives
from shared.store.search import document_of
from tests.support.engine import EngineProcess
from tests.support.tier import sized

GIVEN = load_with_lives(Path(services.api.reads.__path__[0]) / "persons.sql")["search_given"]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", " ", "5", "5.0", "1e3", "true", "null", "NULL", "None", "[1]", "{}", "2026-01-02", "\\N", "'", "{a:Int8}"]
)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.booleans() | NUMBERS | TEXTS
INNER = SCALARS | st.none()
VALUES = st.recursive(
    INNER, lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(TEXTS, deeper, max_size=3), max_leaves=6
).filter(lambda value: value is not None)
"""Null alone is no value: a property that is null and one that is absent are the same."""

EXAMPLES = sized(dev=60, ci=400, soak=5_000)


class Finder:
    """Which of some values a filter finds, as the list of persons does it."""

    def __init__(self, engine: EngineProcess) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = self.loop.run_until_complete(Store.connect(engine.url("default")))

    def close(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()

    def found(self, values: list[Any], operator: str, value: Any) -> set[int]:
        """The places of the values that match, each written as the property of a person."""
        rows = [
            orjson.dumps(
                {"fragment": UUID(int=place), "distinct_ids": [], "properties": document_of({"k": each, "other": 1})}
            ).decode()
            for place, each in enumerate(values)
        ]
        sent = orjson.dumps([{"key": "k", "operator": operator, "value": value, "type": "person"}])
        conditions = Filter(datetime(2026, 5, 31, tzinfo=UTC))
        conditions.properties(sent.decode())
        query = GIVEN.filled(filter=conditions.sql)
        matches = self.loop.run_until_complete(self.store.rows(query, rows=rows, **conditions.parameters))
        return {fragment.int for (fragment,) in matches}


@pytest.fixture(scope="module")
def finder(engine: EngineProcess) -> Iterator[Finder]:
    finder = Finder(engine)
    yield finder
    finder.close()


def asked(value: Any) -> Any:
    """A value as a filter takes it: of a list, each element would be one."""
    return [value] if isinstance(value, list) else value


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, min_size=1, max_size=8))
@example([1e100, 1e300, -1e-7, 5e-324, 1.7976931348623157e308, 0.1, 1e16, 1e22, -0.0])
@example([[1, "x"], {"a": 1}, [], {}, "", [None], [[]], {"": 0}])
@example([2**64 - 1, -(2**63), 2**53 + 1, 1, 1.0, "1", True, "true"])
def test_a_value_is_found_by_exact_and_left_out_by_is_not(finder: Finder, values: list[Any]) -> None:
    for place, value in enumerate(values):
        exact, other = (finder.found(values, operator, asked(value)) for operator in ("exact", "is_not"))
        assert place in exact, value
        assert exact | other == set(range(len(values))) and not exact & other


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, min_size=1, max_size=6), st.data())
def test_several_values_find_what_each_of_them_does(finder: Finder, values: list[Any], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))
    every = set().union(*(finder.found(values, "exact", asked(value)) for value in chosen))
    assert finder.found(values, "in", chosen) == every
    assert finder.found(values, "not_in", chosen) == set(range(len(values))) - every


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_numbers_are_found_by_themselves_and_as_bounds(finder: Finder, values: list[Any]) -> None:
    for place, value in enumerate(values):
        assert place in finder.found(values, "gte", value) & finder.found(values, "lte", value)
        assert place in finder.found(values, "between", [value, value])


def test_different_values_are_told_apart(finder: Finder) -> None:
    values = ["a", "A", " a", "5", 6, 6.5, True, "yes", [1], [2], {"a": 1}, {"a": 2}, ""]
    for place, value in enumerate(values):
        assert finder.found(values, "exact", asked(value)) == {place}, value


def test_a_number_that_no_float_holds_is_found_by_its_text(finder: Finder) -> None:
    """As capture keeps it."""
    conditions = Filter(datetime(2026, 5, 31, tzinfo=UTC))
    conditions.properties('[{"key": "k", "value": 1e400, "type": "person"}]')
    assert ["1e400"] in conditions.parameters.values()
    conditions = Filter(datetime(2026, 5, 31, tzinfo=UTC))
    conditions.properties('[{"key": "k", "value": "a\\u0000b", "type": "person"}]')
    assert ["a\x00b", "a\ufffdb"] in conditions.parameters.values()
