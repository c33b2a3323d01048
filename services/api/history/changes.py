"""properties_timeline?source=changes: every effective change of a person, with its cause
(docs/contract.md §5).

Never guesses: the person's own facts and those of everybody it was ever one with are replayed by
the events' own folds; a point is a record after which the person shows something else, or is
another set of distinct ids, or of which something was left out because there was no room.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any
from uuid import UUID

import msgspec

from services.api.calls import Call
from services.api.http.parameters import LIMIT, Text
from services.api.http.routing import Answer
from services.api.reads.as_of import check_size, facts
from services.api.writes.size_warnings import told
from shared.domain.errors import BadInput
from shared.domain.ids import format_positions
from shared.domain.person.cells import same
from shared.domain.person.fragment_events import FragmentEvent, FragmentPurged
from shared.domain.person.identity import MEMBERS_MAX
from shared.domain.person.replay import FOREVER, Replay, members_of
from shared.domain.person.view import ordered_distinct_ids
from shared.domain.purged import at_moment
from shared.store.person import iso, shown_of, size_of
from shared.store.timeline import Fact, event_of

FACTS_MAX = 20_000
"""Facts that one request replays: each makes the person anew, about 50 µs."""

ROUNDS_MAX = 8
"""Rounds of asking for those that were merged with those that were merged with the person."""

KEYS = Text(
    "keys",
    "With source=changes: only changes of these properties (`a,b`).",
    most=4_000,
    example="plan",
)
STEP = Text(
    "cursor",
    "With source=changes: the place to continue from. Use the URL in `next`.",
    most=100,
    form="step",
)

MOVES = {
    "person.merged",
    "person.joined",
    "person.split",
    "person.left",
    "person.rerooted",
}
"""Topics of facts that name other fragments of the person."""

_CURSOR = re.compile(r"(-?\d{1,19})\.(\d{1,19})")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One record's effect on the person: the first of its facts, and the person before and
    after."""

    fact: Fact
    before: dict[str, Any]
    after: dict[str, Any]
    keys: list[str]
    distinct_ids: list[str]
    left_out: str = ""


async def changes(call: Call, span: tuple[int, int]) -> Answer:
    """The page of points whose stamps lie within the span (microseconds)."""
    limit = call.asked(LIMIT)
    keys = [key for key in call.asked(KEYS).split(",") if key]
    after = _cursor(call.asked(STEP))
    addressed = await call.fragment()
    await call.person_seen()
    until = await call.as_of()
    related = await _related(call, addressed, FOREVER if until is None else until)
    found = await asyncio.to_thread(
        lambda: list(replay(call.project.id, addressed, related))
    )
    wanted = [
        change
        for change in found
        if span[0] <= change.fact.stamp <= span[1]
        and (change.fact.stamp, change.fact.version) > after
        and (not keys or set(keys) & set(change.keys))
    ]
    page, more = wanted[:limit], len(wanted) > limit
    url = call.request.url
    following = f"{page[-1].fact.stamp}.{page[-1].fact.version}" if more else ""
    return Answer(
        body={
            "points": [_point(call, change) for change in page],
            "crucial_property_keys": sorted(keys),
            "effective_date_from": iso(max(span[0], 0)),
            "effective_date_to": iso(min(span[1], call.context.clock.now_us())),
            "next": str(url.update_query(cursor=following)) if more else None,
        }
    )


