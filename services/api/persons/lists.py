"""Lists of persons: pages, filters and totals (docs/contract.md §3).

Without a filter the page comes from the fragments, as they are now. With a filter or a total it
comes from the search table, once that has everything that reads can see: so a list reflects a write
that has been answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from services.api.calls import RestCall
from services.api.context import Context
from services.api.http.guards.costly import always
from services.api.http.guards.head import COMMON_PARAMETERS
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
from services.api.http.rendering import RowStream
from services.api.http.routing import EndpointResult, Route
from services.api.persons.filters import Filter
from services.api.reads.as_of import candidates_at, persons_at
from services.api.reads.cursors import (
    CURSOR_START,
    Cursor,
    format_cursor,
    parse_cursor,
)
from services.api.reads.lookup import named_until, until_of
from services.api.reads.pagination import Candidates, Walk, page_of
from services.api.writes.schemas import PersonPage, Values
from shared.domain.errors import BadInput
from shared.domain.ids import COMMANDS, IDENTITY, position_of
from shared.inputs.names import NAME_CHARS_MAX
from shared.store.clickhouse.failures import StoreError
from shared.store.clickhouse.queries import Query
from shared.store.person import Person
from shared.store.search import document_of

EMAIL = Text(
    "email",
    "The address under `email`, `Email` or `$email`, ignoring case and blanks around it.",
    example="ada@example.com",
)
SEARCH = Text(
    "search",
    "Part of the email, name, uuid or any distinct id, ignoring case and blanks around it.",
    example="ada",
)
PROPERTIES = Text(
    "properties",
    "JSON: a list of filters `{key, value, operator, type}`, or groups of them.",
    chars_max=JSON_CHARS_MAX,
    example='[{"key": "plan", "value": "pro", "operator": "exact", "type": "person"}]',
    form="filters",
)
TOTAL = Flag("include_total", "Add `count`, the number of rows on all pages.")
KEY = Text(
    "key",
    "The property. Without it the list is empty.",
    chars_max=NAME_CHARS_MAX,
    example="plan",
)
PART = Text("value", "Part of the value, ignoring case.")

VALUES_MAX = 20
"""Values of a property in one answer."""

PLAIN = COMMON_PARAMETERS | {LIMIT.name}
"""Parameters that make nothing costly."""

CANNOT_COMPILE = 427
"""The engine's error code for a regular expression that is none."""


async def page(call: RestCall) -> EndpointResult:
    """List persons, newest first, by all filters. CSV and NDJSON without `limit` list all."""
    query = call.request.query
    limit = call.parameter(LIMIT)
    skip = call.parameter(OFFSET)
    total = call.parameter(TOTAL)
    cursor, backwards = parse_cursor(call.parameter(CURSOR), CURSOR_START, UUID)
    conditions = _conditions(call)
    until = await until_of(call)
    distinct_id = call.parameter(DISTINCT_ID)
    if distinct_id and len(conditions) == 1 and not total:
        (persons,) = await named_until(call, [distinct_id], until)
        rows = [_row(person) for person in persons[skip : skip + limit]]
        return EndpointResult(body={"results": rows, "next": None, "previous": None})
    if until is None and (total or len(conditions)):
        await _wait_until_indexed(call.context)
    await _check_patterns(call.context, conditions)
    if backwards:
        cursor = await _start_of_page_before(
            _candidates(call, conditions, until, backwards=True), cursor, limit
        )
    walk = _walk(call, conditions, until)
    is_unlimited = call.request.format != "json" and not query.get("limit")
    head = {"count": await _count(call, conditions, until)} if total else {}
    batches = _rows(walk.batches(cursor, None if is_unlimited else limit + skip), skip)
    is_filtered_past = until is not None and bool(
        conditions
    )  # then candidates are not persons, and a page before would overlap
    start = None if cursor == CURSOR_START or is_filtered_past else cursor
    return EndpointResult(
        body=RowStream(batches, head, lambda: _links(call, start, walk.after))
    )


async def values(call: RestCall) -> EndpointResult:
    """List the 20 most frequent values of a property, with counts."""
    key, text = call.parameter(KEY), call.parameter(PART)
    rows: list[tuple[str, int]] = []
    if key:
        await _wait_until_indexed(call.context)
        conditions = Filter(datetime.fromtimestamp(0, UTC))
        query = call.context.reads.queries["property_values"].filled(
            column=conditions.column(key)
        )
        rows = await call.context.store.rows(
            query,
            project=call.project.id,
            part=text,
            limit=VALUES_MAX,
            **conditions.parameters,
        )
    results = [{"name": name, "count": count} for name, count in rows]
    return EndpointResult(body={"results": results, "refreshing": False})


def _is_costly(query: Mapping[str, str]) -> bool:
    """Whether a query does more than look up one distinct id, as scripts do before they write."""
    names = {name for name, text in query.items() if text} - PLAIN
    return names != {DISTINCT_ID.name}


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
        name="list_persons",
    ),
    Route(
        "GET",
        "/values",
        "person:read",
        values,
        answers=Values,
        query=(KEY, PART),
        costly=always,
        name="list_property_values",
    ),
)
ROUTES = ()


