"""What the formats of our OpenAPI document look like: a generator knows them no more than a reader would."""

from __future__ import annotations

import base64
import json
import os
from datetime import datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

TOKEN, POSITION = os.environ["SCHEMATHESIS_TOKEN"], os.environ["SCHEMATHESIS_POSITION"]

NAMES = st.sampled_from(["plan", "email", "a.b", "odd`key", "плата", "", "x" * 400])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
TIMES = st.datetimes(datetime(1971, 1, 1), datetime(2026, 1, 1)).map(lambda time: time.isoformat() + "Z")
DAYS = st.one_of(TIMES, st.dates().map(str), st.sampled_from(["-7d", "-3h", "-2w", "-10m", "-1y"]))
SCALARS = st.one_of(TEXTS, st.integers(-(2**53), 2**53), st.booleans())


def _filter(operator: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"key": NAMES.filter(bool), "value": value, "operator": st.just(operator), "type": st.just("person")}
    )


NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
LEAVES = st.one_of(
    *(_filter(operator, SCALARS | st.lists(SCALARS, max_size=5)) for operator in ("exact", "is_not", "in", "not_in")),
    *(_filter(operator, SCALARS) for operator in ("icontains", "not_icontains", "is_set", "is_not_set")),
    *(_filter(operator, st.sampled_from(["^a", "b+", "[c-e]$", ""])) for operator in ("regex", "not_regex")),
    *(_filter(operator, NUMBERS) for operator in ("gt", "gte", "lt", "lte", "min", "max")),
    *(
        _filter(operator, st.lists(NUMBERS, min_size=2, max_size=2).map(sorted))
        for operator in ("between", "not_between")
    ),
    *(_filter(operator, TIMES) for operator in ("is_date_exact", "is_date_before", "is_date_after")),
)
GROUPS = st.fixed_dictionaries({"type": st.sampled_from(["AND", "OR"]), "values": st.lists(LEAVES, max_size=4)})
FILTERS = st.one_of(st.lists(LEAVES, max_size=4), GROUPS)
SERIES = st.lists(
    st.fixed_dictionaries({"id": TEXTS}, optional={"properties": st.lists(LEAVES, max_size=2)}), max_size=3
)
EVENTS = st.fixed_dictionaries(
    {"api_key": st.just(TOKEN), "event": st.sampled_from(["sign up", "$set"]), "distinct_id": TEXTS.filter(str.strip)},
    optional={"properties": st.dictionaries(NAMES.filter(bool), SCALARS, max_size=3)},
)


def _cursor(created: int, root: object) -> str:
    return base64.urlsafe_b64encode(f"{created}:{root}".encode()).decode().rstrip("=")


schemathesis.openapi.format("cursor", st.builds(_cursor, st.integers(0, 2**62), st.uuids()))
schemathesis.openapi.format("step", st.builds("{}.{}".format, st.integers(0, 2**62), st.integers(0, 2**62)))
schemathesis.openapi.format("moment", TIMES | st.just(POSITION))
schemathesis.openapi.format("position", st.just(POSITION))
schemathesis.openapi.format("day", DAYS)
schemathesis.openapi.format("filters", FILTERS.map(json.dumps))
schemathesis.openapi.format("series", SERIES.map(json.dumps))
schemathesis.openapi.format("breakdown", NAMES | st.lists(NAMES, max_size=3).map(json.dumps))
schemathesis.openapi.format("person-id", st.uuids().map(str) | st.integers(0, 2**53).map(str))
schemathesis.openapi.format("event", EVENTS.map(json.dumps))
schemathesis.openapi.format("entity-tag", st.sampled_from(["*", '"3-1f"', '"0-1", "0-2"']))
