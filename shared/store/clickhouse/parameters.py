"""Parameters of a statement, cut to what a server takes in one field. Never changes what the
statement means.

A server refuses a form field above 131,072 bytes (code 1000), and only its own default profile can
allow more. A longer value goes in several parameters of the same statement, so it stays one
snapshot: `{ids:Array(UUID)}` becomes `arrayConcat({ids_1:Array(UUID)}, {ids_2:Array(UUID)})`, and a
text `concat(…)`. The engine folds both into one constant before it plans: keys and indexes are used
as with one parameter, in mutations too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from itertools import count
from typing import Any
from uuid import UUID

from clickhouse_connect.driver.binding import format_bind_value

from shared.store.clickhouse.failures import StoreError

FIELD_BYTES_MAX = 131_072
"""Of one field: a server's `http_max_field_value_size`."""

FIELDS_MAX = 900
"""Parameters of one statement: a server's `http_max_fields` is 1,000, the statement is a field as
well."""

STATEMENT_BYTES_MAX = FIELD_BYTES_MAX - 1_024
"""Of a statement with parameters: it is a field too, and the client adds a format; `max_query_size`
is twice that."""

ESCAPED_BYTES_MAX = 4
"""Of one character as it is sent: UTF-8 has up to four bytes, an escape two, a byte of `bytes`
four."""

_PLACEHOLDER = re.compile(r"\{(\w+):([^}]+)\}")
_ESCAPED = re.compile(r"[\\'`\t\n]")
_ARRAY = re.compile(r"Array\((.*)\)", re.DOTALL)


class Formatted:
    """A value as it is sent. The client takes what it does not know by its text, so nothing is
    formatted twice."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    @property
    def size(self) -> int:
        """Bytes of the field; of ASCII without looking at it."""
        return (
            len(self.text)
            if self.text.isascii()
            else len(self.text.encode("utf-8", "surrogatepass"))
        )


def bind(sql: str, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A statement and its parameters, each at most FIELD_BYTES_MAX; the same statement unless one
    is longer.

    Lists are formatted here, without time zones: a list of datetimes is not for this. StoreError
    for a value that cannot be cut, or has more parts than a statement can have.
    """
    fields: dict[str, Any] = dict(parameters)
    long: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, list) or (
            isinstance(value, str | bytes)
            and len(value) * ESCAPED_BYTES_MAX > FIELD_BYTES_MAX
        ):
            fields[name] = formatted = Formatted(_text(value))
            if formatted.size > FIELD_BYTES_MAX:
                long[name] = value
    if long:
        sql, fields = _cut(sql, fields, long)
    if len(fields) > FIELDS_MAX:
        raise StoreError(f"{len(fields)} parameters are more than {FIELDS_MAX}")
    if (
        fields
        and len(sql) * ESCAPED_BYTES_MAX > STATEMENT_BYTES_MAX
        and len(sql.encode()) > STATEMENT_BYTES_MAX
    ):
        raise StoreError(
            f"a statement of {len(sql)} characters is longer than {STATEMENT_BYTES_MAX} bytes"
        )
    return sql, fields


def _text(value: Any) -> str:
    """A value as the client formats it, which takes thirty times as long for lists of ids and for
    texts."""
    if type(value) is str:
        return _ESCAPED.sub(r"\\\g<0>", value)
    kinds = set(map(type, value)) if isinstance(value, list) else None
    if kinds == {UUID}:
        return "['" + "', '".join(map(str, value)) + "']"
    if kinds == {str}:
        plain = _ESCAPED.search("".join(value)) is None
        return "['" + "', '".join(value if plain else map(_text, value)) + "']"
    return str(format_bind_value(value))


def _item(value: Any) -> str:
    """The same inside a list."""
    return (
        f"'{_text(value)}'"
        if type(value) is str
        else str(format_bind_value(value, UTC, False))
    )


def _cut(
    sql: str, fields: Mapping[str, Any], long: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    parts = _Parts(
        {name: field for name, field in fields.items() if name not in long},
        {*fields, *(name for name, _ in _PLACEHOLDER.findall(sql))},
    )
    expressions: dict[str, str] = {}

    def expression(placeholder: re.Match[str]) -> str:
        text, name, kind = placeholder[0], placeholder[1], placeholder[2]
        if name not in long:
            return text
        if text not in expressions:
            expressions[text] = parts.expression(name, kind.strip(), long[name])
        return expressions[text]

    return _PLACEHOLDER.sub(expression, sql), parts.fields


class _Parts:
    """The parameters of a statement while some are being cut."""

    def __init__(self, fields: dict[str, Any], names: set[str]) -> None:
        self.fields, self._names, self._numbers = fields, names, count(1)

    def expression(self, name: str, kind: str, value: Any) -> str:
        """What stands for a value of a type: a parameter, or several put together."""
        whole = Formatted(_text(value))
        if whole.size <= FIELD_BYTES_MAX:
            return self._add(name, kind, whole)
        array = _ARRAY.fullmatch(kind)
        if array is not None and isinstance(value, list):
            return f"arrayConcat({', '.join(self._runs(name, array[1], value))})"
        if kind == "String" and isinstance(value, str | bytes):
            step = FIELD_BYTES_MAX // ESCAPED_BYTES_MAX
            pieces = (
                Formatted(_text(value[at : at + step]))
                for at in range(0, len(value), step)
            )
            return (
                f"concat({', '.join(self._add(name, kind, piece) for piece in pieces)})"
            )
        raise StoreError(
            f"parameter {name}: a value of type {kind} with {whole.size} bytes cannot be cut"
        )

    def _runs(self, name: str, kind: str, values: list[Any]) -> Iterator[str]:
        """Arrays of neighbours that fit into one parameter; what does not fit alone is an array of
        one expression."""
        run: list[str] = []
        size = 0
        for value in values:
            item = Formatted(_item(value))
            more = item.size + 2  # with a comma and a space, or both brackets
            if run and size + more > FIELD_BYTES_MAX:
                yield self._add(
                    name, f"Array({kind})", Formatted(f"[{', '.join(run)}]")
                )
                run, size = [], 0
            if more > FIELD_BYTES_MAX:
                yield f"[{self.expression(name, kind, value)}]"
                continue
            run.append(item.text)
            size += more
        if run:
            yield self._add(name, f"Array({kind})", Formatted(f"[{', '.join(run)}]"))

    def _add(self, name: str, kind: str, field: Formatted) -> str:
        """The placeholder of one more parameter, of a name that nobody has."""
        if len(self.fields) >= FIELDS_MAX:
            raise StoreError(
                f"parameter {name}: its value takes more than {FIELDS_MAX} fields"
            )
        free_name = next(
            free_name
            for number in self._numbers
            if (free_name := f"{name}_{number}") not in self._names
        )
        self.fields[free_name] = field
        return f"{{{free_name}:{kind}}}"
