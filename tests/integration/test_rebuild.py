"""Rebuild on the real engine: the same tables again, differences found, corrupt rows named, projection running."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from services.projector.fold import FragmentFolder, IdentityFolder
from services.projector.rebuild.derive import RebuildReport
from services.projector.rebuild.run import Rebuild
from services.projector.rebuild.shadows import Shadows
from services.projector.search import Feeder
from services.projector.tables import rows as r
from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.worker import Worker
from shared.domain.errors import StoreUnavailable
from shared.domain.ids import COMMANDS, IDENTITY, Position, fragment_id
from shared.log.memory import MemoryLog
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.timeline import TIMELINE
from tests.support import history
from tests.support.tier import sized

COUNT, PERSONS, START = 1_500, 80, 1_795_000_000_000_000
SECONDS_MAX = 60
STRIDE = sized(dev=3, ci=1, soak=1)
"""A rebuild is cut off before and after each statement, or at every third of these points: an odd number, so that some
are before a statement and some after one."""


@pytest.fixture
async def log(store: Store) -> MemoryLog:
    """A projected history."""
    log = MemoryLog({COMMANDS: 4, IDENTITY: 2, "personlog.deletions": 1, "personlog.dead": 1})
    await history.append(log, *history.commands(3, COUNT, PERSONS, START))
    await history.projected(store, log)
    return log


async def rows(store: Store, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return await store.rows(Query(name="test", sql=sql), **parameters)


async def state(store: Store) -> tuple[list[Any], list[Any]]:
    """Everything in both tables but the epochs."""
    fragments = await rows(
        store,
        f"SELECT {', '.join(r.FRAGMENTS)} FROM fragments FINAL WHERE project != 0 ORDER BY project, fragment",
    )
    identity = await rows(
        store, f"SELECT {', '.join(r.IDENTITY)} FROM identity FINAL WHERE project != 0 ORDER BY project, fragment"
    )
    return fragments, identity


async def rebuilt(
    store: Store, log: MemoryLog, *, verify: bool = True, tell: Any = lambda report: None
) -> RebuildReport:
    return await Rebuild(store, log.partitions(), lambda: time.time_ns() // 1_000, tell).run(verify=verify)


async def test_a_rebuild_gives_the_same_tables_and_projection_goes_on(store: Store, log: MemoryLog) -> None:
    before = await state(store)
    report = await rebuilt(store, log)
    assert (report.state, report.differences, report.corrupt, report.findings) == ("swapped", 0, 0, [])
    assert report.compared >= len(before[0]) + len(before[1]) > 100
    assert report.facts == (await rows(store, "SELECT count() FROM timeline FINAL"))[0][0] > 1_000
    assert await state(store) == before
    tables = await rows(
        store, "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE '%rebuild'"
    )
    assert tables == []
    again = await rebuilt(store, log)
    assert (again.state, again.differences) == ("swapped", 0)
    await history.append(log, *history.commands(4, 200, PERSONS, START + COUNT * 1_000))
    await history.projected(store, log)
    third = await rebuilt(store, log)
    assert (third.state, third.differences, third.findings) == ("swapped", 0, [])


async def test_an_empty_store_is_rebuilt_too(store: Store) -> None:
    log = MemoryLog({COMMANDS: 4, IDENTITY: 2, "personlog.deletions": 1, "personlog.dead": 1})
    report = await rebuilt(store, log)
    assert (report.state, report.facts, report.compared) == ("swapped", 0, 0)
    await history.append(log, *history.commands(3, 50, 30, START))
    await history.projected(store, log)
    assert (await rebuilt(store, log)).differences == 0


async def test_rows_that_were_changed_lost_or_invented_are_each_a_difference(store: Store, log: MemoryLog) -> None:
    before = await state(store)
    changed, lost, invented = before[0][0][1], before[0][1][1], fragment_id(1, "nobody")
    await store.command(f"ALTER TABLE fragments UPDATE properties = '{{}}', cells = '{{}}' WHERE fragment = '{changed}'"
                        " SETTINGS mutations_sync = 2")  # fmt: skip
    await store.command(f"DELETE FROM fragments WHERE fragment = '{lost}'")
    await store.insert(
        "fragments", {"project": [1], "fragment": [invented], "version": [1 << 48], "distinct_id": ["x"]}
    )
    moved = next(row[1] for row in before[1] if len(row[4]) > 1)
    await store.command(f"ALTER TABLE identity UPDATE root = fragment, members = [] WHERE fragment = '{moved}'"
                        " SETTINGS mutations_sync = 2")  # fmt: skip
    damaged = await state(store)
    report = await rebuilt(store, log, verify=True)
    assert (report.state, report.differences, report.corrupt) == ("failed", 4, 0)
    assert sorted(text.partition(" ")[2] for text in report.findings) == sorted(
        [
            f"fragments project 1 fragment {changed} differs in properties, cells",
            f"fragments project 1 fragment {lost} has no live row",
            f"fragments project 1 fragment {invented} has no fact",
            f"identity project 1 fragment {moved} differs in members",
        ]
    )
    assert await state(store) == damaged
    repaired = await rebuilt(store, log, verify=False)
    assert (repaired.state, repaired.differences) == ("swapped", 4)
    after = await state(store)
    memory = {
        r.FRAGMENTS.index(name) for name in ("version", "seen_at", "keys", "key_digests", "key_versions", "events")
    }
    derived = [[cell for at, cell in enumerate(row) if at not in memory] for row in after[0]]
    assert derived == [[cell for at, cell in enumerate(row) if at not in memory] for row in before[0]]
    assert after[1] == before[1]
    assert (await rebuilt(store, log)).differences == 0


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("after", ["{broken"], "JSONDecodeError"),
        ("kinds", [], "zip() argument 2 is shorter than argument 1"),
        ("topic", "fragment.vanished", "Unknown topic: a newer version wrote this."),
        ("created_at", 0, "a change before the birth"),
    ],
)
async def test_a_corrupt_row_is_named_and_counted_and_leaves_the_live_tables_alone(
    store: Store, log: MemoryLog, column: str, value: Any, why: str
) -> None:
    before = await state(store)
    (row,) = await rows(
        store, f"SELECT {', '.join(TIMELINE)} FROM timeline WHERE created_at != 0 AND length(keys) = 1 LIMIT 1"
    )
    await store.command(f"DELETE FROM timeline WHERE fragment = '{row[1]}' AND version = {row[2]}")
    broken = list(row)
    broken[TIMELINE.index(column)] = value
    await store.insert("timeline", {name: [cell] for name, cell in zip(TIMELINE, broken, strict=True)})
    report = await rebuilt(store, log, verify=False)
    topic = broken[TIMELINE.index("topic")]
    assert (report.state, report.corrupt) == ("failed", 1)
    assert f"corrupt: timeline project 1 fragment {row[1]} version {row[2]} topic {topic}: {why}" in report.findings
    assert await state(store) == before


async def test_a_rebuild_that_was_cut_off_goes_on_where_it_was(
    store: Store, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.projector.tables.facts.PAGE_ROWS_MAX", 200)
    before = await state(store)
    pages: list[int] = []

    def cut(report: RebuildReport) -> None:
        pages.append(report.facts)
        if len(pages) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rebuilt(store, log, tell=cut)
    await history.append(log, *history.commands(5, 100, PERSONS, START + COUNT * 1_000))
    await history.projected(store, log)
    before = await state(store)
    seen: list[int] = []
    report = await rebuilt(store, log, tell=lambda report: seen.append(report.facts))
    assert seen[0] > pages[-1] - 200 and len(pages) == 3  # it did not start again from nothing
    assert (report.state, report.differences, report.findings) == ("swapped", 0, [])
    assert await state(store) == before


async def test_the_search_table_is_made_again_and_compared(store: Store, log: MemoryLog) -> None:
    await Feeder(store, log.partitions()).feed()
    columns = "fragment, living, toString(distinct_ids), toString(properties)"
    sql = f"SELECT {columns} FROM search FINAL WHERE project = 1 ORDER BY fragment"
    before = await rows(store, sql)
    assert sum(row[1] for row in before) > 5
    report = await rebuilt(store, log)
    assert (report.state, report.differences) == ("swapped", 0)
    assert [row for row in await rows(store, sql) if row[1]] == [row for row in before if row[1]]
    wrong = next(row[0] for row in before if row[1])
    await store.command(
        f"ALTER TABLE search UPDATE created_at = 7 WHERE fragment = '{wrong}' SETTINGS mutations_sync = 2"
    )
    damaged = await rebuilt(store, log)
    assert (damaged.differences, damaged.findings) == (1, ["difference: search, 1 rows of the same version differ"])
    assert [row for row in await rows(store, sql) if row[1]] == [row for row in before if row[1]]
    assert (await rebuilt(store, log)).differences == 0


class CutOff(Exception):
    """The process is gone."""


@pytest.mark.fault
async def test_a_rebuild_may_be_cut_off_before_and_after_every_statement(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a damaged table; the next run ends with the right ones."""
    log = MemoryLog({COMMANDS: 2, IDENTITY: 1, "personlog.deletions": 1, "personlog.dead": 1})
    await history.append(log, *history.commands(9, 60, 24, START))
    await history.projected(store, log)
    right = await state(store)
    original = Store.command
    points = 0
    for cut in range(1, 60, STRIDE):
        await store.command(
            "ALTER TABLE fragments UPDATE properties = '{}' WHERE project = 1 SETTINGS mutations_sync = 2"
        )
        seen = 0

        async def cut_off(self: Store, query: Any, **parameters: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == (cut + 1) // 2 and cut % 2:  # noqa: B023
                raise CutOff
            await original(self, query, **parameters)
            if seen == cut // 2 and not cut % 2:  # noqa: B023
                raise CutOff

        monkeypatch.setattr(Store, "command", cut_off)
        try:
            report = await rebuilt(store, log, verify=False)
            monkeypatch.setattr(Store, "command", original)
            assert report.state == "swapped"
            break
        except CutOff:
            points += 1
        monkeypatch.setattr(Store, "command", original)
        again = await rebuilt(store, log, verify=False)
        assert (again.state, again.corrupt) == ("swapped", 0), cut
        assert visible(await state(store)) == visible(right), cut
        marks = await ClickHouseTables(store).load(COMMANDS, [0, 1], [])
        assert all(mark.version for mark in marks.positions.values())
    assert points > 30 // STRIDE
    await history.append(log, *history.commands(10, 60, 24, START + 1_000_000))
    await history.projected(store, log)  # and projection goes on
    assert (await rebuilt(store, log)).differences == 0


def visible(both: tuple[list[Any], list[Any]]) -> Any:
    """Without the memory of retries, which a damaged table may have lost for good."""
    memory = {
        r.FRAGMENTS.index(name) for name in ("version", "seen_at", "keys", "key_digests", "key_versions", "events")
    }
    return [[cell for at, cell in enumerate(row) if at not in memory] for row in both[0]], both[1]


async def test_projection_runs_beside_a_rebuild_and_nothing_is_lost(
    store: Store, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers fold on while shadows fill; every command is in the swapped tables, and the next rebuild agrees."""
    monkeypatch.setattr("services.projector.tables.facts.PAGE_ROWS_MAX", 300)
    tables = ClickHouseTables(store)
    workers = [
        Worker(log=log, reader=log.reader(one.topic, "g"), tables=tables, folder=one, monotonic=time.monotonic)
        for one in (FragmentFolder(), IdentityFolder())
    ]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    more = history.commands(6, 900, PERSONS, START + COUNT * 1_000)

    async def write() -> None:
        for start in range(0, len(more), 15):
            await history.append(log, *more[start : start + 15])
            await asyncio.sleep(0.02)

    writing = asyncio.create_task(write())
    report = await rebuilt(store, log)
    await writing
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (report.state, report.differences, report.findings) == ("swapped", 0, [])
    await history.projected(store, log)
    fresh = await rebuilt(store, log)
    assert (fresh.state, fresh.differences, fresh.findings) == ("swapped", 0, [])
    assert history.same_as_oracle(log, await state(store))


async def test_a_batch_folded_on_the_table_before_is_refused_by_the_rebuilt_one(store: Store, log: MemoryLog) -> None:
    tables = ClickHouseTables(store)
    marks = (await tables.load(COMMANDS, [0], [])).positions[0]
    await rebuilt(store, log)
    after = (await tables.load(COMMANDS, [0], [])).positions[0]
    assert (after.version, after.stamp, after.epoch) == (marks.version, marks.stamp, marks.epoch + 1)
    next_position = Position(COMMANDS, 0, (marks.version & (1 << 48) - 1) + 1)
    with pytest.raises(StoreUnavailable):
        await tables.write_state(COMMANDS, [], [(next_position, 1, marks.epoch)])
    await tables.write_state(COMMANDS, [], [(next_position, 1, after.epoch)])


async def test_deleted_data_stays_deleted_and_an_id_keeps_its_number(store: Store, log: MemoryLog) -> None:
    """What the deleter removes for good: all facts before the tombstones."""
    before = await state(store)
    erased = [row for row in before[0] if row[8] and not row[5]]
    assert erased
    await store.command(
        "DELETE FROM timeline WHERE topic NOT IN ('fragment.erased', 'person.deleted') AND fragment IN ("
        + ", ".join(f"'{row[1]}'" for row in erased)
        + ")"
    )
    report = await rebuilt(store, log)
    after = await state(store)
    assert {row[1]: row[4] for row in after[0]} == {row[1]: row[4] for row in before[0]}  # numbers
    assert all(row[11] == "{}" for row in after[0] if row[1] in {one[1] for one in erased})
    wrong = [text for text in report.findings if text.startswith("difference: fragments")]
    assert wrong == [], report.findings


async def test_a_write_waits_for_a_hold_and_a_hold_ends_by_itself(store: Store, log: MemoryLog) -> None:
    tables = ClickHouseTables(store)
    marks = (await tables.load(COMMANDS, [0], [])).positions[0]
    shadows = Shadows(store, log.partitions())
    ((now_ms,),) = await store.rows(shadows.queries["now"])
    await shadows.command("hold", table="fragments", until=now_ms + 1_000 * SECONDS_MAX)
    here = Position(COMMANDS, 0, marks.version & (1 << 48) - 1)
    with pytest.raises(StoreUnavailable):
        await tables.write_state(COMMANDS, [], [(here, marks.stamp, marks.epoch)])
    await shadows.command("release", table="fragments")
    await shadows.command("hold", table="fragments", until=now_ms + 500)
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            try:
                await tables.write_state(COMMANDS, [], [(here, marks.stamp, marks.epoch)])
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)
