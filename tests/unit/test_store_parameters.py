"""Cutting parameters to a server's fields, without a server: nothing is lost, nothing is too long."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.binding import bind_query, format_bind_value
from hypothesis import given
from hypothesis import strategies as st

from shared.store.clickhouse import parameters
from shared.store.clickhouse.failures import StoreError
from shared.store.clickhouse.parameters import FIELD_BYTES_MAX, FIELDS_MAX, STATEMENT_BYTES_MAX, bind

IDS = "SELECT 1 FROM t WHERE a IN {ids:Array(UUID)}"
TEXT = "SELECT {text:String}"

PARTS = re.compile(r"\{(\w+):([^}]+)\}")


def sent(sql: str, values: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The statement and the fields as the client sends them."""
    text, fields = bind_query(*bind(sql, values))
    assert isinstance(text, str)
    return text, {name.removeprefix("param_"): value for name, value in fields.items()}


def put_together(expression: str, fields: dict[str, Any]) -> Any:
    """What the engine makes of the expression that stands for one value."""
    names = {
        "arrayConcat": lambda *arrays: [item for array in arrays for item in array],
        "concat": lambda *texts: (b"" if isinstance(texts[0], bytes) else "").join(texts),
    }
    return eval(PARTS.sub(lambda found: f"fields[{found[1]!r}]", expression), names | {"fields": fields})  # noqa: S307


text = st.text(st.characters(codec="utf-8"), max_size=60)
values = st.one_of(
    st.tuples(st.just("Array(UUID)"), st.lists(st.uuids())),
    st.tuples(st.just("Array(UInt64)"), st.lists(st.integers(0, 2**64 - 1))),
    st.tuples(st.just("Array(String)"), st.lists(text)),
    st.tuples(st.just("Array(Array(String))"), st.lists(st.lists(text))),
    st.tuples(st.just("Array(String)"), st.lists(st.binary(max_size=40))),
    st.tuples(st.just("String"), text),
    st.tuples(st.just("String"), st.binary(max_size=200)),
)


@given(value=values, limit=st.integers(64, 200))
def test_what_is_cut_is_whole_when_put_together_and_no_field_is_too_long(value: tuple[str, Any], limit: int) -> None:
    kind, given_value = value
    pieces: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters, "FIELD_BYTES_MAX", limit)
        sql, fields = sent(f"SELECT {{value:{kind}}}", {"value": given_value})
    assert all(len(field.encode()) <= limit for field in fields.values())
    assert [name for name, _ in PARTS.findall(sql)] == list(fields)
    assert len(format_bind_value(given_value).encode()) > limit or fields == {"value": format_bind_value(given_value)}
    for name, part_kind in PARTS.findall(sql):
        pieces[name] = parsed(fields[name], part_kind)
    whole = put_together(sql.removeprefix("SELECT "), pieces)
    assert whole == parsed(format_bind_value(given_value), kind)


def parsed(field: str, kind: str) -> Any:
    """A field as the engine reads it; our own reader, for these types only."""
    if kind == "String":
        return unescaped(field)
    items: list[Any] = []
    stack = [items]
    for token in re.findall(r"'(?:\\.|[^'\\])*'|\d+|\[|\]", field, re.DOTALL):
        if token == "[":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif token == "]":
            stack.pop()
        else:
            stack[-1].append(unescaped(token[1:-1]) if token[0] == "'" else int(token))
    return items[0]


def unescaped(escaped: str) -> str:
    plain = re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), escaped)
    return plain if plain != escaped else re.sub(r"\\(.)", r"\1", escaped, flags=re.DOTALL)


mixed = st.one_of(st.uuids(), st.text(), st.integers())
any_list = st.one_of(st.lists(st.uuids()), st.lists(st.text()), st.lists(mixed))


@given(st.one_of(st.text(), st.binary(), any_list, st.lists(any_list)))
def test_values_are_formatted_as_the_client_formats_them(value: Any) -> None:
    assert parameters._text(value) == format_bind_value(value)


