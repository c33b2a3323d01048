"""What cannot be stored as it was sent is repaired, and told. Never a server, never a clock."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.api.capture.payload import decode as decode_body
from shared.domain.commands import Capture, decode, encode
from shared.inputs.ids import COOKIELESS
from shared.inputs.names import NAME_CHARS_MAX, PROPERTIES_MAX
from shared.inputs.values import DEPTH_MAX, INTEGER_MAX, INTEGER_MIN
from tests.support.capturing import commands, repaired, scene


@pytest.mark.parametrize("mark", [{"distinct_id": COOKIELESS}, {"properties": {"$cookieless_mode": True, "$os": "x"}}])
@pytest.mark.parametrize("event", ["e", "$identify", "$create_alias", "$merge_dangerously", "$groupidentify"])
def test_a_cookieless_event_is_stored_without_a_person(event: str, mark: dict[str, Any]) -> None:
    others = {"$anon_distinct_id": "x", "alias": "x", "$set": {"a": 1}}
    fields: dict[str, Any] = {"event": event} | mark | {"properties": others | mark.get("properties", {})}
    (command,) = commands(**fields)
    assert isinstance(command, Capture) and not command.person
    assert (command.set, command.lifted, command.set_once) == ({}, {}, {})
    assert repaired(**fields)[1] == [("cookieless", "distinct_id")]


@pytest.mark.parametrize(
    ("fields", "repairs"),
    [
        ({"properties": {"$set": "x"}}, [("not_an_object", "properties.$set")]),
        ({"$set": [1]}, [("not_an_object", "$set")]),
        ({"$set_once": 7}, [("not_an_object", "$set_once")]),
        ({"properties": {"$unset": 7}}, [("not_a_list", "$unset")]),
        ({"$set": {"": 1}}, [("name_left_out", "$set")]),
        ({"$set": {"n" * (NAME_CHARS_MAX + 1): 1}}, [("name_left_out", "$set")]),
        ({"$set_once": {"n" * (NAME_CHARS_MAX + 1): 1}}, [("name_left_out", "$set_once")]),
        ({"$unset": ["n" * (NAME_CHARS_MAX + 1)]}, [("name_left_out", "$unset")]),
    ],
)
def test_operations_that_cannot_be_stored_are_left_out_and_the_rest_is_kept(
    fields: dict[str, Any], repairs: list[tuple[str, str]]
) -> None:
    command, told = repaired(**fields)
    assert (command.set, command.set_once, command.unset) == ({}, {}, ()) and told == repairs
    name = next(name for name in ("$set", "$set_once") if name not in fields)
    beside, told = repaired(**fields | {name: {"kept": 1}})
    assert (beside.set or beside.set_once) == {"kept": 1} and told == repairs


def test_a_text_to_unset_is_a_list_of_one() -> None:
    command, repairs = repaired(**{"$unset": "name"})
    assert command.unset == ("name",) and repairs == [("text_for_list", "$unset")]


def test_names_beyond_the_limit_are_left_out_and_what_was_said_first_has_room() -> None:
    sets = {f"n{index}": 1 for index in range(PROPERTIES_MAX + 1)}
    command, repairs = repaired(properties={"$os": "L"}, **{"$set": sets, "$set_once": {"x": 1}})
    assert list(command.set) == list(sets)[:PROPERTIES_MAX]
    assert (command.set_once, command.lifted) == ({}, {})
    assert {kind for kind, _ in repairs} == {"names_left_out"}
    assert bytes(command.properties) == b'{"$os":"L"}'


# Values that no store holds as they are


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize("number", [INTEGER_MIN, INTEGER_MAX, 0, 1.5, True, None])
def test_integers_of_64_bits_are_kept_exactly(number: Any) -> None:
    command, repairs = repaired(properties={"p": [number]}, **{"$set": {"a": [number]}})
    assert (command.set["a"], orjson.loads(bytes(command.properties))["p"], repairs) == ([number], [number], [])


@pytest.mark.parametrize("number", [INTEGER_MIN - 1, INTEGER_MAX + 1, 10**300])
def test_wider_integers_become_floats_wherever_they_are(number: int) -> None:
    for value, kept in ((number, float(number)), ([number], [float(number)]), ({"c": number}, {"c": float(number)})):
        command, repairs = repaired(properties={"p": value}, **{"$set": {"a": value}})
        assert command.set == {"a": kept} and orjson.loads(bytes(command.properties)) == {"p": kept}
        assert repairs == [("integer_rounded", "properties"), ("integer_rounded", "$set")]


def test_an_integer_beyond_every_float_becomes_text() -> None:
    command, repairs = repaired(**{"$set": {"a": 10**400}})
    assert command.set == {"a": str(10**400)} and repairs == [("number_as_text", "$set")]


def test_depth_counts_the_properties_object_as_one_and_what_is_deeper_is_json_text() -> None:
    kept = nested(DEPTH_MAX)
    command, repairs = repaired(**{"$set": kept})
    assert command.set == kept and repairs == []
    command, repairs = repaired(**{"$set": nested(DEPTH_MAX + 2)})
    assert repairs == [("too_deep", "$set")]
    innermost: Any = command.set
    while isinstance(innermost, dict):
        innermost = innermost["a"]
    assert innermost == '{"a":{}}'
    lists = orjson.loads(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX)
    command, repairs = repaired(properties={"p": lists})
    assert repairs == [("too_deep", "properties")] and b'"[]"' in bytes(command.properties)


def test_nul_is_replaced_in_every_text() -> None:
    command, repairs = repaired(properties={"p\0": "\0"}, **{"$set": {"a\0": ["\0", {"b": "x\0y"}], "c": 1}})
    assert command.set == {"a�": ["�", {"b": "x�y"}], "c": 1}
    assert orjson.loads(bytes(command.properties)) == {"p�": "�"}
    assert repairs == [("nul_replaced", "properties"), ("nul_replaced", "$set")]


def test_a_number_beyond_every_float_is_a_text_wherever_it_is() -> None:
    body = b'{"event":NaN,"distinct_id":1e400,"uuid":1e400,"timestamp":NaN,"$unset":[NaN,"a"],"$set":{"b":[-1e999]}}'
    (event,) = decode_body(body, "application/json", {}).events
    command, repairs = repaired(scene(lenient=True), **event)
    assert (command.event, command.distinct_id, command.unset) == ("NaN", "1e400", ("NaN", "a"))
    assert command.set == {"b": ["-1e999"]} and ("number_as_text", "$set") in repairs
    assert decode(encode(command)).event == "NaN"
