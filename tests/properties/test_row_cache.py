"""Rows that are kept are the newest, whatever writers do meanwhile: land late, fail, overlap, or mark nothing."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from services.api.reads import row_cache
from services.api.reads.row_cache import MISS, RowCache
from shared.domain.ids import COMMANDS, IDENTITY
from shared.store.shared_memory.segment import SharedMemory, renew

PARTITIONS = {COMMANDS: 2, IDENTITY: 1}
FRAGMENTS = [(number % 2) << 64 | number for number in range(12)]
STEPS = 40_000


class World:
    """A table of one row a fragment, its writers (one a partition) and a reader, step by step in any order."""

    def __init__(self, path: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.memory = SharedMemory(path, PARTITIONS)
        self.reader = SharedMemory(path, PARTITIONS)  # another process
        self.cache = RowCache(COMMANDS, self.reader, lambda: 0.0)
        self.table: dict[int, int] = {}
        self.reached = [0, 0]
        self.version = 0
        self.nonce = seed << 20
        self.flights: list[dict[str, Any] | None] = [None, None]
        self.late: list[dict[str, Any]] = []
        self.asked: list[tuple[Any, dict[Any, Any] | None, dict[Any, Any]]] = []
        self.seen: Counter[str] = Counter()

    def step(self) -> None:
        finds = [self.find] * 3
        self.random.choice([self.write, self.ask, *[self.answer] * 2, *finds, self.land_late, self.everything])()

    def write(self) -> None:
        """The writer of a partition goes on by one step: marks, lands, marks again; or fails and may land later."""
        partition = self.random.randrange(2)
        flight = self.flights[partition]
        if flight is None:
            self.version += 1
            mine = [one for one in FRAGMENTS if one >> 64 == partition]
            rows = self.random.sample(mine, self.random.randrange(1, 4))
            slots = [self.memory.versions.slot(COMMANDS, 1, one) for one in rows]
            self.memory.versions.begin_write(slots, self.nonce)
            self.memory.board.publish(COMMANDS, [(partition, self.version)])
            self.flights[partition] = {"rows": rows, "slots": slots, "version": self.version, "landed": False}
        elif not flight["landed"]:
            if self.random.random() < 0.05:  # no answer came: it may have landed, may still, or never will
                self.flights[partition] = None
                self.late.append(flight)
            else:
                self.land(partition, flight)
        else:
            self.nonce += 2
            self.memory.versions.end_write(flight["slots"], self.nonce)
            self.flights[partition] = None

    def land(self, partition: int, flight: dict[str, Any]) -> None:
        for one in flight["rows"]:
            self.table[one] = max(flight["version"], self.table.get(one, 0))
        self.reached[partition] = max(self.reached[partition], flight["version"])
        flight["landed"] = True

    def land_late(self) -> None:
        if self.late:
            flight = self.late.pop(self.random.randrange(len(self.late)))
            if not any(set(flight["rows"]) & set(other["rows"]) for other in self.flights if other is not None):
                self.land(flight["rows"][0] >> 64, flight)  # whoever repeats it holds the same rows

    def everything(self) -> None:
        if self.random.random() < 0.02:
            self.nonce += 4
            with self.memory.versions.rewrite(self.nonce):
                self.version += 1
                self.table = dict.fromkeys(FRAGMENTS, self.version)
                self.find()

    def ask(self) -> None:
        """The reader begins to ask the table; what the store answers is taken now, and arrives some time later."""
        if len(self.asked) >= 4:
            return
        keys = [(1, one) for one in self.random.sample(FRAGMENTS, 3)]
        snapshot = self.cache.version_snapshot(keys)
        self.asked.append((snapshot, None, {}))

    def answer(self) -> None:
        if not self.asked:
            return
        snapshot, rows, reached = self.asked.pop(self.random.randrange(len(self.asked)))
        if rows is None:  # the store's moment
            now = {key: (self.table[key[1]],) for key in snapshot if key[1] in self.table}
            self.asked.append((snapshot, now, {(COMMANDS, at): self.reached[at] for at in range(2)}))
        else:
            self.cache.put(snapshot, rows, reached)

    def find(self) -> None:
        key = 1, self.random.choice(FRAGMENTS)
        found = self.cache.get(key)
        if found is MISS:
            self.seen["unknown"] += 1
            return
        self.seen["known"] += 1
        newest = (self.table[key[1]],) if key[1] in self.table else None
        assert found == newest, f"a kept row is old: {found}, and {newest} is in the table"


@pytest.mark.parametrize("seed", range(5))
def test_a_kept_row_is_the_newest(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path / "changes", seed + 1)
    for _ in range(STEPS):
        world.step()
    assert world.seen["known"] > STEPS / 100, world.seen  # else nothing was tested


def test_a_writer_that_marks_nothing_is_noticed_by_its_position(tmp_path: Path) -> None:
    memory = SharedMemory(tmp_path / "changes", PARTITIONS)
    memory.board.publish(COMMANDS, [(0, 5)])
    rows, key = RowCache(COMMANDS, memory, lambda: 0.0), (1, FRAGMENTS[0])
    rows.put(rows.version_snapshot([key]), {key: (1,)}, {(COMMANDS, 0): 6})
    assert rows.get(key) is MISS
    rows.put(rows.version_snapshot([key]), {key: (1,)}, {(COMMANDS, 0): 5})
    assert rows.get(key) == (1,)


def test_without_a_proof_nothing_is_kept() -> None:
    rows, key = RowCache(COMMANDS, None, lambda: 0.0), (1, FRAGMENTS[0])
    rows.put(rows.version_snapshot([key]), {key: (1,)}, {})
    assert rows.get(key) is MISS


def test_kept_rows_are_bounded_and_the_least_used_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "CACHE_BYTES_MAX", 10 * (row_cache.ROW_BYTES + 100))
    rows = RowCache(COMMANDS, SharedMemory(tmp_path / "changes", PARTITIONS), lambda: 0.0)
    keys = [(1, number) for number in range(30)]
    for key in keys:
        rows.put(rows.version_snapshot([key]), {key: ("x" * 100,)}, {})
        rows.get(keys[0])
    known = [key for key in keys if rows.get(key) is not MISS]
    assert known == [keys[0], *keys[-9:]]


def test_all_are_forgotten_after_a_time(tmp_path: Path) -> None:
    now = [0.0]
    rows, key = RowCache(COMMANDS, SharedMemory(tmp_path / "changes", PARTITIONS), lambda: now[0]), (1, FRAGMENTS[0])
    rows.put(rows.version_snapshot([key]), {key: ("ann@example.com",)}, {})
    now[0] = row_cache.CACHE_SECONDS_MAX
    assert rows.get(key) == ("ann@example.com",)
    now[0] += 1
    assert rows.get((1, FRAGMENTS[1])) is MISS
    assert rows.generation == 1
    assert rows.get(key) is MISS


def test_a_renewed_file_holds_nothing_and_is_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "changes"
    renew(path, 8)  # there is none yet
    memory = SharedMemory(path, PARTITIONS)
    memory.board.publish(COMMANDS, [(1, 5)])
    memory.board.confirm(COMMANDS, [(1, 5, 77)])
    rows, key = RowCache(COMMANDS, memory, lambda: 0.0), (1, FRAGMENTS[1])
    rows.put(rows.version_snapshot([key]), {key: (1,)}, {(COMMANDS, 1): 5})
    assert rows.get(key) == (1,)
    assert (COMMANDS, 1, 5, 77) in set(memory.board.read())
    inode = path.stat().st_ino
    renew(path, 8)
    assert path.stat().st_ino == inode
    assert rows.get(key) is MISS
    assert {(version, stamp) for _, _, version, stamp in memory.board.read()} == {(0, 0)}
    rows.put(rows.version_snapshot([key]), {key: (1,)}, {(COMMANDS, 1): 5})
    assert rows.get(key) is MISS, "nobody has published the position that the store is at"


def test_an_identity_row_is_marked_where_its_project_is_written(tmp_path: Path) -> None:
    memory = SharedMemory(tmp_path / "changes", {COMMANDS: 2, IDENTITY: 3})
    slots = {memory.versions.slot(IDENTITY, project, FRAGMENTS[0]) for project in range(3)}
    assert len(slots) == 3
    assert not slots & {memory.versions.slot(COMMANDS, 1, one) for one in FRAGMENTS}
