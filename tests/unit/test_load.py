"""Whose turn it is to be handled: in order, one long piece in a round of the loop, never too late. In virtual time."""

from __future__ import annotations

import asyncio

import pytest

from services.api.http.decompression import INFLATE_RATIO_MAX
from services.api.http.guards import admission
from services.api.http.guards.admission import SLICE_SECONDS, SMALL_BYTES, AdmissionControl, unfolded
from shared.domain.errors import Transient
from tests.support.virtual import virtual, work

LARGE = SMALL_BYTES + 1


@virtual
async def test_long_pieces_are_handled_one_in_a_round_and_in_order() -> None:
    turns, rounds, handled = AdmissionControl(), 0, list[tuple[int, int]]()

    async def piece(number: int) -> None:
        await turns.turn(LARGE)
        handled.append((number, rounds))
        work(1.1 * SLICE_SECONDS)  # what a large body costs, in one piece

    async def count() -> None:
        nonlocal rounds
        while len(handled) < 5:
            rounds += 1
            await asyncio.sleep(0)

    await asyncio.gather(*(piece(number) for number in range(5)), count())
    assert [number for number, _ in handled] == [0, 1, 2, 3, 4]
    assert len({at for _, at in handled}) == 5


@virtual
async def test_short_pieces_share_a_round() -> None:
    turns, rounds = AdmissionControl(), 0

    async def piece() -> int:
        await turns.turn(LARGE)
        return rounds

    async def count() -> None:
        nonlocal rounds
        rounds += 1

    at = await asyncio.gather(*(piece() for _ in range(50)), count())
    assert set(at[:-1]) == {0}


@virtual
async def test_who_waits_too_long_is_told_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "TURN_SECONDS_MAX", 3 * SLICE_SECONDS)
    turns = AdmissionControl()

    async def piece() -> None:
        await turns.turn(LARGE)
        work(1.1 * SLICE_SECONDS)

    outcomes = await asyncio.gather(*(piece() for _ in range(10)), return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, Transient)]
    assert len(refused) == 5, outcomes  # the others were handled within three slices, or were next when these were over
    await turns.turn(LARGE)


@virtual
async def test_a_waiting_one_that_is_cancelled_does_not_stop_the_others() -> None:
    turns = AdmissionControl()

    async def piece() -> None:
        await turns.turn(LARGE)
        work(1.1 * SLICE_SECONDS)

    tasks = [asyncio.create_task(piece()) for _ in range(6)]
    await asyncio.sleep(0)
    for task in tasks[2:4]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [asyncio.CancelledError] * 2


@virtual
async def test_what_is_small_takes_no_turn_unless_somebody_waits_for_one() -> None:
    turns = AdmissionControl()
    assert turns.spare(LARGE)
    work(1.1 * SLICE_SECONDS)
    assert turns.spare(SMALL_BYTES)
    assert not turns.spare(LARGE)
    waiting = asyncio.create_task(turns.turn(LARGE))
    await asyncio.sleep(0)
    await waiting
    assert turns.spare(SMALL_BYTES)


def test_what_may_be_compressed_counts_for_what_it_may_become() -> None:
    assert unfolded(b'{"a": 1}') == 8
    assert unfolded(b"\x1f\x8b" + b"x" * 98) == 100 * INFLATE_RATIO_MAX
