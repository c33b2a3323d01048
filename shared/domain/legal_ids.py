"""Distinct ids that may name somebody in a merge. Pure; never looks at who exists."""

from __future__ import annotations

from shared.domain.ids import DISTINCT_ID_CHARS_MAX

_ILLEGAL_ANY_CASE = frozenset(
    "anonymous guest distinctid distinct_id id not_authenticated email undefined true false".split()
)
_ILLEGAL = frozenset(("[object Object]", "NaN", "None", "none", "null", "0"))


def refusal(into_id: str | None, source_id: str | None) -> str | None:
    """Why two ids can never be merged; None when they can."""
    for distinct_id in (into_id, source_id):
        if distinct_id is not None and not is_legal(distinct_id):
            return "illegal_distinct_id"
    return None


def is_legal(distinct_id: str) -> bool:
    """Whether an id may name somebody in a merge; SDK bugs send the others for thousands of people
    at once."""
    bare = distinct_id.strip()
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"":
        bare = bare[1:-1].strip()
    return not (
        not bare
        or bare.lower() in _ILLEGAL_ANY_CASE
        or bare in _ILLEGAL
        or "\x00" in distinct_id
        or len(distinct_id) > DISTINCT_ID_CHARS_MAX
    )
