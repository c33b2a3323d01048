"""Two projectors on one group: partitions move, and the state stays right. On both logs."""

from __future__ import annotations

import signal
import subprocess
import urllib.request

import pytest

from tests.support.processes import TOKEN, Stack, free_port, wait_for

PERSONS, ROUNDS = 64, 6


@pytest.mark.fault
def test_partitions_move_between_two_projectors_and_the_state_stays_right(either_stack: Stack) -> None:
    stack = either_stack
    expected: dict[str, dict[str, int]] = {f"p{person}": {} for person in range(PERSONS)}
    _write(stack, expected, 0)
    second = _join(stack)
    for turn in range(1, ROUNDS):
        _write(stack, expected, turn)
        if turn == 2:
            second.send_signal(signal.SIGKILL)
            second.wait(timeout=10)
        elif turn == 3:
            second = _join(stack)
        elif turn == 4:
            second.send_signal(signal.SIGTERM)
            assert second.wait(timeout=15) == 0
    rows = stack.persons("/?limit=1000").json["results"]
    shown = {row["distinct_ids"][0]: {k: v for k, v in row["properties"].items() if k != "last"} for row in rows}
    assert shown == expected
    for row in rows:
        assert row["properties"]["last"] == ROUNDS - 1


def _join(stack: Stack) -> subprocess.Popen[bytes]:
    """Start one more projector, and wait until it holds partitions."""
    port = free_port()
    process = stack.spawn("projector", log="joined.log", PERSONLOG_OPS_PORT=str(port))

    def holds() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                pass
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                return b'personlog_lag_records{partition="' in response.read()
        except OSError:
            return False

    wait_for(holds, 40, "the joined projector to hold partitions")
    return process


def _write(stack: Stack, expected: dict[str, dict[str, int]], turn: int) -> None:
    """One batch for every person, and wait until reads reflect all of it."""
    batch = [
        {"event": "tick", "distinct_id": name, "properties": {"$set": {"last": turn, f"t{turn}": turn}}}
        for name in expected
    ]
    sent = stack.ask("POST", "/batch/", {"api_key": TOKEN, "batch": batch}, key=None)
    assert sent.status == 200
    for properties in expected.values():
        properties[f"t{turn}"] = turn
    wait_for(
        lambda: stack.persons("/?limit=1", Min_Position=sent.headers["Position"]).status == 200,
        60,
        f"turn {turn} to be visible",
    )
