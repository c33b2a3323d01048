"""Lists of persons: pages, filters and totals (CONTRACT §3). Never judges a person by itself: the search table does.

Without a filter the page comes from the fragments, as they are now. With one, or with a total, it comes from the search
table, once that is fed with everything that reads can see: so a list reflects a write that has answered.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.api.calls import Answer, Call, Route
from services.api.context import Context
from services.api.filters import Filter
from services.api.past import page_at
from services.api.reads import CURSOR_START, Cursor, Found, Wanted, fill_page
from services.api.values import NAME_CHARS_MAX
from shared.domain.errors import BadInput
from shared.domain.ids import COMMANDS, IDENTITY, Position, fragment_id, offset_of
from shared.store.client import StoreError
from shared.store.person import Person
from shared.store.queries import Query

PAGE_DEFAULT, PAGE_MAX = 100, 1_000
"""Rows of a page; the documented limits."""

OFFSET_MAX = 100_000
"""`offset` walks over what it skips; whoever needs more follows `next`."""

VALUES_MAX = 20
"""Values of a property that are told."""

CANNOT_COMPILE = 427
"""The engine's error code for a regular expression that is none."""


async def page(call: Call) -> Answer:
    """GET: persons, newest first, now or `as_of` a moment; filters are ANDed."""
    query = call.request.query
    limit = call.number("limit", PAGE_DEFAULT, PAGE_MAX)
    skip = call.number("offset", 0, OFFSET_MAX, least=0)
    total = call.flag("include_total")
    cursor = _parse_cursor(query["cursor"]) if "cursor" in query else CURSOR_START
    chosen = _filter(call)
    until = await call.as_of()
    if query.get("distinct_id") and len(chosen) == 1 and not total:
        person = (await call.seen([fragment_id(call.project.id, query["distinct_id"])]))[0]
        return Answer(body=_body(call, ([person] if person is not None else [])[skip:], None))
    if until is not None and (query.get("properties") or total):
        wrong = "properties" if query.get("properties") else "include_total"
        raise BadInput("Not together with as_of.", attr=wrong)
    if until is None and (total or len(chosen)):
        await _fed(call.context)
        await _compiled(call.context, chosen)
    found: list[Person] = []
    for _ in range(2 + skip // PAGE_MAX):
        asked = min(skip, PAGE_MAX) if skip else limit
        found, after = await _page(call, chosen, until, (cursor, asked))
        if not skip:
            break
        skip -= len(found)
        if after is None:
            found = []
            break
        cursor = after
    body = _body(call, found, after)
    if total:
        body = {"count": await _count(call, chosen)} | body
    return Answer(body=body)


async def values(call: Call) -> Answer:
    """GET values: the most frequent values of a property, those that hold `value` if that is given."""
    key = call.request.query.get("key", "")
    if len(key) > NAME_CHARS_MAX:
        raise BadInput(f"A property's name has at most {NAME_CHARS_MAX} characters.", attr="key")
    found: list[tuple[str, int]] = []
    if key:
        await _fed(call.context)
        chosen = Filter(datetime.fromtimestamp(0, UTC))
        query = call.context.reads.queries["property_values"]
        sql = query.sql.replace("{{column}}", chosen.column(key))
        part = call.request.query.get("value", "")
        found = await call.context.store.rows(
            Query(name=query.name, sql=sql), project=call.project.id, part=part, limit=VALUES_MAX, **chosen.parameters
        )
    results = [{"name": name, "count": count} for name, count in found]
    return Answer(body={"results": results, "refreshing": False})


COLLECTION_ROUTES = (
    Route("GET", "", "person:read", page),
    Route("GET", "/values", "person:read", values),
)
ROUTES = ()


def _filter(call: Call) -> Filter:
    query = call.request.query
    chosen = Filter(datetime.fromtimestamp(call.context.clock.now_us() / 1e6, UTC))
    for name, add in (
        ("email", chosen.email),
        ("distinct_id", chosen.distinct_id),
        ("search", chosen.search),
        ("properties", chosen.properties),
    ):
        if query.get(name):
            add(query[name])
    return chosen


async def _page(call: Call, chosen: Filter, until: int | None, at: tuple[Cursor, int]) -> Found:
    """One page after a cursor: of the past, of the fragments, or of the search table."""
    context, project, (cursor, limit) = call.context, call.project.id, at
    if until is not None:
        keep = _judge(call)
        return await page_at(context, project, until, Wanted(cursor=cursor, limit=limit, keep=keep, picky=bool(chosen)))
    wanted = Wanted(cursor=cursor, limit=limit, keep=lambda person: True, picky=False)
    if not chosen:
        return await context.reads.page(project, wanted)

    async def candidates(cursor: Cursor, limit: int) -> list[tuple[UUID, int]]:
        return await context.store.rows(
            _with(context, "search_page", chosen),
            project=project, created=cursor[0], person=cursor[1], limit=limit, **chosen.parameters,
        )  # fmt: skip

    return await fill_page(candidates, lambda roots: context.reads.by_fragments(project, roots), wanted)


async def _count(call: Call, chosen: Filter) -> int:
    query = _with(call.context, "search_count", chosen)
    ((count,),) = await call.context.store.rows(query, project=call.project.id, **chosen.parameters)
    return int(count)


def _with(context: Context, name: str, chosen: Filter) -> Query:
    query = context.reads.queries[name]
    return Query(name=name, sql=query.sql.replace("{{filter}}", chosen.sql))


async def _fed(context: Context) -> None:
    """Wait until the search table has all that reads can see now; NotYet after the usual time."""
    await context.watermarks.refresh()
    await context.fed.wait(
        [
            Position(topic, partition, offset_of(version))
            for (topic, partition), version in context.watermarks.versions().items()
            if version and topic in (COMMANDS, IDENTITY)
        ]
    )


async def _compiled(context: Context, chosen: Filter) -> None:
    if chosen.patterns:
        try:
            await context.store.rows(context.reads.queries["patterns"], patterns=chosen.patterns)
        except StoreError as error:
            if f"Code: {CANNOT_COMPILE}" not in error.detail:
                raise
            raise BadInput("Not a regular expression (RE2).", attr="properties") from None


def _judge(call: Call) -> Callable[[Person], bool]:
    """What a person of the past must satisfy: the search table knows the present only."""
    query = call.request.query
    email, search, distinct_id = query.get("email"), query.get("search"), query.get("distinct_id")

    def keep(person: Person) -> bool:
        document = person.document() if email or search else {}
        if email and document.get("email") != email:
            return False
        if distinct_id and distinct_id not in person.distinct_ids:
            return False
        if search:
            texts: Iterable[Any] = (document.get("email"), document.get("name"), str(person.uuid), *person.distinct_ids)
            return any(isinstance(text, str) and search.lower() in text.lower() for text in texts)
        return True

    return keep


def _body(call: Call, persons: list[Person], after: Cursor | None) -> dict[str, Any]:
    url = call.request.url
    offset, limit = int(call.request.query.get("offset") or 0), int(call.request.query.get("limit") or PAGE_DEFAULT)
    following = None
    if after is not None:
        following = str(url.without_query_params("offset").update_query(cursor=_format_cursor(after)))
    rows = [
        person.shown() | {"type": "person", "matched_recordings": [], "value_at_data_point": None} for person in persons
    ]
    previous = str(url.update_query(offset=max(0, offset - limit))) if offset else None
    return {"results": rows, "next": following, "previous": previous}


def _format_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(f"{cursor[0]}:{cursor[1]}".encode()).decode().rstrip("=")


def _parse_cursor(text: str) -> Cursor:
    try:
        created, _, root = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
        return int(created), str(UUID(root))
    except ValueError:
        raise BadInput("The cursor is broken; take `next` as it is.", attr="cursor") from None
