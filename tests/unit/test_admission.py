"""Who gets a place when: a share for each project, turns, bounds, and nothing leaked. In virtual time."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.api.app import ROUTES
from services.api.http.errors import ApiError
from services.api.http.guards import costly as admission
from services.api.http.guards.costly import Gate, always, aside, never, step, stepped, with_any
from shared.domain.errors import Transient
from tests.support.virtual import virtual

POINT = {  # what reads by key, or only writes
    "GET /{id}", "PATCH /{id}", "POST /{id}/update_property", "POST /{id}/delete_property", "POST /{id}/split",
    "POST /{id}/merge", "POST /reset_person_distinct_id", "POST /batch_by_distinct_ids", "POST /batch_by_uuids",
    "DELETE /{id}", "POST /{id}/delete_events", "POST /{id}/delete_recordings", "POST /{id}/purge_property",
    "POST /bulk_delete", "GET /deletion_requests/{request}", "DELETE /deletion_requests/{request}",
}  # fmt: skip
BY_KEY_WITH = {"GET ": {"distinct_id": "a", "limit": "1"}}
PAST = {"GET /{id}", "POST /batch_by_distinct_ids", "POST /batch_by_uuids"}


def test_every_route_is_costly_or_reads_by_key() -> None:
    named = {f"{route.method} {route.path}": route for route in ROUTES}
    assert {name for name, route in named.items() if not route.costly({})} == POINT
    assert all(not named[name].costly(query) for name, query in BY_KEY_WITH.items())
    assert all(named[name].costly({"as_of": "c.1.1"}) for name in PAST)
    previews = {name for name, route in named.items() if any(one.name == "dry_run" for one in route.query)}
    by_key = {"POST /{id}/split", "POST /{id}/merge"}  # both are folded of the persons themselves
    assert {name for name in previews if not named[name].costly({"dry_run": "1"})} == by_key
    assert not any(named[name].costly({"dry_run": "false"}) for name in previews & POINT)
    assert (always({}), never({"as_of": "x"}), with_any("a")({"a": "0"})) == (True, False, False)


class Crowd:
    """Calls that hold their places until they are told to go."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.held: list[int] = []
        self.go: dict[int, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def call(self, project: int, count: int = 1) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._one(project)))

    async def _one(self, project: int) -> None:
        async with self.gate.place(project):
            self.held.append(project)
            await self.go.setdefault(project, asyncio.Event()).wait()

    async def end(self) -> list[BaseException | None]:
        for event in self.go.values():
            event.set()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@virtual
async def test_a_project_has_half_of_the_places_and_another_one_gets_its_turn() -> None:
    gate = Gate(4)
    crowd = Crowd(gate)
    crowd.call(1, 20)
    await settled()
    assert crowd.held == [1, 1]
    crowd.call(2)
    crowd.call(3)
    await settled()
    assert crowd.held == [1, 1, 2, 3]
    crowd.go[2].set()
    crowd.call(2, 3)
    await settled()
    assert crowd.held == [1, 1, 2, 3, 2, 2, 2]  # each in the place that the one before has left; 1 has its share
    crowd.go[1].set()
    assert set(await crowd.end()) == {None}
    assert (gate.running, gate.waiting) == (0, 0)


@virtual
async def test_projects_take_turns() -> None:
    gate = Gate(1)
    order: list[int] = []

    async def call(project: int) -> None:
        async with gate.place(project):
            order.append(project)
            await asyncio.sleep(0.1)

    await asyncio.gather(*(call(project) for project in (1, 1, 1, 1, 2, 2, 3)))
    assert order == [1, 1, 2, 3, 1, 2, 1]


@virtual
async def test_who_waits_too_long_is_told_whose_calls_fill_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(2)
    crowd = Crowd(gate)
    crowd.call(1, 2)
    crowd.call(2)
    await settled()
    assert crowd.held == [1, 2]
    crowd.call(3)
    await asyncio.sleep(admission.WAIT_SECONDS_MAX + 1)
    own, other = crowd.tasks[1].exception(), crowd.tasks[3].exception()
    assert isinstance(own, ApiError)
    assert (own.status, own.kind, own.code) == (429, "throttled_error", "throttled")
    assert own.headers == {
        "Retry-After": "1", "RateLimit-Limit": "1", "RateLimit-Remaining": "0", "RateLimit-Reset": "1",
    }  # fmt: skip
    assert isinstance(other, Transient)
    assert gate.waiting == 0
    await crowd.end()
    assert gate.running == 0


@virtual
async def test_a_queue_has_an_end_for_each_project_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PROJECT_WAITING_MAX", 3)
    monkeypatch.setattr(admission, "WAITING_MAX", 5)
    gate = Gate(2)
    crowd = Crowd(gate)
    crowd.call(1, 10)
    await settled()
    assert [type(task.exception()) for task in crowd.tasks if task.done()] == [ApiError] * 6
    crowd.call(2, 10)
    crowd.call(3)
    await settled()
    assert gate.waiting == 5
    assert isinstance(crowd.tasks[-1].exception(), Transient)  # none of its own calls is in the way
    await crowd.end()
    assert (gate.running, gate.waiting) == (0, 0)


@virtual
async def test_places_are_never_lost_nor_doubled_whoever_is_cancelled_when() -> None:
    chance = random.Random(18)
    for _ in range(200):
        gate = Gate(chance.randrange(1, 5))
        most: dict[int, int] = {}
        now: dict[int, int] = {}

        async def call(project: int, gate: Gate = gate, now: dict[int, int] = now, most: dict[int, int] = most) -> None:
            async with gate.place(project, begun=chance.random() < 0.3):
                now[project] = now.get(project, 0) + 1
                most[project] = max(most.get(project, 0), now[project])
                try:
                    await asyncio.sleep(chance.random())
                finally:
                    now[project] -= 1

        tasks = [asyncio.create_task(call(chance.randrange(3))) for _ in range(12)]
        while not all(task.done() for task in tasks):
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            await asyncio.sleep(0 if chance.random() < 0.5 else 0.05)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.running, gate.waiting) == (0, 0)
        assert max(most.values(), default=0) <= max(1, gate._places // 2)


@virtual
async def test_an_answer_holds_no_place_while_it_is_sent() -> None:
    gate = Gate(2)

    async def rows() -> object:
        for number in range(3):
            assert gate.running == 1
            yield number

    seen = []
    async for number in stepped(rows(), step(gate, 1)):  # type: ignore[arg-type]
        assert gate.running == 0
        seen.append(number)
    assert seen == [0, 1, 2]


@virtual
async def test_who_waits_for_the_projection_lends_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(1)
    order: list[str] = []

    async def waiting(failing: bool) -> None:
        async with gate.place(1):
            order.append("holds")
            async with aside():
                await asyncio.sleep(1)
                if failing:
                    raise Transient
            order.append("holds again")

    async def other() -> None:
        await asyncio.sleep(0.5)
        async with gate.place(2):
            order.append("other")
            await asyncio.sleep(1)

    await asyncio.gather(waiting(False), other())
    assert order == ["holds", "other", "holds again"]
    for task in (asyncio.create_task(waiting(True)), asyncio.create_task(waiting(False))):
        await asyncio.sleep(0.1)
        task.cancel() if not task.done() else None
        await asyncio.gather(task, return_exceptions=True)
        assert (gate.running, gate.waiting) == (0, 0)
    async with aside():  # of a call that holds none
        assert gate.running == 0
