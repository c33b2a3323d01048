"""The log is renewed under the feet of a running stack, with more partitions and with fewer, while somebody writes.

What was acknowledged before, meanwhile and after shows; so does what was told of it: tokens, keys, requests to delete.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.support.asking import sent, sent_in_a_row, shown
from tests.support.kafka import Cluster, empty
from tests.support.parts import Writer
from tests.support.processes import READY_SECONDS_MAX, Answer, Stack, running, wait_for
from tests.support.stacks import NEVER

pytestmark = pytest.mark.alone

PERSONS = 200
COMMAND_SECONDS_MAX = 600.0
ERASED, RESTORED, PURGED, MERGED, KEYED = "erased@example.com", "restored@example.com", "purged", "merged", "keyed"
SECRET = "a-secret-of-one"


class Before(NamedTuple):
    """What was answered before the first renewal."""

    stack: Stack
    token: str
    moment: str
    etag: str
    key: str
    first: Answer
    request: str
    acknowledged: list[str]


def names(part: str) -> list[str]:
    return [f"{part}-{number}" for number in range(PERSONS)]


def write(stack: Stack, part: str) -> str:
    """Everybody of a part is born; everybody of before is written to as well. The Position of all of it."""
    tokens = []
    for everybody in (names("before"), names(part)):
        events = [
            {"event": "e", "distinct_id": one, "properties": {"$set": {"last": part, part: 1}}} for one in everybody
        ]
        answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": events}, key=None)
        assert answer.status == 200, answer.body
        tokens.append(answer.headers["Position"])
    together = ",".join(tokens)
    wait_for(lambda: stack.persons("/?limit=1", Min_Position=together).status == 200, READY_SECONDS_MAX, "projection")
    return together


def count(stack: Stack, **filters: Any) -> int:
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    answer = wait_for(
        lambda: (one := stack.persons(f"/?limit=1&include_total=true&{query}")).status == 200 and one,
        READY_SECONDS_MAX,
        "a list",
    )
    return int(answer.json["count"])


def complete(stack: Stack, *parts: str) -> None:
    """Everybody shows by each of the three ways: by id, by a filter, in the total."""
    for part in parts:
        for start in range(0, PERSONS, 100):
            some = names(part)[start : start + 100]
            found = stack.persons("/batch_by_distinct_ids/", "POST", {"distinct_ids": some}).json["results"]
            assert sorted(found) == sorted(some)
            assert all(one["properties"][part] == 1 for one in found.values())
        written = PERSONS if part == "before" else 2 * PERSONS
        assert count(stack, properties=f'[{{"key":"{part}","value":"1"}}]') == written


def renewed(stack: Stack, partitions: int, generation: int) -> subprocess.CompletedProcess[str]:
    """The log is renewed while somebody writes; all that was acknowledged shows."""
    writer = Writer(stack, f"g{generation}")
    try:
        writer.wait(20)
        done = stack.call("log", "renew", "--partitions", str(partitions), "--yes", seconds=COMMAND_SECONDS_MAX)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"generation {generation} is open" in done.stdout
        assert "lost" not in done.stdout
        writer.wait(20)
    finally:
        writer.end()
    missing = list(writer.acknowledged)

    def all_shown() -> bool:
        missing[:] = [one for one in missing if stack.persons(f"/{stack.uuid(one)}/").status != 200]
        return not missing

    wait_for(all_shown, READY_SECONDS_MAX, "what was acknowledged to show")
    return done


@pytest.fixture(scope="module", params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = NEVER | {"PERSONLOG_PARTITIONS": "4"}
    if request.param == "kafka":
        cluster: Cluster = request.getfixturevalue("kafka_cluster")
        environment |= {"PERSONLOG_KAFKA": empty(cluster)}
    with running(tmp_path_factory.mktemp("renewal") / "data", **environment) as started:
        yield started


@pytest.fixture(scope="module")
def before(stack: Stack) -> Before:
    """Persons, a merge, a key, a deletion that is still pending; then 4 partitions become 7."""
    write(stack, "before")
    sent_in_a_row(
        stack,
        (ERASED, "e", {"$set": {"plan": SECRET}}),
        (RESTORED, "e", {"$set": {"plan": "kept"}}),
        (PURGED, "e", {"$set": {"plan": SECRET, "other": 1}}),
        (MERGED, "e", {"$set": {"a": 1}}),
        (f"{MERGED}-2", "e", {"$set": {"b": 2}}),
    )
    moment = sent(stack, MERGED, "$merge_dangerously", alias=f"{MERGED}-2")
    sent(stack, KEYED, "e", **{"$set": {"n": 1}})
    key = uuid4().hex
    path = f"/{stack.uuid(KEYED)}/"
    first = stack.persons(path, "PATCH", {"properties": {"n": 2}}, Idempotency_Key=key)
    assert first.status == 200
    etag = stack.persons(path).headers["ETag"]
    sent(stack, MERGED, "e", **{"$set": {"a": 3}})
    deleted = stack.persons(f"/{stack.uuid(RESTORED)}/?delete_events=true", "DELETE")
    assert deleted.status == 204
    token = stack.persons("/?limit=1").headers["Position"]
    renewed(stack, 7, 2)
    return Before(stack, token, moment, etag, key, first, deleted.headers["Location"], [])


def test_everybody_of_before_and_of_after_shows(before: Before) -> None:
    stack = before.stack
    write(stack, "after")
    complete(stack, "before", "after")
    assert count(stack, properties='[{"key":"last","value":"after"}]') == 2 * PERSONS


def test_positions_of_before_count_as_reached(before: Before) -> None:
    stack = before.stack
    assert "." in before.token
    assert stack.persons("/?limit=1", Min_Position=before.token).status == 200
    answer = stack.capture(event="e", distinct_id="tokens", properties={"$set": {"x": 1}})
    assert answer.headers["Position"].count(".") == 3  # of a later generation, which the token names
    assert answer.headers["Position"].endswith(".2")
    assert stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200


def test_the_past_is_what_it_was_by_a_position_of_before(before: Before) -> None:
    stack = before.stack
    then = shown(stack, MERGED, before.moment)
    now = shown(stack, MERGED)
    assert then is not None and now is not None
    assert (then["properties"]["a"], now["properties"]["a"]) == (1, 3)
    assert sorted(then["distinct_ids"]) == sorted([MERGED, f"{MERGED}-2"])
    assert shown(stack, "after-0", before.token) is None


def test_what_a_fact_of_before_says_of_its_position_is_of_its_generation(before: Before) -> None:
    stack = before.stack
    history = stack.persons(f"/{stack.uuid(MERGED)}/properties/a/history/").json["results"]
    assert [one["value"] for one in history] == [3, 1]
    for one in history:
        assert one["position"].count(".") == 2
        assert shown(stack, MERGED, one["position"])["properties"]["a"] == one["value"]  # type: ignore[index]


def test_a_key_of_before_is_known_and_a_version_of_before_matches(before: Before) -> None:
    stack = before.stack
    path = f"/{stack.uuid(KEYED)}/"
    again = stack.persons(path, "PATCH", {"properties": {"n": 2}}, Idempotency_Key=before.key)
    assert (again.status, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert again.headers["Position"] == before.first.headers["Position"]
    assert stack.persons(path).headers["ETag"] == before.etag
    assert stack.persons(path, "PATCH", {"properties": {"n": 3}}, If_Match=before.etag).status == 200
    assert stack.persons(path, "PATCH", {"properties": {"n": 4}}, If_Match=before.etag).status == 412


def test_a_deletion_of_before_is_cancelled_and_the_person_is_whole(before: Before) -> None:
    stack = before.stack
    assert shown(stack, RESTORED) is None
    answer = stack.persons(before.request.partition("/persons")[2], "DELETE")
    assert answer.status in (202, 204), answer.body
    person = wait_for(lambda: shown(stack, RESTORED), READY_SECONDS_MAX, "the person to be back")
    assert person["properties"]["plan"] == "kept"


def test_a_person_of_before_is_erased_and_a_property_purged(before: Before) -> None:
    stack = before.stack
    assert stack.persons(f"/{stack.uuid(ERASED)}/?delete_events=true", "DELETE").status == 204
    purge = stack.persons(f"/{stack.uuid(PURGED)}/purge_property/", "POST", {"key": "plan"})
    assert purge.status in (200, 202), purge.body
    done = stack.call("deletions", "run", seconds=COMMAND_SECONDS_MAX)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["2 verified, 0 failed, 0 left open"]), done.stderr
    for table in ("fragments", "timeline", "search", "captured_events"):
        sql = f"SELECT count() FROM {table} WHERE position(formatRow('JSONEachRow', *), '{SECRET}') > 0"
        assert stack.query(f"{sql} SETTINGS apply_deleted_mask = 0") == "0"
    kept = shown(stack, PURGED)
    assert kept is not None and kept["properties"] == {"other": 1}


def test_it_is_renewed_again_with_fewer_partitions_and_a_rebuild_finds_no_difference(before: Before) -> None:
    stack = before.stack
    renewed(stack, 3, 3)
    write(stack, "third")
    complete(stack, "before", "after", "third")
    assert shown(stack, MERGED, before.moment) is not None
    verified = stack.call("rebuild", "--verify", seconds=COMMAND_SECONDS_MAX)
    assert (verified.returncode, "0 differences, 0 corrupt" in verified.stdout) == (0, True), verified.stdout
    write(stack, "fourth")
    complete(stack, "before", "after", "third", "fourth")
    assert stack.call("doctor").returncode == 0
