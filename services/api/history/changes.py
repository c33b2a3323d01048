"""properties_timeline?source=changes: every effective change of a person, with its cause
(docs/contract.md §5).

The facts of the person, and of everybody it was ever one with, are replayed by the events' own
folds. A point is a record after which the person has other properties or distinct ids, or that left
something out for want of room.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any
from uuid import UUID

import msgspec

from services.api.calls import RestCall
from services.api.http.parameters import LIMIT, Text
from services.api.http.routing import EndpointResult
from services.api.reads.as_of import check_size, facts
from services.api.reads.lookup import fragment_of, person_until
from services.api.writes.size_warnings import left_out_of
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

_CURSOR = re.compile(r"(-?\d{1,19})\.(\d{1,19})")

KEYS = Text(
    "keys",
    "With source=changes: only changes of these properties (`a,b`).",
    chars_max=4_000,
    example="plan",
)


class ChangeCursor(Text):
    """A place in the timeline of changes."""

    def read(self, text: str) -> str:
        self.place(super().read(text))
        return text

    def place(self, text: str) -> tuple[int, int]:
        """The stamp and version that a page begins behind. BadInput for a broken cursor."""
        if not text:
            return (-(2**63), 0)
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise self.wrong("is broken; take `next` as it is.")
        return int(match[1]), int(match[2])


STEP = ChangeCursor(
    "cursor",
    "With source=changes: the place to continue from. Use the URL in `next`.",
    chars_max=100,
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


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One record's effect on the person: the first of its facts, and the person before and
    after."""

    fact: Fact
    before: dict[str, Any]
    after: dict[str, Any]
    keys: list[str]
    distinct_ids: list[str]
    left_out: str = ""


async def changes(call: RestCall, span: tuple[int, int]) -> EndpointResult:
    """The page of points whose stamps lie within the span (microseconds)."""
    limit = call.parameter(LIMIT)
    keys = [key for key in call.parameter(KEYS).split(",") if key]
    after = STEP.place(call.parameter(STEP))
    addressed = await fragment_of(call)
    _, until = await person_until(call)
    person_facts = await _related_facts(
        call, addressed, FOREVER if until is None else until
    )
    timeline = await asyncio.to_thread(
        lambda: list(replay(call.project.id, addressed, person_facts))
    )
    selection = [
        change
        for change in timeline
        if span[0] <= change.fact.stamp <= span[1]
        and (change.fact.stamp, change.fact.version) > after
        and (not keys or set(keys) & set(change.keys))
    ]
    page, more = selection[:limit], len(selection) > limit
    url = call.request.url
    following = f"{page[-1].fact.stamp}.{page[-1].fact.version}" if more else ""
    return EndpointResult(
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
            _apply(_replay_of(replays, project, fact.fragment), fact, sizes)
        membership = _replay_of(replays, project, addressed).membership
        root = _replay_of(replays, project, membership.root).membership
        members = (
            _replay_of(replays, project, member).fragment
            for member in members_of(membership, root)
        )
        group = [member for member in members if member.alive]
        properties = shown_of(group, sizes)
        names = ordered_distinct_ids(member.distinct_id for member in group)
        changed = [
            key
            for key in sorted(before.keys() | properties.keys())
            if _differ(before, properties, key)
        ]
        left_out = (
            first.left_out
            if first is not None
            and any(member.id == first.fragment for member in group)
            else ""
        )
        if first is not None and (changed or names != ids or left_out):
            yield Change(
                fact=first,
                before=before,
                after=properties,
                keys=changed,
                distinct_ids=names,
                left_out=left_out,
            )
        before, ids = properties, names


def _apply(past: Replay, fact: Fact, sizes: dict[UUID, int]) -> None:
    """Fold a fact into its fragment, in the order of stamps; note the fragment's size."""
    event = event_of(fact)
    if isinstance(event, FragmentPurged):
        # what it left has its own place in this order
        event = at_moment(event, event.timestamp)
    if event is None:
        return
    # by stamps, an import comes before older versions
    past.fragment.version = past.membership.version = 0
    past.apply(event)
    if isinstance(event, FragmentEvent):
        sizes[fact.fragment] = size_of(past.fragment)


def _record(fact: Fact) -> tuple[int, bool, int, UUID]:
    """The sort key that all facts of one record share, in the order of stamps."""
    return fact.stamp, fact.of_person, fact.version, fact.command


def _replay_of(replays: dict[UUID, Replay], project: int, fragment: UUID) -> Replay:
    if fragment not in replays:
        replays[fragment] = Replay(project, fragment)
    return replays[fragment]


async def _related_facts(call: RestCall, addressed: UUID, until: int) -> list[Fact]:
    """The facts of a fragment, and of all that were ever one person with it."""
    related: list[Fact] = []
    visited: set[UUID] = set()
    frontier = {addressed}
    size = 0
    for _ in range(ROUNDS_MAX):
        visited |= frontier
        neighbours: set[UUID] = set()
        async for page in facts(call.context, call.project.id, sorted(frontier), until):
            early = [fact for fact in page if fact.stamp <= until]
            related += early
            size = check_size(early, size)
            for fact in early:
                if fact.topic in MOVES:
                    neighbours |= {fact.root, fact.peer, *fact.members}
            if len(related) > FACTS_MAX or len(visited) > 2 * MEMBERS_MAX:
                raise BadInput(
                    f"More than {FACTS_MAX} changes: too many for one timeline."
                )
        frontier = neighbours - visited - {UUID(int=0)}
        if not frontier:
            return related
    return related


def _point(call: RestCall, change: Change) -> dict[str, Any]:
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
        **({"left_out": left_out_of(change.left_out)} if change.left_out else {}),
    }


def _differ(before: dict[str, Any], after: dict[str, Any], key: str) -> bool:
    return (key in before) != (key in after) or not same(before[key], after[key])
