"""What the engine says of the estimated cost of patterns: never more than that. Asserts no time.

The engine's own limit is the measure: a program of more than ENGINE_MAX instructions is refused. So a pattern of cost c
may stand ENGINE_MAX / c times in one, and is too cheap when that is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.api.persons.patterns import COST_MAX, PATTERN_CHARS_MAX, cost_of
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.failures import StoreError
from shared.store.clickhouse.queries import Query
from tests.support.engine import EngineProcess
from tests.support.tier import sized

ENGINE_MAX = 690_000
CANNOT_COMPILE = 427

COMPILE = Query(name="compile", sql="SELECT match('', {pattern:String})")

Refused = Callable[[str], str]

ATOMS = (
    "a", "K", "é", "ß", "ǆ", "字", "😀", ".", "(?s:.)", r"\d", r"\D", r"\s", r"\S", r"\w", r"\W", r"\C", r"\b",
    "^", "$", "[a-z]", "[acegikmoqs]", "[^a]", "[^acegik]", "[^a-z0-9]", "[éèêë]", "[à-ÿ]", "[^à-ÿ]", "[一-龥]",
    r"[\W\d]", "[^é]", r"[\x{81}-\x{7fe}\x{801}-\x{fffe}\x{10001}-\x{10fffe}]", r"\pL", r"\PL", r"\p{Lu}", r"\P{Ll}",
    r"[\pL\pN]", "[[:alpha:]]", r"[^\pL]", "[^[:word:]]", r"\Qa.é\E", r"\x{370}",
)  # fmt: skip


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=4).map("|".join),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"(?i:{one})"),
        st.tuples(inner, st.integers(0, 40)).map(lambda pair: f"(?:{pair[0]}){{{pair[1]}}}"),
        st.tuples(inner, st.sampled_from("*+")).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    )


def _optional(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(inner, st.integers(0, 500), st.integers(0, 500)).map(
        lambda three: f"(?:{three[0]}){{{min(three[1:])},{max(three[1:])}}}"
    )


REGULAR = st.recursive(st.sampled_from(ATOMS), _grown, max_leaves=6)
ANY = st.one_of(
    st.recursive(st.sampled_from(ATOMS), lambda inner: st.one_of(_grown(inner), _optional(inner)), max_leaves=8),
    st.text(st.sampled_from(r"ab.é\[](){}|*+?^$-1,29:dDwWpPLQE<>isU"), max_size=60),
)


@pytest.fixture(scope="module")
def refused(engine: EngineProcess) -> Refused:
    """Ask the engine whether it refuses a pattern, and what it says."""

    def ask(pattern: str) -> str:
        async def asked() -> str:
            store = await Store.connect(engine.url("default"))
            try:
                await store.rows(COMPILE, pattern=pattern)
            except StoreError as error:
                assert error.code == CANNOT_COMPILE, error.detail
                return error.detail
            finally:
                await store.close()
            return ""

        return asyncio.run(asked())

    return ask


@pytest.mark.parametrize("number", range(0, len(ATOMS), sized(dev=4, ci=1, soak=1)))
@pytest.mark.parametrize("form", ["(?:{})", "(?i:{})"])
def test_an_atom_costs_no_more_than_is_said(refused: Refused, number: int, form: str) -> None:
    pattern = form.format(ATOMS[number])
    assert not refused(pattern * (ENGINE_MAX // cost_of(pattern)))


@settings(max_examples=sized(dev=15, ci=60, soak=500))
@given(pattern=REGULAR)
def test_a_pattern_costs_no_more_than_is_said(refused: Refused, pattern: str) -> None:
    wrapped = f"(?:{pattern})"
    if not refused(wrapped):  # else it repeats more than 1,000 times
        assert not refused(wrapped * max(1, min(ENGINE_MAX // cost_of(wrapped), 20_000)))


@settings(max_examples=sized(dev=40, ci=200, soak=3_000))
@given(pattern=ANY)
@example("x{1,1000}" * 5)
@example("(?:a?b?){1000}")
@example("(?:a{0,30}){33}")
@example(".{1,1000}")
def test_what_is_let_through_is_compiled_in_the_time_of_a_read(refused: Refused, pattern: str) -> None:
    if len(pattern) <= PATTERN_CHARS_MAX and cost_of(pattern) <= COST_MAX:
        refused(pattern)  # StoreUnavailable when it takes too long
