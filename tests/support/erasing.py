"""A world for tests of the deleter: log, projector, ledger and sweep on a database of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.deleter.intake import Intake
from services.deleter.ledger import Ledger
from services.deleter.sweep import rewriting
from services.deleter.sweep.run import Sweep
from services.deleter.sweep.run_options import RunOptions, unlocked
from services.deleter.window import Window
from services.projector.fold import FragmentFolder, IdentityFolder
from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.worker import Worker
from shared.domain.commands import Capture, Command, Delete, RequestDeletion, Scope, encode, route
from shared.domain.deletion import DeletionRequest
from shared.domain.ids import COMMANDS, DELETIONS, IDENTITY, fragment_id
from shared.log.memory import MemoryLog
from shared.log.port import Entry, Log
from shared.runtime.clock import ManualClock
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.queries import Query
from shared.store.objects import Objects
from shared.store.targets import TABLES
from tests.support.engine import Databases

JANUARY, MARCH = 1_736_500_000_000_000, 1_741_600_000_000_000
SECONDS_MAX = 60.0
PROFILE, EVERYTHING, EVENTS = Scope(profile=True), Scope(profile=True, events=True, recordings=True), Scope(events=True)


class World:
    """A log, a projector and a deleter's parts on one database."""

    def __init__(self, store: Store, objects: Objects, log: Log | None = None) -> None:
        self.store, self.objects = store, objects
        self.log, self.clock = log or MemoryLog(), ManualClock(MARCH + 86_400_000_000)
        self.ledger = Ledger(store, Window(cron="0 5 * * 0", hours=6, zone="UTC"))
        self.at = JANUARY
        self.intake = Intake(
            log=self.log, reader=self.log.reader(DELETIONS, "deleter"), ledger=self.ledger, lock=unlocked,
            now_us=self.clock.now_us,
        )  # fmt: skip
        self.workers = [
            Worker(
                log=self.log, reader=self.log.reader(folder.topic, "projector"), tables=ClickHouseTables(store),
                folder=folder, monotonic=time.monotonic,
            )
            for folder in (FragmentFolder(), IdentityFolder())
        ]  # fmt: skip

    async def tell(self, *commands: Command) -> None:
        counts = self.log.partitions()
        await self.log.append([Entry(*route(command, counts), encode(command)) for command in commands])

    def capture(self, who: str, month: int = JANUARY, **properties: Any) -> Capture:
        self.at = max(self.at, month) + 1
        return Capture(
            id=uuid4(), project=1, at=self.at, fragment=fragment_id(1, who), distinct_id=who, uuid=uuid4(),
            event="seen", timestamp=self.at, set=properties,
        )  # fmt: skip

    def delete(self, who: str, scope: Scope = EVERYTHING) -> Delete:
        self.at += 1
        return Delete(id=uuid4(), project=1, at=self.at, person=fragment_id(1, who), request=uuid4(), scope=scope)

    def request(self, who: str, scope: Scope) -> RequestDeletion:
        self.at += 1
        person = fragment_id(1, who)
        return RequestDeletion(
            id=uuid4(), project=1, at=self.at, request=uuid4(), person=person, members=(person,), scope=scope
        )

    async def record(self, *blocks: tuple[str, str, bytes], at: int = 0, version: int = 1) -> str:
        """Blocks (whose, session, content) in one object, and the rows that say where; the object's path."""
        return await record(self.store, self.objects, 1, blocks, at or self.at, version)

    def sweep(self, **options: Any) -> Sweep:
        return Sweep(self.store, self.objects, self.ledger, self.clock.now_us, RunOptions(**options))

    async def settle(self) -> None:
        """Project and take over all that is in the log."""
        deadline = time.monotonic() + SECONDS_MAX
        probe = self.sweep()
        while True:
            heads = [*await self.log.heads(IDENTITY), *await self.log.heads(COMMANDS)]
            if await probe.projected(heads) and heads == [
                *await self.log.heads(IDENTITY), *await self.log.heads(COMMANDS)
            ]:  # fmt: skip
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await self.take_over()

    async def take_over(self) -> None:
        (head,) = await self.log.heads(DELETIONS)
        deadline = time.monotonic() + SECONDS_MAX
        while await self.ledger.position(0) != head:
            await self.intake.turn()
            assert time.monotonic() < deadline

    async def found(self, request: UUID) -> DeletionRequest:
        return (await self.ledger.find([(1, request)]))[request]

    async def rows(self, table: str, who: str, hidden: bool = False) -> list[tuple[Any, ...]]:
        columns = {"timeline": "topic, version", "fragments": "properties, version, erased"}.get(table, "version")
        query = Query(name="rows", sql=f"SELECT {columns} FROM {table} WHERE fragment = {{who:UUID}} ORDER BY version")
        read = self.store.rows_with_hidden if hidden else self.store.rows
        return await read(query, who=fragment_id(1, who))

    async def all_rows(self, who: str, hidden: bool = False) -> dict[str, list[tuple[Any, ...]]]:
        return {table: await self.rows(table, who, hidden) for table in TABLES}


