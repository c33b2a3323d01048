"""The state of an import: what it says after a kill, and whom it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from clients.importing.state import ImportLedger
from clients.importing.target import Refusal
from shared.runtime.settings import SettingsError


def ledger(tmp_path: Path, source: str = "s", target: str = "t", **how: Any) -> ImportLedger:
    return ImportLedger(tmp_path / "deep" / "state", tmp_path / "errors", source, target, **how)


def refused(*rows: int) -> list[Refusal]:
    return [Refusal(row=row, reason="why") for row in rows]


def lines(tmp_path: Path) -> list[int]:
    return [msgspec.json.decode(line)["row"] for line in (tmp_path / "errors").read_bytes().splitlines()]


def test_it_goes_on_where_it_was_and_counts_a_refused_row_once(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    first.state.rows = 7
    first.settle(refused(3, 3, 5))
    again = ledger(tmp_path).state
    assert (again.rows, again.refused) == (7, 2)


def test_a_refusal_that_a_killed_run_did_not_settle_is_written_once(tmp_path: Path) -> None:
    ledger(tmp_path).settle(refused(1))
    with (tmp_path / "errors").open("ab") as file:
        file.write(b'{"row":2,"rea')
    ledger(tmp_path).settle(refused(2))
    assert lines(tmp_path) == [1, 2]


def test_begun_again_it_knows_nothing(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    first.state.rows = 7
    first.settle(refused(1))
    again = ledger(tmp_path, restart=True)
    assert (again.state.rows, lines(tmp_path)) == (0, [])


@pytest.mark.parametrize("other", [{"source": "other"}, {"target": "other"}])
def test_of_another_source_or_target_it_is_refused_and_kept(tmp_path: Path, other: dict[str, str]) -> None:
    first = ledger(tmp_path)
    first.state.rows = 7
    first.settle(refused(1))
    with pytest.raises(SettingsError, match="--restart"):
        ledger(tmp_path, **other)
    assert (ledger(tmp_path).state.rows, lines(tmp_path)) == (7, [1])


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "state").write_text("rows: 7")
    with pytest.raises(SettingsError, match="--state"):
        ledger(tmp_path)
