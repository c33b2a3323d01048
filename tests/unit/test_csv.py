"""CSV of any JSON: a column for each value, none lost and none shared. Never a server."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.api.http.rendering import csv_body

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["a", "b", "a.b", ".", "..", "\\", "a\\.b", "\\.", "0", "1", ""]
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5
)
VALUES = st.recursive(
    LEAVES, lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(NAMES, deeper, max_size=4), max_leaves=12
)


def table(*properties: Any) -> list[dict[str, str]]:
    """The rows of a CSV, each by its header; a header that comes twice fails."""
    text = csv_body({"results": [{"properties": each} for each in properties]}).decode()
    header, *rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(header) == len(set(header))
    return [dict(zip(header, row, strict=True)) for row in rows]


def leaves(value: Any) -> Iterator[Any]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            yield from leaves(item)
        else:
            yield item


def cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    guarded = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if guarded else str(value)


@pytest.mark.parametrize(
    ("properties", "columns"),
    [
        ({"a.b": 1, "a": {"b": 2}}, {r"properties.a\.b": "1", "properties.a.b": "2"}),
        ({"a.0": "x", "a": ["y"]}, {r"properties.a\.0": "x", "properties.a.0": "y"}),
        ({"a\\": {"b": 1}, "a\\.b": 2}, {r"properties.a\\.b": "1", r"properties.a\\\.b": "2"}),
        ({"a": {"b.c": 1, "b": {"c": 2}}}, {r"properties.a.b\.c": "1", "properties.a.b.c": "2"}),
        ({"$os": "mac", "plan": None}, {"properties.$os": "mac", "properties.plan": ""}),
        ({".": 1, "": {"": 2}}, {r"properties.\.": "1", "properties..": "2"}),
    ],
)
def test_each_value_has_a_column_of_its_own(properties: dict[str, Any], columns: dict[str, str]) -> None:
    assert table(properties) == [columns]


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5).filter(lambda one: any(True for _ in leaves(one))))
@example({"a.b": 1, "a": {"b": 2}})
def test_no_value_of_any_json_is_lost(properties: dict[str, Any]) -> None:
    (row,) = table(properties)
    assert sorted(row.values()) == sorted(cell(leaf) for leaf in leaves(properties))


def test_a_column_means_the_same_in_every_row() -> None:
    one, other = table({"a.b": 1}, {"a": {"b": 2}})
    assert one == {r"properties.a\.b": "1", "properties.a.b": ""}
    assert other == {r"properties.a\.b": "", "properties.a.b": "2"}
