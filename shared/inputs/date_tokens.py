"""The tokens of a date text, as V8's date parser cuts it. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

SIGNIFICANT_DIGITS_MAX = 9
"""Further digits of a number are skipped."""

_TOKEN = re.compile(
    r"(?P<number>[0-9]+)|(?P<symbol>[:\-+.)])|(?P<blank>\s)|(?P<word>(?:[A-~]|[^\x00-\x7f\s])+)"
    r"|(?P<open>\()|(?P<other>.)",
    re.DOTALL,
)


class Token(NamedTuple):
    """A number, a word, a symbol; `end` behind the last one."""

    kind: str
    text: str
    number: int = 0

    @property
    def is_sign(self) -> bool:
        return self.text in ("+", "-") and self.kind == "symbol"

    @property
    def sign(self) -> int:
        return 1 if self.text == "+" else -1

    def is_symbol(self, symbol: str) -> bool:
        return self.kind == "symbol" and self.text == symbol

    def is_digits(self, count: int, low: int = 0, high: int = 10**9) -> bool:
        """Whether it is a number of so many digits, within the bounds."""
        return (
            self.kind == "number"
            and len(self.text) == count
            and low <= self.number <= high
        )


END = Token("end", "")


class Tokens:
    """The tokens of a text, taken one by one."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    def peek(self) -> Token:
        """The next token, which stays."""
        return self._tokens[self._at] if self._at < len(self._tokens) else END

    def take(self) -> Token:
        """The next token."""
        token = self.peek()
        self._at += 1
        return token

    def skip(self, symbol: str) -> bool:
        """Take the next token if it is this symbol; whether it was."""
        if self.peek().is_symbol(symbol):
            self._at += 1
            return True
        return False


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while match := _TOKEN.match(text, at):
        at = match.end()
        kind, found = str(match.lastgroup), match[0]
        if kind == "open":
            at = _behind_parentheses(text, match.start())
            kind = "other"
        digits = found.lstrip("0")[:SIGNIFICANT_DIGITS_MAX] if kind == "number" else ""
        tokens.append(Token(kind, found, int(digits or 0)))
    return tokens


def _behind_parentheses(text: str, at: int) -> int:
    depth = 0
    for index in range(at, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index + 1
    return len(text)
