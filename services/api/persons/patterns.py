"""What a regular expression costs the engine, before the engine sees it. Pure; never compiles or
runs a pattern.

The cost is that of RE2's program: its instructions, estimated from above. A program takes time
three times: to be compiled, to be compiled again for each block of rows, and for each byte that it
looks at where its states are too many to be kept. Measured on two cores (ClickHouse 26.9, one
thread):

| instructions | compiled in | 1 MB of texts, made for it, matched in |
|---|---|---|
| 100 (an email address) | 0.3 ms | 0.01 s |
| 1,560 (`\\pL+`) | 1 ms | 0.03 s |
| 10,000 (`.{1,1000}`) | 5 ms | 10 s |
| 22,000 (`(.*[a-m].*){1,900}`) | 10 ms | 35 s |
| 240,000 (`.{1,1000}` 20 times) | 550 ms | |
| 695,000 | the engine's own limit: code 427 | |

So it is about 0.5 µs an instruction to compile and 2 ns an instruction and a byte to match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from shared.domain.errors import BadInput

PATTERN_CHARS_MAX = 1_000
"""A regular expression."""

COST_MAX = 12_000
"""Instructions of all patterns of one request: 200 words are 2,000, `.{1,1000}` is 11,000, and
thirty of these are not for a list that others wait for. What is let through compiles within 80 ms:
`x{1,1000}` five times in a row."""

COPIES_MAX = 1_000
"""The engine refuses to repeat more; counted as so many, it is refused here or there."""

ANY = 10
"""`.`, and whatever is almost everything: the bytes that characters of each length begin and go on
with."""

RANGE = 40
"""A range of characters beyond ASCII."""

UNICODE = 1_600
"""A class of Unicode's: letters have 1,560."""

_ESCAPED = {"d": 2, "D": 3 + ANY, "s": 6, "S": 8 + ANY, "w": 5, "W": 8 + ANY, "C": 2}
_REPEAT = re.compile(r"\{(\d{1,9})(?:(,)(\d{0,9}))?\}")
_GROUP = re.compile(r"\(\?(?:P?<\w+>|([imsU]*)(-?)([imsU]*)([:)]))")
_CODE = re.compile(r"\\x(?:\{([0-9a-fA-F]{1,8})\}|([0-9a-fA-F]{2}))")
_UNICODE = re.compile(r"\\[pP](?:\{[^}]*\}|.)", re.DOTALL)
_NAMED = re.compile(r"\[:\^?\w+:\]")


class _Group:
    """What a group has so far; `last` is its last atom, which a repetition is about."""

    def __init__(self, folds: bool) -> None:
        self.cost, self.last, self.folds = 0, 0, folds

    def add(self, atom: int) -> None:
        self.cost += atom
        self.last = atom

    def repeat(self, copies: int) -> None:
        """The last atom so many times, each of which may be the last one."""
        more = self.last * (copies - 1) + copies
        self.cost += more
        self.last += more


def judge(patterns: Sequence[tuple[str, str]], attr: str) -> None:
    """BadInput, with `attr`, when these (key of the filter, pattern) of one request are too much
    for the engine."""
    costs = [cost_of(pattern) for _, pattern in patterns]
    if sum(costs) > COST_MAX:
        key, _ = patterns[costs.index(max(costs))]
        raise BadInput(
            f"The regular expressions cost {sum(costs)}, at most {COST_MAX} together, "
            f"and most of all the filter of {key[:100]}: repeat less.",
            attr=attr,
        )


def cost_of(pattern: str) -> int:
    """The instructions of a pattern, estimated from above. Whether it is one at all only the engine
    can say."""
    groups = [_Group(folds=False)]
    at = 0
    while at < len(pattern):
        group, char = groups[-1], pattern[at]
        if char == "(":
            at = _open(pattern, at, groups)
            continue
        if char == ")" and len(groups) > 1:
            groups[-2].add(groups.pop().cost + 3)
        elif char == "|":
            group.add(2)
        elif char in "*+?":
            group.repeat(1)
        elif char == "{" and (repeat := _REPEAT.match(pattern, at)) is not None:
            group.repeat(_copies(repeat))
            at = repeat.end()
            continue
        else:
            cost, at = _atom(pattern, at, folds=group.folds)
            group.add(cost)
            continue
        at += 1
    return sum(group.cost for group in groups)


