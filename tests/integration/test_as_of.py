"""As of on the real engine: every read of the past equals the oracle's replay of the log, stopped at that moment."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from services.api.app import build
from services.api.context import Context
from services.api.reads.as_of import candidates_at, persons_at
from services.api.reads.cursors import CURSOR_START
from services.api.reads.pagination import Walk
from shared.domain.ids import COMMANDS, IDENTITY, fragment_id
from shared.log.memory import MemoryLog
from shared.runtime.clock import ManualClock
from shared.store.clickhouse.client import Store
from shared.store.objects import Objects
from shared.store.person import Person
from tests.support import history
from tests.support.api import NOW
from tests.support.tier import sized

COMMANDS_COUNT, PERSONS, MOMENTS = 2_000, 100, sized(dev=25, ci=100, soak=1_000)
"""100 moments of 100 persons are 10,000 pairs."""


async def test_as_of_equals_a_replay_stopped_there_for_every_person_and_moment(store: Store) -> None:
    log = MemoryLog({COMMANDS: 4, IDENTITY: 2, "personlog.deletions": 1, "personlog.dead": 1})
    start = NOW - COMMANDS_COUNT * 1_000
    await history.append(log, *history.commands(7, COMMANDS_COUNT, PERSONS, start))
    await history.projected(store, log)
    context = await build(log, store, Objects("memory:///"), ManualClock(NOW))
    fragments = [fragment_id(1, f"p{number}") for number in range(PERSONS)]
    chosen = random.Random(11)
    moments = [start - 1, *(chosen.randrange(start, NOW) for _ in range(MOMENTS - 2)), NOW]
    pairs, seen, merged, nobody = 0, 0, 0, 0
    try:
        for until in moments:
            expected = history.persons_at(log, until)
            persons = await persons_at(context, 1, fragments, until)
            for fragment, person in zip(fragments, persons, strict=True):
                pairs += 1
                nobody += person is None
                merged += person is not None and len(person.members) > 1
                shown = None if person is None else described(person)
                assert shown == expected.get(fragment), (until, fragment)
            walk = Walk(candidates_at(context, 1, until), partial(_build, context, until))
            listed = [person async for batch in walk.batches(CURSOR_START, 1_000) for person in batch]
            assert walk.after is None
            assert sorted(one.uuid for one in listed) == sorted({one["uuid"] for one in expected.values()})
            assert [one.created_at for one in listed] == sorted((one.created_at for one in listed), reverse=True)
            seen += len(listed)
        now = await context.reads.by_fragments(1, fragments)
        assert [one and described(one) for one in now] == [one and described(one) for one in persons]
    finally:
        await context.watermarks.close()
        await context.access.close()
    print(f"as of: {pairs} pairs, {merged} of them merged, {nobody} nobody, {seen} persons listed, 0 differences")
    assert pairs == PERSONS * MOMENTS
    assert merged > 10 * MOMENTS and nobody > 5 * MOMENTS  # the history has what it should


async def _build(context: Context, until: int, roots: Sequence[UUID]) -> list[Person | None]:
    return await persons_at(context, 1, roots, until)


def described(person: Any) -> dict[str, Any]:
    return {
        "uuid": person.uuid,
        "distinct_ids": person.distinct_ids,
        "properties": person.document(),
        "created_at": person.created_at,
        "identified": person.identified,
    }
