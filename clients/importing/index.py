"""What one row of a file must know of the others, in a temporary index on disk.

Rows of one person of a batch export, the properties that a person had before an event, and ids that
came together. The index is private to the process, and gone with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from clients.importing.formats import posthog
from shared.domain.errors import BadInput
from shared.inputs.ids import id_text
from shared.runtime.settings import SettingsError
from shared.store.clickhouse.queries import load

JOINED_ROWS_MAX = 100
"""Rows of one file that one id may join. More is a column that holds something else: a note, a
constant, `null`."""

MILLISECOND_US = 1_000

_QUERIES = {
    name: query.sql for name, query in load(Path(__file__).with_suffix(".sql")).items()
}
_TABLES = (
    "cache",
    "no_journal",
    "create_joins",
    "create_mappings",
    "create_deletions",
    "create_members",
    "create_states",
    "create_pairs",
    "create_links",
)


class PropertyChanges(NamedTuple):
    """What an event set and unset, and when: behind the person's event before."""

    sets: dict[str, Any]
    unset: list[str]
    at: int


class SourceIndex:
    """The index of one run. `add` all rows, then `close_rows`; the rest is asked row by row."""

    def __init__(self, joined_rows_max: int = JOINED_ROWS_MAX) -> None:
        self._joined_rows_max = joined_rows_max
        self._tables = sqlite3.connect("", isolation_level=None)  # a temporary file
        for name in _TABLES:
            self._run(name)

    def add(self, row: Any, number: int) -> None:
        """Note whom a row is of; a row that cannot be read is refused when its turn comes."""
        if isinstance(row, dict):
            with suppress(BadInput):
                self._add(row, number)

    def _add(self, row: dict[str, Any], number: int) -> None:
        if posthog.is_mapping(row):
            if mapping := posthog.mapping_of(row):
                self._run("add_mapping", *mapping[:4], number, mapping.deleted)
            return
        ids = row.get("distinct_ids")
        if isinstance(ids, list) and len(ids) > 1 and not posthog.is_deleted(row):
            for distinct_id in {text for value in ids if (text := id_text(value))}:
                self._run("add_join", distinct_id, number)

    def close_rows(self) -> None:
        """Judge what was added; SettingsError for a row that would join too many."""
        self._run("select_deletions")
        self._run("select_members")
        self._run("index_members")
        for name, what in (
            ("excess_join", "distinct ids"),
            ("excess_member", "person ids"),
        ):
            ((number,),) = self._run(name, self._joined_rows_max).fetchall()
            if number is not None:
                raise SettingsError(
                    f"row {number}: one of its {what} is in more than"
                    f" {self._joined_rows_max} rows and would join them all to one person;"
                    " if that is right, --joined-rows-max allows more"
                )

    def distinct_ids(self, person: str, number: int) -> list[str]:
        """The ids of a person at the row that speaks for it; none at its other rows."""
        speaker = self._run("speaker", person).fetchone()
        if speaker != (number,):
            return []
        return [text for (text,) in self._run("distinct_ids", person)]

    def changes(
        self, person: str, distinct_id: str, at: int, properties: Mapping[str, Any]
    ) -> PropertyChanges:
        """Find what was set and unset since the person's event before.

        An event from before the latest, and the first of a distinct id, set everything they say.
        Events of one millisecond are in the order of the file.
        """
        is_first = self._run("add_pair", person, distinct_id).rowcount == 1
        state = self._run("state", person).fetchone()
        former: dict[str, Any] = {}
        if state is not None:
            latest, content = state
            if at <= latest - MILLISECOND_US:
                return PropertyChanges(dict(properties), [], at)
            former, at = msgspec.json.decode(content), max(at, latest + 1)
        try:
            content = msgspec.json.encode(properties)
        except (TypeError, ValueError, RecursionError):
            raise BadInput("The person's properties are not JSON.") from None
        self._run("set_state", person, at, content)
        sets = {
            name: value
            for name, value in properties.items()
            if is_first or name not in former or not _is_same(former[name], value)
        }
        return PropertyChanges(
            sets, [name for name in former if name not in properties], at
        )

    def is_new_link(self, device: str) -> bool:
        """Whether no user has this device so far."""
        return self._run("add_link", device).rowcount == 1

    def close(self) -> None:
        self._tables.close()

    def _run(self, name: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._tables.execute(_QUERIES[name], values)
        except UnicodeEncodeError:
            raise BadInput("A text is broken: half of a surrogate pair.") from None


def _is_same(former: Any, value: Any) -> bool:
    """Whether two values are the same JSON: 1, 1.0 and true are three."""
    return bool(msgspec.json.encode(former) == msgspec.json.encode(value))
