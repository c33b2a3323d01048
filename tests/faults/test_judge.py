"""The judge of the fault tests finds what is planted: a judge that always says 0 would prove nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shared.domain.ids import hash64, version_of
from shared.domain.person.fragment import EVENTS_MAX
from shared.runtime.settings import OWNER, read, with_keys
from shared.store.clickhouse.client import Store
from tests.support.chaos import Acknowledged, Chaos, merge
from tests.support.judge import Verdict, judge
from tests.support.processes import Stack, running

ROWS: dict[str, dict[str, Any]] = {
    "fragments": {"version": version_of(0), "properties": "{}", "cells": "{}"},
    "identity": {"version": version_of(0)},
    "timeline": {"version": version_of(0)},
    "captured_events": {"version": version_of(0), "uuid": uuid4()},
    "numbers": {"number": 1},
    "deletion_requests": {"version": 1, "request": uuid4()},
}
"""A row of each table that no command made; what is left out has its default."""


@pytest.mark.fault
def test_the_judge_finds_what_is_planted(tmp_path: Path) -> None:
    with running(tmp_path / "data") as stack:
        chaos = Chaos(stack, None, seed=1)
        position = chaos.prober.capture(
            [_event("a", 1), merge("$identify", "a", "b"), merge("$create_alias", "a", "c")]
        )
        assert _counts(judge(chaos)) == (0, 0, 0)
        _plant_losses(chaos, position)
        for number, (table, row) in enumerate(ROWS.items(), 1):
            asyncio.run(_plant(stack, table, row))
            assert _counts(judge(chaos)) == (0, 0, number), table
        again = _event("d", 2)
        chaos.prober.capture([again])
        for _ in range(4):  # beyond the documented window a uuid is not recognised
            chaos.prober.capture([_event("d", number) for number in range(EVENTS_MAX // 4 + 1)])
        chaos.prober.capture([again])
        assert _counts(judge(chaos)) == (0, 1, len(ROWS))


def _plant_losses(chaos: Chaos, position: str) -> None:
    for planted in (
        Acknowledged(position, [uuid4()], []),  # a captured event that is not in the log
        Acknowledged(position, [], [hash64("a merge or a REST write")]),  # another command lies at its position
        Acknowledged("i.0.0", chaos.answers[0].events[:1], []),  # it is in the log, but not where the answer said
    ):
        chaos.prober.answers.append(planted)
        assert _counts(judge(chaos)) == (1, 0, 0), planted
        chaos.prober.answers.remove(planted)


async def _plant(stack: Stack, table: str, row: dict[str, Any]) -> None:
    settings, _ = with_keys(read(stack.environment))
    store = await Store.connect(settings.store_url(OWNER))
    fragment = {} if table == "deletion_requests" else {"fragment": uuid4()}
    try:
        await store.insert(table, {name: [value] for name, value in {"project": 1, **fragment, **row}.items()})
    finally:
        await store.close()


def _event(name: str, value: int) -> dict[str, Any]:
    return {"event": "tick", "distinct_id": name, "uuid": str(uuid4()), "properties": {"$set": {"value": value}}}


def _counts(verdict: Verdict) -> tuple[int, int, int]:
    return verdict.lost, verdict.duplicated, verdict.differences
