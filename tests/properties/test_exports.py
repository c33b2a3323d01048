"""Export and import are inverse: any persons, written in every format and read again, have the same properties."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.api.capture.events import RequestContext, commands_of
from services.api.http.rendering import csv_body, json_body, lines_body
from shared.domain.commands import Capture
from shared.domain.ids import fragment_id, version_of
from shared.domain.person.fragment import Fragment
from shared.inputs.repairs import Repairs
from shared.inputs.values import INTEGER_MAX, INTEGER_MIN
from tests.support.imports import imported

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
TRICKY = st.sampled_from(
    ["", "5", "-5", "1.10", "1e5", "1e+16", "true", "TRUE", "False", "null", "=x", "'=x", "''=x", "+49", "@a", "\t",
     "\r", "a\r\nb", '"', "a,b", ";", "[1]", "{}", "NaN", "-0", "0.1", " ", "sep=;", "\ufeff", "2024-01-01", str(2**64)]
)  # fmt: skip
SCALARS = st.one_of(
    TEXTS, TRICKY, st.none(), st.booleans(), st.integers(INTEGER_MIN, INTEGER_MAX),
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-10, 10),
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
NAMES = st.one_of(
    TEXTS.filter(bool),
    st.sampled_from("plan,a,a.b,a\\.b,a\\,a.b.c,a.0,0, plan,plan ,$initial_os,$browser".split(",")),
    st.sampled_from(["properties", "distinct_ids.0"]),
    TRICKY.filter(bool),
)
PROPERTIES = st.dictionaries(NAMES, VALUES, max_size=6)
IDS = st.sampled_from(["-5", "=x", "'=x", "5", "true", "ü,\"\n'x", " a ", "a.b", "[1]", "{}"]) | TEXTS.filter(str.strip)


def row_of(ids: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    """A person as the list answers it."""
    return {
        "id": 7, "name": ids[0], "distinct_ids": ids, "properties": properties, "type": "person",
        "matched_recordings": [], "value_at_data_point": None, "created_at": "2023-01-01T00:30:00.000001Z", "uuid":
        "0188a1f0-0000-5000-8000-000000000001", "last_seen_at": "2023-05-05T05:00:00Z", "is_identified": True,
    }  # fmt: skip


def archive_of(listing: dict[str, Any]) -> bytes:
    """What `:id/export` answers, of its first person."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        zipped.writestr("person.ndjson", json_body(listing["results"][0]) + b"\n")
        zipped.writestr("distinct_ids.ndjson", b'{"distinct_id":"x","properties":{"x":1}}\n')
        zipped.writestr("manifest.json", b"{}")
    return content.getvalue()


FORMS: dict[str, Callable[[Any], bytes]] = {
    "csv": csv_body, "ndjson": lines_body, "page": json_body, "archive": archive_of,
}  # fmt: skip


def properties_of(path: Path, distinct_id: str) -> bytes:
    """The properties that an empty project has of this id after the import, as JSON."""
    done = imported(path)
    assert done.refusals == {}, done.refusals
    numbers = count(1)
    now = 1_795_426_700_000_000
    context = RequestContext(
        project=1, received_at=now, arrived_at=now, skew=0, historical=True, mint=lambda: UUID(int=next(numbers))
    )
    fragment = Fragment(1, fragment_id(1, distinct_id))
    for offset, event in enumerate(done.of(distinct_id)):
        repairs = Repairs()
        command = commands_of(orjson.loads(orjson.dumps(event)), now + offset, context, repairs)[0]
        assert isinstance(command, Capture) and not repairs
        fragment.handle(command, version_of(offset), 0)
    return orjson.dumps(fragment.properties, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("form", FORMS)
@given(persons=st.lists(PROPERTIES, min_size=1, max_size=3))
@example(persons=[{"a.b": 1, "a": {"b": 2}}, {"a": 1, "a.b": "x"}])
@example(persons=[{"plan": "'=x"}, {"plan": "=x"}, {"plan": 1.10}])
@example(persons=[{"none": None, "empty": [], "nothing": {}, "": 1} | {"text": ""}, {}])
def test_what_is_exported_and_imported_is_the_same_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, form: str, persons: list[dict[str, Any]]
) -> None:
    persons = [{name: value for name, value in properties.items() if name} for properties in persons]
    rows = [row_of([f"person-{number}"], properties) for number, properties in enumerate(persons)]
    path = tmp_path_factory.getbasetemp() / f"exported-{form}"
    path.write_bytes(FORMS[form]({"results": rows, "next": None, "previous": None}))
    for row in rows[:1] if form == "archive" else rows:
        expected = orjson.dumps(row["properties"], option=orjson.OPT_SORT_KEYS)
        assert properties_of(path, row["distinct_ids"][0]) == expected


@pytest.mark.parametrize("form", ["csv", "ndjson", "page"])
@given(ids=st.lists(IDS, min_size=1, max_size=3, unique=True))
def test_ids_are_the_same_too(tmp_path_factory: pytest.TempPathFactory, form: str, ids: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / f"ids-{form}"
    path.write_bytes(FORMS[form]({"results": [row_of(["first", *ids], {})], "next": None, "previous": None}))
    done = imported(path)
    illegal = sum("never merges" in reason for reason in done.refusals.values())
    joined = {source for into, source in done.joins() if into == "first"}
    assert joined <= set(ids) and (illegal or joined == set(ids) - {"first"})
