"""What a caller hears of the store's failures: whether to ask again, and never a value."""

from __future__ import annotations

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError, StreamFailureError

from shared.domain.errors import StoreUnavailable
from shared.store.clickhouse.client import _decode
from shared.store.clickhouse.failures import StoreError, exception_in, explained, failure, summary

ROWS = b"\x01\x02\x01a\x06String\x0dsecret-of-ann\x0dsecret-of-ann"
TAG = b"ffuazmbqtjhwalib"


def block(text: str) -> bytes:
    """What a server writes behind the rows of an answer that it cannot finish."""
    return b"\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n" % (TAG, text.encode(), len(text), TAG)


@pytest.mark.parametrize("code", [159, 202, 241, 252, 254, 265, 279, 286, 289, 305, 394, 745, 999, 1001])
def test_what_may_work_later_is_unavailable(code: int) -> None:
    assert isinstance(failure("q", DatabaseError("Code: 1", code=code)), StoreUnavailable)


@pytest.mark.parametrize("code", [27, 47, 60, 62, 117, 395, 497, 516, 1000, 1002])
def test_what_would_fail_again_is_an_error_with_its_code(code: int) -> None:
    found = failure("q", DatabaseError("Code: 1", code=code))
    assert isinstance(found, StoreError)
    assert found.code == code


@pytest.mark.parametrize(("error", "said"), [
    (OperationalError("Network Error: 400, message: secret"), "q: no whole answer (OperationalError)"),
    (DatabaseError("HTTP driver received HTTP status 502, server response: <secret>"),
     "q: HTTP driver received HTTP status 502"),
    (StreamFailureError("Code: 60. secret", code=60), "q: no whole answer (StreamFailureError)"),
])  # fmt: skip
def test_who_is_no_clickhouse_may_be_one_later_and_is_not_quoted(error: ClickHouseError, said: str) -> None:
    found = failure("q", error)
    assert isinstance(found, StoreUnavailable)
    assert found.detail == said


@pytest.mark.parametrize(("text", "said"), [
    ("Code: 60. DB::Exception: Unknown table expression identifier 'nowhere'. In scope SELECT 'secret'. "
     "(UNKNOWN_TABLE) (version 26.9.2.1)", "Unknown table expression identifier 'nowhere'"),
    ("Code: 469. DB::Exception: Constraint `c` for table x is violated at row 1. Expression: (a < 5). Column values: "
     "a = 'secret'. (VIOLATED_CONSTRAINT) (version 26.9.2.1)",
     "Constraint `c` for table x is violated at row 1"),
    ("Code: 241. DB::Exception: Query memory limit exceeded: would use 1.00 GiB: While executing _CAST('secret'). "
     "(MEMORY_LIMIT_EXCEEDED) (version 26.9.2.1)",
     "Query memory limit exceeded: would use 1.00 GiB"),
    ("Code: 6. DB::Exception: Cannot parse string 'secret' as UInt8. (CANNOT_PARSE_TEXT) (version 26.9.2.1 (official))",
     ""),
    ("Code: 497. DB::Exception: app: Not enough privileges. To execute this query, it's necessary to have the grant "
     "SELECT(a) ON x.y. (ACCESS_DENIED) (version 26.9.2.1)", "app: Not enough privileges"),
])  # fmt: skip
def test_an_operator_is_told_a_sentence_without_values(text: str, said: str) -> None:
    code = int(text.split()[1][:-1])
    found = failure("q", DatabaseError(text, code=code))
    assert found.detail == f"q: {summary(text)}"
    assert explained(found) == (f"{found.detail}: {said}" if said else found.detail)


@pytest.mark.parametrize(("text", "said"), [
    ("Code: 60. DB::Exception: Unknown table 'secret'. (UNKNOWN_TABLE) (version 26.9.2.1)", "code 60, UNKNOWN_TABLE"),
    ("Code: 6. DB::Exception: Cannot parse string 'secret'. (CANNOT_PARSE_TEXT) (version 26.9.2.1 (official))",
     "code 6, CANNOT_PARSE_TEXT"),
    ("Code: 6. DB::Exception: secret", "code 6"),
    ("secret", "an exception without a code"),
    ("", "no exception"),
])  # fmt: skip
def test_everybody_else_is_told_code_and_name(text: str, said: str) -> None:
    assert summary(text) == said


def test_a_torn_answer_is_unavailable_unless_its_exception_says_otherwise() -> None:
    for body, kind in (
        (ROWS[:-4], StreamFailureError),
        (ROWS[:-4] + b"Code: 60", StreamFailureError),
        (ROWS + block("Code: 241. DB::Exception: memory: While executing 'secret' (MEMORY)"), DatabaseError),
        (ROWS[:-4] + block("Code: 6. DB::Exception: 'secret' (CANNOT_PARSE_TEXT)"), DatabaseError),
    ):
        with pytest.raises(ClickHouseError) as caught:
            _decode(body)
        assert type(caught.value) is kind
        assert "secret" not in failure("q", caught.value).detail
    assert _decode(ROWS) == [("secret-of-ann",), ("secret-of-ann",)]


def test_an_exception_block_is_one_at_the_end_of_an_answer_only() -> None:
    text = "Code: 6. DB::Exception: x"
    found = exception_in(ROWS + block(text))
    assert found is not None
    assert found.code == 6
    assert exception_in(block(text) + ROWS) is None
    assert exception_in(ROWS + block(text).replace(TAG, TAG[::-1], 1)) is None


def test_a_property_that_looks_like_an_exception_is_a_property() -> None:
    value = block("Code: 6. DB::Exception: x")
    assert _decode(b"\x01\x01\x01a\x06String%c" % len(value) + value) == [(value.decode(),)]
