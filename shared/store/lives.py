"""Queries that see the present life of fragments only. What that is, lives.sql says; never a query by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from shared.store.queries import Query, load

_TEXTS = load(Path(__file__).with_suffix(".sql"))

_WHOSE = {
    "lives": "project != 0",
    "lives_of_project": "project = {project:UInt32}",
    "lives_of_fragments": "project = {project:UInt32} AND fragment IN {fragments:Array(UUID)}",
}
"""The fills that make the CTE `lives`: of everybody, of a project, of some fragments of it."""

_FILLS = {name: _TEXTS["lives"].filled(whose=whose).sql for name, whose in _WHOSE.items()} | {
    name: text.sql for name, text in _TEXTS.items() if name != "lives"
}


def load_with_lives(path: str | Path) -> Mapping[str, Query]:
    """The queries of a .sql file, with lives.sql in the places `{{lives}}`, `{{present}}` and so on."""
    return MappingProxyType({name: query.filled(**_FILLS) for name, query in load(path).items()})
