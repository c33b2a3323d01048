"""docs/contract.md §13 on persons: Writes, Idempotency-Key, Identified, Split, Merge, Birth, Timeline points, Deletion.

Shown elsewhere: repeats (test_identities: test_a_repeated_write_tells_the_first_outcome,
test_repeated_splits_merges_and_deletes_do_nothing_twice), a batch with a bad event (test_bad_input:
test_the_good_events_of_a_batch_are_stored_and_the_first_bad_one_is_named), activity (test_contract_timeline), merges
that are refused and mark the target, or are illegal and mark nobody (test_contract_split).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.support.asking import imported, sent
from tests.support.processes import Answer, Stack

NOBODY = "84877a1c-03f2-5cfd-8633-000000000000"
PLAN = quote('[{"key":"plan","type":"person"}]')


def person(stack: Stack, name: str) -> dict[str, Any]:
    answer = stack.persons(f"/{stack.uuid(name)}/")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


def post(stack: Stack, name: str, route: str, **body: Any) -> Answer:
    answer = stack.persons(f"/{stack.uuid(name)}/{route}/", "POST", body)
    assert answer.status == 200, answer.body
    return answer


# Writes


@pytest.mark.parametrize("route", ["PATCH", "update_property"])
@pytest.mark.parametrize("form", ["uuid", "id"])
def test_a_write_goes_to_the_id_that_the_path_names(stack: Stack, name: str, route: str, form: str) -> None:
    other = f"{name}-2"
    sent(stack, name)
    sent(stack, other)
    address = person(stack, other)[form]
    post(stack, name, "merge", distinct_id=other)
    if route == "PATCH":
        assert stack.persons(f"/{address}/", "PATCH", {"properties": {"x": 1}}).json["uuid"] == stack.uuid(name)
    else:
        assert stack.persons(f"/{address}/{route}/", "POST", {"key": "x", "value": 1}).status == 200
    post(stack, name, "update_property", key="y", value=2)
    assert person(stack, name)["properties"] == {"x": 1, "y": 2}
    post(stack, name, "split", main_distinct_id=name)
    assert (person(stack, name)["properties"], person(stack, other)["properties"]) == ({"y": 2}, {"x": 1})


def test_integer_ids_stay_below_2_to_the_53_and_stay_for_ever(stack: Stack, name: str) -> None:
    sent(stack, name)
    sent(stack, f"{name}-2")
    one, two = person(stack, name)["id"], person(stack, f"{name}-2")["id"]
    assert 0 < one < 2**53 and 0 < two < 2**53 and one != two
    merged = post(stack, name, "merge", distinct_id=f"{name}-2").json
    assert merged["id"] == one == stack.persons(f"/{two}/").json["id"]
    post(stack, name, "split")
    assert (person(stack, name)["id"], person(stack, f"{name}-2")["id"]) == (one, two)


# Idempotency-Key


def test_a_key_with_another_body_is_422(stack: Stack, name: str) -> None:
    sent(stack, name)
    header = {"Idempotency_Key": uuid4().hex}
    assert stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"a": 1}}, **header).status == 200
    answer = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"a": 2}}, **header)
    assert answer.status == 422
    assert answer.json | {"detail": ""} == {
        "type": "invalid_request", "code": "idempotency_key_reused", "detail": "", "attr": None,
    }  # fmt: skip
    assert person(stack, name)["properties"] == {"a": 1}


def test_a_keys_scope_is_the_addressed_person(stack: Stack, name: str) -> None:
    header = {"Idempotency_Key": uuid4().hex}
    for number in range(2):
        sent(stack, f"{name}-{number}")
        body = {"properties": {"a": number}}
        answer = stack.persons(f"/{stack.uuid(f'{name}-{number}')}/", "PATCH", body, **header)
        assert (answer.status, answer.json["properties"]) == (200, {"a": number})
        assert "Idempotency-Replayed" not in answer.headers


# Identified


def test_a_rest_merge_marks_nothing_and_may_absorb_an_identified_person(stack: Stack, name: str) -> None:
    other = f"{name}-2"
    sent(stack, name)
    sent(stack, other)
    assert post(stack, name, "merge", distinct_id=other).json["is_identified"] is False
    identified = f"{name}-3"
    sent(stack, identified, "$identify", **{"$anon_distinct_id": f"{name}-4"})
    merged = post(stack, name, "merge", distinct_id=identified).json
    assert (len(merged["distinct_ids"]), merged["is_identified"]) == (4, True)


def test_the_flag_leaves_with_its_id_at_a_split(stack: Stack, name: str) -> None:
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-device"})
    post(stack, name, "split", distinct_ids_to_split=[name])
    assert (person(stack, name)["is_identified"], person(stack, f"{name}-device")["is_identified"]) == (True, False)


def test_the_flag_goes_at_a_delete(stack: Stack, name: str) -> None:
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-device"})
    assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 204
    sent(stack, name)
    assert (person(stack, name)["is_identified"], person(stack, name)["distinct_ids"]) == (False, [name])


# Merge and split


def test_a_rest_merge_within_one_person_is_200_and_does_nothing(stack: Stack, name: str) -> None:
    sent(stack, name, "$identify", **{"$anon_distinct_id": f"{name}-2"})
    before = person(stack, name)
    items = stack.persons(f"/{stack.uuid(name)}/activity/").json["total_count"]
    for other in (f"{name}-2", name):
        assert post(stack, name, "merge", distinct_id=other).json == before
    assert stack.persons(f"/{stack.uuid(name)}/activity/").json["total_count"] == items


@pytest.mark.parametrize("body", [{"distinct_id": "nobody"}, {"source": 123456789}, {"source": NOBODY}], ids=str)
def test_an_unknown_source_is_404(stack: Stack, name: str, body: dict[str, Any]) -> None:
    sent(stack, name)
    answer = stack.persons(f"/{stack.uuid(name)}/merge/", "POST", body)
    assert (answer.status, answer.json["code"], answer.json["detail"]) == (404, "not_found", "Not found.")


def test_created_at_is_that_of_the_oldest_living_id(stack: Stack, name: str) -> None:
    imported(stack, f"{name}-old", "2021-02-03T04:05:06Z")
    sent(stack, name)
    own = person(stack, name)["created_at"]
    assert post(stack, name, "merge", distinct_id=f"{name}-old").json["created_at"] == "2021-02-03T04:05:06Z"
    post(stack, name, "split", main_distinct_id=name)
    assert person(stack, name)["created_at"] == own
    assert person(stack, f"{name}-old")["created_at"] == "2021-02-03T04:05:06Z"


def test_when_the_root_leaves_the_first_remaining_in_order_of_joining_is_the_root(stack: Stack, name: str) -> None:
    """c absorbed d; a takes b, then c with its members: the order is a, b, c, d."""
    a, b, c, d = (f"{name}-{letter}" for letter in "abcd")
    for one in (a, b, c, d):
        sent(stack, one)
    post(stack, c, "merge", distinct_id=d)
    post(stack, a, "merge", distinct_id=b)
    assert post(stack, a, "merge", distinct_id=c).json["distinct_ids"] == [a, b, c, d]
    answer = post(stack, a, "split", distinct_ids_to_split=[a]).json
    assert [one["distinct_ids"] for one in answer["persons"]] == [[b, c, d], [a]]
    assert answer["persons"][0]["uuid"] == stack.uuid(b)
    assert person(stack, d)["uuid"] == stack.uuid(b)
    again = post(stack, b, "split", distinct_ids_to_split=[b]).json
    assert (again["persons"][0]["uuid"], again["persons"][0]["distinct_ids"]) == (stack.uuid(c), [c, d])


def test_a_split_of_all_is_400(stack: Stack, name: str) -> None:
    sent(stack, name)
    answer = stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"distinct_ids_to_split": [name]})
    assert (answer.status, answer.json["attr"]) == (400, "distinct_ids_to_split")
    alone = post(stack, name, "split", main_distinct_id=name).json
    assert [one["distinct_ids"] for one in alone["persons"]] == [[name]]


# Birth


@pytest.mark.parametrize(
    ("event", "properties", "born"),
    [
        ("e", {}, True), ("$identify", {"$anon_distinct_id": "guest"}, True), ("$create_alias", {}, True),
        ("$groupidentify", {"$group_type": "a"}, True), ("e", {"$process_person_profile": False}, False),
        ("e", {"$process_person_profile": True}, True), ("e", {"$process_person_profile": "false"}, True),
        ("$identify", {"$process_person_profile": False, "$anon_distinct_id": "x"}, False),
    ],
    ids=[
        "sets nothing", "a refused merge", "a merge of nobody", "a group", "without processing", "with", "a text",
        "a merge without processing",
    ],
)  # fmt: skip
def test_any_event_with_person_processing_gives_birth(
    stack: Stack, name: str, event: str, properties: dict[str, Any], born: bool
) -> None:
    answer = stack.capture(event=event, distinct_id=name, properties=properties)
    assert (answer.status, answer.json) == (200, {"status": "Ok"})
    position = answer.headers.get("Position")  # none when nothing was written
    found = stack.persons(f"/?distinct_id={name}", **({"Min_Position": position} if position else {})).json["results"]
    assert [(one["properties"], one["distinct_ids"]) for one in found] == [({}, [name])] * born


# Timeline points


def test_points_carry_the_person_after_the_events_own_set_in_arrival_order(stack: Stack, name: str) -> None:
    today = datetime.now(UTC).strftime("%Y-%m-%dT00:00:0{}Z")
    for number, second in enumerate((3, 1, 2)):
        event = {"event": "e", "distinct_id": name, "timestamp": today.format(second)}
        position = stack.capture(**event, properties={"$set": {"plan": number}}).headers["Position"]
    answer = stack.persons(f"/{stack.uuid(name)}/properties_timeline/?properties={PLAN}", Min_Position=position)
    points = [(point["timestamp"], point["properties"]["plan"]) for point in answer.json["points"]]
    assert points == [(today.format(3), 0), (today.format(1), 1), (today.format(2), 2)]


def test_a_change_has_position_actor_cause_keys_before_and_after(stack: Stack, name: str) -> None:
    position = sent(stack, name, "signed up", **{"$set": {"plan": "a"}})
    stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"plan": "b"}})
    first, second = stack.persons(f"/{stack.uuid(name)}/properties_timeline/?source=changes").json["points"]
    assert (first["position"], first["actor"]) == (position, "capture")
    assert first["cause"] == {"command": first["cause"]["command"], "kind": "capture", "event": "signed up"}
    assert (second["actor"], second["cause"]["kind"], second["cause"]["event"]) == ("bootstrap", "update", None)
    assert (second["keys"], second["before"], second["after"]) == (["plan"], {"plan": "a"}, {"plan": "b"})


# Deletion


def test_what_is_sent_after_a_delete_has_answered_is_a_new_life(stack: Stack, name: str) -> None:
    for life in range(5):
        sent(stack, name, **{"$set": {f"life{life}": 1}})
        assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 204
        position = stack.capture(event="e", distinct_id=name, properties={"$set": {"life": life}}).headers["Position"]
        answer = stack.persons(f"/{stack.uuid(name)}/", Min_Position=position)
        assert answer.json["properties"] == {"life": life}


def test_an_import_from_before_the_erasure_is_dropped(stack: Stack, name: str) -> None:
    sent(stack, name)
    assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 204
    imported(stack, name, "2020-01-01T00:00:00Z", secret=1)
    assert stack.persons(f"/{stack.uuid(name)}/").status == 404
    sent(stack, name, **{"$set": {"new": 1}})
    imported(stack, name, "2020-01-01T00:00:00Z", secret=1)
    assert person(stack, name)["properties"] == {"new": 1}


def test_keep_person_alone_asks_for_nothing(stack: Stack, name: str) -> None:
    sent(stack, name)
    before = stack.persons("/deletion_requests/?limit=1").json
    answer = stack.persons(f"/{stack.uuid(name)}/?keep_person=true", "DELETE")
    assert (answer.status, answer.body, answer.headers.get("Location")) == (204, b"", None)
    assert stack.persons("/deletion_requests/?limit=1").json == before
    assert person(stack, name)["uuid"] == stack.uuid(name)


def test_deletion_status_lists_those_with_events_and_no_cancelled_ones_requests_list_all(
    stack: Stack, name: str
) -> None:
    sent(stack, name)
    made = [post(stack, name, kind).json["id"] for kind in ("delete_events", "delete_recordings", "delete_events")]
    assert stack.persons(f"/deletion_requests/{made[2]}/", "DELETE").status == 204
    stack.persons(f"/{stack.uuid(name)}/", "DELETE")
    status = stack.persons(f"/deletion_status/?person_uuid={stack.uuid(name)}").json
    assert (status["count"], len(status["results"])) == (1, 1)
    listed = stack.persons("/deletion_requests/?limit=10").json
    mine = [one for one in listed["results"] if one["person_uuid"] == stack.uuid(name)]
    assert [one["id"] for one in mine[1:]] == list(reversed(made))
    assert mine[0]["scope"] == {"profile": True, "events": False, "recordings": False}
    assert [one["state"] for one in mine] == ["pending", "cancelled", "pending", "pending"]


def test_a_delete_without_events_keeps_them_and_one_with_them_takes_the_names_of_causes(
    erasing_stack: Stack, name: str
) -> None:
    stack = erasing_stack
    kept, gone = f"{name}-kept", f"{name}-gone"
    for one in (kept, gone):
        sent(stack, one, "secret event", **{"$set": {"a": 1}})
    assert stack.persons(f"/{stack.uuid(kept)}/", "DELETE").status == 204
    assert stack.persons(f"/{stack.uuid(gone)}/?delete_events=true&keep_person=true", "DELETE").status == 204
    swept = stack.call("deletions", "run")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    counts = [stack.query(f"SELECT count() FROM captured_events WHERE distinct_id = '{one}'") for one in (kept, gone)]
    assert counts == ["1", "0"]
    (point,) = stack.persons(f"/{stack.uuid(gone)}/properties_timeline/?source=changes").json["points"]
    assert (point["after"], point["cause"]["kind"], point["cause"]["event"]) == ({"a": 1}, "capture", None)
    assert "secret event" not in str(stack.persons(f"/{stack.uuid(gone)}/properties/a/history/").json)
