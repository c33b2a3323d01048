"""Ids, numbers, partitions and positions."""

from __future__ import annotations

import pytest

from shared.domain.errors import BadInput
from shared.domain.ids import (
    COMMANDS,
    DELETIONS,
    IDENTITY,
    Position,
    format_positions,
    fragment_id,
    is_anonymous,
    number_of,
    parse_positions,
    partition_of,
    position_key,
    version_of,
)


@pytest.mark.parametrize(
    ("project", "distinct_id", "uuid"),
    [
        (1, "a", "84877a1c-03f2-5cfd-8633-cf112f0d565a"),
        (1, "user@example.com", "55379864-2afb-5e1c-adf7-decb022461c5"),
        (2, "a", "65f20a61-af17-51ba-b1d2-5bef0332a525"),
        (1, "ünï", "d9eac7e0-c905-5f92-990e-67e98866fcca"),
    ],
)
def test_a_distinct_id_has_the_uuid_that_the_contract_names(project: int, distinct_id: str, uuid: str) -> None:
    assert str(fragment_id(project, distinct_id)) == uuid


@pytest.mark.parametrize("topic", [COMMANDS, IDENTITY, DELETIONS])
@pytest.mark.parametrize("partition", [0, 1, 15, 1_023])
def test_a_position_rows_key_leads_to_its_own_partition(topic: str, partition: int) -> None:
    assert partition_of(position_key(topic, partition), 1_024) == partition


def test_position_keys_of_different_topics_never_meet() -> None:
    keys = {position_key(topic, partition) for topic in (COMMANDS, IDENTITY, DELETIONS) for partition in range(16)}
    assert len(keys) == 48


def test_a_token_names_the_highest_offset_of_each_partition() -> None:
    positions = [Position(COMMANDS, 17, 5), Position(IDENTITY, 2, 88), Position(COMMANDS, 17, 123_456)]
    assert format_positions(positions) == "c.17.123456,i.2.88"
    assert parse_positions("c.17.123456, i.2.88") == [Position(COMMANDS, 17, 123_456), Position(IDENTITY, 2, 88)]


@pytest.mark.parametrize("text", ["", "c", "c.1", "c.1.x", "x.1.2", "c.-1.2", "c.1.2;i.1.2", "c.1.2,", "c.12345.1"])
def test_a_malformed_token_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        parse_positions(text)


def test_the_position_before_the_first_record_has_no_version_and_goes_on_at_zero() -> None:
    before = Position(COMMANDS, 0, -1)
    assert (before.version, before.next) == (0, 0)
    assert Position(COMMANDS, 0, 0).version == version_of(0) > 0


def test_numbers_of_different_births_differ() -> None:
    numbers = {number_of(partition, version_of(offset)) for partition in range(16) for offset in range(100)}
    assert len(numbers) == 1_600


@pytest.mark.parametrize(
    ("text", "anonymous"),
    [
        ("01a207c7-3713-7aaa-bbbb-0123456789ab", True),
        ("a-b-c-d-e", True),
        ("A-b-c-d-e", False),
        ("a-b-c-d", False),
        ("ada@example.com", False),
    ],
)
def test_an_anonymous_id_is_five_groups_joined_by_dashes(text: str, anonymous: bool) -> None:
    assert is_anonymous(text) is anonymous
