"""A request's bytes to events: every documented shape and encoding, and the bounds of each. Never a server."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import brotli
import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from services.api.capture.events import token_of
from services.api.capture.payload import (
    BOM,
    EVENTS_MAX,
    FORM_BYTES_MAX,
    FORM_FIELDS_MAX,
    CaptureBatch,
    decode,
)
from services.api.http.decompression import (
    GZIP_MEMBERS_MAX,
    INFLATE_RATIO_MAX,
    INFLATED_BYTES_FREE,
    INFLATED_BYTES_MAX,
    ZSTD_STEP_BYTES,
    inflate,
    unpack,
)
from services.api.http.errors import ApiError
from shared.domain.errors import BadInput
from shared.inputs.values import NumberText

EVENT = {"event": "e", "distinct_id": "d", "properties": {"text": "grün >>> ??? 😀"}}
JSON = orjson.dumps(EVENT)
FORM, JSON_TYPE = "application/x-www-form-urlencoded", "application/json"
PLAIN = base64.b64encode(JSON)
assert b"+" in PLAIN, "a blank for a plus must be seen to be restored"
LZ64 = b"N4IgpgbmB2AuIC5wgDQgCYEsDOtPQGNYB9TdRDVEABwCcB7asWvMbRUWMAD3iQHNaAH+gACAHyTRgWjlRgXg3AAHsgAvsqA="
"""{"event":"e","distinct_id":"d","properties":{"text":"grün >>> 中 😀"}} by lzstring."""
assert b"+" in LZ64


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (JSON, JSON_TYPE, {}),
        (JSON, "", {}),
        (JSON, FORM, {}),  # what curl -d says of every body
        (b" \n" + JSON, JSON_TYPE, {}),
        (BOM + JSON, JSON_TYPE, {}),
        (BOM + JSON, FORM, {}),
        (gzip.compress(BOM + JSON), JSON_TYPE, {}),
        (base64.b64encode(BOM + JSON), "text/plain", {}),
        (base64.encodebytes(JSON), "text/plain", {}),
        (base64.encodebytes(JSON).replace(b"\n", b"\r\n"), "text/plain", {"compression": "base64"}),
        (PLAIN.rstrip(b"="), "text/plain", {"compression": "base64"}),
        (gzip.compress(JSON[:9]) + gzip.compress(JSON[9:]), JSON_TYPE, {}),
        (gzip.compress(JSON) + gzip.compress(b""), "text/plain", {"compression": "gzip-js"}),
        (gzip.compress(JSON), "text/plain", {}),
        (gzip.compress(JSON), JSON_TYPE, {"compression": "gzip-js"}),
        (gzip.compress(JSON), FORM, {"compression": "gzip"}),
        (PLAIN, "text/plain", {}),
        (PLAIN, "text/plain", {"compression": "base64"}),
        (base64.b64encode(gzip.compress(JSON)), "text/plain", {}),
        (b"data=" + quote(PLAIN).encode(), FORM, {"compression": "base64"}),
        (b"data=" + PLAIN, FORM, {}),
        (b"compression=base64&data=" + PLAIN, FORM, {}),
        (b"data=" + quote_plus(JSON).encode(), FORM, {}),
        (b"data=" + JSON, FORM, {}),  # not percent-encoded at all
        (b"data=" + quote(base64.b64encode(gzip.compress(JSON))).encode(), FORM, {"compression": "gzip-js"}),
        (b"data=" + quote(gzip.compress(JSON)).encode(), FORM, {"compression": "gzip-js"}),
        (b"", "", {"data": JSON.decode()}),
        (b"", "", {"data": PLAIN.decode()}),
        (b"", "", {"data": PLAIN.decode().replace("+", " ")}),
    ],
)
def test_every_documented_way_to_send_an_event_gives_the_same_event(
    body: bytes, content_type: str, query: dict[str, str]
) -> None:
    assert decode(body, content_type, query).events == [EVENT]


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (LZ64, "text/plain", {"compression": "lz64"}),
        (b"\n" + LZ64 + b"\n", JSON_TYPE, {"compression": "lz64"}),
        (b"data=" + quote(LZ64).encode(), FORM, {"compression": "lz64"}),
        (b"compression=lz64&data=" + LZ64, FORM, {}),  # a plus becomes a blank
        (b"", "", {"data": LZ64.decode(), "compression": "lz64"}),
        (b"", "", {"data": LZ64.decode().replace("+", " "), "compression": "lz64"}),
    ],
)
def test_lz64_is_read_wherever_the_hint_and_the_data_are(body: bytes, content_type: str, query: dict[str, str]) -> None:
    (event,) = decode(body, content_type, query).events
    assert event["properties"]["text"] == "grün >>> 中 😀"


def test_a_hint_at_lz64_may_be_wrong_about_json_and_gzip() -> None:
    for body in (JSON, b" " + JSON, gzip.compress(JSON)):
        assert decode(body, JSON_TYPE, {"compression": "lz64"}).events == [EVENT]
    assert decode(b"data=" + quote_plus(JSON).encode(), FORM, {"compression": "lz64"}).events == [EVENT]
    with pytest.raises(BadInput):
        decode(PLAIN, JSON_TYPE, {"compression": "lz64"})


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", ""])
def test_what_looks_like_gzip_is_gzip_whatever_the_header_says(encoding: str) -> None:
    assert decode(gzip.compress(JSON), JSON_TYPE, {}, encoding).events == [EVENT]
    assert decode(JSON, JSON_TYPE, {}, encoding).events == [EVENT]


def test_deflate_is_read_only_when_the_header_says_so() -> None:
    assert decode(zlib.compress(JSON), JSON_TYPE, {}, "deflate").events == [EVENT]
    with pytest.raises(ApiError):
        decode(zlib.compress(JSON), JSON_TYPE, {})


def test_a_hint_at_gzip_may_be_stale_only_after_a_proxy_that_left_the_header() -> None:
    with pytest.raises(BadInput):
        decode(JSON, JSON_TYPE, {"compression": "gzip"})
    assert decode(JSON, JSON_TYPE, {"compression": "gzip"}, "gzip").events == [EVENT]


def test_a_batch_carries_its_token_time_and_kind() -> None:
    batch = {"api_key": "phc_x", "batch": [EVENT], "sent_at": "2026-11-23T09:37:24Z", "historical_migration": True}
    sent = orjson.dumps(batch)
    assert decode(sent, JSON_TYPE, {}) == CaptureBatch(
        events=[EVENT], token="phc_x", sent_at="2026-11-23T09:37:24Z", historical=True, is_batch=True, size=len(sent)
    )
    assert decode(orjson.dumps({"token": "phc_y", "batch": [EVENT]}), JSON_TYPE, {}).token == "phc_y"


def test_an_array_has_neither_token_nor_time_unless_the_query_says_when() -> None:
    sent = orjson.dumps([EVENT])
    assert decode(sent, JSON_TYPE, {}) == CaptureBatch(events=[EVENT], is_batch=True, size=len(sent))
    assert decode(gzip.compress(sent), JSON_TYPE, {}).size == len(sent)  # of what it becomes
    assert decode(orjson.dumps([EVENT]), JSON_TYPE, {"_": "1795426830346"}).sent_at == "1795426830346"
    assert decode(orjson.dumps([EVENT]), JSON_TYPE, {"sent_at": "1795426830346"}).sent_at == "1795426830346"
    assert decode(orjson.dumps([EVENT]), JSON_TYPE, {"sent_at": "2026-11-23T00:00:00Z"}).sent_at is not None
    for no_time in ("cachebuster", "5", "1795426830", "1500000000000", "9" * 5_000, "²"):
        assert decode(orjson.dumps([EVENT]), JSON_TYPE, {"_": no_time}).sent_at is None
    assert decode(orjson.dumps([EVENT]), JSON_TYPE, {"sent_at": "1795426830"}).sent_at is None


@pytest.mark.parametrize("truthy", ["true", 1, None, []])
def test_only_a_real_true_makes_a_historical_migration(truthy: Any) -> None:
    assert not decode(orjson.dumps({"batch": [EVENT], "historical_migration": truthy}), JSON_TYPE, {}).historical


@pytest.mark.parametrize("body", [b"", b"{", b"17", b'"text"', b"null", b"hello", b"\xff\xfe", b'{"a":NaN', b"[1e999"])
def test_what_is_no_json_of_events_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        decode(body, JSON_TYPE, {})
    assert (caught.value.status, caught.value.code) == (400, "parse_error")


@pytest.mark.parametrize("deep", [b"[" * 1_000_000, b'{"a":' * 1_000_000])
def test_depth_beyond_recursion_is_a_parse_error(deep: bytes) -> None:
    with pytest.raises(ApiError, match="not JSON"):
        decode(deep, JSON_TYPE, {})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("data=%E2%82%AC", "a euro sign"),
        ("data=%FF%FE", "no UTF-8"),
        ("dat=" + PLAIN.decode(), "no data"),
    ],
)
def test_a_form_without_events_is_a_parse_error(data: str, why: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode(data.encode(), FORM, {})
    assert caught.value.code == "parse_error", why


def test_a_form_of_too_many_fields_is_refused() -> None:
    with pytest.raises(BadInput, match="at most"):
        decode(b"&".join([b"a=1"] * (FORM_FIELDS_MAX + 1)), FORM, {})


def test_a_form_that_is_too_large_is_refused_before_it_is_undone() -> None:
    with pytest.raises(ApiError) as caught:
        decode(b"data=" + b"%41" * (FORM_BYTES_MAX // 3), FORM, {})
    assert caught.value.status == 413


def test_a_query_that_is_no_text_is_a_parse_error() -> None:
    with pytest.raises(ApiError):
        decode(b"", "", {"data": "\udcff{"})


def test_an_empty_batch_and_one_that_is_too_large_are_refused() -> None:
    bodies: list[Any] = [{"batch": []}, [], {"batch": [EVENT] * (EVENTS_MAX + 1)}]
    for body in bodies:
        with pytest.raises(BadInput) as caught:
            decode(orjson.dumps(body), JSON_TYPE, {})
        assert caught.value.attr == "batch"


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(JSON)[:-9],
        gzip.compress(JSON)[:-1],
        gzip.compress(JSON) + gzip.compress(JSON)[:-1],
        gzip.compress(b"") * (GZIP_MEMBERS_MAX + 1),
        gzip.compress(JSON) + b"x",
        b"\x1f\x8b\x08",
        b"\x1f\x8b\x08" + b"\xff" * 40,
        gzip.compress(JSON)[:-8] + b"\x00" * 8,
    ],
)
def test_gzip_of_other_than_a_few_whole_members_is_refused(body: bytes) -> None:
    with pytest.raises(BadInput):
        inflate(body)


def test_inflating_stops_at_the_ceiling_and_at_the_ratio() -> None:
    for size in (INFLATED_BYTES_MAX + 1, INFLATED_BYTES_FREE + 1):
        with pytest.raises(ApiError) as caught:
            inflate(gzip.compress(b" " * size))
        assert (caught.value.status, caught.value.code) == (413, "too_large")
    noise = bytes(range(256)) * 4  # shrinks by far less than the ratio
    assert len(inflate(gzip.compress(noise))) < INFLATE_RATIO_MAX * len(gzip.compress(noise))
    assert inflate(gzip.compress(b"y" * INFLATED_BYTES_FREE)) == b"y" * INFLATED_BYTES_FREE


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "br": brotli.compress,
}


def streamed(body: bytes, window_log: int) -> bytes:
    """zstd of a sender who does not know the size before."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=0)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("length", [1, ZSTD_STEP_BYTES - 1, ZSTD_STEP_BYTES, ZSTD_STEP_BYTES + 1, 100_000])
