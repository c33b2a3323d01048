"""Session recordings end to end: sent as the browser does, listed, played, merged, archived, and deleted."""

from __future__ import annotations

import io
import json
import random
import urllib.request
import zipfile
from typing import Any
from uuid import uuid4

import orjson
import psutil
import pytest

from tests.support import snapshots
from tests.support.asking import sent
from tests.support.processes import Answer, Stack, wait_for
from tests.support.snapshots import BEGAN_MS, body, lines

pytestmark = pytest.mark.alone

BLOCKS, BLOCK_BYTES = 40, 1_000_000
GROWTH_BYTES_MAX = 20_000_000
"""What an API process may grow by while it sends a recording of 40 MB."""


def at(seconds: int, text: str = "hello") -> dict[str, Any]:
    """Snapshots of so many seconds after the beginning."""
    return {"$snapshot_data": snapshots.snapshots(BEGAN_MS + seconds * 1_000, text)}


def event(stack: Stack, name: str, session: str, **properties: Any) -> dict[str, Any]:
    return snapshots.event(name, session, stack.token, **properties)


def record(stack: Stack, *events: dict[str, Any]) -> str:
    answer = stack.ask("POST", "/s/?compression=gzip-js", body(*events), key=None, Content_Type="text/plain")
    assert (answer.status, answer.json) == (200, {"status": "Ok"})
    return answer.headers["Position"]


def listed(stack: Stack, name: str, position: str, query: str = "") -> Any:
    answer = stack.persons(f"/{stack.uuid(name)}/recordings/{query}", Min_Position=position)
    assert answer.status == 200, answer.body
    return answer.json


def played(stack: Stack, name: str, session: str) -> list[Any]:
    answer = stack.persons(f"/{stack.uuid(name)}/recordings/{session}/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson"), answer.body
    return [json.loads(line) for line in answer.body.split(b"\n") if line]


def kept_bytes(stack: Stack, session: str) -> list[bytes]:
    """The bytes of the session's blocks, where its rows say that they lie."""
    rows = stack.query(f"SELECT object, start, length FROM recording_blocks WHERE session = '{session}'")
    found = []
    for row in rows.splitlines():
        path, start, length = row.split("\t")
        found.append((stack.data / "objects" / path).read_bytes()[int(start) : int(start) + int(length)])
    return found


def objects(stack: Stack) -> bytes:
    return b"".join(path.read_bytes() for path in (stack.data / "objects").rglob("*") if path.is_file())


def archive(stack: Stack, name: str) -> dict[str, list[Any]]:
    answer = stack.persons(f"/{stack.uuid(name)}/export/")
    assert answer.status == 200
    with zipfile.ZipFile(io.BytesIO(answer.body)) as files:
        names = [one for one in files.namelist() if one.endswith(".ndjson")]
        return {one: [orjson.loads(line) for line in files.read(one).splitlines()] for one in names}