def test_a_value_that_fits_leaves_the_statement_as_it_is() -> None:
    ids = [UUID(int=number) for number in range(3_276)]
    ids_bytes = len(format_bind_value(ids))
    assert FIELD_BYTES_MAX - 40 < ids_bytes <= FIELD_BYTES_MAX
    assert sent(IDS, {"ids": ids}) == (IDS, {"ids": format_bind_value(ids)})
    text = "x" * FIELD_BYTES_MAX
    assert sent(TEXT, {"text": text}) == (TEXT, {"text": text})


@pytest.mark.parametrize("value", ["x" * (FIELD_BYTES_MAX + 1), "ä" * (FIELD_BYTES_MAX // 2 + 1),
                                   "\t" * (FIELD_BYTES_MAX // 2 + 1)])  # fmt: skip
def test_one_byte_more_is_cut(value: str) -> None:
    sql, fields = sent(TEXT, {"text": value})
    assert sql.startswith("SELECT concat({text_1:String}, {text_2:String}")
    assert "".join(unescaped(field) for field in fields.values()) == value
    assert max(len(field.encode()) for field in fields.values()) <= FIELD_BYTES_MAX


def test_the_parts_of_ids_are_as_few_as_they_can_be() -> None:
    ids = [UUID(int=number) for number in range(10_000)]
    sql, fields = sent(IDS, {"ids": ids})
    parts = ", ".join(f"{{ids_{number}:Array(UUID)}}" for number in range(1, 5))
    assert sql.endswith(f" IN arrayConcat({parts})")
    assert list(fields) == ["ids_1", "ids_2", "ids_3", "ids_4"]


def test_one_value_in_two_places_is_sent_once() -> None:
    ids = [UUID(int=number) for number in range(4_000)]
    sql, fields = sent("SELECT {ids:Array(UUID)} = {ids:Array(UUID)}", {"ids": ids})
    assert len(fields) == 2
    assert sql.count("{ids_1:Array(UUID)}") == 2


def test_parts_take_no_name_that_is_taken() -> None:
    ids = [UUID(int=number) for number in range(4_000)]
    others = {"ids_1": "a", "ids_3": "b"}
    sql, fields = sent("SELECT {ids:Array(UUID)}, {ids_1:String}, {ids_3:String}", {"ids": ids, **others})
    assert sql == "SELECT arrayConcat({ids_2:Array(UUID)}, {ids_4:Array(UUID)}), {ids_1:String}, {ids_3:String}"
    assert (fields["ids_1"], fields["ids_3"]) == ("a", "b")


@pytest.mark.parametrize(("kind", "value"), [
    ("Identifier", "x" * (FIELD_BYTES_MAX + 1)),
    ("Array(Tuple(String))", [("x" * (FIELD_BYTES_MAX + 1),)]),
    ("Array(Nullable(String))", ["x" * (FIELD_BYTES_MAX + 1)]),
])  # fmt: skip
def test_a_value_that_cannot_be_cut_is_refused_by_its_name(kind: str, value: Any) -> None:
    with pytest.raises(StoreError, match=r"parameter value: .* cannot be cut") as caught:
        bind(f"SELECT {{value:{kind}}}", {"value": value})
    assert "xxx" not in str(caught.value)


def test_more_parts_than_a_statement_has_fields_are_refused() -> None:
    with pytest.raises(StoreError, match=f"parameter text: its value takes more than {FIELDS_MAX} fields"):
        bind(TEXT, {"text": "x" * (FIELD_BYTES_MAX // 4 * FIELDS_MAX + 1)})
    with pytest.raises(StoreError, match="parameters are more than"):
        bind("SELECT 1", {f"p{number}": 1 for number in range(FIELDS_MAX + 1)})


def test_a_statement_that_is_too_long_itself_is_refused() -> None:
    with pytest.raises(StoreError, match="a statement of"):
        bind(TEXT + " " * STATEMENT_BYTES_MAX, {"text": ""})
    long = "SELECT 1 " + " " * STATEMENT_BYTES_MAX
    assert bind(long, {}) == (long, {})