def test_what_was_packed_is_unpacked(encoding: str, length: int) -> None:
    plain = (bytes(range(256)) * 400)[:length]
    assert unpack(COMPRESS[encoding](plain), encoding) == plain
    assert unpack(streamed(plain, 20), "zstd") == plain


@pytest.mark.parametrize("encoding", COMPRESS)
def test_unpacking_stops_at_the_ceiling_and_at_the_ratio(encoding: str) -> None:
    assert unpack(COMPRESS[encoding](b"y" * INFLATED_BYTES_FREE), encoding) == b"y" * INFLATED_BYTES_FREE
    for size in (INFLATED_BYTES_FREE + 1, INFLATED_BYTES_MAX + 1):
        with pytest.raises(ApiError) as caught:
            unpack(COMPRESS[encoding](b"y" * size), encoding)
        assert caught.value.status == 413


@pytest.mark.parametrize("encoding", COMPRESS)
def test_what_is_packed_badly_is_refused(encoding: str) -> None:
    whole = COMPRESS[encoding](JSON)
    for body in (b"garbage", whole[:-1], whole[:-6], whole + b"x", whole + whole[:-1], whole[1:]):
        with pytest.raises(BadInput):
            unpack(body, encoding)


def test_a_zstd_window_that_would_take_128_mib_is_refused() -> None:
    assert unpack(streamed(JSON, 23), "zstd") == JSON
    with pytest.raises(BadInput):
        unpack(streamed(JSON, 27), "zstd")


