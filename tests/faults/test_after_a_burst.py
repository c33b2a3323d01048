"""Every process is stopped and killed amid bursts; then nobody writes, and all routes answer and lists are complete."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.e2e.test_former_lives import READS, filled
from tests.support.bursts import BATCH_EVENTS, Burst, missing
from tests.support.chaos import UNANSWERED
from tests.support.processes import Stack, lives, running, wait_for
from tests.support.tier import sized

MOMENTS, EVENTS = sized(dev=(1, 600), ci=(2, 600), soak=(5, 3_000))
"""Moments of a burst at which each process gets each signal: 50 in all, and 10 of a developer's; events of a burst."""

VICTIMS = ("up", "api", "projector", "deleter", "engine")
SIGNALS = (signal.SIGTERM, signal.SIGKILL)

COMPLETE_SECONDS_MAX = 180.0
"""Seconds are reported; a machine that takes longer has found a fault."""

ENDED_SECONDS_MAX = 900.0
"""Until each deletion has ended: the deleter looks once a minute, and a busy machine makes it pause."""

WINDOW = {"PERSONLOG_WINDOW": "* * * * *", "PERSONLOG_WINDOW_HOURS": "1"}
"""A window that is always open: what was asked for before a kill goes on after it."""

ASKED_AT_ONCE = 2
"""Questions of some fifty: a project's share of the places for costly ones, so that none is told to come again."""

ENDED = {"verified", "cancelled"}


class Case(NamedTuple):
    victim: str
    how: signal.Signals
    moment: float


class Took(NamedTuple):
    """Seconds from `ready` until what was refused or incomplete at first was not, 0 when nothing was; until all was
    asked, which on a busy machine takes long; and what was refused or incomplete."""

    seconds: float
    asking: float
    found: list[str]


def cases(seed: int) -> list[Case]:
    """Each victim with each signal at moments that lie evenly over the burst, in an order of the seed's."""
    chosen = random.Random(seed)
    found = [
        Case(victim, how, (number + chosen.random()) / MOMENTS)
        for victim, how, number in product(VICTIMS, SIGNALS, range(MOMENTS))
    ]
    chosen.shuffle(found)
    return found


def harm(stack: Stack, case: Case) -> float:
    """Stop or kill, and wait until it is there again and the API says that it is ready; when that was."""
    if case.victim == "up":
        if case.how == signal.SIGKILL:
            children = [psutil.Process(stack.pid(name)) for name in VICTIMS[1:]]
            stack.kill("up")
            ended = partial(all_ended, children)  # the kernel does it, and then their ports are free
            wait_for(ended, COMPLETE_SECONDS_MAX, "the children to end")
        stack.stop()
        stack.start()
        return time.monotonic()
    old = stack.pid(case.victim)
    with suppress(ProcessLookupError):
        os.kill(old, case.how)
    stack.wait_restarted(case.victim, old, COMPLETE_SECONDS_MAX)
    wait_for(lambda: answers(stack, "/readyz"), COMPLETE_SECONDS_MAX, "the API to be ready")
    return time.monotonic()


def all_ended(processes: list[psutil.Process]) -> bool:
    return not any(lives(process) for process in processes)


def answers(stack: Stack, path: str) -> bool:
    with suppress(*UNANSWERED):
        return stack.ask("GET", path).status == 200
    return False


def asked_of(burst: Burst) -> list[Callable[[], str]]:
    """What must be answered and complete, each with nothing to say once it is. Nothing is written by any."""
    routes = [
        (method, suffix, body)
        for (method, path), reads in READS.items()
        for suffix, body in (reads if isinstance(reads, list) else ())
        if path != "/reset_person_distinct_id"  # the one of them that writes
    ]
    return [partial(missing, burst), *(partial(refused, burst, route) for route in routes)]


def complete(wrong: Callable[[], str], ready: float) -> tuple[float, str]:
    """Ask until nothing is wrong: the second after `ready` at which that was asked, and what was wrong before."""
    told, until = "", time.monotonic() + COMPLETE_SECONDS_MAX
    while (began := time.monotonic()) < until:
        found = wrong()
        if not found:
            return began - ready, told
        told = f"until {time.monotonic() - ready:.1f} s: {found}"
        time.sleep(0.1)
    raise AssertionError(told)


def refused(burst: Burst, asked: tuple[str, str, Any]) -> str:
    """What a route says instead of an answer."""
    method, suffix, body = asked
    try:
        answer = burst.stack.persons(filled(suffix, burst.names), method, filled(body, burst.names))
    except UNANSWERED as error:
        return f"{method} {suffix}: {type(error).__name__}"
    if answer.status >= 429:
        return f"{method} {suffix}: {answer.status} {answer.body[:200]!r}"
    assert answer.status in (200, 404), (suffix, answer.status, answer.body)
    return ""


def round_of(stack: Stack, number: int, case: Case) -> Took:
    """One burst with one harm, until every route answers and everything is complete."""
    burst = Burst(stack, number, EVENTS)
    burst.prepare()
    burst.start()
    batches = int(case.moment * EVENTS / BATCH_EVENTS)
    wait_for(lambda: burst.batches >= batches or burst.whole, COMPLETE_SECONDS_MAX, "the burst to come so far")
    burst.harm.set()
    ready = harm(stack, case)
    burst.end()
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        answered = list(pool.map(partial(complete, ready=ready), asked_of(burst)))
    late = [one for one in answered if one[1]]
    return Took(max((at for at, _ in late), default=0.0), time.monotonic() - ready, [told for _, told in late])


def open_requests(stack: Stack) -> int:
    results = stack.persons("/deletion_requests/?limit=1000").json["results"]
    return sum(one["state"] not in ENDED for one in results)


@pytest.mark.fault
def test_without_another_write_every_route_answers_and_lists_are_complete(tmp_path: Path, record_property: Any) -> None:
    seconds: dict[str, list[float]] = defaultdict(list)
    asking: list[float] = []
    with running(tmp_path / "data", **WINDOW) as stack:
        for number, case in enumerate(cases(int(os.environ.get("PERSONLOG_TEST_SEED", "1")))):
            took = round_of(stack, number, case)
            seconds[f"{case.victim} {case.how.name}"].append(took.seconds)
            asking.append(took.asking)
            where = f"{number} {case.victim} {case.how.name} at {case.moment:.2f}"
            where += f": {took.seconds:.1f} s, all asked after {took.asking:.1f}"
            print(where, *took.found, sep="\n    ", flush=True)
        wait_for(lambda: open_requests(stack) == 0, ENDED_SECONDS_MAX, "each deletion to have ended")
        doctor = stack.call("doctor")
        assert (doctor.returncode, doctor.stdout.count(", ready")) == (0, 4), doctor.stdout + doctor.stderr
        verified = stack.call("rebuild", "--verify", seconds=ENDED_SECONDS_MAX)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    every = [one for some in seconds.values() for one in some]
    told = (
        f"{len(every)} stops and kills in bursts of {EVENTS:,} events; seconds from ready until all is answered and"
        f" complete: median {statistics.median(every):.1f}, most {max(every):.1f}; to ask it all:"
        f" {statistics.median(asking):.1f}; "
    ) + ", ".join(f"{name} {max(some):.1f}" for name, some in sorted(seconds.items()))
    record_property("faults", told)
    print(told)
