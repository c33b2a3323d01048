"""Distinct ids as they are sent, and what they are stored under: whole, and as capture stores them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import services.api
from shared.domain.ids import CAPTURED_ID_CHARS_MAX
from shared.inputs.ids import id_spellings, stored_id

JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIx" * 19 + "."


@given(st.text(max_size=500))
def test_the_whole_comes_first_and_then_what_capture_stores(text: str) -> None:
    spellings = id_spellings(text)
    assert spellings[0] == text and spellings[-1] == stored_id(text)
    assert len(spellings) == 1 + (stored_id(text) != text)


@given(st.text(max_size=500))
def test_what_is_stored_is_stored_as_it_is(text: str) -> None:
    stored = stored_id(text)
    assert "\x00" not in stored and len(stored) <= CAPTURED_ID_CHARS_MAX
    assert id_spellings(stored) == (stored,)


@given(st.text(min_size=200, max_size=200), st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_two_long_ids_with_one_beginning_stay_two(beginning: str, one: str, other: str) -> None:
    first, second = ((beginning + end).replace("\x00", "\ufffd") for end in (one, other))  # NUL is replaced first
    assert (stored_id(first) == stored_id(second)) is (first == second)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (JWT, 2), (JWT + "a", 2), ("x" * 200, 1), ("x" * 201, 2), ("a\x00b", 2), ("\x00", 2), ("ünï" * 60, 1),
        ("🦊" * 201, 2),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, str) else str(value),
)  # fmt: skip
def test_only_what_capture_changes_has_two_spellings(text: str, count: int) -> None:
    assert len(id_spellings(text)) == count


def test_nobody_else_in_rest_makes_a_fragment_of_a_distinct_id() -> None:
    """A route that did would not find who was captured with a long id. Capture has its own: what it writes."""
    root = Path(services.api.__path__[0])
    makers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"\bfragment_id\(", path.read_text()) and "capture" not in path.parts
    }
    assert makers == {"reads/lookup.py"}