@given(st.binary(max_size=300), st.sampled_from([*COMPRESS]), st.booleans())
def test_no_packed_bytes_raise_anything_but_the_documented(body: bytes, encoding: str, begins_well: bool) -> None:
    body = COMPRESS[encoding](JSON)[: len(body)] + body if begins_well else body
    try:
        unpack(body, encoding)
    except ApiError as error:
        assert error.status == 413
    except BadInput:
        pass


def test_half_a_surrogate_becomes_a_replacement_and_a_whole_one_stays() -> None:
    body = b'{"event":"\\ud83d\\ude00 \\ud83d \\udc00x","distinct_id":"\\\\ud800","\\udfff":1}'
    assert decode(body, JSON_TYPE, {}).events == [{"event": "😀 � �x", "distinct_id": "\\ud800", "�": 1}]


def test_bytes_that_are_no_utf8_become_replacements() -> None:
    assert decode(b'{"event":"a\xffb","distinct_id":"\\ud800\xff"}', JSON_TYPE, {}).events == [
        {"event": "a�b", "distinct_id": "��"}
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1e400", "1e400"),
        ("-1E+999", "-1E+999"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("9" * 5_000, "9" * 5_000),
    ],
)
def test_a_number_beyond_every_float_is_told_from_a_text(number: str, text: str) -> None:
    batch = decode(
        b'{"event":"e","distinct_id":"d","properties":{"n":%b,"t":"1e400"}}' % number.encode(), JSON_TYPE, {}
    )
    properties = batch.events[0]["properties"]
    assert batch.lenient and (properties["n"], properties["t"]) == (text, "1e400")
    assert isinstance(properties["n"], NumberText) and not isinstance(properties["t"], NumberText)
    assert not decode(JSON, JSON_TYPE, {}).lenient


