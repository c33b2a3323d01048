"""A cancel beside whatever else happens to the person: wholly there, or gone and later erased; never gone and kept."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.e2e.test_restored_persons import cancelled, deleted, merged
from tests.support.asking import sent_in_a_row, shown
from tests.support.processes import Stack, wait_for

pytestmark = pytest.mark.fault

ROUNDS = 4
"""Races of each kind: five kinds, so twenty races."""

JITTER_SECONDS = {"joined": (0.2, 0.8), "swept": (4.0, 0.1)}
"""Up to when the cancel and the other side of a race begin, so that neither is always the first; 0.3 by default."""

ENDED = ("cancelled", "pending", "verified")


class Race(NamedTuple):
    """One person whose deletion is cancelled while something else happens."""

    kind: str
    name: str
    before: dict[str, Any]
    location: str
    status: int
    second: str


def captured(stack: Stack, name: str) -> str:
    for number in range(3):
        stack.capture(event="back", distinct_id=f"{name}-phone", properties={"$set": {"raced": number}})
    return ""


def joined(stack: Stack, name: str) -> str:
    stack.capture(event="$merge_dangerously", distinct_id=f"{name}-other", properties={"alias": f"{name}-tablet"})
    return ""


def deleted_again(stack: Stack, name: str) -> str:
    sent_in_a_row(stack, (f"{name}-phone", "back", {"$set": {"raced": 1}}))
    answer = stack.persons(f"/{stack.uuid(f'{name}-phone')}/?delete_events=true", "DELETE")
    assert answer.status in (204, 202, 404), answer.body
    return answer.headers.get("Location", "")


def cancelled_too(stack: Stack, name: str) -> str:
    return ""


def swept(stack: Stack, name: str) -> str:
    run = stack.call("deletions", "run")
    assert run.returncode in (0, 1), run.stdout + run.stderr  # 1: requests stay open
    return ""


KINDS: tuple[Callable[[Stack, str], str], ...] = (captured, joined, deleted_again, cancelled_too, swept)


def raced(stack: Stack, kind: Callable[[Stack, str], str], name: str, chosen: random.Random) -> Race:
    before = merged(stack, name)
    location = deleted(stack, before, "?delete_events=true")
    wait_for(lambda: stack.ask("GET", location).status == 200, 60, "the request to be in the ledger")
    pauses = [chosen.random() * most for most in JITTER_SECONDS.get(kind.__name__, (0.3, 0.3))]

    def cancel() -> int:
        time.sleep(pauses[0])
        return cancelled(stack, location).status

    def other() -> str:
        time.sleep(pauses[1])
        return kind(stack, name)

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(cancel)] + ([pool.submit(cancel)] if kind is cancelled_too else [])
        second = pool.submit(other).result()
        statuses = sorted(answer.result() for answer in answers)
    assert statuses[0] in (204, 202, 409), statuses
    if kind is cancelled_too:
        assert statuses[1] in (202, 204, 409), statuses
    wait_for(lambda: stack.ask("GET", location).json["state"] in ENDED, 120, f"the end of {location}")
    return Race(kind.__name__, name, before, location, statuses[0], second)


def judge(stack: Stack, race: Race) -> str:
    """What became of the person, after a run has erased what was to be erased."""
    state = stack.ask("GET", race.location).json["state"]
    assert state in ("cancelled", "verified"), race
    assert race.status == 202 or (race.status == 204) == (state == "cancelled"), race
    found = shown(stack, race.name)
    secret = f"{race.name}@example.com"
    kept = {
        table: stack.query(f"SELECT count() FROM {table} WHERE position(toString({column}), '{secret}') > 0")
        for table, column in (("timeline", "after"), ("fragments", "properties"), ("captured_events", "properties"))
    }
    again = stack.ask("GET", race.second).json if race.second else {"state": ""}
    if state == "cancelled" and again["state"] != "verified":
        assert found is not None, race
        assert set(race.before["distinct_ids"]) <= set(found["distinct_ids"]), (race, found)
        assert found["properties"] | race.before["properties"] == found["properties"], (race, found)
        assert found["created_at"] == race.before["created_at"], (race, found)
        assert "0" not in kept.values(), (race, kept)
        return "restored"
    assert found is None, (race, found)
    assert set(kept.values()) == {"0"}, (race, kept)
    return "erased" if state == "verified" else "deleted again, whole"


def test_a_person_is_never_gone_and_kept(erasing_stack: Stack, record_property: Callable[[str, object], None]) -> None:
    stack, chosen = erasing_stack, random.Random(17)
    races = [
        raced(stack, kind, f"{kind.__name__}-{number}-{uuid4().hex[:8]}", chosen)
        for number in range(ROUNDS)
        for kind in KINDS
    ]
    run = stack.call("deletions", "run")
    assert run.returncode == 0, run.stdout + run.stderr
    ends = Counter((race.kind, judge(stack, race)) for race in races)
    assert ends.total() >= 12
    record_property("races", str(dict(ends)))
    print(dict(ends))