def test_a_session_goes_with_its_person_and_leaves_a_neighbours_bytes(either_stack: Stack) -> None:
    stack = either_stack
    device, ann, bob = "device-0-0-0-1", "ann@example.com", "bob@example.com"
    session, theirs, later = (str(uuid4()) for _ in range(3))
    first, second = event(stack, device, session, **at(0)), event(stack, device, session, **at(5))
    other = event(stack, bob, theirs, **at(1, "bob's"))
    record(stack, first, other, second)  # one request, one object
    third = event(stack, ann, session, **at(9))
    record(stack, third)
    sent(stack, bob)
    sent(stack, ann, "$identify", **{"$anon_distinct_id": device})
    position = record(stack, first)  # sent again: an answer was lost
    (row,) = listed(stack, ann, position)["results"]
    assert (row["session_id"], row["blocks"], row["distinct_ids"]) == (session, 3, [ann, device])
    assert (row["started_at"], row["ended_at"]) == ("2026-11-23T09:38:07.489000Z", "2026-11-23T09:38:17.566000Z")
    assert played(stack, ann, session) == lines(first, second, third)
    assert played(stack, device, session) == lines(first, second, third)  # the absorbed id leads to the person
    assert played(stack, bob, theirs) == lines(other)
    assert stack.persons(f"/{stack.uuid(ann)}/recordings/{theirs}/").status == 404
    assert stack.persons(f"/{stack.uuid(bob)}/recordings/{session}/").status == 404

    files = archive(stack, ann)
    assert files["recordings.ndjson"] == [row]
    assert [one["snapshot"] for one in files["snapshots.ndjson"]] == lines(first, second, third)
    assert {one["session_id"] for one in files["snapshots.ndjson"]} == {session}

    secrets, shared = kept_bytes(stack, session), kept_bytes(stack, theirs)
    assert len(secrets) == 4 and all(one in objects(stack) for one in secrets + shared)
    flags = "delete_events=true&delete_recordings=true"
    counted = stack.persons(f"/{stack.uuid(ann)}/?{flags}&dry_run=true", "DELETE").json["targets"]["recordings"]
    assert (counted["rows"], counted["objects"]) == (4, 3)
    gone = stack.persons(f"/{stack.uuid(ann)}/?{flags}", "DELETE")
    assert gone.status == 204
    assert stack.persons(f"/{stack.uuid(ann)}/recordings/").status == 404

    sent(stack, ann, "back again")
    again = event(stack, ann, later, **at(60))
    assert [one["session_id"] for one in listed(stack, ann, record(stack, again))["results"]] == [later]
    assert stack.persons(f"/{stack.uuid(ann)}/recordings/{session}/").status == 404

    ran = stack.call("deletions", "run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    request = stack.ask("GET", gone.headers["Location"]).json
    assert request["state"] == "verified"
    assert (request["phases"]["recordings"]["hidden"], request["phases"]["objects"]["hidden"]) == (4, 3)
    assert not any(one in objects(stack) for one in secrets)
    assert kept_bytes(stack, session) == []
    assert played(stack, bob, theirs) == lines(other)
    assert played(stack, ann, later) == lines(again)


def test_delete_recordings_takes_the_recordings_and_leaves_the_person(erasing_stack: Stack, name: str) -> None:
    stack = erasing_stack
    session = str(uuid4())
    sent(stack, name)
    position = record(stack, event(stack, name, session))
    assert len(listed(stack, name, position)["results"]) == 1
    assert stack.persons(f"/{stack.uuid(name)}/delete_recordings/", "POST").status == 200
    (kept,) = kept_bytes(stack, session)
    assert stack.call("deletions", "run").returncode == 0
    assert listed(stack, name, position)["results"] == []
    assert kept not in objects(stack)
    assert stack.persons(f"/{stack.uuid(name)}/").status == 200


def test_pages_lead_forth_and_back_newest_first(stack: Stack, name: str) -> None:
    sessions = [str(uuid4()) for _ in range(5)]
    sent(stack, name)
    position = record(stack, *(event(stack, name, one, **at(60 * number)) for number, one in enumerate(sessions)))
    pages = [listed(stack, name, position, "?limit=2")]
    while pages[-1]["next"]:
        pages.append(listed(stack, name, position, "?" + pages[-1]["next"].partition("?")[2]))
    told = [[row["session_id"] for row in page["results"]] for page in pages]
    assert told == [sessions[:2:-1], sessions[2:0:-1], sessions[:1]]
    back = pages[-1]
    for page in reversed(pages[:-1]):
        back = listed(stack, name, position, "?" + back["previous"].partition("?")[2])
        assert back["results"] == page["results"]
    assert back["previous"] is None
    rows = stack.persons(f"/{stack.uuid(name)}/recordings/?format=csv").body.splitlines()
    assert len(rows) == 6 and b"session_id" in rows[0]


def test_a_recording_of_nobody_waits_for_its_person_and_makes_none(stack: Stack, name: str) -> None:
    session = str(uuid4())
    position = record(stack, event(stack, name, session))
    assert stack.persons(f"/{stack.uuid(name)}/recordings/", Min_Position=position).status == 404
    sent(stack, name)
    assert [row["session_id"] for row in listed(stack, name, position)["results"]] == [session]


def test_a_recording_outlives_the_processes(own_stack: Stack, name: str) -> None:
    stack = own_stack
    session = str(uuid4())
    sent(stack, name)
    one = event(stack, name, session)
    position = record(stack, one)
    for process in ("api", "projector"):
        stack.wait_restarted(process, stack.kill(process))
    wait_ready(stack)
    assert len(listed(stack, name, position)["results"]) == 1
    assert played(stack, name, session) == lines(one)


def wait_ready(stack: Stack) -> None:
    wait_for(stack.ready, 60, "the API")


def test_the_memory_of_a_long_recording_is_constant(stack: Stack, name: str) -> None:
    session, chosen = str(uuid4()), random.Random(3)
    sent(stack, name)
    for number in range(BLOCKS):
        text = chosen.randbytes(BLOCK_BYTES // 2).hex()
        large = {"type": 3, "timestamp": BEGAN_MS + number, "data": text}
        position = record(stack, event(stack, name, session, **{"$snapshot_data": [large]}))
    listed(stack, name, position)
    process = psutil.Process(stack.pid("api"))
    asked = urllib.request.Request(
        f"{stack.url}/api/projects/{stack.project}/persons/{stack.uuid(name)}/recordings/{session}/",
        headers={"Authorization": f"Bearer {stack.key}"},
    )
    before, highest, received = process.memory_info().rss, 0, 0
    with urllib.request.urlopen(asked, timeout=60) as answer:
        while part := answer.read(1_048_576):
            received += len(part)
            highest = max(highest, process.memory_info().rss)
    assert received > BLOCKS * BLOCK_BYTES
    assert highest - before < GROWTH_BYTES_MAX


@pytest.mark.parametrize("how", ["?format=json", "?format=csv"])
def test_a_recording_is_ndjson_and_nothing_else(stack: Stack, name: str, how: str) -> None:
    session = str(uuid4())
    sent(stack, name)
    listed(stack, name, record(stack, event(stack, name, session)))
    path = f"/{stack.uuid(name)}/recordings/{session}/"
    answers: list[Answer] = [stack.persons(path + how), stack.persons(path, Accept="application/json")]
    assert [one.status for one in answers] == [404, 406]
    assert stack.persons(f"/{stack.uuid(name)}/recordings/no_such/").status == 404
