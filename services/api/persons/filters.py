"""Filters of lists, as conditions on the search table (docs/contract.md §3).

A condition is put together from the texts here; names, values and patterns are bound parameters: no
text of a client's becomes SQL. Regular expressions run in the engine (RE2) and nowhere else. A
value is compared as text: 5 and "5" are equal, as in the original; an absent property and null are
the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson

from services.api.persons.patterns import PATTERN_CHARS_MAX, judge
from shared.domain.errors import BadInput
from shared.inputs.dates import DateReading, micros, read_date
from shared.inputs.ids import id_spellings
from shared.inputs.repairs import Repairs
from shared.inputs.values import decode_lenient, storable
from shared.store.person import EMAIL_NAMES
from shared.store.search import path_of

FILTERS_MAX = 50
"""Conditions of one list: each reads one column of the table."""

DEPTH_MAX = 8
"""Groups within groups."""

VALUES_MAX = 200
"""Values of one condition; more would not fit into a URL."""

_TEXT = "({path}::Nullable(String))"
_NUMBER = "toFloat64OrNull({text})"
_TIME = "parseDateTime64BestEffortOrNull({text}, 6, {zone})"
_MOMENT = "fromUnixTimestamp64Micro({value:Int64}, 'UTC')"
_BLANKS = r"' \t\r\n'"
"""What people and files leave around an address, as the engine writes it."""

_IDENTIFIER = re.compile(r"[\w$ %@:/+-]+")

_CONDITIONS: dict[str, tuple[str, str]] = {
    "exact": ("values", ""),
    "icontains": ("text", "positionCaseInsensitiveUTF8({text}, {value:String}) > 0"),
    "regex": ("pattern", "match({text}, {value:String})"),
    "gt": ("number", f"{_NUMBER} > {{value:Float64}}"),
    "gte": ("number", f"{_NUMBER} >= {{value:Float64}}"),
    "lt": ("number", f"{_NUMBER} < {{value:Float64}}"),
    "lte": ("number", f"{_NUMBER} <= {{value:Float64}}"),
    "between": (
        "range",
        f"{_NUMBER} BETWEEN {{value:Array(Float64)}}[1] AND {{value:Array(Float64)}}[2]",
    ),
    "is_set": ("none", "isNotNull({text})"),
    "is_date_exact": (
        "dates",
        f"toUnixTimestamp64Micro({_TIME}) "
        "BETWEEN {value:Array(Int64)}[1] AND {value:Array(Int64)}[2]",
    ),
    "is_date_before": ("before", f"{_TIME} < {_MOMENT}"),
    "is_date_after": ("after", f"{_TIME} > {_MOMENT}"),
}
_ALIASES = {"in": "exact", "min": "gte", "max": "lte"}
_NEGATIONS = {
    "is_not": "exact",
    "not_in": "exact",
    "not_icontains": "icontains",
    "not_regex": "regex",
    "not_between": "between",
    "is_not_set": "is_set",
}
OPERATORS = (*_CONDITIONS, *_ALIASES, *_NEGATIONS)


class Filter:
    """Conditions joined by AND, with their parameters. `now` is the moment that relative dates
    count from, in the zone of days and of times without one."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._conditions: list[str] = []
        self._count = 0
        self._patterns: list[tuple[str, str]] = []
        self.parameters: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._conditions)

    @property
    def sql(self) -> str:
        return " AND ".join(self._conditions) or "1"

    @property
    def patterns(self) -> list[str]:
        """The regular expressions in it. Only the engine can tell whether they are valid."""
        return [pattern for _, pattern in self._patterns]

    def column(self, key: str) -> str:
        """A property as text, for a query of its own."""
        return _text(self._path(key))

    def email(self, email: str) -> None:
        """Add a condition: the address, ignoring case and blanks around it."""
        bound = self._bind("String", email.strip())
        addresses = [
            f"ifNull(lowerUTF8(trimBoth({_text(self._path(name))}, {_BLANKS}))"
            f" = lowerUTF8({bound}), 0)"
            for name in EMAIL_NAMES
        ]
        self._conditions.append(f"({' OR '.join(addresses)})")

    def distinct_id(self, distinct_id: str) -> None:
        spellings = self._bind("Array(String)", list(id_spellings(distinct_id)))
        self._conditions.append(f"hasAny(distinct_ids, {spellings})")

    def search(self, text: str) -> None:
        """Add a condition: a part of email, name, uuid or any distinct id, ignoring case and blanks
        around it."""
        bound = self._bind("String", text.strip())
        properties = [_text(self._path(name)) for name in (*EMAIL_NAMES, "name")]
        places = [*properties, "toString(fragment)"]
        matches = [
            f"ifNull(positionCaseInsensitiveUTF8({place}, {bound}), 0) > 0"
            for place in places
        ]
        matches.append(
            f"arrayExists(one -> positionCaseInsensitiveUTF8(one, {bound}) > 0, distinct_ids)"
        )
        self._conditions.append(f"({' OR '.join(matches)})")

    def properties(self, text: str) -> None:
        """Add the conditions of the `properties` parameter: a JSON list of filters, or an AND/OR
        group."""
        value = _decoded(text)
        if isinstance(value, dict) and "values" not in value and "key" in value:
            value = [value]
        if value not in ([], {}):
            self._conditions.append(self._group(value, 1))
        judge(self._patterns, "properties")

    def _group(self, value: Any, depth: int) -> str:
        if depth > DEPTH_MAX:
            raise _bad(f"Groups may be nested {DEPTH_MAX} deep.")
        if isinstance(value, list):
            members, joiner = value, "AND"
        elif isinstance(value, dict) and "values" in value:
            members, joiner = value["values"], str(value.get("type", "AND")).upper()
            if joiner not in ("AND", "OR") or not isinstance(members, list):
                raise _bad("A group has a type, AND or OR, and a list of values.")
        elif isinstance(value, dict):
            return self._leaf(value)
        else:
            raise _bad("A filter is an object with key, value, operator and type.")
        conditions = [self._group(condition, depth + 1) for condition in members]
        return f"({f' {joiner} '.join(conditions)})" if conditions else "1"

    def _leaf(self, leaf: dict[str, Any]) -> str:
        self._count += 1
        if self._count > FILTERS_MAX:
            raise _bad(f"At most {FILTERS_MAX} filters.")
        key, operator = leaf.get("key"), leaf.get("operator") or "exact"
        if not isinstance(key, str) or not key:
            raise _bad("A filter has a key, a text.")
        if leaf.get("type") not in (None, "person"):
            raise _bad("Only filters of type person.")
        if operator not in OPERATORS:
            raise _bad(f"Unknown operator {str(operator)[:100]}.")
        positive = _NEGATIONS.get(operator, _ALIASES.get(operator, operator))
        kind, condition = _CONDITIONS[positive]
        kind_of, read = _VALUES[kind]
        text = _text(self._path(key))
        if positive == "exact":
            condition = self._equal(text, leaf, operator)
        elif kind_of:
            value = read(self, leaf.get("value"), operator)
            if kind == "pattern":
                self._patterns.append((key, value))
            bound = self._bind(kind_of, value)
            name = bound[1:-1].partition(":")[0]
            condition = condition.replace("{value:", f"{{{name}:")
        if "{zone}" in condition:
            zone = self._bind("String", str(self._now.tzinfo))
            condition = condition.replace("{zone}", zone)
        condition = condition.replace("{text}", text)
        return f"{'NOT ' if operator in _NEGATIONS else ''}ifNull({condition}, 0)"

    def _path(self, key: str) -> str:
        """A column of one path of the document. As an identifier it alone is read (7 ms against 45
        for 200,000 rows), but an identifier may not hold every character."""
        path = path_of(key)
        if not _IDENTIFIER.fullmatch(path):
            return f"getSubcolumn(properties, {self._bind('String', path)})"
        return self._bind("Identifier", f"properties.{path}")

    def _bind(self, kind: str, value: Any) -> str:
        name = f"value{len(self.parameters)}"
        self.parameters[name] = value
        return f"{{{name}:{kind}}}"

    def _equal(self, text: str, leaf: dict[str, Any], operator: str) -> str:
        """That a property is any of the values. The engine writes floats itself, as it writes those
        of the table. Texts are looked for as they came, as REST keeps them, and as capture stores
        them. Null is refused: it would find everybody who has no such property."""
        value = leaf.get("value")
        values = value if isinstance(value, list) else [value]
        if None in values:
            raise _bad(f"{operator} needs a value; is_not_set finds who has none.")
        if len(values) > VALUES_MAX:
            raise _bad(f"At most {VALUES_MAX} values.")
        floats = [each for each in values if isinstance(each, float)]
        if 0 in floats:
            floats += [0.0, -0.0]  # equal, and two texts
        texts = dict.fromkeys(
            _json_text(spelling)
            for each in values
            for spelling in (each, storable(each, "properties", Repairs()))
            if not isinstance(spelling, float)
        )
        conditions = [f"{text} IN {self._bind('Array(String)', list(texts))}"]
        if floats:
            bound = self._bind("Array(Float64)", floats)
            conditions.append(
                f"has(arrayMap(number -> toString(number), {bound}), {text})"
            )
        return " OR ".join(f"ifNull({each}, 0)" for each in conditions)

    def text(self, value: Any, operator: str) -> str:
        return _plain(value, operator)

    def pattern(self, value: Any, operator: str) -> str:
        text = _plain(value, operator)
        if len(text) > PATTERN_CHARS_MAX:
            raise _bad(f"A pattern has at most {PATTERN_CHARS_MAX} characters.")
        return text

    def number(self, value: Any, operator: str) -> float:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            raise _bad(f"{operator} needs a number.") from None
        if number != number:
            raise _bad(f"{operator} needs a number.")
        return number

    def range(self, value: Any, operator: str) -> list[float]:
        if not isinstance(value, list) or len(value) != 2:
            raise _bad(f"{operator} needs two numbers.")
        low, high = self.number(value[0], operator), self.number(value[1], operator)
        if low > high:
            raise _bad(f"{operator}: the first number is above the second.")
        return [low, high]

    def dates(self, value: Any, operator: str) -> list[int]:
        """The first and the last microsecond of a date."""
        reading = self._date(value, operator)
        return [micros(reading.first), micros(reading.last)]

    def before(self, value: Any, operator: str) -> int:
        return micros(self._date(value, operator).before)

    def after(self, value: Any, operator: str) -> int:
        return micros(self._date(value, operator).after)

    def _date(self, value: Any, operator: str) -> DateReading:
        text = _plain(value, operator) if isinstance(value, str | int | float) else ""
        reading = read_date(text, self._now)
        if reading is None:
            raise _bad(
                f"{operator} needs a date, a time (ISO 8601) or a relative one (-7d)."
            )
        return reading


_VALUES: dict[str, tuple[str, Callable[[Filter, Any, str], Any]]] = {
    "values": ("", Filter.text),
    "text": ("String", Filter.text),
    "pattern": ("String", Filter.pattern),
    "number": ("Float64", Filter.number),
    "range": ("Array(Float64)", Filter.range),
    "dates": ("Array(Int64)", Filter.dates),
    "before": ("Int64", Filter.before),
    "after": ("Int64", Filter.after),
    "none": ("", Filter.text),
}


def _text(path: str) -> str:
    return _TEXT.replace("{path}", path)


def _decoded(text: str) -> Any:
    """The JSON of the `properties` parameter."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return decode_lenient(text)  # numbers beyond every float
        except (ValueError, RecursionError):
            raise _bad("properties must be JSON.") from None


def _json_text(value: Any) -> str:
    """A value as the table's texts have it: a list or an object as its JSON."""
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return _plain(value, "exact")


def _plain(value: Any, operator: str) -> str:
    """A value as the table's texts have it."""
    if value is None or isinstance(value, dict | list):
        raise _bad(f"{operator} needs a text, a number or a boolean.")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _bad(detail: str) -> BadInput:
    return BadInput(detail, attr="properties")
