"""Queries that see the present life of fragments only, without what was purged of it. What that is,
lives.sql and purged.sql say; never a query by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from shared.store import purged
from shared.store.clickhouse.queries import Query, load

_TEXTS = load(Path(__file__).with_suffix(".sql"))

_WHOSE = {
    "lives": "project != 0",
    "lives_of_project": "project = {project:UInt32}",
    "lives_of_fragments": "project = {project:UInt32} AND fragment IN {fragments:Array(UUID)}",
}
"""The fills that make the CTE `lives`: of everybody, of a project, of some fragments of it."""

_FILLS = {
    name: _TEXTS["lives"].filled(whose=whose, cuts=purged.cuts()).sql
    for name, whose in _WHOSE.items()
}
_FILLS |= {name: text.sql for name, text in _TEXTS.items() if name != "lives"}
_FILLS |= {
    f"{column}_left": text
    for column, text in purged.elements("lives.cuts", "timeline.").items()
}
_FILLS["properties_left"] = purged.stripped(
    purged.names("lives.cuts", "captured_events."), "captured_events.properties"
)


def load_with_lives(path: str | Path) -> Mapping[str, Query]:
    """The queries of a .sql file, with lives.sql in the places `{{lives}}`, `{{present}}` and so
    on, and purged.sql in `{{keys_left}}`, `{{properties_left}}` and so on."""
    return MappingProxyType(
        {name: query.filled(**_FILLS) for name, query in load(path).items()}
    )
