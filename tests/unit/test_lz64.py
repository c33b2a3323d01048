"""LZString's base64 form, by vectors that its own library made (lzstring 1.0.4). Never the library itself."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.capture.lz64 import LZ64_BYTES_MAX, expand
from services.api.http.errors import ApiError
from shared.domain.errors import BadInput

UNITS_MAX = 1_000_000
VECTORS = {
    "Q===": "",
    "IZA=": "a",
    "IY0o": "aaaaaaaa",
    "N4IghiBcCMC+Q===": '{"a":1}',
    "N4IgpgbmB2AuIC5wgDQgCYEsDOtPQGNYB9TdRDEAXyA=": '{"event":"e","distinct_id":"d"}',
    "OYJwPwdgBI/CCNwggGEEEIgCqFo5Q4aZA===": "grün плата 中文",
    "rwbgA90AgQ3Ug===": "😀😀 a 😀",
    "AAQA/4AICP//Q===": "\x00\x01\xffĀ\uffff",
    "NobwRApgbhB2AuYBcYAkAHAhgc2gSwgHcwAaMdAJwHt0IL4CBnZcAEz0YdgGN4B9PK2RgADAEZMAJhEB2bjIC0AZhlilpMPCoBrO"
    "MPQALbn3gROG1FWYoAMnlgBXAB4bTTxCmwUAP7AAEAHxBfgD8YX6AvBuAAHtgAL6xJODQcB5oWLhQBMRklDR0DGYsYOyc9rwCQij"
    "iUrLyyqrqZFq6sPpGJmaIZJbWYHaOLvEAukA": (
        '[{"event":"$pageview","properties":{"distinct_id":"01a207c7-3713","token":"phc_test","$os":"Linux","'
        'text":"grün >>> ??? 😀"}},{"event":"$pageview","properties":{"distinct_id":"01a207c7-3713","token":"p'
        'hc_test","$os":"Linux"}}]'
    ),
}  # fmt: skip
REPEATED = "IY18ZXTt/DFOS1b0c17Pd/wYUcSaWeRZVdTbXfQ408y62+x519z73/wMFDhI0WPETJU6TNlyZQA="
"""3,000 times the letter a."""


@pytest.mark.parametrize(("compressed", "text"), VECTORS.items())
def test_what_the_library_made_is_read(compressed: str, text: str) -> None:
    assert expand(compressed.encode(), UNITS_MAX).decode() == text
    assert expand(compressed.rstrip("=").encode() + b"\n", UNITS_MAX).decode() == text


def test_half_a_surrogate_becomes_a_replacement() -> None:
    assert expand(b"IaXg2EZA", UNITS_MAX).decode() == "a\ufffdb"


def test_expanding_stops_at_the_bound() -> None:
    assert len(expand(REPEATED.encode(), 3_000)) == 3_000
    with pytest.raises(ApiError) as caught:
        expand(REPEATED.encode(), 2_999)
    assert caught.value.status == 413


def test_a_compressed_text_that_would_take_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(ApiError) as caught:
        expand(b"A" * (LZ64_BYTES_MAX + 1), UNITS_MAX)
    assert caught.value.status == 413


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_text_that_is_cut_off_is_refused(cut: int) -> None:
    whole = max(VECTORS, key=len).rstrip("=")
    with pytest.raises(BadInput):
        expand(whole[:-cut].encode(), UNITS_MAX)


@pytest.mark.parametrize(
    "wrong", [b"", b"=", b"A", b"\xff", b"N4Ig_", b"{}", b"//8=", b"AAAA", b"zzzz", b"Q===Q===", b"IZAAA"]
)
def test_what_is_no_lz64_is_refused(wrong: bytes) -> None:
    with pytest.raises(BadInput):
        expand(wrong, UNITS_MAX)


@given(st.binary(max_size=400), st.integers(0, 30))
def test_no_bytes_raise_anything_but_the_documented(bits: bytes, keep: int) -> None:
    start = max(VECTORS, key=len)[:keep].encode()
    for body in (bits, base64.b64encode(bits), start + base64.b64encode(bits)):
        try:
            assert len(expand(body, 10_000)) <= 3 * 10_000
        except BadInput:
            pass
        except ApiError as error:
            assert error.status == 413
