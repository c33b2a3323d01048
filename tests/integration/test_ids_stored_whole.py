"""Ids that are not stored as they were sent are readable and erasable.

Those that an older version stored whole, and what capture makes of any text.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from services.projector.search import Feeder
from shared.domain.commands import Write
from shared.domain.ids import fragment_id
from shared.inputs.ids import stored_id
from shared.store.clickhouse.client import Store
from tests.support import api, history
from tests.support.tier import sized

LONG = "whole-" + "x" * 300


class World:
    """The API on a log that is projected when it is told to."""

    def __init__(self, served: api.Api, store: Store) -> None:
        self.api, self.store = served, store

    async def write(self, *distinct_ids: str) -> None:
        writes = [
            Write(
                id=uuid4(), project=1, at=api.NOW - 1_000_000 + number, actor="test", fragment=fragment_id(1, name),
                distinct_id=name, set={"name": name[-20:]}, reason="update",
            )
            for number, name in enumerate(distinct_ids)
        ]  # fmt: skip
        await history.append(self.api.log, *writes)
        await self.settle()

    async def settle(self) -> None:
        await history.projected(self.store, self.api.log)
        await Feeder(self.store, self.api.log.partitions()).feed()
        await self.api.context.watermarks.refresh()

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {api.PERSONAL_KEY}", "Prefer": "respond-async"}
        answer = await self.api.client.request(method, f"/api/projects/1/persons{path}", json=body, headers=headers)
        assert answer.status in (200, 202), await answer.text()
        return await answer.json()

    async def listed(self, query: str) -> list[Sequence[str]]:
        return [row["distinct_ids"] for row in (await self.ask("GET", f"/?{query}"))["results"]]


@pytest.fixture
async def world(engine_url: str) -> AsyncIterator[World]:
    async with api.serving(engine_url) as served:
        store = await Store.connect(engine_url)
        yield World(served, store)
        await store.close()


async def test_an_id_that_was_stored_whole_is_read_and_erased(world: World) -> None:
    await world.write(LONG)
    query = f"distinct_id={quote(LONG)}"
    assert await world.listed(query) == await world.listed(f"{query}&include_total=true") == [[LONG]]
    batch = await world.ask("POST", "/batch_by_distinct_ids/", {"distinct_ids": [LONG]})
    assert [person["distinct_ids"] for person in batch["results"].values()] == [[LONG]]
    answer = await world.ask("POST", "/bulk_delete/", {"distinct_ids": [LONG]})
    assert (answer["persons_found"], answer["persons_deleted"], answer["persons_queued_for_deletion"]) == (1, 0, 1)
    await world.settle()
    assert await world.listed(query) == []


async def test_of_both_the_whole_one_is_preferred_and_both_are_listed_and_erased(world: World) -> None:
    """The same client went on after the upgrade: what it sends since is stored cut."""
    cut = stored_id(LONG)
    await world.write(cut, LONG, f"{LONG}-other")
    query = f"distinct_id={quote(LONG)}"
    assert sorted(await world.listed(query)) == sorted(await world.listed(f"{query}&include_total=true"))
    assert sorted(await world.listed(query)) == sorted([[LONG], [cut]])
    batch = await world.ask("POST", "/batch_by_distinct_ids/", {"distinct_ids": [LONG, cut]})
    assert {asked: person["distinct_ids"] for asked, person in batch["results"].items()} == {LONG: [LONG], cut: [cut]}
    answer = await world.ask("POST", "/bulk_delete/", {"distinct_ids": [LONG]})
    assert (answer["persons_found"], answer["unmatched"]) == (2, [])
    await world.settle()
    assert (await world.listed(query), await world.listed("")) == ([], [[f"{LONG}-other"]])


PIECES = (
    "a", "B", "é", "e\u0301", "字", "🦊", " ", "/", "%2F", "%", "+", "?", "&", "#", "\"", "'", "\\", "\n", "\x00", "{}",
)  # fmt: skip


def text(chosen: random.Random) -> str:
    """Any text that is not blank, short or longer than is stored."""
    count = chosen.choice([1, 3, 20, 180, 199, 200, 201, 400, 401, 1_500])
    return "".join(chosen.choice(PIECES) for _ in range(count)) + str(chosen.getrandbits(32))


@pytest.mark.parametrize("seed", range(sized(dev=1, ci=5, soak=30)))
async def test_any_text_finds_its_person_by_every_route(world: World, seed: int) -> None:
    chosen = random.Random(seed)
    ids = list(dict.fromkeys(text(chosen) for _ in range(40)))
    batch = [
        {"event": "e", "distinct_id": name, "properties": {"$set": {"n": number}}} for number, name in enumerate(ids)
    ]
    answer = await world.api.client.post("/batch/", json={"api_key": api.TOKEN, "batch": batch})
    assert answer.status == 200
    await world.settle()
    results = (await world.ask("POST", "/batch_by_distinct_ids/", {"distinct_ids": ids}))["results"]
    assert {name: person["properties"]["n"] for name, person in results.items()} == {
        name: number for number, name in enumerate(ids)
    }
    for name in ids:
        query = f"distinct_id={quote(name, safe='')}"
        rows = await world.listed(query)
        assert rows == await world.listed(f"{query}&include_total=true") == [[stored_id(name)]]
    kept, gone = ids[:10], ids[10:]
    answer = await world.ask("POST", "/bulk_delete/", {"distinct_ids": gone})
    assert (answer["persons_found"], answer["unmatched"]) == (len(gone), [])
    await world.settle()
    assert sorted(await world.listed("")) == sorted([stored_id(name)] for name in kept)