def replay(project: int, addressed: UUID, facts: Iterable[Fact]) -> Iterator[Change]:
    """The changes of the person that holds `addressed`, in the order of their stamps. Pure.

    `facts` are those of the present lives of every fragment that was ever one with it.
    """
    replays: dict[UUID, Replay] = {}
    sizes: dict[UUID, int] = {}
    before: dict[str, Any] = {}
    ids: list[str] = []
    for _, record in groupby(sorted(facts, key=_record), key=_record):
        first = None
        for fact in record:
            first = first or fact
            event = event_of(fact)
            if isinstance(
                event, FragmentPurged
            ):  # what it left has its own place in this order
                event = at_moment(event, event.timestamp)
            if event is not None:
                told = _replay_of(replays, project, fact.fragment)
                told.fragment.version = told.membership.version = (
                    0  # by stamps, an import comes before older versions
                )
                told.apply(event)
                if isinstance(event, FragmentEvent):
                    sizes[fact.fragment] = size_of(told.fragment)
        mine = _replay_of(replays, project, addressed).membership
        root = _replay_of(replays, project, mine.root).membership
        members = (
            _replay_of(replays, project, one).fragment for one in members_of(mine, root)
        )
        group = [one for one in members if one.alive]
        shown = shown_of(group, sizes)
        names = ordered_distinct_ids(one.distinct_id for one in group)
        changed = [
            key
            for key in sorted(before.keys() | shown.keys())
            if _differ(before, shown, key)
        ]
        left_out = (
            first.left_out
            if first is not None and any(one.id == first.fragment for one in group)
            else ""
        )
        if first is not None and (changed or names != ids or left_out):
            yield Change(
                fact=first,
                before=before,
                after=shown,
                keys=changed,
                distinct_ids=names,
                left_out=left_out,
            )
        before, ids = shown, names


def _record(fact: Fact) -> tuple[int, bool, int, UUID]:
    """What the facts of one record have in common, in the order of their stamps."""
    return fact.stamp, fact.of_person, fact.version, fact.command


def _replay_of(replays: dict[UUID, Replay], project: int, fragment: UUID) -> Replay:
    if fragment not in replays:
        replays[fragment] = Replay(project, fragment)
    return replays[fragment]


async def _related(call: Call, addressed: UUID, until: int) -> list[Fact]:
    """The facts of a fragment, and of all that were ever one person with it."""
    found: list[Fact] = []
    known: set[UUID] = set()
    wanted = {addressed}
    size = 0
    for _ in range(ROUNDS_MAX):
        known |= wanted
        related: set[UUID] = set()
        async for page in facts(call.context, call.project.id, sorted(wanted), until):
            early = [fact for fact in page if fact.stamp <= until]
            found += early
            size = check_size(early, size)
            for fact in early:
                if fact.topic in MOVES:
                    related |= {fact.root, fact.peer, *fact.members}
            if len(found) > FACTS_MAX or len(known) > 2 * MEMBERS_MAX:
                raise BadInput(
                    f"More than {FACTS_MAX} changes: too many for one timeline."
                )
        wanted = related - known - {UUID(int=0)}
        if not wanted:
            return found
    return found


def _point(call: Call, change: Change) -> dict[str, Any]:
    fact = change.fact
    captured = not fact.of_person and fact.actor == "capture"
    return {
        "timestamp": iso(fact.stamp),
        "properties": change.after,
        "relevant_event_count": 1,
        "distinct_ids": change.distinct_ids,
        "position": format_positions([fact.position(call.context.generations)]),
        "actor": call.context.access.name_of(fact.actor),
        "cause": {
            "command": str(fact.command),
            "kind": "capture" if captured else fact.source,
            "event": fact.source or None
            if captured
            else None,  # erased with the events' names
        },
        "keys": change.keys,
        "before": {
            key: change.before[key] for key in change.keys if key in change.before
        },
        "after": {key: change.after[key] for key in change.keys if key in change.after},
        **({"left_out": told(change.left_out)} if change.left_out else {}),
    }


def _differ(before: dict[str, Any], after: dict[str, Any], key: str) -> bool:
    return (key in before) != (key in after) or not same(before[key], after[key])


def _cursor(text: str) -> tuple[int, int]:
    if not text:
        return (-(2**63), 0)
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise BadInput("The cursor is broken; take `next` as it is.", attr="cursor")
    return int(match[1]), int(match[2])
