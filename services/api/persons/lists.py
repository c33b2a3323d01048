"""Lists of persons: pages, filters and totals (docs/contract.md §3). The search table judges
persons, not this module.

Without a filter the page comes from the fragments, as they are now. With one, or with a total, it
comes from the search table, once that is fed with everything that reads can see: so a list reflects
a write that has answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import orjson

from services.api.calls import Call
from services.api.context import Context
from services.api.http.guards.costly import always
from services.api.http.parameters import (
    AS_OF,
    CURSOR,
    DISTINCT_ID,
    JSON_CHARS_MAX,
    LIMIT,
    OFFSET,
    Flag,
    Text,
)
from services.api.http.property_limits import NAME_CHARS_MAX
from services.api.http.rendering import Rows
from services.api.http.routing import Answer, Route
from services.api.persons.filters import Filter
from services.api.reads.as_of import candidates_at, persons_at
from services.api.reads.cursors import format_cursor, parse_cursor
from services.api.reads.persons import CURSOR_START, Candidates, Cursor, Walk, page_of
from services.api.writes.schemas import PersonPage, Values
from shared.domain.errors import BadInput
from shared.domain.ids import COMMANDS, IDENTITY, fragment_id, position_of
from shared.store.clickhouse.failures import StoreError
from shared.store.clickhouse.queries import Query
from shared.store.person import Person
from shared.store.search import document_of

EMAIL = Text(
    "email", "The exact value of the property `email`.", example="ada@example.com"
)
SEARCH = Text(
    "search",
    "Part of the email, name, uuid or any distinct id, ignoring case.",
    example="ada",
)
PROPERTIES = Text(
    "properties",
    "JSON: a list of filters `{key, value, operator, type}`, or groups of them.",
    most=JSON_CHARS_MAX,
    example='[{"key": "plan", "value": "pro", "operator": "exact", "type": "person"}]',
    form="filters",
)
TOTAL = Flag("include_total", "Add `count`, the number of rows on all pages.")
KEY = Text(
    "key",
    "The property. Without it the list is empty.",
    most=NAME_CHARS_MAX,
    example="plan",
)
PART = Text("value", "Part of the value, ignoring case.")

VALUES_MAX = 20
"""Values of a property in one answer."""

PLAIN = frozenset(("limit", "format", "token", "personal_api_key"))
"""Parameters that make nothing costly."""

CANNOT_COMPILE = 427
"""The engine's error code for a regular expression that is none."""


async def page(call: Call) -> Answer:
    """List persons, newest first. Filters are combined with AND. As CSV without `limit`, all
    persons."""
    query = call.request.query
    limit, skip, total = call.asked(LIMIT), call.asked(OFFSET), call.asked(TOTAL)
    cursor, backwards = parse_cursor(call.asked(CURSOR), CURSOR_START, UUID)
    chosen = _filter(call)
    until = await call.as_of()
    distinct_id = call.asked(DISTINCT_ID)
    if distinct_id and len(chosen) == 1 and not total:
        persons = await call.seen([fragment_id(call.project.id, distinct_id)])
        found = (
            [] if skip else [_row(person) for person in persons if person is not None]
        )
        return Answer(body={"results": found, "next": None, "previous": None})
    if until is None and (total or len(chosen)):
        await _fed(call.context)
    await _compiled(call.context, chosen)
    if backwards:
        cursor = await _start_of_page_before(
            _candidates(call, chosen, until, backwards=True), cursor, limit
        )
    walk = _walk(call, chosen, until)
    unlimited = call.request.format == "csv" and not query.get("limit")
    head = {"count": await _count(call, chosen, until)} if total else {}
    batches = _rows(walk.batches(cursor, None if unlimited else limit + skip), skip)
    judged = until is not None and bool(
        chosen
    )  # then candidates are not persons, and a page before would overlap
    start = None if cursor == CURSOR_START or judged else cursor
    return Answer(body=Rows(batches, head, lambda: _links(call, start, walk.after)))


async def values(call: Call) -> Answer:
    """List the 20 most frequent values of a property, with counts."""
    key, part = call.asked(KEY), call.asked(PART)
    found: list[tuple[str, int]] = []
    if key:
        await _fed(call.context)
        chosen = Filter(datetime.fromtimestamp(0, UTC))
        query = call.context.reads.queries["property_values"].filled(
            column=chosen.column(key)
        )
        found = await call.context.store.rows(
            query,
            project=call.project.id,
            part=part,
            limit=VALUES_MAX,
            **chosen.parameters,
        )
    results = [{"name": name, "count": count} for name, count in found]
    return Answer(body={"results": results, "refreshing": False})


def _is_costly(query: Mapping[str, str]) -> bool:
    """All but looking up one distinct id, which scripts do before they write."""
    asked = {name for name, text in query.items() if text} - PLAIN
    return asked != {DISTINCT_ID.name}


COLLECTION_ROUTES = (
    Route(
        "GET",
        "",
        "person:read",
        page,
        answers=PersonPage,
        query=(
            LIMIT,
            CURSOR,
            OFFSET,
            EMAIL,
            DISTINCT_ID,
            SEARCH,
            PROPERTIES,
            TOTAL,
            AS_OF,
        ),
        costly=_is_costly,
        streams=True,
    ),
    Route(
        "GET",
        "/values",
        "person:read",
        values,
        answers=Values,
        query=(KEY, PART),
        costly=always,
    ),
)
ROUTES = ()


