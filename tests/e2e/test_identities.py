"""Merge and split by REST, first outcomes, batch reads and `personlog rebuild`, on real processes."""

from __future__ import annotations

import fcntl
from typing import Any
from uuid import uuid4

import pytest

from tests.support.asking import sent, shown
from tests.support.processes import Stack

pytestmark = pytest.mark.alone


def test_merge_by_rest_and_what_a_dry_run_says_of_it(stack: Stack, name: str) -> None:
    other = f"{name}-other"
    sent(stack, other, **{"$set": {"plan": "old", "only": 1}})
    sent(stack, name, **{"$set": {"plan": "new"}})
    dry = stack.persons(f"/{stack.uuid(name)}/merge/?dry_run=true", "POST", {"distinct_id": other})
    assert dry.status == 200
    assert dry.json["survivor"]["uuid"] == stack.uuid(name)
    assert dry.json["absorbed"]["uuid"] == stack.uuid(other)
    assert dry.json["result"]["properties"] == {"plan": "new", "only": 1}
    assert dry.json["conflicts"] == [{"key": "plan", "survivor": "new", "absorbed": "old", "result": "new"}]
    assert shown(stack, other)["distinct_ids"] == [other]  # type: ignore[index]  # it is there
    merged = stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"source": stack.uuid(other)})
    assert (merged.status, sorted(merged.json["distinct_ids"])) == (200, [name, other])
    again = stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": other})
    assert (again.status, sorted(again.json["distinct_ids"])) == (200, [name, other])
    preview = stack.persons(f"/{stack.uuid(name)}/split/?dry_run=true", "POST", {"main_distinct_id": other})
    assert [one["distinct_ids"] for one in preview.json["persons"]] == [[other], [name]]
    assert sorted(shown(stack, name)["distinct_ids"]) == [name, other]  # type: ignore[index]  # nothing was done
    split = stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"main_distinct_id": other})
    assert split.json == preview.json
    assert shown(stack, name)["properties"] == {"plan": "new"}  # type: ignore[index]  # the creator's id left too
    assert shown(stack, other)["properties"] == {"plan": "old", "only": 1}  # type: ignore[index]  # lossless


@pytest.mark.parametrize(
    ("body", "status", "attr"),
    [
        ({}, 400, "source"),
        ({"source": 1, "distinct_id": "x"}, 400, "source"),
        ({"source": "not an id"}, 400, "source"),
        ({"source": True}, 400, "source"),
        ({"source": 1.5}, 400, "source"),
        ({"source": ""}, 400, "source"),
        ({"source": []}, 400, "source"),
        ({"distinct_id": 7}, 400, "distinct_id"),
        ({"distinct_id": ""}, 400, "distinct_id"),
        ({"distinct_id": "nobody at all"}, 404, None),
        ({"source": 12345678}, 404, None),
        ({"source": str(uuid4())}, 404, None),
        ([], 400, None),
    ],
)
def test_a_merge_that_names_nobody_is_refused(stack: Stack, name: str, body: Any, status: int, attr: str) -> None:
    sent(stack, name)
    for query in ("", "?dry_run=true"):
        answer = stack.persons(f"/{stack.uuid(name)}/merge/{query}", "POST", body)
        assert (answer.status, answer.json["attr"]) == (status, attr), answer.body
    unclear = stack.persons(f"/{stack.uuid(name)}/merge/?dry_run=yes", "POST", {"distinct_id": name})
    assert unclear.json["attr"] == "dry_run"


def test_a_repeated_write_tells_the_first_outcome(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"n": 0}})
    key = {"Idempotency_Key": uuid4().hex}
    first = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"n": 1}}, **key)
    stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"n": 2}})
    again = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"n": 1}}, **key)
    assert (again.status, again.json["properties"]) == (200, {"n": 1})
    assert again.headers["Position"] == first.headers["Position"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert stack.persons(f"/{stack.uuid(name)}/").json["properties"] == {"n": 2}
    other = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"n": 3}}, **key)
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    assert set(other.json) == {"type", "code", "detail", "attr"}


def test_a_repeated_conditional_write_is_judged_as_the_first_was(stack: Stack, name: str) -> None:
    sent(stack, name, **{"$set": {"n": 0}})
    etag = stack.persons(f"/{stack.uuid(name)}/").headers["ETag"]
    good, late = uuid4().hex, uuid4().hex
    body = {"properties": {"n": 1}}
    assert stack.persons(f"/{stack.uuid(name)}/", "PATCH", body, If_Match=etag, Idempotency_Key=good).status == 200
    assert stack.persons(f"/{stack.uuid(name)}/", "PATCH", body, If_Match=etag, Idempotency_Key=good).status == 200
    assert stack.persons(f"/{stack.uuid(name)}/", "PATCH", body, If_Match=etag, Idempotency_Key=late).status == 412
    assert stack.persons(f"/{stack.uuid(name)}/", "PATCH", body, If_Match=etag, Idempotency_Key=late).status == 412


