"""docs/contract.md §8, row by row: split and merge. What §13 adds is in test_contract_decided.

Shown elsewhere: repeats with an Idempotency-Key (test_identities: test_repeated_splits_merges_and_deletes_do_nothing_
twice), a merge that names nobody (test_identities: test_a_merge_that_names_nobody_is_refused).
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.support.asking import sent, sent_in_a_row, shown
from tests.support.processes import Answer, Stack


def three(stack: Stack, name: str) -> tuple[str, str, str]:
    """A person of three ids, which joined in this order; each set `own` and a property of its own."""
    ids = (name, f"{name}-2", f"{name}-3")
    sent_in_a_row(
        stack,
        *((one, "e", {"$set": {"own": number, f"p{number}": number}}) for number, one in enumerate(ids)),
        *((name, "$identify", {"$anon_distinct_id": other}) for other in ids[1:]),
    )
    assert together(stack, name) == list(ids)
    return ids


def together(stack: Stack, name: str) -> list[str]:
    person = shown(stack, name)
    assert person is not None, name
    ids: list[str] = person["distinct_ids"]
    return ids


def properties(stack: Stack, name: str) -> dict[str, Any]:
    person = shown(stack, name)
    assert person is not None, name
    found: dict[str, Any] = person["properties"]
    return found


def split(stack: Stack, name: str, **body: Any) -> Answer:
    return stack.persons(f"/{stack.uuid(name)}/split/", "POST", body)


def persons(answer: Answer) -> list[list[str]]:
    assert answer.status == 200, answer.body
    assert answer.json["success"] is True
    return [one["distinct_ids"] for one in answer.json["persons"]]


def refusals(stack: Stack, name: str) -> list[str]:
    """What is told of refused merges of this person."""
    items = stack.persons(f"/{stack.uuid(name)}/activity/").json["results"]
    return [str(item["detail"]["changes"]) for item in items if item["activity"] == "merge_refused"]


# Split


@pytest.mark.parametrize("main", [0, 1, 2])
def test_with_a_main_distinct_id_every_other_id_leaves(stack: Stack, name: str, main: int) -> None:
    ids = three(stack, name)
    found = persons(split(stack, name, main_distinct_id=ids[main]))
    assert found[0] == [ids[main]]
    assert sorted(found) == [[one] for one in ids]


def test_with_neither_field_the_first_id_stays(stack: Stack, name: str) -> None:
    ids = three(stack, name)
    assert persons(split(stack, name)) == [[one] for one in ids]


def test_the_first_id_is_the_first_that_is_shown(stack: Stack, name: str) -> None:
    anonymous = str(uuid4())
    sent(stack, anonymous)
    sent(stack, name)
    stack.persons(f"/{stack.uuid(anonymous)}/merge/", "POST", {"distinct_id": name})
    assert together(stack, name) == [name, anonymous]
    assert persons(split(stack, name)) == [[name], [anonymous]]


@pytest.mark.parametrize("leaving", [(0,), (1,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_with_distinct_ids_to_split_only_those_leave(stack: Stack, name: str, leaving: tuple[int, ...]) -> None:
    ids = three(stack, name)
    gone = [ids[index] for index in leaving]
    stay = [one for one in ids if one not in gone]
    found = persons(split(stack, name, distinct_ids_to_split=gone))
    assert found[0] == stay
    assert sorted(found[1:]) == [[one] for one in gone]
    assert together(stack, stay[0]) == stay


@pytest.mark.parametrize(
    "body",
    [
        {"distinct_ids_to_split": []}, {"distinct_ids_to_split": "{name}"}, {"distinct_ids_to_split": [1]},
        {"distinct_ids_to_split": ["{name}", None]}, {"distinct_ids_to_split": ["stranger"]},
        {"distinct_ids_to_split": ["{name}-2", "stranger"]},
        {"distinct_ids_to_split": ["{name}-2"], "main_distinct_id": "{name}"},
        {"distinct_ids_to_split": ["{name}", "{name}-2", "{name}-3"]},
    ],
    ids=["empty", "no list", "a number", "a null", "a stranger", "one stranger", "with main", "all"],
)  # fmt: skip
def test_a_wrong_list_is_400_with_its_attr(stack: Stack, name: str, body: dict[str, Any]) -> None:
    ids = three(stack, name)

    def fill(value: Any) -> Any:
        return [fill(one) for one in value] if isinstance(value, list) else _named(value, name)

    answer = split(stack, name, **{field: fill(value) for field, value in body.items()})
    assert answer.status == 400
    assert answer.json | {"detail": ""} == {
        "type": "validation_error", "code": "invalid_input", "detail": "", "attr": "distinct_ids_to_split",
    }  # fmt: skip
    assert together(stack, name) == list(ids)


def _named(value: Any, name: str) -> Any:
    return value.replace("{name}", name) if isinstance(value, str) else value


@pytest.mark.parametrize("main", ["stranger", "", 5], ids=repr)
def test_an_unknown_main_is_400(stack: Stack, name: str, main: Any) -> None:
    ids = three(stack, name)
    answer = split(stack, name, main_distinct_id=main)
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (400, "invalid_input", "main_distinct_id")
    assert together(stack, name) == list(ids)


def test_every_id_gets_back_what_was_set_through_it_the_creators_too(stack: Stack, name: str) -> None:
    ids = three(stack, name)
    assert properties(stack, name) == {"own": 2, "p0": 0, "p1": 1, "p2": 2}
    persons(split(stack, name, main_distinct_id=ids[1]))
    for number, one in enumerate(ids):
        assert properties(stack, one) == {"own": number, f"p{number}": number}


def test_what_stays_together_keeps_the_newest_of_its_own(stack: Stack, name: str) -> None:
    ids = three(stack, name)
    persons(split(stack, name, distinct_ids_to_split=[ids[2]]))
    assert properties(stack, ids[0]) == {"own": 1, "p0": 0, "p1": 1}
    assert properties(stack, ids[2]) == {"own": 2, "p2": 2}


def test_split_persons_can_be_merged_again(stack: Stack, name: str) -> None:
    ids = three(stack, name)
    before = properties(stack, name)
    split(stack, name)
    for other in ids[1:]:
        assert stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": other}).status == 200
    assert (together(stack, name), properties(stack, name)) == (list(ids), before)


# Merge by events

MERGES = {"$identify": "$anon_distinct_id", "$create_alias": "alias", "$merge_dangerously": "alias"}


@pytest.mark.parametrize("event", MERGES)
def test_an_event_merges_into_the_person_of_its_distinct_id(stack: Stack, name: str, event: str) -> None:
    other = f"{name}-other"
    sent(stack, other, **{"$set": {"b": 1}})
    sent(stack, name, **{"$set": {"a": 1}})
    sent(stack, name, event, **{MERGES[event]: other})
    person = shown(stack, other)
    assert person is not None
    assert (person["uuid"], person["distinct_ids"]) == (stack.uuid(name), [name, other])
    assert (person["properties"], person["is_identified"]) == ({"a": 1, "b": 1}, True)


@pytest.mark.parametrize("event", MERGES)
def test_an_id_known_only_from_a_merge_is_born(stack: Stack, name: str, event: str) -> None:
    sent(stack, name, event, **{MERGES[event]: f"{name}-new"})
    assert together(stack, name) == [name, f"{name}-new"]
    found = persons(split(stack, name))
    assert found == [[name], [f"{name}-new"]]


@pytest.mark.parametrize("event", MERGES)
def test_a_source_that_is_identified_is_refused_except_for_merge_dangerously(
    stack: Stack, name: str, event: str
) -> None:
    other = f"{name}-other"
    sent(stack, other, "$identify", **{"$anon_distinct_id": f"{other}-device"})
    sent(stack, name, event, **{MERGES[event]: other, "$set": {"kept": 1}})
    apart = event != "$merge_dangerously"
    assert together(stack, name) == ([name] if apart else [name, other, f"{other}-device"])
    assert together(stack, other) == ([other, f"{other}-device"] if apart else [name, other, f"{other}-device"])
    person = shown(stack, name)
    assert person is not None and (person["properties"], person["is_identified"]) == ({"kept": 1}, True)
    for one in (name, other):
        assert [("already_identified" in told) for told in refusals(stack, one)] == [True] * apart
    assert stack.query(f"SELECT count() FROM captured_events WHERE distinct_id = '{name}'") == "1"


def test_a_target_that_is_identified_takes_another_source(stack: Stack, name: str) -> None:
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-1"})
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-2"})
    assert together(stack, name) == [name, f"{name}-1", f"{name}-2"]


@pytest.mark.parametrize("event", MERGES)
def test_equal_ids_do_nothing(stack: Stack, name: str, event: str) -> None:
    sent(stack, name, event, **{MERGES[event]: name})
    person = shown(stack, name)
    assert person is not None and (person["distinct_ids"], person["is_identified"]) == ([name], False)
    assert refusals(stack, name) == []


ILLEGAL: dict[str, Any] = {
    "blank": "", "spaces": "  ", "tab": "\t", "with NUL": "a\0b", "401 characters": "x" * 401, "null": "null",
    "NaN": "NaN", "None": "None", "none": "none", "0": "0", "[object Object]": "[object Object]", "quoted": '"null"',
    "quoted once": "'undefined'", "the number 0": 0, "true": True, "false": False,
    **{word: word for word in "anonymous guest distinctid distinct_id id not_authenticated email undefined".split()},
    **{word: word for word in ("Anonymous", "GUEST", "DistinctId", "ID", "Email", "UNDEFINED", "True", "FALSE")},
}  # fmt: skip


@pytest.mark.parametrize("illegal", ILLEGAL)
@pytest.mark.parametrize("event", MERGES)
def test_an_illegal_source_is_never_merged_and_marks_nobody(stack: Stack, name: str, illegal: str, event: str) -> None:
    sent(stack, name, event, **{MERGES[event]: ILLEGAL[illegal], "$set": {"kept": 1}})
    person = shown(stack, name)
    assert person is not None
    assert (person["distinct_ids"], person["is_identified"]) == ([name], False)
    assert person["properties"] == {"kept": 1}
    (told,) = refusals(stack, name)
    assert "illegal_distinct_id" in told


@pytest.mark.parametrize("illegal", ["anonymous", "Guest", "undefined", "null", "NaN", "0", "[object Object]", '"id"'])
def test_an_illegal_target_is_never_merged(stack: Stack, name: str, illegal: str) -> None:
    sent(stack, name)
    sent(stack, illegal, "$identify", **{"$anon_distinct_id": name})
    assert together(stack, name) == [name]
    target = stack.persons(f"/{stack.uuid(illegal)}/").json
    assert (target["distinct_ids"], target["is_identified"]) == ([illegal], False)


@pytest.mark.parametrize("legal", ["anonymous-1", "guests", "nobody", "id7", "00", "nul"])
def test_ids_that_only_resemble_them_are_legal(stack: Stack, name: str, legal: str) -> None:
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{legal}"})
    assert together(stack, name) == [name, legal]


# What is told in the docs


def test_the_newest_value_wins_at_a_merge_not_the_targets(stack: Stack, name: str) -> None:
    other = f"{name}-other"
    sent(stack, name, **{"$set": {"plan": "of the target"}})
    sent(stack, other, **{"$set": {"plan": "newest"}})
    sent(stack, name, "$identify", **{"$anon_distinct_id": other})
    assert properties(stack, name) == {"plan": "newest"}


def test_set_once_across_ids_gives_the_oldest(stack: Stack, name: str) -> None:
    other = f"{name}-other"
    sent(stack, other, **{"$set_once": {"source": "oldest"}})
    sent(stack, name, **{"$set_once": {"source": "of the target"}})
    sent(stack, name, "$identify", **{"$anon_distinct_id": other})
    assert properties(stack, name) == {"source": "oldest"}


def test_old_uuids_and_integers_keep_resolving(stack: Stack, name: str) -> None:
    other = f"{name}-other"
    sent(stack, other)
    number = stack.persons(f"/{stack.uuid(other)}/").json["id"]
    sent(stack, name, "$identify", **{"$anon_distinct_id": other})
    person = stack.persons(f"/{stack.uuid(name)}/").json
    assert stack.persons(f"/{stack.uuid(other)}/").json == stack.persons(f"/{number}/").json == person
    updated = stack.persons(f"/{number}/", "PATCH", {"properties": {"a": 1}})
    assert (updated.status, updated.json["uuid"]) == (200, stack.uuid(name))