def _filter(call: Call) -> Filter:
    chosen = Filter(datetime.fromtimestamp(call.context.clock.now_us() / 1e6, UTC))
    for parameter, add in (
        (EMAIL, chosen.email),
        (DISTINCT_ID, chosen.distinct_id),
        (SEARCH, chosen.search),
        (PROPERTIES, chosen.properties),
    ):
        if text := call.asked(parameter):
            add(text)
    return chosen


def _walk(call: Call, chosen: Filter, until: int | None) -> Walk:
    """Over the persons of now or of a moment."""
    context, project = call.context, call.project.id
    candidates = _candidates(call, chosen, until)
    if until is None:
        return Walk(
            candidates, lambda roots: context.reads.by_fragments(project, roots)
        )

    async def judge(persons: Sequence[Person]) -> list[bool]:
        return await _judged(context, chosen, persons)

    build = partial(persons_at, context, project, until=until)
    return Walk(candidates, build, judge if chosen else None)


def _candidates(
    call: Call, chosen: Filter, until: int | None, *, backwards: bool = False
) -> Candidates:
    """Roots of the past, of the fragments, or of the search table."""
    context, parameters = (
        call.context,
        {"project": call.project.id, **chosen.parameters},
    )
    if until is not None:
        return candidates_at(context, call.project.id, until, backwards=backwards)
    named = (
        _with(context, "search_page", chosen)
        if chosen
        else context.reads.queries["roots_page"]
    )
    query = page_of(named, backwards=backwards)

    async def candidates(cursor: Cursor, limit: int) -> list[tuple[UUID, int]]:
        created, person = cursor
        return await context.store.rows(
            query, created=created, person=person, limit=limit, **parameters
        )

    return candidates


async def _start_of_page_before(
    candidates: Candidates, cursor: Cursor, limit: int
) -> Cursor:
    """Where the page begins that ends at a cursor: the row before its first one."""
    rows = await candidates(cursor, limit + 1)
    for root, created in rows[limit:]:
        return created, str(root)
    return CURSOR_START


async def _judged(
    context: Context, chosen: Filter, persons: Sequence[Person]
) -> list[bool]:
    """Whether each person of the past is found: the very conditions that judge the search table's
    rows."""
    if not persons:
        return []
    rows = [
        orjson.dumps(
            {
                "fragment": one.uuid,
                "distinct_ids": one.distinct_ids,
                "properties": document_of(one.document()),
            }
        ).decode()
        for one in persons
    ]
    query = _with(context, "search_given", chosen)
    found = {
        one
        for (one,) in await context.store.rows(query, rows=rows, **chosen.parameters)
    }
    return [person.uuid in found for person in persons]


async def _rows(
    batches: AsyncIterator[list[Person]], skip: int
) -> AsyncIterator[list[dict[str, Any]]]:
    async for batch in batches:
        kept, skip = batch[skip:], max(0, skip - len(batch))
        if kept:
            yield [_row(person) for person in kept]


def _row(person: Person) -> dict[str, Any]:
    return person.to_json() | {
        "type": "person",
        "matched_recordings": [],
        "value_at_data_point": None,
    }


def _links(call: Call, start: Cursor | None, after: Cursor | None) -> dict[str, Any]:
    url, offset = call.request.url, call.asked(OFFSET)
    following = previous = None
    if after is not None:
        following = str(
            url.without_query_params("offset").update_query(cursor=format_cursor(after))
        )
    if offset:
        previous = str(url.update_query(offset=max(0, offset - call.asked(LIMIT))))
    elif start is not None:
        previous = str(url.update_query(cursor=format_cursor(start, backwards=True)))
    return {"next": following, "previous": previous}


async def _count(call: Call, chosen: Filter, until: int | None) -> int:
    if until is not None:
        return sum(
            [
                len(batch)
                async for batch in _walk(call, chosen, until).batches(
                    CURSOR_START, None
                )
            ]
        )
    query = _with(call.context, "search_count", chosen)
    ((count,),) = await call.context.store.rows(
        query, project=call.project.id, **chosen.parameters
    )
    return int(count)


def _with(context: Context, name: str, chosen: Filter) -> Query:
    return context.reads.queries[name].filled(filter=chosen.sql)


async def _fed(context: Context) -> None:
    """Wait until the search table has all that reads can see now; NotYet after the usual time."""
    await context.watermarks.refresh()
    counts = context.log.partitions()
    await context.fed.wait(
        [
            position_of(topic, partition, version)
            for (topic, partition), version in context.watermarks.versions().items()
            if version and topic in (COMMANDS, IDENTITY) and partition < counts[topic]
        ]  # a former generation may have had more, and all of it was fed before it ended
    )


async def _compiled(context: Context, chosen: Filter) -> None:
    if chosen.patterns:
        try:
            await context.store.rows(
                context.reads.queries["patterns"], patterns=chosen.patterns
            )
        except StoreError as error:
            if error.code != CANNOT_COMPILE:
                raise
            raise BadInput(
                "Not a regular expression (RE2).", attr="properties"
            ) from None