@given(
    st.one_of(st.binary(max_size=300), st.binary(max_size=100).map(gzip.compress), st.text().map(str.encode)),
    st.sampled_from([FORM, JSON_TYPE, "text/plain", ""]),
    st.dictionaries(
        st.sampled_from(["data", "compression", "_", "sent_at"]),
        st.sampled_from(["gzip", "gzip-js", "base64", "lz64", "x", "1", "\udcff", PLAIN.decode()]),
    ),
    st.sampled_from(["", "gzip", "deflate", "br"]),
)
def test_no_bytes_raise_anything_but_the_documented(
    body: bytes, content_type: str, query: dict[str, str], encoding: str
) -> None:
    try:
        decode(body, content_type, query, encoding)
    except ApiError as error:
        assert error.status in (400, 413)
    except BadInput:
        pass


@pytest.mark.parametrize(
    ("event", "token"),
    [
        ({"token": "a", "api_key": "b"}, "a"),
        ({"api_key": "b"}, "b"),
        ({"$token": "c"}, "c"),
        ({"properties": {"token": "d"}}, "d"),
        ({"token": "", "properties": {"token": "d"}}, "d"),
        ({"token": 7}, None),
        ({"properties": "x"}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_token_is_found_in_each_of_its_places(event: Any, token: str | None) -> None:
    assert token_of(event) == token
