"""Persons that hold more than one may show, on the real engine: rows are read in two steps, by the one rule."""

from __future__ import annotations

import random
from uuid import UUID, uuid4

import orjson
import pytest

from services.api.reads import persons as reads_module
from services.api.reads.persons import Reads
from services.projector import search
from services.projector.search import Feeder
from services.projector.tables import clickhouse as tables
from services.projector.tables.clickhouse import ClickHouseTables
from services.projector.tables.rows import FRAGMENTS, columns, fragment_row
from shared.domain.commands import Command, MergePersons, SplitPerson, Write
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, fragment_id
from shared.domain.person import view
from shared.domain.person.fragment import Fragment
from shared.log.memory import MemoryLog
from shared.store import person
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from tests.support import history

PARTITIONS = {COMMANDS: 4, IDENTITY: 2, DELETIONS: 1, DEAD: 1}
START = 1_795_000_000_000_000
IDS = [f"p{number}" for number in range(24)]
MERGED, ROW = 2_500, 300


def commands(seed: int) -> list[Command]:
    """Writes of texts of any size, and a few large persons."""
    chosen = random.Random(seed)
    found: list[Command] = []
    for number in range(160):
        name, other = chosen.choice(IDS), chosen.choice(IDS)
        head = {"id": uuid4(), "project": 1, "at": START + number * 1_000, "actor": "test"}
        kind = chosen.random()
        if kind < 0.7:
            text = chosen.choice("xyé") * chosen.choice((1, 10, 10, 200, 700, 900))
            sets = {chosen.choice("abcdef"): text}
            found.append(Write(**head, fragment=fragment_id(1, name), distinct_id=name, set=sets, reason="update"))
        elif kind < 0.95:
            found.append(MergePersons(**head, into=fragment_id(1, name), source=fragment_id(1, other), mode="operator"))
        else:
            leave = (fragment_id(1, other),)
            found.append(SplitPerson(**head, person=fragment_id(1, name), leave=leave))
    return found


def small_bounds(patch: pytest.MonkeyPatch) -> None:
    for module in (reads_module, search):
        patch.setattr(module, "ROW_BYTES_WHOLE", ROW)
    for module in (view, person):
        patch.setattr(module, "MERGED_BYTES_MAX", MERGED)
    patch.setattr(tables, "LOAD_ROW_BYTES_MAX", ROW)


@pytest.mark.parametrize("seed", range(3))
async def test_reads_and_the_search_table_show_what_the_rule_says(
    store: Store, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The rule again, over the sizes that the engine tells."""
    small_bounds(monkeypatch)
    log, feeder = MemoryLog(PARTITIONS), Feeder(store, PARTITIONS)
    await history.append(log, *commands(seed))
    await history.projected(store, log)
    await feeder.feed()
    sizes_of = "SELECT fragment, length(properties) + length(cells) FROM fragments FINAL WHERE project = 1"
    sizes = dict(await store.rows(Query(name="sizes", sql=sizes_of)))
    fed_of = "SELECT fragment, toString(properties) FROM search FINAL WHERE project = 1 AND living = 1"
    fed = dict(await store.rows(Query(name="fed", sql=fed_of)))
    oracle = history.oracle_of(log)
    reads = Reads(store, lambda: PARTITIONS, lambda stamp: None)
    left_out = 0
    for group in oracle.people:
        members = [key for key in group if key in sizes]
        if not members:
            continue
        shown: list[UUID] = []
        total = 0
        for key in sorted(members, key=lambda key: (sizes[key], key)):
            total += sizes[key]
            if total <= MERGED:
                shown.append(key)
        expected = oracle.shown(*(oracle.fragment(key) for key in shown), keys=tuple(shown))
        found = await reads.by_fragment(1, members[0])
        assert found is not None
        assert found.document() == expected
        assert found.to_json().get("properties_left_out", {"distinct_ids": 0}) == {
            "distinct_ids": len(members) - len(shown)
        }
        assert orjson.loads(fed[group[0]]) == expected
        left_out += len(members) - len(shown)
    assert left_out > 0


async def test_the_projector_loads_large_rows_only_when_it_asks_for_them(store: Store) -> None:
    small, large = fragment_id(1, "small"), fragment_id(1, "large")
    await _insert(store, small, {"a": 1})
    await _insert(store, large, {"a": "é" * 20_000})
    loading = ClickHouseTables(store)
    found = await loading.load(COMMANDS, [0], [(1, small), (1, large)])
    assert [row[1] for row in found.rows] == [small]
    assert list(found.large) == [(1, large)]
    assert found.large[1, large] > 40_000
    whole = await loading.load(COMMANDS, [0], [(1, large)], whole=True)
    assert orjson.loads(whole.rows[0][11]) == {"a": "é" * 20_000}


async def test_a_fragment_of_an_older_store_that_is_above_all_bounds_shows_nothing_and_says_so(store: Store) -> None:
    old = fragment_id(1, "old")
    await _insert(store, old, {"a": "x" * 5_000_000, "b": 1})
    found = await Reads(store, lambda: PARTITIONS, lambda stamp: None).by_fragment(1, old)
    assert found is not None
    assert (found.to_json()["properties"], found.to_json()["properties_left_out"]) == ({}, {"distinct_ids": 1})
    row = await Reads(store, lambda: PARTITIONS, lambda stamp: None).row_of(1, old)
    assert row is not None
    assert orjson.loads(row.properties)["b"] == 1  # an export hands it out all the same


async def _insert(store: Store, key: UUID, properties: dict[str, object]) -> None:
    fragment = Fragment(1, key)
    fragment.properties, fragment.distinct_id = properties, "old"
    fragment.cells = dict.fromkeys(properties, (1, 1, 0))
    fragment.created_at, fragment.version = START, 1
    await store.insert("fragments", columns(FRAGMENTS, [fragment_row(fragment)]))
