"""Rendered bodies of persons whose rows are proven to be the newest, valid as long as the rows are
the same."""

from __future__ import annotations

from operator import is_
from typing import Any, NamedTuple
from uuid import UUID

from services.api.http.rendering import json_body
from services.api.reads.persons import Reads
from services.api.reads.row_cache import LruCache
from shared.store.person import person_of

RENDERED_BYTES_MAX = 24 * 1_048_576
"""Of all bodies that are kept beside the rows that they were rendered from."""

RENDERED_BYTES = 400
"""Of one besides the body itself."""


class Rendered(NamedTuple):
    """A person as JSON, and its entity tag."""

    body: bytes
    etag: str


class RenderedPersons:
    """An LRU cache of rendered persons, valid while the rows in memory are those that a body was
    made from."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._bodies: LruCache[int, tuple[list[Any], Rendered]] = LruCache(
            RENDERED_BYTES_MAX
        )
        self._generation = 0

    def find(self, project: int, fragment: UUID) -> Rendered | None:
        """The person that holds a fragment; None for nobody, and when the store must be read."""
        person_rows = self._reads.cached_rows(project, fragment)
        if person_rows is None:
            return None
        rows = [row for member in person_rows[1] for row in member[1:]]
        if (
            self._generation != self._reads.generation
        ):  # its rows are forgotten, so they are too
            self._generation = self._reads.generation
            self._bodies.clear()
        cached = self._bodies.get(fragment.int)
        if cached is not None:
            former, rendered = cached
            if len(former) == len(rows) and all(map(is_, former, rows)):
                return rendered
        person = person_of(project, *person_rows)
        if person is None:
            return None
        rendered = Rendered(json_body(person.shown()), person.etag)
        self._bodies.put(
            fragment.int, (rows, rendered), len(rendered.body) + RENDERED_BYTES
        )
        return rendered