def _open(pattern: str, at: int, groups: list[_Group]) -> int:
    """Begin a group, or change the flags of the one that it is in; where it goes on."""
    folds = groups[-1].folds
    flags = _GROUP.match(pattern, at)
    if flags is None:
        groups.append(_Group(folds))
        return at + 1
    if flags[4] is not None:
        folds = "i" in flags[1] or (folds and "i" not in flags[3])
    if flags[4] == ")":
        groups[-1].folds = folds
    else:
        groups.append(_Group(folds))
    return flags.end()


def _copies(repeat: re.Match[str]) -> int:
    minimum, maximum = int(repeat[1]), int(repeat[3] or 0)
    copies = max(minimum + 1 if repeat[2] and not repeat[3] else minimum, maximum, 1)
    return min(copies, COPIES_MAX + 1)


def _atom(pattern: str, at: int, *, folds: bool) -> tuple[int, int]:
    """(cost, where it ends) of one character, escape or class."""
    char = pattern[at]
    if char == "[":
        return _class(pattern, at + 1, folds=folds)
    if char == ".":
        return ANY, at + 1
    if pattern.startswith("\\Q", at):
        end = pattern.find("\\E", at + 2)
        text = pattern[at + 2 : end if end >= 0 else None]
        return sum(_literal(letter, folds=folds) for letter in text), len(
            pattern
        ) if end < 0 else end + 2
    if char == "\\" and (match := _UNICODE.match(pattern, at)) is not None:
        return UNICODE, match.end()
    if char == "\\" and pattern[at + 1 : at + 2] in _ESCAPED:
        return _escaped(pattern[at + 1], folds=folds), at + 2
    point, at = _point(pattern, at)
    return _literal(point, folds=folds), at


def _class(pattern: str, at: int, *, folds: bool) -> tuple[int, int]:
    """The same of `[…]`, from behind its beginning."""
    negated = pattern.startswith("^", at)
    at += negated
    cost, first = 1, at
    while at < len(pattern) and (at == first or pattern[at] != "]"):
        if (posix := _NAMED.match(pattern, at)) is not None:
            cost, at = cost + ANY + 5, posix.end()
        elif (unicode := _UNICODE.match(pattern, at)) is not None:
            cost, at = cost + UNICODE, unicode.end()
        elif pattern[at] == "\\" and pattern[at + 1 : at + 2] in _ESCAPED:
            cost, at = cost + _escaped(pattern[at + 1], folds=folds), at + 2
        else:
            low, at = _point(pattern, at)
            high = low
            if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in (
                "",
                "]",
            ):
                high, at = _point(pattern, at + 1)
            cost += _range(low, high, folds=folds)
    if negated:  # each range leaves two behind
        cost = ANY + 2 * cost + (RANGE if folds else ANY)
    return cost, at + 1


def _point(pattern: str, at: int) -> tuple[str, int]:
    """(the character that is meant, where it ends); an escape of one that needs none is that
    one."""
    if pattern[at] != "\\":
        return pattern[at], at + 1
    code = _CODE.match(pattern, at)
    if code is not None:
        return chr(min(int(code[1] or code[2], 16), 0x10FFFF)), code.end()
    return pattern[at + 1 : at + 2] or "\\", at + 2


def _escaped(name: str, *, folds: bool) -> int:
    return 3 * _ESCAPED[name] if folds else _ESCAPED[name]


def _literal(char: str, *, folds: bool) -> int:
    """Its bytes; where case does not count, those of what it folds to as well."""
    size = len(char.encode("utf-8", "surrogatepass"))
    return (
        size if not folds or (char.isascii() and char not in "kKsS") else 4 * size + 4
    )


def _range(low: str, high: str, *, folds: bool) -> int:
    if high < "\x80":
        return 10 if folds else 2
    if low == high:
        return 2 * _literal(low, folds=folds)
    return 3 * RANGE if folds else RANGE
