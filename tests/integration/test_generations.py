"""What the store knows of its log: taken on once, and only one that has all that the tables hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from services.deleter.ledger import Ledger
from services.deleter.window import Window
from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.tables.marks import Vouched
from shared.domain.errors import LogMismatch, LogUnavailable, Superseded
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, Position, hash64
from shared.log.embedded.log import EmbeddedLog
from shared.log.evidence import Standing
from shared.log.identity import Generation
from shared.log.port import Entry
from shared.store.clickhouse.client import Store
from shared.store.generations import compared, current, generations, positions, take_on, write
from shared.store.logwatch import LogWatch

COUNTS = {COMMANDS: 4, IDENTITY: 2, DELETIONS: 1, DEAD: 1}


async def opened(folder: Path, *, create: bool = True) -> EmbeddedLog:
    log = EmbeddedLog(folder, COUNTS, create=create)
    await log.start()
    return log


async def project(store: Store, *positions: Position, record: int = 0) -> None:
    await ClickHouseTables(store).write_state(positions[0].topic, [], [Vouched(one, 0, 0, record) for one in positions])


async def test_a_log_is_taken_on_once(store: Store, tmp_path: Path) -> None:
    assert await current(store) is None
    log = await opened(tmp_path / "log")
    known = await take_on(log, store, 1)
    assert known == Generation(number=1, identity=await log.identity())
    assert await take_on(log, store, 2) == known == await current(store)
    assert await generations(store) == [known]
    await log.close()


async def test_another_log_is_not_taken_on_instead(store: Store, tmp_path: Path) -> None:
    log, other = await opened(tmp_path / "log"), await opened(tmp_path / "other")
    known = await take_on(log, store, 1)
    with pytest.raises(LogMismatch, match="This is another log"):
        await take_on(other, store, 2)
    assert await current(store) == known
    await log.close()
    await other.close()


async def test_an_existing_store_takes_on_a_log_that_has_what_its_tables_hold(store: Store, tmp_path: Path) -> None:
    """Position rows of before hashes were kept say no record."""
    log = await opened(tmp_path / "log")
    await log.append([Entry(COMMANDS, 1, b"", b"a"), Entry(COMMANDS, 1, b"", b"b"), Entry(DELETIONS, 0, b"", b"c")])
    await project(store, Position(COMMANDS, 1, 1))
    ledger = Ledger(store, Window(cron="0 5 * * 0", hours=6, zone="UTC"))
    await ledger.advance(Position(DELETIONS, 0, 0), hash64(b"c"))
    assert await positions(store) == {
        COMMANDS: {1: Standing(Position(COMMANDS, 1, 1), 0)},
        IDENTITY: {},
        DELETIONS: {0: Standing(Position(DELETIONS, 0, 0), hash64(b"c"))},
    }
    assert await ledger.vouched(0) == Standing(Position(DELETIONS, 0, 0), hash64(b"c"))
    assert (await take_on(log, store, 1)).number == 1
    await log.close()


@pytest.mark.parametrize(
    ("position", "record"),
    [(Position(COMMANDS, 1, 2), 0), (Position(IDENTITY, 0, 0), 0), (Position(COMMANDS, 1, 1), hash64(b"other"))],
)
async def test_an_existing_store_takes_on_no_log_that_lacks_it(
    store: Store, tmp_path: Path, position: Position, record: int
) -> None:
    log = await opened(tmp_path / "log")
    await log.append([Entry(COMMANDS, 1, b"", b"a"), Entry(COMMANDS, 1, b"", b"b")])
    await project(store, position, record=record)
    with pytest.raises(LogMismatch, match="it is an older copy, or another log"):
        await take_on(log, store, 1)
    assert await current(store) is None
    await log.close()


class SwappedLog(EmbeddedLog):
    """Another log lies under its path as soon as somebody asks where it ends."""

    other: Path

    async def heads(self, topic: str) -> list[Position]:
        if self.other.exists():
            self._path.rename(self.other.with_name("aside"))
            self.other.rename(self._path)
        return await super().heads(topic)


async def test_a_log_that_is_swapped_while_it_is_compared_is_told_by_its_name(store: Store, tmp_path: Path) -> None:
    log, other = await opened(tmp_path / "log"), await opened(tmp_path / "other")
    await log.append([Entry(COMMANDS, 1, b"", b"of the right log")])
    await other.append([Entry(COMMANDS, 1, b"", b"of the other")])
    known = await take_on(log, store, 1)
    await project(store, Position(COMMANDS, 1, 0), record=hash64(b"of the right log"))
    await log.close()
    await other.close()
    swapped = SwappedLog(tmp_path / "log", COUNTS, create=False)
    swapped.other = tmp_path / "other"
    await swapped.start()
    mismatch = await compared(swapped, store, known)
    assert mismatch is not None
    assert mismatch.line.startswith("This is another log")
    await swapped.close()


async def test_the_newest_open_generation_is_the_stores(store: Store, tmp_path: Path) -> None:
    log = await opened(tmp_path / "log")
    first = await take_on(log, store, 1)
    second = Generation(number=2, identity=msgspec.structs.replace(first.identity, id="second"))
    await write(store, second, 2)
    assert await current(store) == second
    with pytest.raises(Superseded):
        await LogWatch(log, store, first).start()
    closed = msgspec.structs.replace(second, state="closed")
    await write(store, closed, 3)
    assert await current(store) == first
    assert await generations(store) == [first, closed]
    await log.close()


async def test_nothing_is_acknowledged_before_the_first_look_nor_after_a_bad_one(store: Store, tmp_path: Path) -> None:
    made = await opened(tmp_path / "log")
    known = await take_on(made, store, 1)
    await made.close()
    log = await opened(tmp_path / "log", create=False)
    watch = LogWatch(log, store, known)
    log.doubt()
    with pytest.raises(LogUnavailable):
        await log.append([Entry(COMMANDS, 0, b"", b"a")])
    await watch.start()
    await log.append([Entry(COMMANDS, 0, b"", b"b")])
    (tmp_path / "log").rename(tmp_path / "aside")
    with pytest.raises(LogUnavailable):
        await log.append([Entry(COMMANDS, 0, b"", b"c")])
    mismatch = await watch.look()
    assert mismatch is not None
    assert mismatch.kind == "removed"
    assert watch.wrong == mismatch.line
    (tmp_path / "aside").rename(tmp_path / "log")
    with pytest.raises(LogUnavailable):
        await log.append([Entry(COMMANDS, 0, b"", b"d")])
    assert await watch.look() is None
    (position,) = await log.append([Entry(COMMANDS, 0, b"", b"e")])
    assert position.offset == 1
    await log.close()


@pytest.mark.parametrize("further", [[], [b"other", b"other"]], ids=["as it was", "and it went on"])
async def test_a_copy_that_lacks_what_was_acknowledged_is_told_though_the_tables_are_not_that_far(
    store: Store, tmp_path: Path, further: list[bytes]
) -> None:
    made = await opened(tmp_path / "log")
    known = await take_on(made, store, 1)
    await made.append([Entry(COMMANDS, 0, b"", b"a")])
    await made.close()
    shutil.copytree(tmp_path / "log", tmp_path / "older")
    if further:
        older = await opened(tmp_path / "older")
        for value in further:
            await older.append([Entry(COMMANDS, 0, b"", value)])
        await older.close()
    log = await opened(tmp_path / "log", create=False)
    watch = LogWatch(log, store, known)
    await watch.start()
    await log.append([Entry(COMMANDS, 0, b"", b"b")])
    (tmp_path / "log").rename(tmp_path / "aside")
    (tmp_path / "older").rename(tmp_path / "log")
    for _ in range(3):
        mismatch = await watch.look()
        assert mismatch is not None
        assert mismatch.kind == "older"
        assert "this process" in watch.wrong
        with pytest.raises(LogUnavailable):
            await log.append([Entry(COMMANDS, 0, b"", b"c")])
    (tmp_path / "log").rename(tmp_path / "wrong")
    (tmp_path / "aside").rename(tmp_path / "log")
    assert await watch.look() is None
    assert (await log.append([Entry(COMMANDS, 0, b"", b"d")]))[0].offset == 2
    await log.close()
