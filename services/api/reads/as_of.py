"""Reading persons as of a moment: the timeline replayed up to a stamp, by the folds that made the
present. The tables of the present are not read."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC
from typing import Any
from uuid import UUID

import orjson

from services.api.context import Context
from services.api.reads.cursors import Cursor
from services.api.reads.pagination import Candidates, page_of
from shared.domain.errors import BadInput
from shared.domain.ids import COMMANDS, IDENTITY, Position, parse_positions
from shared.domain.person.replay import Replay, members_of
from shared.domain.person.view import Member
from shared.inputs.dates import micros, read_absolute
from shared.log.port import APPEND_SECONDS_MAX
from shared.store.person import Person, assemble
from shared.store.timeline import PAGE_ROWS_MIN, Fact, bytes_of, event_of, next_page

FACTS_PER_QUERY_MAX = 20_000
"""Rows of the timeline held at once; a person with more is read in pages, and in smaller ones where
they are large."""

FACTS_BYTES_MAX = 64_000_000
"""Of the facts of one person that are all held at once."""

PAGES_MAX = 1_000
"""Pages of one read: twenty million facts are more than any person has."""

UNSETTLED_US = int((APPEND_SECONDS_MAX + 2) * 1_000_000)
"""A moment younger than this may still be written to: a stamp is given before its append, which may
take so long."""

_POSITION = re.compile(r"[cid]\.\d")


async def moment(context: Context, project: int, text: str, attr: str = "as_of") -> int:
    """The stamp of an ISO time or of a position; BadInput when it is neither, or lies in the
    future.

    Commands that may still be written with an earlier stamp are waited for, so that a repeat gets
    the same answer.
    """
    if _POSITION.match(text):
        return await stamp_of(context, project, parse_positions(text, attr), attr)
    reading = read_absolute(text, UTC)
    if reading is None:
        raise BadInput(
            f"{attr} must be a time (ISO 8601) or a position (c.17.123456).", attr=attr
        )
    until = micros(reading.before)
    now = max(context.clock.now_us(), context.stamps.highest)
    if until > now:
        raise BadInput(f"{attr} lies in the future.", attr=attr)
    if until > now - UNSETTLED_US:
        await context.wait_for_heads(COMMANDS, IDENTITY)
    return until


async def persons_at(
    context: Context, project: int, fragments: Sequence[UUID], until: int
) -> list[Person | None]:
    """The persons that held these fragments at a moment, in their order; None for nobody."""
    pasts: dict[UUID, Replay] = {}
    await _replay(context, project, fragments, (until, pasts))
    await _replay(
        context,
        project,
        {past.membership.root for past in pasts.values()},
        (until, pasts),
    )
    groups = {
        fragment: members_of(
            pasts[fragment].membership,
            pasts[pasts[fragment].membership.root].membership,
        )
        for fragment in fragments
    }
    await _replay(
        context,
        project,
        {member for group in groups.values() for member in group},
        (until, pasts),
    )
    return [
        assemble(
            project,
            groups[fragment][0],
            [_member(pasts[member]) for member in groups[fragment]],
        )
        for fragment in fragments
    ]


def candidates_at(
    context: Context, project: int, until: int, *, backwards: bool = False
) -> Candidates:
    """Candidates for a list as of a moment: its roots."""
    query = page_of(context.reads.queries["roots_page_at"], backwards=backwards)

    async def candidates(cursor: Cursor, limit: int) -> list[tuple[UUID, int]]:
        return await context.store.rows(
            query,
            project=project,
            until=until,
            created=cursor[0],
            person=cursor[1],
            limit=limit,
        )

    return candidates


async def facts(
    context: Context, project: int, fragments: Iterable[UUID], until: int
) -> AsyncIterator[list[Fact]]:
    """The facts that make these fragments what they were, in pages: by fragment, in the order of
    versions."""
    cursor: dict[str, Any] = {"fragment": UUID(int=0), "version": 0, "topic": ""}
    limit = PAGE_ROWS_MIN
    for _ in range(PAGES_MAX):
        rows = await context.store.rows(
            context.reads.queries["facts"],
            project=project,
            fragments=list(fragments),
            until=until,
            limit=limit,
            **cursor,
        )
        page = [Fact._make(row) for row in rows]
        yield page
        if len(page) < limit:
            return
        limit = next_page(page, FACTS_PER_QUERY_MAX)
        cursor = {
            "fragment": page[-1].fragment,
            "version": page[-1].version,
            "topic": page[-1].topic,
        }
    raise BadInput("This history is too long to be read at once.")


def check_size(page: Sequence[Fact], size_before: int) -> int:
    """The bytes of all facts so far, with these; BadInput when they are too many."""
    size = size_before + bytes_of(page)
    if size > FACTS_BYTES_MAX:
        raise BadInput(
            f"More than {FACTS_BYTES_MAX} bytes of changes: too many for one timeline."
        )
    return size


async def _replay(
    context: Context,
    project: int,
    fragments: Iterable[UUID],
    read: tuple[int, dict[UUID, Replay]],
) -> None:
    """Replay the fragments that were not read yet."""
    until, pasts = read
    unread = list(
        dict.fromkeys(fragment for fragment in fragments if fragment not in pasts)
    )
    if not unread:
        return
    pasts.update({fragment: Replay(project, fragment, until) for fragment in unread})
    async for page in facts(context, project, unread, until):
        for fact in page:
            event = event_of(fact)
            if event is not None:
                pasts[fact.fragment].apply(event)


async def stamp_of(
    context: Context, project: int, positions: Sequence[Position], attr: str = "as_of"
) -> int:
    """The latest moment of the positions; 0 when this project has no fact at or before them."""
    latest = 0
    for position in positions:
        topic, partition = position.topic, position.partition
        counts = context.generations.counts(position.generation)
        if topic not in (COMMANDS, IDENTITY) or partition >= counts[topic]:
            raise BadInput(
                f"{attr} must be a position of commands or identity.", attr=attr
            )
        if not context.is_former(position):
            heads = {
                head.partition: head.version for head in await context.log.heads(topic)
            }
            if position.version > heads[partition]:
                raise BadInput(f"{attr} lies in the future.", attr=attr)
            await context.watermarks.wait([position])
        if topic == IDENTITY and project % counts[topic] != partition:
            continue  # another project's
        ((stamp, _),) = await context.store.rows(
            context.reads.queries["stamp_of"],
            project=project,
            version=position.version,
            kind="fragment." if topic == COMMANDS else "person.",
            partitions=counts[topic],
            partition=partition,
        )
        latest = max(latest, stamp)
    return latest


def _member(past: Replay) -> Member:
    """A member as the rows of the present would have it. The time it was last seen is not in the
    timeline."""
    fragment, membership = past.fragment, past.membership
    properties, cells = orjson.dumps(fragment.properties), orjson.dumps(fragment.cells)
    return Member(
        fragment=fragment.id,
        distinct_id=fragment.distinct_id,
        number=fragment.number,
        created_at=fragment.created_at,
        effect=fragment.effect,
        erased=fragment.erased,
        seen_at=0,
        properties=properties.decode(),
        cells=cells.decode(),
        size=len(properties) + len(cells),
        root=membership.root,
        identified=membership.identified,
        erase=membership.erase,
    )
