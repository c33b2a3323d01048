"""Cells of CSV: what is written reads back the same, and what is no number stays the text that it was."""

from __future__ import annotations

from typing import Any

import pytest

from shared.inputs.cells import cell_of, inexact, value_of


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("7", 7), ("-1.5", -1.5), ("0", 0), ("-0.0", -0.0), ("1e+16", 1e16), ("100000.0", 100000.0),
        ("9223372036854775807", 2**63 - 1), ("18446744073709551615", 2**64 - 1),
        ("true", True), ("True", True), ("TRUE", True), ("FALSE", False), ("False", False),
    ],
)  # fmt: skip
def test_a_cell_that_is_written_back_the_same_has_a_type(cell: str, value: Any) -> None:
    assert value_of(cell) == value and type(value_of(cell)) is type(value)


@pytest.mark.parametrize(
    "cell",
    ["1.10", "1e5", "1E5", "007", "+5", "-0", "1.", ".5", "1_000", "NaN", "Infinity", "1e400", "tRUE", "yes", " 5",
     "5 ", "1" * 30, "٣", "0x10", "1,5", "'=x", "'tis", "2024-01-01", "[1]", "{}", "null", "18446744073709551616"],
)  # fmt: skip
def test_a_cell_that_would_change_as_a_number_is_a_text(cell: str) -> None:
    assert value_of(cell) == cell and isinstance(value_of(cell), str)


@pytest.mark.parametrize("text", ["=x", "-5", "+49 30", "@a", "\tx", "\rx"])
def test_a_text_that_a_spreadsheet_would_run_is_guarded_and_kept_beside(text: str) -> None:
    assert cell_of(text) == "'" + text
    assert inexact({"a": text}) == {"a": text}


def test_what_a_cell_cannot_hold_is_selected() -> None:
    exact = {"a": "x", "b": 5, "c": 1.5, "d": True, "e": "'=x", "f": -5, "g": "007", "o.p": 1}
    lossy = {"h": "5", "i": "true", "j": None, "k": "", "l": [], "m": {"n": 1}, "q": "1.5", "r": "FALSE"}
    lossy["s"] = "=1+1"
    assert inexact(exact | lossy) == lossy
