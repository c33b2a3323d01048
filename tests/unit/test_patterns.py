"""What regular expressions may cost: ordinary ones pass, those that multiply are named. Never runs one."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from services.api.persons.filters import FILTERS_MAX, Filter
from services.api.persons.patterns import COST_MAX, PATTERN_CHARS_MAX, cost_of, judge
from shared.domain.errors import BadInput

EMAIL = r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$"
WORDS = "|".join(f"w{number:03}" for number in range(200))

ORDINARY = (
    EMAIL, WORDS, ".", "", "^$", "a{,3}", "x{2}{", r"https?://(www\.)?example\.(com|org|net)/[^?#]*",
    r"(?i)^ceo|founder$",
    r"^\+?\d{1,3}[ -]?\(?\d{1,4}\)?([ -]?\d{2,4}){2,4}$", r"\p{Lu}\p{Ll}+ \p{Lu}\p{Ll}+", r"^[\pL\pM'’ -]{1,3}$",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", ".{1,1000}", "(.{1,1000}){1}", "[^@]{1,64}@[^@]{1,255}", r"\Qa.b*c\E",
    "^(a+)+$", "[]a]", "[^]a]", r"[\]a]", "(?P<name>a|b)(?:c)?", r"\x{1F600}|\x41",
)  # fmt: skip

TOO_MUCH = (
    "(.{1,1000}){1}|(.{1,1000}){1}", ".{1000}.{1000}", "((a{1,30}){1,30}){1,30}", r"\pL{1,100}", r"[^\pL]{500}",
    r"(?i)[à-ÿ]{1,500}", "(?:(?:a|b){100}){100}", r"(?i:\PL{50})", "((((.{10}){10}){10}){10}){10}",
    r"[[:alpha:]]{1000}", "(?:abcdefghijklmnop){1000}", "(" * 200 + "." + "){10}" * 100 + ")" * 100,
)  # fmt: skip


@pytest.mark.parametrize("pattern", ORDINARY, ids=range(len(ORDINARY)))
def test_ordinary_patterns_pass(pattern: str) -> None:
    judge([("plan", pattern)], "properties")


@pytest.mark.parametrize("pattern", TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_what_multiplies_is_refused_and_its_filter_named(pattern: str) -> None:
    with pytest.raises(BadInput, match=r"together, and most of all the filter of plan: repeat less") as refused:
        judge([("plan", "a"), ("plan", pattern)], "properties")
    assert (refused.value.attr, refused.value.slug) == ("properties", "invalid_input")


def test_a_request_has_one_budget_for_all_its_filters() -> None:
    fifty = [{"key": "email", "value": EMAIL, "operator": "regex"}] * FILTERS_MAX
    Filter(datetime.now(UTC)).properties(orjson.dumps(fifty).decode())
    long = [{"key": f"p{number}", "value": "(.{1,1000}){1}", "operator": "not_regex"} for number in range(30)]
    groups = {"type": "OR", "values": long}
    with pytest.raises(BadInput, match="the filter of p0"):
        Filter(datetime.now(UTC)).properties(orjson.dumps(groups).decode())


def test_a_pattern_has_its_length() -> None:
    for length, passes in ((PATTERN_CHARS_MAX, True), (PATTERN_CHARS_MAX + 1, False)):
        sent = orjson.dumps([{"key": "plan", "value": "a" * length, "operator": "regex"}]).decode()
        if passes:
            Filter(datetime.now(UTC)).properties(sent)
        else:
            with pytest.raises(BadInput, match="1000 characters"):
                Filter(datetime.now(UTC)).properties(sent)


def test_repetitions_multiply_what_they_are_about() -> None:
    assert cost_of("a{10}") < cost_of("(?:ab){10}") < cost_of("(?:ab){10}{2}")
    assert cost_of("(a{30}){30}") > 900
    assert max(cost_of(r"a\{1000}"), cost_of("a{1000")) < 20  # no repetition
    assert cost_of("[{1000}]") < 20
    assert cost_of(".{1,1000}") < COST_MAX
