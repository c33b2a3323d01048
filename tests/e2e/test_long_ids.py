"""A distinct id that capture stores otherwise than it came leads to its person, by every route that takes one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from shared.inputs.ids import stored_id
from tests.support.asking import sent
from tests.support.processes import Stack
from tests.support.stacks import Projects

SHAPES: dict[str, Callable[[str], str]] = {
    "a token of 250": lambda seed: (f"eyJhbGciOiJIUzI1NiJ9.{seed}." + "eyJzdWIiOiIx" * 20)[:250],
    "of 1,500": lambda seed: f"{seed}:" + "x" * 1_500,
    "of 201, not ASCII": lambda seed: (f"{seed}🦊" + "ü" * 201)[:201],
    "with NUL": lambda seed: f"a\x00{seed}",
    "with a slash, of 300": lambda seed: f"{seed}/%2F" + "/" * 300,
}


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    return projects.fresh()


@pytest.fixture(params=SHAPES)
def long(request: pytest.FixtureRequest) -> str:
    """An id that nobody else has."""
    return SHAPES[request.param](uuid4().hex)


def names(stack: Stack, query: str) -> list[list[str]]:
    answer = stack.persons(f"/?{query}")
    assert answer.status == 200, answer.body
    return [row["distinct_ids"] for row in answer.json["results"]]


def test_lists_batches_and_the_past_find_it(stack: Stack, long: str) -> None:
    sent(stack, long, **{"$set": {"a": 1}})
    stored = stored_id(long)
    assert stored != long
    query = f"distinct_id={quote(long, safe='')}"
    assert names(stack, query) == names(stack, f"{query}&include_total=true") == [[stored]]
    body = {"distinct_ids": [long, f"{long}-nobody", stored]}
    answer = stack.persons("/batch_by_distinct_ids/", "POST", body).json["results"]
    assert {asked: person["distinct_ids"] for asked, person in answer.items()} == {long: [stored], stored: [stored]}
    soon = datetime.now(UTC).isoformat()
    answer = stack.persons(f"/properties_at_time/?{query}&timestamp={quote(soon)}").json
    assert (answer["distinct_ids"], answer["point_in_time_metadata"]["distinct_id_used"]) == ([stored], long)


def test_merge_and_split_take_it(stack: Stack, long: str, name: str) -> None:
    sent(stack, name)
    sent(stack, long)
    merged = stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": long})
    assert (merged.status, sorted(merged.json["distinct_ids"])) == (200, sorted([name, stored_id(long)]))
    for body in ({"distinct_ids_to_split": [long]}, {"main_distinct_id": long}):
        assert stack.persons(f"/{stack.uuid(name)}/split/", "POST", body).status == 200
        assert names(stack, f"distinct_id={name}") == [[name]]
        assert stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": long}).status == 200
    body = {"distinct_ids_to_split": [long, stored_id(long), name]}
    both = stack.persons(f"/{stack.uuid(name)}/split/", "POST", body)
    assert (both.status, both.json["attr"]) == (400, "distinct_ids_to_split")


def test_bulk_delete_erases_it_and_nobody_else(stack: Stack, long: str) -> None:
    other = f"{long}!"  # another id with the same first 200 characters
    for one in (long, other):
        sent(stack, one)
    answer = stack.persons("/bulk_delete/", "POST", {"distinct_ids": [long, stored_id(long)], "delete_events": True})
    counts: dict[str, Any] = answer.json
    assert (counts["persons_found"], counts["persons_deleted"], counts["unmatched"]) == (1, 1, [])
    assert names(stack, f"distinct_id={quote(long, safe='')}") == []
    assert names(stack, f"distinct_id={quote(other, safe='')}") == [[stored_id(other)]]
