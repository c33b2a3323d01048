"""The headers of a request as the front has them: names in small letters, values as they were
sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class _Names(dict[str, bytes]):
    """Names of headers, as they are written in this code, in small letters: so many as the code
    has."""

    def __missing__(self, name: str) -> bytes:
        self[name] = small = name.lower().encode()
        return small


_NAMES = _Names()


class Headers(Mapping[str, str]):
    """The headers of a request, each of which came once. Their values are decoded when they are
    asked for."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return self._fields[_NAMES[name]].decode("utf-8", "surrogateescape")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _NAMES[name] in self._fields

    def get(self, name: str, default: Any = None) -> Any:
        value = self._fields.get(_NAMES[name])
        return default if value is None else value.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._fields)

    def __len__(self) -> int:
        return len(self._fields)
