"""Frames of the embedded log: what a disk spoils costs the record that it lies in, and no other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.log.embedded.frames import LENGTHS, SPOILT, checked, packed

RECORDS = st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=200)), min_size=1, max_size=20)


def flipped(content: bytes, at: int, bit: int) -> bytes:
    spoilt = bytearray(content)
    spoilt[at % len(content)] ^= 1 << bit
    return bytes(spoilt)


@given(RECORDS)
def test_what_was_packed_is_read(records: list[tuple[bytes, bytes]]) -> None:
    data, sums = packed(records)
    assert list(checked(data, len(records), sums)) == [(key, value, "") for key, value in records]


@given(RECORDS, st.integers(0), st.integers(0, 7))
def test_one_flipped_bit_costs_its_record_and_says_so(records: list[tuple[bytes, bytes]], at: int, bit: int) -> None:
    data, sums = packed(records)
    found = list(checked(flipped(data, at, bit), len(records), sums))
    assert len(found) == len(records)
    wrong = [index for index, (before, after) in enumerate(zip(records, found, strict=True)) if before != after[:2]]
    assert [index for index, one in enumerate(found) if one[2]] == wrong
    assert len(wrong) <= 1


@given(RECORDS, st.integers(0), st.integers(0, 7))
def test_a_bit_flipped_in_lengths_or_sums_costs_nothing(records: list[tuple[bytes, bytes]], at: int, bit: int) -> None:
    data, sums = packed(records)
    whole = [(key, value, "") for key, value in records]
    assert list(checked(data, len(records), flipped(sums, at, bit))) == whole
    starts, place = [], 0
    for key, value in records:
        starts += range(place, place + LENGTHS.size)
        place += LENGTHS.size + len(key) + len(value)
    assert list(checked(flipped(data, starts[at % len(starts)], bit), len(records), sums)) == whole


@given(RECORDS, st.integers(0), st.integers(0, 7))
def test_a_frame_of_before_there_were_sums_keeps_what_lies_before_a_torn_length(
    records: list[tuple[bytes, bytes]], at: int, bit: int
) -> None:
    data, _ = packed(records)
    assert list(checked(data, len(records), None)) == [(key, value, "") for key, value in records]
    found = list(checked(flipped(data, at, bit), len(records), None))
    assert len(found) == len(records)
    sound = next((index for index, one in enumerate(found) if one[:2] != records[index]), len(records))
    assert all(not fault for _, _, fault in found[:sound])


def test_a_length_beyond_the_end_takes_the_rest_of_such_a_frame_and_tells_of_each() -> None:
    data, _ = packed([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
    second = LENGTHS.size + 2
    torn = data[:second] + b"\xff" + data[second + 1 :]
    assert [(value, fault) for _, value, fault in checked(torn, 3, None)] == [
        (b"1", ""), (torn[second:], SPOILT), (b"", SPOILT),
    ]  # fmt: skip
