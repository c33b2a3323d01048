"""Parameters of queries, each declared once: handlers read it, the OpenAPI document shows it with
its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from uuid import UUID

import orjson

from shared.domain.errors import BadInput
from shared.inputs.ids import SENT_ID_CHARS_MAX

TEXT_CHARS_MAX = 400
"""A text to look for: no name, email or distinct id that can be found is longer."""

JSON_CHARS_MAX = 16_000
"""JSON in a query: percent-encoded it still fits into a request line."""

PAGE_DEFAULT, PAGE_MAX = 100, 1_000
"""Rows of a page; the documented limits."""

OFFSET_MAX = 100_000
"""`offset` walks over what it skips; whoever needs more follows `next`."""

V = TypeVar("V")


class Parameter(Generic[V]):
    """One parameter: its name, what it is for, and how its text is read."""

    blank_is_none = True
    """Forms send all their fields: an empty one asks for nothing."""

    def __init__(
        self,
        name: str,
        says: str,
        *,
        absent: V,
        example: Any = None,
        required: bool = False,
    ) -> None:
        self.name, self.says, self.absent, self.example, self.required = (
            name,
            says,
            absent,
            example,
            required,
        )

    def of(self, query: Mapping[str, str]) -> V:
        """The value that a query gives, or the default. BadInput, naming the parameter, when it is
        none."""
        text = query.get(self.name)
        return (
            self.absent
            if text is None or (text == "" and self.blank_is_none)
            else self.read(text)
        )

    def read(self, text: str) -> V:
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        raise NotImplementedError

    def wrong(self, detail: str, slug: str = "invalid_input") -> BadInput:
        return BadInput(f"{self.name} {detail}", attr=self.name, slug=slug)


class Integer(Parameter[int]):
    """An integer within its limits; nothing else is one, an empty text neither."""

    blank_is_none = False

    def __init__(
        self, name: str, says: str, *, absent: int, maximum: int, minimum: int = 1
    ) -> None:
        super().__init__(name, says, absent=absent)
        self.maximum, self.minimum = maximum, minimum

    def read(self, text: str) -> int:
        digits = text.isascii() and text.isdigit()
        if not digits or not self.minimum <= int(text[:12]) <= self.maximum:
            raise self.wrong(
                f"must be an integer from {self.minimum} to {self.maximum}."
            )
        return int(text)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "integer",
            "minimum": self.minimum,
            "maximum": self.maximum,
            "default": self.absent,
        }


class Flag(Parameter[bool]):
    """true, false, 1 or 0, and nothing else: a flag decides what is deleted."""

    blank_is_none = False

    def __init__(self, name: str, says: str) -> None:
        super().__init__(name, says, absent=False)

    def read(self, text: str) -> bool:
        if text not in ("true", "false", "1", "0"):
            raise self.wrong("must be true, false, 1 or 0.")
        return text in ("true", "1")

    def schema(self) -> dict[str, Any]:
        return {
            "type": "string",
            "enum": ["true", "false", "1", "0"],
            "default": "false",
        }


class Text(Parameter[str]):
    """A text of at most `chars_max` characters; `form` names what it must look like, as OpenAPI's
    formats do."""

    def __init__(
        self,
        name: str,
        says: str,
        *,
        chars_max: int = TEXT_CHARS_MAX,
        example: Any = None,
        required: bool = False,
        form: str = "",
    ) -> None:
        super().__init__(name, says, absent="", example=example, required=required)
        self.chars_max, self.form = chars_max, form

    def read(self, text: str) -> str:
        if len(text) > self.chars_max:
            raise self.wrong(f"may have {self.chars_max} characters.")
        return text

    def schema(self) -> dict[str, Any]:
        return (
            {"type": "string", "format": self.form}
            if self.form
            else {"type": "string", "maxLength": self.chars_max}
        )


class Json(Text):
    """A text that is JSON of a form. `decode` gives what it holds, an empty list for nothing."""

    def read(self, text: str) -> str:
        self.decode(super().read(text))
        return text

    def decode(self, text: str) -> Any:
        """What the text holds. BadInput when it is no JSON, or of another form."""
        if not text:
            return []
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise self.wrong("must be JSON.") from None
        return self.checked(value)

    def checked(self, value: Any) -> Any:
        """The value, if it has the form. BadInput otherwise."""
        raise NotImplementedError


class Moment(Text):
    """A moment of the past. An empty one is a mistake: to answer with the present would hide it."""

    blank_is_none = False

    def read(self, text: str) -> str:
        if not text:
            raise self.wrong("must be a time (ISO 8601) or a position (c.17.123456).")
        return super().read(text)


class Choice(Parameter[str]):
    """One of a few words."""

    def __init__(
        self, name: str, says: str, *, absent: str, choices: tuple[str, ...]
    ) -> None:
        super().__init__(name, says, absent=absent)
        self.choices = choices

    def read(self, text: str) -> str:
        if text not in self.choices:
            raise self.wrong(
                f"must be {', '.join(self.choices[:-1])} or {self.choices[-1]}.",
                "invalid_choice",
            )
        return text

    def schema(self) -> dict[str, Any]:
        return _or_blank({"type": "string", "enum": list(self.choices)}, self.absent)


class Uuid(Parameter[UUID]):
    """A uuid; the nil one for none."""

    def __init__(self, name: str, says: str) -> None:
        super().__init__(name, says, absent=UUID(int=0))

    def read(self, text: str) -> UUID:
        try:
            return UUID(text)
        except ValueError:
            raise self.wrong("must be a uuid.") from None

    def schema(self) -> dict[str, Any]:
        return _or_blank({"type": "string", "format": "uuid"}, "")


def _or_blank(schema: dict[str, Any], absent: Any) -> dict[str, Any]:
    return {"anyOf": [schema, {"const": ""}], "default": absent}


LIMIT = Integer("limit", "Rows on a page.", absent=PAGE_DEFAULT, maximum=PAGE_MAX)
OFFSET = Integer(
    "offset",
    "Rows to skip. Prefer the URL in `next`.",
    absent=0,
    maximum=OFFSET_MAX,
    minimum=0,
)
CURSOR = Text(
    "cursor",
    "The place to continue from. Use the URL in `next`.",
    chars_max=100,
    form="cursor",
)
DISTINCT_ID = Text(
    "distinct_id", "One of the person's distinct ids.", chars_max=SENT_ID_CHARS_MAX
)
DRY_RUN = Flag("dry_run", "Show the result without doing anything.")
AS_OF = Moment(
    "as_of",
    "A past moment: a time (ISO 8601; UTC without an offset), or a `Position`.",
    chars_max=20_000,
    example="2026-11-20T10:00:00Z",
    form="moment",
)
DATE_FROM = Text(
    "date_from",
    "A date, a time (ISO 8601), a span back (`-7d`), `mStart`, or `all`. Days are those of the "
    "project's zone.",
    chars_max=40,
    example="-7d",
    form="day",
)
DATE_TO = Text(
    "date_to", "The same. A date includes its whole day.", chars_max=40, form="day"
)
