"""Recordings out of the object store, on the real engine: what fails, stops, or is not where it should be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest

from services.deleter.sweep import recordings
from shared.domain.commands import Scope
from shared.domain.errors import Transient
from shared.runtime.clock import ManualClock
from shared.store.objects import MARKER, SETTLED_SECONDS, Objects, Span
from tests.support.erasing import EVERYTHING, World, life
from tests.support.s3 import S3

RECORDINGS = Scope(recordings=True)


class Waits:
    """A clock for the deleter's waits: nothing is waited for, and `meanwhile` happens in each wait."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def sleep(self, seconds: float) -> None:
        if self.meanwhile is not None:
            await self.meanwhile()
        self.seconds += seconds


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    made = Waits()
    monkeypatch.setattr(recordings, "time", SimpleNamespace(monotonic=lambda: made.seconds))
    monkeypatch.setattr(recordings, "asyncio", SimpleNamespace(sleep=made.sleep, gather=asyncio.gather))
    return made


async def asked(world: World, *people: str, scope: Scope = RECORDINGS) -> list[UUID]:
    """Requests to delete the recordings of these people."""
    requests = [world.request(who, scope) for who in people]
    await world.tell(*requests)
    await world.settle()
    return [request.request for request in requests]


async def states(world: World, requests: list[UUID]) -> list[str]:
    return [(await world.found(request)).state for request in requests]


async def blocks(world: World, who: str) -> int:
    return len(await world.rows("recording_blocks", who, hidden=True))


async def test_recordings_in_a_bucket_go_and_neighbours_stay(world: World, s3: S3) -> None:
    bucket = f"b-{uuid4().hex}"
    s3.make(bucket)
    world.objects = Objects(f"s3://{bucket}/recordings", **s3.config)
    await life(world, "ann", "bob")
    shared = await world.record(("bob", "s", b"BOB1"), ("ann", "s", b"ann1"), ("bob", "t", b"BOB2"))
    alone = await world.record(("ann", "u", b"ann2"), ("ann", "v", b"ann3"))
    requests = await asked(world, "ann")
    await world.sweep().run(projected=True)
    request = await world.found(requests[0])
    assert (request.state, request.hidden["objects"], request.hidden["recordings"]) == ("verified", 2, 3)
    assert await world.objects.read(shared) == b"BOB1\0\0\0\0BOB2"
    assert await world.objects.read(alone) is None
    assert (await blocks(world, "ann"), await blocks(world, "bob")) == (0, 2)
    assert len(await world.rows("captured_events", "ann")) == 2
    assert await Objects(f"s3://{bucket}", **s3.config).paths() == sorted(
        [f"recordings/{MARKER}", f"recordings/{shared}"]
    )


class Refusing(Objects):
    """Refuses one object."""

    def __init__(self, url: str, refused: str) -> None:
        super().__init__(url)
        self.refused = refused

    async def read(self, path: str, *rest: object) -> bytes | None:
        if path == self.refused:
            raise Transient(f"Object store, {path}: access denied")
        return await super().read(path, *rest)  # type: ignore[arg-type]


async def test_one_object_that_fails_fails_its_people_only_and_keeps_their_rows(world: World, tmp_path: Path) -> None:
    await life(world, "ann", "bob", "cat")
    refused = await world.record(("ann", "s", b"ann1"), ("cat", "s", b"CAT1"))
    await world.record(("bob", "s", b"bob1"))
    requests = await asked(world, "ann", "bob")
    right, world.objects = world.objects, Refusing(str(tmp_path / "objects"), refused)
    ended = await world.sweep().run(projected=True)
    assert sorted(request.state for request in ended) == ["failed", "verified"]
    assert await states(world, requests) == ["failed", "verified"]
    assert (await world.found(requests[0])).reason == f"Object store, {refused}: access denied"
    assert (await blocks(world, "ann"), await blocks(world, "bob")) == (1, 0)

    world.objects = right
    await world.sweep().run(projected=True)
    assert await states(world, requests) == ["verified", "verified"]
    assert await right.read(refused) == b"\0\0\0\0CAT1"
    assert (await blocks(world, "ann"), await blocks(world, "cat")) == (0, 1)


@pytest.mark.parametrize("named", [False, True], ids=["an empty one", "one with another name"])
async def test_another_object_store_is_not_taken_for_an_erased_one(world: World, tmp_path: Path, named: bool) -> None:
    await life(world, "ann")
    path = await world.record(("ann", "s", b"ann1"))
    requests = await asked(world, "ann")
    right, world.objects = world.objects, Objects(str(tmp_path / "elsewhere"))
    if named:
        await world.objects.home(make=uuid4())
    await world.sweep().run(projected=True)
    failed = await world.found(requests[0])
    assert failed.state == "failed"
    assert ("another store" if named else "not the one") in failed.reason
    assert await right.read(path) == b"ann1"
    assert await blocks(world, "ann") == 1

    world.objects = right
    await world.sweep().run(projected=True)
    assert await states(world, requests) == ["verified"]


