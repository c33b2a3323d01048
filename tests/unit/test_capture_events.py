"""One captured event to commands. Never a server, never a clock."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.capture.events import EVENT_NAME_CHARS_MAX, commands_of
from shared.domain.commands import Capture, Command, MergePersons, Write, decode, encode
from shared.domain.errors import BadInput
from shared.domain.ids import CAPTURED_ID_CHARS_MAX, fragment_id
from shared.inputs.ids import COOKIELESS, stored_id
from shared.inputs.repairs import Repairs
from tests.support.capturing import NOW, UUID_TEXT, captured, commands, refusal, repaired, scene


def test_an_event_becomes_one_command_that_survives_the_log() -> None:
    (command,) = commands(uuid=UUID_TEXT, properties={"amount": 12.5, "$set": {"plan": "pro"}})
    assert isinstance(command, Capture)
    assert (command.project, command.distinct_id, command.fragment) == (1, "d", fragment_id(1, "d"))
    assert (command.at, command.timestamp, command.uuid) == (NOW, NOW, UUID(UUID_TEXT))
    assert bytes(command.properties) == b'{"amount":12.5,"$set":{"plan":"pro"}}'
    assert command.set == {"plan": "pro"} and command.person and command.actor == "capture"
    assert decode(encode(command)) == command


# Whose it is


@pytest.mark.parametrize(
    "event",
    [
        {"event": "e", "distinct_id": "x", "$distinct_id": "y", "properties": {"distinct_id": "z"}},
        {"event": "e", "$distinct_id": "x", "properties": {"distinct_id": "z"}},
        {"event": "e", "distinct_id": None, "properties": {"distinct_id": "x"}},
        {"event": "e", "distinct_id": "", "$distinct_id": "  ", "properties": {"distinct_id": "x"}},
    ],
)
def test_the_distinct_id_is_the_first_of_its_three_places_that_is_not_blank(event: dict[str, Any]) -> None:
    (command,) = commands(event)
    assert isinstance(command, Capture) and command.distinct_id == "x"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (123, "123"),
        (1.5, "1.5"),
        (True, "true"),
        (10**30, "1" + "0" * 30),
        (" padded ", " padded "),
        ("a\0b", "a�b"),
        ("x" * CAPTURED_ID_CHARS_MAX, "x" * CAPTURED_ID_CHARS_MAX),
    ],
)
def test_a_distinct_id_is_kept_as_text_without_nul(sent: Any, kept: str) -> None:
    command = captured(distinct_id=sent)
    assert (command.distinct_id, command.fragment) == (kept, fragment_id(1, kept))


@pytest.mark.parametrize("blank", [None, "", "   ", "\t\n", {}, {"_h": 0}, [], ["a", 1]])
def test_no_distinct_id_is_refused(blank: Any) -> None:
    assert refusal(distinct_id=blank) == "distinct_id"


@pytest.mark.parametrize("chars", [CAPTURED_ID_CHARS_MAX + 1, 250, 401, 10_000])
def test_two_long_ids_with_one_beginning_stay_two(chars: int) -> None:
    one, repairs = repaired(distinct_id="x" * chars)
    other, _ = repaired(distinct_id="x" * chars + "y")
    assert len(one.distinct_id) == len(other.distinct_id) == CAPTURED_ID_CHARS_MAX
    assert one.distinct_id == stored_id("x" * chars) != other.distinct_id
    assert one.distinct_id.startswith("x" * 183 + "~")
    assert repairs == [("id_cut", "distinct_id")]


# What it is


def test_a_name_is_cut_and_cleaned_and_needed() -> None:
    command, repairs = repaired(event="n\0" + "x" * 300)
    assert command.event == "n�" + "x" * (EVENT_NAME_CHARS_MAX - 2)
    assert repairs == [("name_cut", "event"), ("nul_replaced", "event")]
    for name in (None, "", "  ", 7, ["e"]):
        assert refusal(event=name) == "event"


def test_an_event_without_a_uuid_or_a_time_gets_a_new_one() -> None:
    scenery = scene()
    minted = [commands(uuid=missing, scenery=scenery)[0] for missing in ("", None)]
    assert len({one.uuid for one in minted if isinstance(one, Capture)}) == 2


@pytest.mark.parametrize("wrong", ["not-a-uuid", 7, [], {}, "\0"])
def test_a_malformed_uuid_is_replaced(wrong: Any) -> None:
    command, repairs = repaired(uuid=wrong)
    assert isinstance(command.uuid, UUID) and repairs == [("uuid_replaced", "uuid")]


TIMED: dict[str, Any] = {"timestamp": "2026-11-23T00:00:00Z", "properties": {"a": 1, "$set": {"b": 2}}}


def test_a_resend_of_an_event_without_a_uuid_is_the_same_event() -> None:
    first, again = captured(**TIMED), captured(**TIMED)
    assert first.uuid == again.uuid and first.uuid.version == 5
    assert captured(**TIMED, uuid="broken").uuid == first.uuid


@pytest.mark.parametrize(
    "changed",
    [
        {"event": "other"},
        {"distinct_id": "other"},
        {"timestamp": "2026-11-23T00:00:01Z"},
        {"timestamp": "2026-11-23T00:00:00+00:00"},
        {"properties": {"a": 2, "$set": {"b": 2}}},
        {"$set": {"c": 1}},
        {"$unset": ["c"]},
    ],
)
def test_another_content_is_another_event(changed: dict[str, Any]) -> None:
    assert captured(**TIMED | changed).uuid != captured(**TIMED).uuid


def test_another_project_is_another_event() -> None:
    assert repaired(scene(project=2), **TIMED)[0].uuid != captured(**TIMED).uuid


def test_equal_events_of_one_request_are_all_counted_and_the_same_when_resent() -> None:
    def sent() -> list[UUID]:
        scenery = scene()
        return [repaired(scenery, **TIMED)[0].uuid for _ in range(3)]

    assert sent() == sent() and len(set(sent())) == 3


@pytest.mark.parametrize("wrong", [[1], "x", 7, True])
def test_properties_that_are_no_object_are_left_out(wrong: Any) -> None:
    command, repairs = repaired(properties=wrong)
    assert bytes(command.properties) == b"{}" and repairs == [("not_an_object", "properties")]
    assert bytes(captured(properties=None).properties) == b"{}"


def test_an_empty_list_of_properties_is_an_empty_object() -> None:
    command, repairs = repaired(properties=[], **{"$set": [], "$set_once": []})
    assert (bytes(command.properties), command.set, command.set_once) == (b"{}", {}, {})
    assert repairs == [("list_for_object", field) for field in ("properties", "$set", "$set_once")]


@pytest.mark.parametrize("wrong", [1, "x", [], None])
def test_an_event_must_be_an_object(wrong: Any) -> None:
    with pytest.raises(BadInput):
        commands_of(wrong, NOW, scene(), Repairs())


# What it sets


def test_top_level_operations_beat_those_of_the_properties_and_all_count() -> None:
    command = captured(
        properties={"$set": {"a": 1, "b": 1}, "$set_once": {"c": 1}, "$unset": ["d"]},
        **{"$set": {"a": 2}, "$set_once": {"c": 2, "e": 2}, "$unset": {"f": 1, "d": 0}},
    )
    assert command.set == {"a": 2, "b": 1}
    assert command.set_once == {"c": 2, "e": 2}
    assert set(command.unset) == {"d", "f"} and len(command.unset) == 2


def test_lifted_properties_are_set_softly_and_once_as_initial_without_nulls() -> None:
    command = captured(
        properties={"$browser": "Firefox", "utm_source": "news", "utm_medium": None, "other": 1, "$set": {"$os": "L"}},
        **{"$set_once": {"$initial_utm_source": "first"}},
    )
    assert command.lifted == {"$browser": "Firefox", "utm_source": "news", "utm_medium": None}
    assert command.set == {"$os": "L"}
    assert command.set_once == {"$initial_utm_source": "first", "$initial_browser": "Firefox"}


def test_an_explicit_set_beats_a_lifted_one() -> None:
    command = captured(properties={"$os": "Linux", "$set": {"$os": "BSD"}})
    assert (command.set, command.lifted) == ({"$os": "BSD"}, {})


def test_only_a_boolean_false_turns_person_processing_off() -> None:
    quiet = captured(properties={"$process_person_profile": False, "$browser": "x", "$set": {"a": 1}})
    assert (quiet.person, quiet.set, quiet.lifted, quiet.set_once) == (False, {}, {}, {})
    for other in (True, None, 0, "false"):
        assert captured(properties={"$process_person_profile": other}).person


def test_groupidentify_never_changes_a_person() -> None:
    command = captured(event="$groupidentify", properties={"$set": {"a": 1}, "$os": "L", "$unset": ["b"]})
    assert (command.set, command.lifted, command.set_once, command.unset) == ({}, {}, {}, ())
    assert command.person


# Whom it merges


def merge_of(**fields: Any) -> tuple[list[Command], MergePersons]:
    found = commands(uuid=UUID_TEXT, **fields)
    assert isinstance(found[-1], MergePersons)
    return found, found[-1]


@pytest.mark.parametrize(
    ("event", "field", "mode"),
    [
        ("$identify", "$anon_distinct_id", "identify"),
        ("$create_alias", "alias", "alias"),
        ("$merge_dangerously", "alias", "dangerous"),
    ],
)
def test_a_merge_follows_the_births_of_both_ids(event: str, field: str, mode: str) -> None:
    found, merge = merge_of(event=event, properties={field: "anon", "$set": {"a": 1}})
    assert [type(command) for command in found] == [Capture, Write, MergePersons]
    birth = found[1]
    assert isinstance(birth, Write) and isinstance(found[0], Capture)
    assert (birth.fragment, birth.distinct_id, birth.set, birth.unset) == (fragment_id(1, "anon"), "anon", {}, ())
    assert (merge.into, merge.source, merge.mode) == (fragment_id(1, "d"), fragment_id(1, "anon"), mode)
    assert (merge.into_id, merge.source_id) == ("d", "anon")
    assert found[0].set == {"a": 1}


def test_a_resent_merge_has_the_same_keys_and_another_event_has_others() -> None:
    fields: dict[str, Any] = {"event": "$identify", "properties": {"$anon_distinct_id": "anon"}}
    first, again = merge_of(**fields)[0], merge_of(**fields)[0]
    assert [command.key for command in first] == [command.key for command in again]
    assert first[1].key and first[1].key == first[2].key
    other = commands(uuid=UUID_TEXT.replace("1", "2"), **fields)
    assert other[2].key != first[2].key


@pytest.mark.parametrize("source", ["", "undefined", "Anonymous", "'null'", "0", 0, True, "[object Object]", "a\0b"])
def test_an_illegal_source_is_not_born_and_the_fold_sees_it_as_sent(source: Any) -> None:
    found, merge = merge_of(event="$identify", properties={"$anon_distinct_id": source})
    assert [type(command) for command in found] == [Capture, MergePersons]
    assert merge.source_id == (source if isinstance(source, str) else orjson.dumps(source).decode())


def test_an_imported_merge_gives_birth_at_its_own_time() -> None:
    event = {"event": "$identify", "timestamp": "2023-01-01T00:00:00Z", "properties": {"$anon_distinct_id": "x"}}
    for historical in (True, False):
        _, birth, merge = commands(**event, scenery=scene(historical=historical))
        assert isinstance(birth, Write) and isinstance(merge, MergePersons)
        assert birth.since == merge.since == (1_672_531_200_000_000 if historical else 0)


def test_an_id_is_judged_by_its_length_as_sent() -> None:
    found, merge = merge_of(event="$identify", properties={"$anon_distinct_id": "x" * 401})
    assert len(found) == 2 and merge.source_id == "x" * 401
    found, merge = merge_of(event="$identify", properties={"$anon_distinct_id": "x" * 300})
    assert merge.source == fragment_id(1, stored_id("x" * 300)) and len(found) == 3
    _, merge = merge_of(event="$identify", distinct_id="y" * 10_000, properties={"$anon_distinct_id": "x"})
    assert merge.into_id == "y" * 401 and merge.into == fragment_id(1, stored_id("y" * 10_000))


@pytest.mark.parametrize("container", [{}, [], {"_h": 0}, ["a"], {"id": "x"}])
@pytest.mark.parametrize(("event", "field"), [("$identify", "$anon_distinct_id"), ("$create_alias", "alias")])
def test_a_container_is_never_an_id_to_merge(event: str, field: str, container: Any) -> None:
    assert len(commands(event=event, properties={field: container})) == 1
    assert repaired(event=event, properties={field: container})[1] == [("id_missing", f"properties.{field}")]


def test_a_cookieless_source_is_never_merged() -> None:
    fields: dict[str, Any] = {"event": "$identify", "properties": {"$anon_distinct_id": COOKIELESS, "$set": {"a": 1}}}
    (command,) = commands(**fields)
    assert isinstance(command, Capture) and command.person and command.set == {"a": 1}
    assert repaired(**fields)[1] == [("cookieless", "properties.$anon_distinct_id")]


@pytest.mark.parametrize(
    "properties",
    [{}, {"$anon_distinct_id": None}, {"$anon_distinct_id": "d"}, {"alias": "other"}],
)
def test_equal_ids_or_none_merge_nothing(properties: dict[str, Any]) -> None:
    assert len(commands(event="$identify", properties=properties)) == 1


@pytest.mark.parametrize("event", ["$identify", "$create_alias", "$merge_dangerously"])
def test_a_merge_without_person_processing_is_dropped(event: str) -> None:
    properties = {"$process_person_profile": False, "$anon_distinct_id": "a", "alias": "a"}
    assert commands(event=event, properties=properties) == []


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS = [
    "event", "distinct_id", "$distinct_id", "uuid", "properties", "timestamp", "sent_at", "offset", "$set", "$set_once",
    "$unset",
]  # fmt: skip
PROPERTIES = st.dictionaries(
    st.sampled_from(["$set", "$unset", "alias", "$anon_distinct_id", "$os", "$ignore_sent_at", "distinct_id"]), JSON
)


@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.sampled_from(["e", "$identify", "$create_alias"]),
    PROPERTIES,
    st.integers(0, 7),
)
def test_any_json_gives_commands_that_survive_the_log_or_a_refusal(
    event: dict[str, Any], name: str, properties: dict[str, Any], likely: int
) -> None:
    """Most random events have no name, so that the likely ones are put in."""
    event |= {"event": name} if likely & 1 else {}
    event |= {"distinct_id": "d"} if likely & 2 else {}
    event |= {"properties": properties} if likely & 4 else {}
    try:
        found = commands_of(event, NOW, scene(), Repairs())
    except BadInput:
        return
    assert [decode(encode(command)) for command in found] == found