def test_repeated_splits_merges_and_deletes_do_nothing_twice(stack: Stack, name: str) -> None:
    other = f"{name}-other"
    sent(stack, other, **{"$set": {"b": 1}})
    sent(stack, name, **{"$set": {"a": 1}})
    keys = [{"Idempotency_Key": uuid4().hex} for _ in range(5)]
    merged = stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": other}, **keys[0])
    split = stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"main_distinct_id": name}, **keys[1])
    again = stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": other}, **keys[0])
    assert again.json | {"last_seen_at": merged.json["last_seen_at"]} == merged.json
    assert shown(stack, name)["distinct_ids"] == [name]  # type: ignore[index]  # the repeat did not merge again
    second = stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"main_distinct_id": name}, **keys[1])
    assert second.json == split.json
    wrong = stack.persons(f"/{stack.uuid(name)}/split/", "POST", {"main_distinct_id": other}, **keys[1])
    assert wrong.status == 422
    unset = stack.persons(f"/{stack.uuid(name)}/delete_property/", "POST", {"$unset": "a"}, **keys[2])
    stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"a": 2}})
    repeated = stack.persons(f"/{stack.uuid(name)}/delete_property/", "POST", {"$unset": "a"}, **keys[2])
    assert (repeated.json, repeated.headers["Position"]) == (unset.json, unset.headers["Position"])
    assert shown(stack, name)["properties"] == {"a": 2}  # type: ignore[index]  # still set
    asked = stack.persons(f"/{stack.uuid(name)}/delete_events/", "POST", **keys[3])
    assert stack.persons(f"/{stack.uuid(name)}/delete_events/", "POST", **keys[3]).json["id"] == asked.json["id"]
    gone = stack.persons(f"/{stack.uuid(name)}/", "DELETE", **keys[4])
    assert gone.status == 204
    sent(stack, name, **{"$set": {"life": 2}})
    repeat = stack.persons(f"/{stack.uuid(name)}/", "DELETE", **keys[4])
    assert (repeat.status, repeat.headers["Location"]) == (204, gone.headers["Location"])
    assert shown(stack, name)["properties"] == {"life": 2}  # type: ignore[index]  # the new life was not deleted
    assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 204
    assert stack.persons(f"/{stack.uuid(name)}/", "DELETE").status == 404


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_useless_idempotency_key_is_refused(stack: Stack, name: str, key: str) -> None:
    sent(stack, name)
    answer = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"a": 1}}, Idempotency_Key=key)
    assert (answer.status, answer.json["code"]) == (400, "invalid_input")


@pytest.mark.parametrize("route", ["batch_by_distinct_ids", "batch_by_uuids"])
def test_batches_answer_for_up_to_200_and_refuse_more(stack: Stack, name: str, route: str) -> None:
    field = route.removeprefix("batch_by_")
    sent(stack, name, **{"$set": {"a": 1}})
    me = name if field == "distinct_ids" else stack.uuid(name)
    strangers = [str(uuid4()) for _ in range(199)]
    answer = stack.persons(f"/{route}/", "POST", {field: [me, *strangers]})
    assert list(answer.json["results"]) == [me]
    assert answer.json["results"][me]["properties"] == {"a": 1}
    assert stack.persons(f"/{route}/", "POST", {field: []}).json == {"results": {}}
    for body, attr in (
        ({field: [me, *strangers, "x"]}, field), ({}, field), ({field: "x"}, field), ({field: [1]}, field),
    ):  # fmt: skip
        bad = stack.persons(f"/{route}/", "POST", body)
        assert (bad.status, bad.json["attr"]) == (400, attr)
    if field == "uuids":
        assert stack.persons(f"/{route}/", "POST", {field: ["no"]}).json["attr"] == "uuids"


def test_a_resent_event_does_not_bring_an_old_value_back(stack: Stack, name: str) -> None:
    first = {"event": "e", "distinct_id": name, "uuid": str(uuid4()), "properties": {"$set": {"plan": "old"}}}
    assert stack.capture(**first).status == 200
    sent(stack, name, **{"$set": {"plan": "new"}})
    again = stack.capture(**first)
    assert stack.persons("/?limit=1", Min_Position=again.headers["Position"]).status == 200
    assert shown(stack, name)["properties"] == {"plan": "new"}  # type: ignore[index]  # it is there


def test_rebuild_from_the_command_line_beside_running_services(own_stack: Stack, name: str) -> None:
    stack = own_stack
    sent(stack, name, **{"$set": {"plan": "kept"}})
    before = stack.persons(f"/{stack.uuid(name)}/").json
    good = stack.call("rebuild", "--verify")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("swapped: ") and " 0 differences, 0 corrupt" in good.stdout
    assert stack.persons(f"/{stack.uuid(name)}/").json == before
    sent(stack, name, **{"$set": {"after": 1}})
    stack.query(
        f"ALTER TABLE fragments UPDATE properties = '{{}}' WHERE fragment = '{stack.uuid(name)}'"
        " SETTINGS mutations_sync = 2"
    )
    wrong = stack.call("rebuild", "--verify")
    assert wrong.returncode == 1
    assert f"difference: fragments project 1 fragment {stack.uuid(name)} differs in properties" in wrong.stdout
    assert "the live tables are as they were" in wrong.stderr
    assert stack.persons(f"/{stack.uuid(name)}/").json["properties"] == {}
    assert stack.call("rebuild").returncode == 0
    assert stack.persons(f"/{stack.uuid(name)}/").json["properties"] == {"plan": "kept", "after": 1}
    stack.query(
        f"INSERT INTO timeline (project, fragment, version, topic) VALUES (1, '{stack.uuid(name)}', 1, 'fragment.odd')"
    )
    corrupt = stack.call("rebuild")
    assert corrupt.returncode == 1
    assert (
        f"corrupt: timeline project 1 fragment {stack.uuid(name)} version 1 topic fragment.odd: Unknown topic:"
        in corrupt.stdout
    )
    assert " 1 corrupt" in corrupt.stdout
    assert stack.persons(f"/{stack.uuid(name)}/").json["properties"] == {"plan": "kept", "after": 1}
    stack.query("DELETE FROM timeline WHERE topic = 'fragment.odd'")
    with (stack.data / "run" / "rebuild.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = stack.call("rebuild")
    assert (second.returncode, "Another rebuild is running" in second.stderr) == (1, True)