def _conditions(call: RestCall) -> Filter:
    zone = ZoneInfo(call.project.zone)
    conditions = Filter(datetime.fromtimestamp(call.context.clock.now_us() / 1e6, zone))
    for parameter, add in (
        (EMAIL, conditions.email),
        (DISTINCT_ID, conditions.distinct_id),
        (SEARCH, conditions.search),
        (PROPERTIES, conditions.properties),
    ):
        if text := call.parameter(parameter):
            add(text)
    return conditions


def _walk(call: RestCall, conditions: Filter, until: int | None) -> Walk:
    """The walk over the persons of now, or of a moment."""
    context, project = call.context, call.project.id
    candidates = _candidates(call, conditions, until)
    if until is None:
        return Walk(
            candidates, lambda roots: context.reads.by_fragments(project, roots)
        )

    async def matches(persons: Sequence[Person]) -> list[bool]:
        return await _matches(context, conditions, persons)

    build = partial(persons_at, context, project, until=until)
    return Walk(candidates, build, matches if conditions else None)


def _candidates(
    call: RestCall, conditions: Filter, until: int | None, *, backwards: bool = False
) -> Candidates:
    """Roots of the past, of the fragments, or of the search table."""
    context = call.context
    parameters = {"project": call.project.id, **conditions.parameters}
    if until is not None:
        return candidates_at(context, call.project.id, until, backwards=backwards)
    roots = (
        _with(context, "search_page", conditions)
        if conditions
        else context.reads.queries["roots_page"]
    )
    query = page_of(roots, backwards=backwards)

    async def candidates(cursor: Cursor, limit: int) -> list[tuple[UUID, int]]:
        created_at, person = cursor
        return await context.store.rows(
            query, created=created_at, person=person, limit=limit, **parameters
        )

    return candidates


async def _start_of_page_before(
    candidates: Candidates, cursor: Cursor, limit: int
) -> Cursor:
    """The cursor at which the page begins that ends at this cursor."""
    rows = await candidates(cursor, limit + 1)
    for root, created_at in rows[limit:]:
        return created_at, str(root)
    return CURSOR_START


async def _matches(
    context: Context, conditions: Filter, persons: Sequence[Person]
) -> list[bool]:
    """Whether each person of the past matches, by the conditions that the search table's rows are
    selected with."""
    if not persons:
        return []
    rows = [
        orjson.dumps(
            {
                "fragment": person.uuid,
                "distinct_ids": person.distinct_ids,
                "properties": document_of(person.document()),
            }
        ).decode()
        for person in persons
    ]
    query = _with(context, "search_given", conditions)
    matches = {
        uuid
        for (uuid,) in await context.store.rows(
            query, rows=rows, **conditions.parameters
        )
    }
    return [person.uuid in matches for person in persons]


async def _rows(
    batches: AsyncIterator[list[Person]], skip: int
) -> AsyncIterator[list[dict[str, Any]]]:
    async for batch in batches:
        remainder, skip = batch[skip:], max(0, skip - len(batch))
        if remainder:
            yield [_row(person) for person in remainder]


def _row(person: Person) -> dict[str, Any]:
    return person.to_json() | {
        "type": "person",
        "matched_recordings": [],
        "value_at_data_point": None,
    }


def _links(
    call: RestCall, start: Cursor | None, after: Cursor | None
) -> dict[str, Any]:
    url, offset = call.request.url, call.parameter(OFFSET)
    following = previous = None
    if after is not None:
        following = str(
            url.without_query_params("offset").update_query(cursor=format_cursor(after))
        )
    if offset:
        previous = str(url.update_query(offset=max(0, offset - call.parameter(LIMIT))))
    elif start is not None:
        previous = str(url.update_query(cursor=format_cursor(start, backwards=True)))
    return {"next": following, "previous": previous}


async def _count(call: RestCall, conditions: Filter, until: int | None) -> int:
    if until is not None:
        return sum(
            [
                len(batch)
                async for batch in _walk(call, conditions, until).batches(
                    CURSOR_START, None
                )
            ]
        )
    query = _with(call.context, "search_count", conditions)
    ((count,),) = await call.context.store.rows(
        query, project=call.project.id, **conditions.parameters
    )
    return int(count)


def _with(context: Context, name: str, conditions: Filter) -> Query:
    return context.reads.queries[name].filled(filter=conditions.sql)


async def _wait_until_indexed(context: Context) -> None:
    """Wait until the search table has everything that reads can see now; NotYet after the usual
    time."""
    await context.watermarks.refresh()
    counts = context.log.partitions()
    await context.search_watermarks.wait(
        [
            position_of(topic, partition, version)
            for (topic, partition), version in context.watermarks.versions().items()
            if version and topic in (COMMANDS, IDENTITY) and partition < counts[topic]
        ]  # a former generation may have had more, and all of it was fed before it ended
    )


async def _check_patterns(context: Context, conditions: Filter) -> None:
    if conditions.patterns:
        try:
            await context.store.rows(
                context.reads.queries["patterns"], patterns=conditions.patterns
            )
        except StoreError as error:
            if error.code != CANNOT_COMPILE:
                raise
            raise BadInput(
                "Not a regular expression (RE2).", attr="properties"
            ) from None
