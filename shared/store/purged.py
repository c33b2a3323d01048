"""What purges take from the past, in SQL: texts that statements are filled with. Never runs one.

`cuts` is an expression for what was purged of the row's fragment: a column of lives.sql, or a
parameter of a sweep.
"""

from __future__ import annotations

from pathlib import Path

from shared.domain.person.cells import UNSET
from shared.domain.person.lifted import LIFTED
from shared.store.clickhouse.queries import load as load_queries

_TEXTS = {
    name: query.sql
    for name, query in load_queries(Path(__file__).with_suffix(".sql")).items()
}

COLUMNS = ("keys", "kinds", "before", "after")
"""Of the timeline: what a purge takes elements from."""


def cuts() -> str:
    """The cuts of a fragment, an aggregate over its facts."""
    return _TEXTS["cuts"]


def elements(cuts: str, row: str = "") -> dict[str, str]:
    """What each of COLUMNS is without the purged elements. `row` is what columns are called with:
    `timeline.`"""
    places, erased = (
        _fill("places", cuts=cuts, row=row),
        _fill("taken", cuts=cuts, row=row),
    )
    stays = {
        "keys": f"{row}keys[place]",
        "kinds": _fill(
            "emptied", taken=erased, nothing=str(UNSET), row=row, column="kinds"
        ),
        "before": _fill("before", cuts=cuts, row=row),
        "after": _fill("emptied", taken=erased, nothing="''", row=row, column="after"),
    }
    return {
        column: _fill(
            "left",
            places=places,
            element=stays[column],
            cuts=cuts,
            row=row,
            column=column,
        )
        for column in COLUMNS
    }


def touched(cuts: str) -> str:
    """Whether a row of the timeline has anything of what was purged."""
    return _fill("touched", taken=_fill("taken", cuts=cuts, row=""), cuts=cuts)


def names(cuts: str, row: str = "") -> str:
    """The names that were purged of a captured event."""
    return _fill("names", cuts=cuts, row=row)


def stripped(names: str, properties: str = "properties") -> str:
    """The text of a captured event's properties without what it says of the names; both are
    expressions."""
    text = f"if(empty({names}), '', {properties})"  # nothing is taken apart in vain
    inside = "position(outer, ':')"
    body = _fill(
        "stripped",
        inner_members=_members(
            f"substring(outer, {inside} + 2, length(outer) - {inside} - 2)"
        ),
        outer_members=_members(f"substring({text}, 2, length({text}) - 2)"),
        inner_name=_fill("name", member="inner"),
        outer_name=_fill("name", member="outer"),
        lifted="[" + ", ".join(f"'{name}'" for name in LIFTED) + "]",
        names=names,
    )
    return f"if(empty({names}), {properties}, {body})"


def without(names: str, properties: str) -> str:
    """The text of a JSON object without some members; each of the others stays as it was
    written."""
    members = _members(f"substring({properties}, 2, length({properties}) - 2)")
    return _fill(
        "without",
        members=members,
        member_name=_fill("name", member="member"),
        names=names,
    )


def _members(text: str) -> str:
    return _fill("members", tokens=_fill("tokens", text=text))


def _fill(name: str, **texts: str) -> str:
    sql = _TEXTS[name]
    for place, text in texts.items():
        sql = sql.replace(f"{{{{{place}}}}}", text)
    return sql
