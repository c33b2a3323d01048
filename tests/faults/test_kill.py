"""kill -9 of each process in turn while writing, on both logs: nothing acknowledged is lost, nothing applied twice."""

from __future__ import annotations

import threading
import time
from uuid import UUID, uuid4

import pytest

from tests.support.processes import Stack, wait_for

KILLS = 2
"""Rounds over all processes."""

WRITERS, PERSONS_EACH = 3, 5
RECOVERY_SECONDS_MAX = 20.0
"""From a kill until acknowledged writes go on; the supervisor's back-off is at most 5 s."""

DRAIN_SECONDS_MAX = 60.0


class Writer(threading.Thread):
    """Sends numbered events and resends each, with the same uuid, until it is acknowledged: what an SDK does."""

    def __init__(self, stack: Stack, name: int) -> None:
        super().__init__(daemon=True)
        self.stack, self.name_ = stack, name
        self.acknowledged: list[tuple[int, int, UUID]] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        for number in range(1_000_000):
            person, uuid = number % PERSONS_EACH, uuid4()
            while not self._send(person, number, uuid):
                if self.stopping.wait(0.05):
                    return
            self.acknowledged.append((person, number, uuid))
            if self.stopping.wait(0.004):
                return

    def _send(self, person: int, number: int, uuid: UUID) -> bool:
        event = {
            "event": "tick",
            "distinct_id": f"writer-{self.name_}-{person}",
            "uuid": str(uuid),
            "properties": {"$set": {"last": number, f"n{number}": number}},
        }
        try:
            return self.stack.capture(**event).status == 200
        except OSError:
            return False


@pytest.mark.fault
def test_kill_9_of_each_process_in_turn_loses_nothing_and_applies_nothing_twice(either_stack: Stack) -> None:
    stack = either_stack
    writers = [Writer(stack, name) for name in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(KILLS):
            for name in ("projector", "api", "engine", "deleter"):
                before = sum(len(writer.acknowledged) for writer in writers)
                wait_for(lambda: sum(len(w.acknowledged) for w in writers) > before + 20, 30, "writes")  # noqa: B023
                killed = stack.kill(name)
                at = time.monotonic()
                stack.wait_restarted(name, killed)
                before = sum(len(writer.acknowledged) for writer in writers)
                wait_for(
                    lambda: sum(len(w.acknowledged) for w in writers) > before,  # noqa: B023
                    RECOVERY_SECONDS_MAX - (time.monotonic() - at),
                    f"writes after kill -9 of {name}",
                )
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(timeout=30)
    wait_for(lambda: _ready(stack), 30, "the stack to be ready again")
    for writer in writers:
        for person in range(PERSONS_EACH):
            numbers = [number for which, number, _ in writer.acknowledged if which == person]
            if numbers:
                _check_person(stack, f"writer-{writer.name_}-{person}", numbers)


def _check_person(stack: Stack, distinct_id: str, numbers: list[int]) -> None:
    """Every acknowledged number is a property, the newest one is `last`, and each has one effect in the timeline."""

    def properties() -> dict[str, int] | None:
        rows = stack.persons(f"/?distinct_id={distinct_id}").json["results"]
        shown = rows[0]["properties"] if rows else {}
        return shown if all(f"n{number}" in shown for number in numbers) else None

    shown = wait_for(properties, DRAIN_SECONDS_MAX, f"every acknowledged write of {distinct_id}")
    sent = {f"n{number}" for number in numbers}
    extra = {name for name in shown if name.startswith("n")} - sent
    assert len(extra) <= 1, f"more than the one write that was cut off: {extra}"
    assert shown["last"] == max(int(name[1:]) for name in shown if name.startswith("n"))
    person = stack.persons(f"/?distinct_id={distinct_id}").json["results"][0]
    points = stack.persons(
        f'/{person["uuid"]}/properties_timeline/?properties=[{{"key":"last","type":"person"}}]'
    ).json["points"]
    values = [point["properties"]["last"] for point in points]
    assert len(values) == len(set(values)), "a write took effect twice"
    assert values == sorted(values), "an older write came back over a newer one"
    assert sum(point["relevant_event_count"] for point in points) == len(sent | extra)


def _ready(stack: Stack) -> bool:
    try:
        return stack.ask("GET", "/readyz", key=None).status == 200
    except OSError:
        return False