async def test_a_person_without_recordings_needs_no_object_store(world: World, tmp_path: Path) -> None:
    await life(world, "ann")
    requests = await asked(world, "ann", scope=Scope(events=True, recordings=True))
    world.objects = Objects(str(tmp_path / "empty"))
    await world.sweep().run(projected=True)
    assert await states(world, requests) == ["verified"]


async def test_a_window_that_closes_amid_the_objects_goes_on_in_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "OBJECTS_AT_ONCE", 1)
    await life(world, "ann")
    paths = [await world.record(("ann", f"s{number}", b"ann")) for number in range(3)]
    requests = await asked(world, "ann")
    clock = ManualClock(world.clock.us)
    read = Objects.read

    async def slow(objects: Objects, path: str, *rest: object) -> bytes | None:
        if path in paths:
            clock.us += 1
        return await read(objects, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Objects, "read", slow)
    sweep = world.sweep(closes_at=clock.us + 1)
    monkeypatch.setattr(sweep, "_now_us", lambda: clock.us)
    assert await sweep.run(projected=True) == []
    assert await states(world, requests) == ["pending"]
    monkeypatch.undo()
    left = [path for path in paths if await world.objects.read(path) is not None]
    assert len(left) == 2  # the first was erased, and the second not begun
    assert len(await world.rows("recording_blocks", "ann")) == 3

    await world.sweep().run(projected=True)
    assert await states(world, requests) == ["verified"]
    assert [path for path in paths if await world.objects.read(path) is not None] == []


async def test_what_is_recorded_after_the_request_stays(world: World) -> None:
    await life(world, "ann")
    before = await world.record(("ann", "s", b"old"))
    requests = await asked(world, "ann")
    after = await world.record(("ann", "s", b"new"), at=world.at + 1)
    await world.sweep().run(projected=True)
    assert await states(world, requests) == ["verified"]
    assert await world.objects.read(before) is None
    assert await world.objects.read(after) == b"new"
    assert await blocks(world, "ann") == 1


async def test_an_object_that_is_still_on_its_way_is_waited_for_and_erased(world: World, waits: Waits) -> None:
    await life(world, "ann")
    path = await world.record(("ann", "s", b"ann1"), at=world.clock.us)
    await world.objects.erase(path, [Span(0, 4)])  # its rows are in the log, and its writer has not come to it yet
    delete = world.delete("ann", EVERYTHING)
    await world.tell(delete)
    await world.settle()

    async def arrive() -> None:
        waits.meanwhile = None
        await world.objects.put(path, b"ann1")

    waits.meanwhile = arrive
    await world.sweep().run(projected=True)
    assert waits.meanwhile is None
    assert await states(world, [delete.request]) == ["verified"]
    assert await world.objects.read(path) is None


async def test_a_window_that_closes_while_an_object_is_waited_for_leaves_it_to_the_next(
    world: World, waits: Waits
) -> None:
    await life(world, "ann")
    path = await world.record(("ann", "s", b"ann1"), at=world.clock.us)
    delete = world.delete("ann", EVERYTHING)
    await world.tell(delete)
    await world.settle()
    closing = world.sweep(closes_at=world.clock.us + 1)

    async def close() -> None:
        waits.meanwhile = None
        world.clock.us += 60_000_000

    waits.meanwhile = close
    assert await closing.run(projected=True) == []
    assert waits.meanwhile is None
    assert await world.objects.read(path) == b"ann1"
    await world.sweep().run(projected=True)
    assert await states(world, [delete.request]) == ["verified"]


async def test_a_reach_that_ends_at_a_time_waits_until_nothing_older_can_come(world: World, waits: Waits) -> None:
    await life(world, "ann")
    await asked(world, "ann", scope=Scope(events=True))
    await world.sweep().wait_for_late_blocks()
    assert waits.seconds == 0  # nobody's recordings are asked for
    await asked(world, "ann")
    world.clock.us = world.at
    await world.sweep().wait_for_late_blocks()
    assert waits.seconds == pytest.approx(SETTLED_SECONDS)
    world.clock.us += int(SETTLED_SECONDS * 1e6)
    await world.sweep().wait_for_late_blocks()
    assert waits.seconds == pytest.approx(SETTLED_SECONDS)