async def record(
    store: Store, objects: Objects, project: int, blocks: Sequence[tuple[str, str, bytes]], at: int, version: int = 1
) -> str:
    """What the API does with recordings: one new object of several people's blocks, then a row for each."""
    path = f"{await objects.home(make=uuid4())}/{uuid4()}"
    await objects.put(path, b"".join(content for _, _, content in blocks))
    starts = [sum(len(content) for _, _, content in blocks[:index]) for index in range(len(blocks))]
    await store.insert("recording_blocks", {
        "project": [project] * len(blocks), "fragment": [fragment_id(project, who) for who, _, _ in blocks],
        "session": [session for _, session, _ in blocks], "block": [uuid4() for _ in blocks],
        "version": [version] * len(blocks), "object": [path] * len(blocks), "start": starts,
        "length": [len(content) for _, _, content in blocks], "uuid": [uuid4() for _ in blocks],
        "window": [session for _, session, _ in blocks],
        **{name: [at] * len(blocks) for name in ("started_at", "ended_at", "received_at")},
    })  # fmt: skip
    return path


async def clean_when_told(store: Store) -> None:
    """Make tables where the files of rewritten parts go when `clean` says so. With the settings of migrations a sweep
    waits some three seconds for them; the end-to-end tests do. The engine's own intervals are whole seconds, and at
    none it looks for files without a pause, which takes a core for one database."""
    await migrate(store)
    settings = "old_parts_lifetime = 0, merge_tree_clear_old_parts_interval_seconds = 0"
    for table in TABLES:
        await store.command(Query(name="clean", sql=f"ALTER TABLE {table} MODIFY SETTING {settings}"))


async def clean(store: Store) -> None:
    """Wake those who take files away, which is what the end of a pause does for each table that is named."""
    for table in TABLES:
        await store.command(Query(name="clean", sql=f"SYSTEM START CLEANUP {table}"))


class CleaningStore(Store):
    """A store whose engine has taken the files of rewritten parts away by the time that a sweep looks for them."""

    async def rows(self, query: Query, **parameters: Any) -> list[tuple[Any, ...]]:
        if query.name == "superseded_parts":
            await clean(self)
        return await super().rows(query, **parameters)


@asynccontextmanager
async def working(store: Store, objects: Objects, log: Log | None = None) -> AsyncIterator[World]:
    """A world whose projector works."""
    world = World(store, objects, log)
    await world.intake._reader.start()
    tasks = [asyncio.create_task(worker.run()) for worker in world.workers]
    try:
        yield world
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def world(databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(rewriting, "POLL_SECONDS", 0.02)
    async with (
        databases.empty(CleaningStore, clean_when_told) as store,
        working(store, Objects(str(tmp_path / "objects"))) as world,
    ):
        yield world


async def life(world: World, *people: str) -> None:
    """Events in two months, in INSERTs of their own: superseded rows lie in other parts than the newest."""
    for month in (JANUARY, MARCH):
        await world.tell(*(world.capture(who, month, email=f"{who}@example.com", seen=month) for who in people))
        await world.settle()
