"""Planted faults: each rule by which another log is told from the right one, taken away alone (`test_mutations`)."""

from __future__ import annotations

from typing import Any

import pytest

from shared.log import evidence
from shared.log import identity as log_identity
from shared.log.doubts import Doubts
from shared.log.identity import Evidence
from shared.log.memory import MemoryLog


def records_of_position_rows(patch: pytest.MonkeyPatch) -> None:
    """Whoever starts compares heads with positions, and not the records there."""

    async def trusting(log: Any, one: Evidence) -> Evidence:
        return one

    patch.setattr(evidence, "_whole", trusting)


def heads_below_positions(patch: pytest.MonkeyPatch) -> None:
    """A log that ends before the tables' positions is taken for theirs."""
    older = log_identity._older

    def generous(one: Evidence) -> Any:
        return older(one) if one.offset <= one.head.offset else None

    patch.setattr(log_identity, "_older", generous)


def identities_of_logs(patch: pytest.MonkeyPatch) -> None:
    """Whoever starts does not ask by what the log is known."""
    patch.setattr(log_identity, "_identities", lambda known, actual: None)


def offsets_that_rise(patch: pytest.MonkeyPatch) -> None:
    """An append is acknowledged wherever it landed."""
    patch.setattr(Doubts, "rises", lambda self, first, floor: self.check())


def assurance_before_a_flush(patch: pytest.MonkeyPatch) -> None:
    """A worker goes on when another log has come to lie there."""

    async def assured(self: MemoryLog, topic: str, since: int) -> None: ...

    patch.setattr(MemoryLog, "assure", assured)


def doubts_since_the_look(patch: pytest.MonkeyPatch) -> None:
    """What was read while another log lay there is folded once the right one is back."""
    check = Doubts.check
    patch.setattr(Doubts, "check", lambda self, since=None: check(self))


PLANTED_LOGS = (
    records_of_position_rows, heads_below_positions, identities_of_logs, offsets_that_rise, assurance_before_a_flush,
    doubts_since_the_look,
)  # fmt: skip
