"""A data folder that e98b22b wrote, with an engine host of its own: what is here now opens it and goes on with it.

tests/golden/old_folder.py made the folder, and read from it what must be read again.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.golden.old_folder import (
    ERASED,
    EVENTS_ERASED,
    FOLDER,
    GOLDEN,
    KEPT,
    OPEN,
    OPEN_TOO,
    OPEN_WITHOUT_EVENTS,
    PROFILE_ERASED,
    SETTINGS,
    TABLES,
    read,
    rows,
)
from tests.support.asking import sent, shown
from tests.support.processes import TOKEN, Stack, running
from tests.support.snapshots import body, event

pytestmark = pytest.mark.alone

NOTHING = {"fragments": 0, "timeline": 0, "captured_events": 0, "recording_blocks": 0, "search": 0}
RUN_SECONDS_MAX = 180.0


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(orjson.loads(GOLDEN.read_bytes()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder as it was left."""
    with tarfile.open(FOLDER) as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return tmp_path / "data"


def differences(stack: Stack, golden: dict[str, Any]) -> list[Any]:
    """Reads that answer otherwise than they did then, and counts of rows."""
    said = [(path, [status, body], _as_then(*read(stack, path))) for path, status, body in golden["reads"]]
    said += [(table, golden["rows"][table], rows(stack, table)) for table in TABLES]
    return [one for one in said if one[1] != one[2]]


def _as_then(status: int, body: Any) -> list[Any]:
    """An answer without the fields that it did not have then."""
    requests = body.get("results", []) if isinstance(body, dict) and status == 200 else []
    for one in requests if isinstance(requests, list) else ():
        for change in one.get("detail", {}).get("changes", []):  # of an item of activity
            for field in ("distinct_ids", "split_off"):
                (change["after"] or {}).pop(field, None)
        if "receipt" in one:  # a deletion request
            for field in ("stays", "cancel_refused"):
                del one[field]
    return [status, body]


def rebuilt(stack: Stack) -> None:
    """A rebuild that finds nothing wrong, and whose tables take the place of the live ones."""
    tables = "SELECT name, uuid FROM system.tables WHERE database = 'personlog' AND name IN ('fragments', 'identity')"
    before = stack.query(f"{tables} ORDER BY name")
    done = stack.call("rebuild", "--verify", seconds=RUN_SECONDS_MAX)
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"swapped: .*; ([\d,]+) rows compared, 0 differences, 0 corrupt", done.stdout)
    assert told is not None and int(told[1].replace(",", "")) > 200, done.stdout
    after = stack.query(f"{tables} ORDER BY name")
    assert len(after.splitlines()) == 2
    assert not set(before.splitlines()) & set(after.splitlines())


def recorded(stack: Stack, name: str, session: str) -> list[bytes]:
    """The bytes of the session's blocks, where its rows say that they lie."""
    whose = f"session = '{session}' AND fragment = '{stack.uuid(name)}'"
    found = stack.query(f"SELECT object, start, length FROM recording_blocks WHERE {whose}")
    blocks = [line.split("\t") for line in found.splitlines()]
    return [
        (stack.data / "objects" / path).read_bytes()[int(start) : int(start) + int(length)]
        for path, start, length in blocks
    ]


def held(stack: Stack, name: str) -> dict[str, int]:
    """Rows about this distinct id, hidden and superseded ones too, but for tombstones and its integer."""
    conditions = {
        "fragments": "erased = 0",
        "timeline": "topic NOT IN ('fragment.erased', 'person.deleted')",
        "captured_events": "1",
        "recording_blocks": "1",
        "search": "living",
    }
    return {
        table: int(
            stack.query(
                f"SELECT count() FROM {table} WHERE project = 1 AND fragment = '{stack.uuid(name)}' AND {condition}"
                " SETTINGS apply_deleted_mask = 0"
            )
        )
        for table, condition in conditions.items()
    }


def test_it_reads_as_it_was_and_a_rebuild_changes_nothing(data: Path, golden: dict[str, Any]) -> None:
    with running(data, **SETTINGS) as stack:
        assert differences(stack, golden) == []
        for _ in range(2):
            rebuilt(stack)
            assert differences(stack, golden) == []
        doctor = stack.call("doctor")
        assert (doctor.returncode, "store: ok" in doctor.stdout, "log: ok" in doctor.stdout) == (0, True, True)
    with running(data, **SETTINGS) as stack:
        assert differences(stack, golden) == []


def test_its_keys_and_projects_are_good(data: Path, golden: dict[str, Any]) -> None:
    written = dict(line.split("=", 1) for line in (data / "keys.env").read_text().splitlines())
    with running(data, **SETTINGS) as stack:
        path = "/api/projects/1/persons/?limit=1"
        asked = {key: stack.ask("GET", path, key=golden[key]).status for key in ("reader", "revoked")}
        assert asked == {"reader": 200, "revoked": 401}
        assert stack.ask("GET", f"/api/projects/{golden['project']}/persons/", key=golden["reader"]).status == 403
        again = {"event": "e", "distinct_id": "person-000", "properties": {"$set": {"again": 1}}}
        answer = stack.ask("POST", "/capture/", {"api_key": golden["token"], **again}, key=None)
        found = stack.ask(
            "GET", f"/api/projects/{golden['project']}/persons/", Min_Position=answer.headers["Position"]
        ).json["results"]
        assert [one["properties"] for one in found] == [{"project": str(golden["project"]), "again": 1}]
        now = dict(line.split("=", 1) for line in (data / "keys.env").read_text().splitlines())
        assert written.items() <= now.items()  # what is missing is added, and nothing replaced


def test_writes_go_on_where_they_ended(data: Path, golden: dict[str, Any], name: str) -> None:
    with running(data, **SETTINGS) as stack:
        position = sent(stack, "person-026", **{"$set": {"plan": "now"}, "$unset": ["seats"]})
        then, now = shown(stack, "person-026", golden["fourth"]), shown(stack, "person-026")
        assert then is not None and now is not None
        assert (then["properties"]["plan"], now["properties"]["plan"]) == ("team", "now")
        assert (then["id"], then["created_at"], "seats" in now["properties"]) == (now["id"], now["created_at"], False)
        assert shown(stack, "person-026", position) == now | {"last_seen_at": None}

        path = f"/{golden['people']['person-030']}/"
        patch = {"properties": {"note": "by hand", "n": 30}}
        repeated = stack.persons(path, "PATCH", patch, Idempotency_Key="key-30")
        assert (repeated.status, repeated.headers.get("Idempotency-Replayed")) == (200, "true")
        patched = stack.persons(path, "PATCH", {"properties": {"n": 31}})
        assert (patched.status, patched.json["properties"]["n"]) == (200, 31)

        merged = stack.persons(f"{path}merge/", "POST", {"distinct_id": "device-19"})
        assert (merged.status, merged.json["distinct_ids"]) == (200, ["person-030", "device-19"])
        sent(stack, name, "$identify", **{"$anon_distinct_id": "device-3"})  # which a split had set free
        assert (shown(stack, name) or {})["distinct_ids"] == [name, "device-3"]
        split = stack.persons(f"/{golden['people']['person-000']}/split/", "POST", {"main_distinct_id": "person-000"})
        assert split.status == 200, split.body
        assert (shown(stack, "device-0") or {})["properties"]["theme"] == "dark"
        listed = stack.persons('/?properties=[{"key":"plan","value":"now"}]', Min_Position=position).json["results"]
        assert [one["uuid"] for one in listed] == [now["uuid"]]
        rebuilt(stack)
        assert (shown(stack, name) or {})["distinct_ids"] == [name, "device-3"]


def test_its_open_requests_are_verified_and_the_rows_gone(data: Path, golden: dict[str, Any], name: str) -> None:
    sessions, people = golden["sessions"], golden["people"]
    without_events = (OPEN_WITHOUT_EVENTS, OPEN_TOO)
    with running(data, **SETTINGS) as stack:
        (secret,) = recorded(stack, OPEN, sessions[OPEN])
        kept = recorded(stack, KEPT, sessions[KEPT])
        before = {one: held(stack, one) for one in (OPEN, *without_events)}
        assert before[OPEN]["captured_events"] > 0 and before[OPEN]["recording_blocks"] == 1
        assert all(one["timeline"] > 0 for one in before.values())

        session = "01a207ca-9815-7000-8000-00000000c001"  # a new one, of somebody new, to be erased in the same run
        sent(stack, name, **{"$set": {"email": "new"}})
        new = body(event(name, session, token=TOKEN))
        answer = stack.ask("POST", "/s/?compression=gzip-js", new, key=None, Content_Type="text/plain")
        assert stack.persons(f"/{stack.uuid(name)}/recordings/", Min_Position=answer.headers["Position"]).status == 200
        gone = stack.persons(f"/{stack.uuid(name)}/?delete_events=true&delete_recordings=true", "DELETE")
        assert gone.status == 204

        ran = stack.call("deletions", "run", seconds=RUN_SECONDS_MAX)
        assert ran.returncode == 0 and ", 0 failed, 0 left open\n" in ran.stdout, ran.stdout + ran.stderr
        requests = [*golden["requests"], gone.headers["Location"].rstrip("/").rpartition("/")[2]]
        states = [stack.persons(f"/deletion_requests/{request}/").json["state"] for request in requests]
        assert set(states) == {"verified"}
        assert [held(stack, one) for one in (OPEN, name)] == [NOTHING, NOTHING]
        for one in without_events:
            assert held(stack, one) == NOTHING | {"captured_events": before[one]["captured_events"]}
        assert not any(secret in path.read_bytes() for path in (data / "objects").rglob("*") if path.is_file())
        assert recorded(stack, KEPT, sessions[KEPT]) == kept and len(kept) == 2

        receipts = sorted(map(str, (data / "receipts").glob("*.json")))
        checked = stack.call("receipts", "verify", *receipts)
        assert (len(receipts), checked.returncode) == (8, 0), checked.stdout + checked.stderr
        rebuilt(stack)
        statuses = {who: stack.persons(f"/{people[who]}/").status for who in (OPEN, ERASED, PROFILE_ERASED, KEPT)}
        assert statuses == {OPEN: 404, ERASED: 404, PROFILE_ERASED: 200, KEPT: 200}
        again = (shown(stack, PROFILE_ERASED) or {})["properties"]
        assert again == {"plan": "again"}
        assert stack.persons(f"/{people[EVENTS_ERASED]}/").status == 200
        assert held(stack, EVENTS_ERASED)["captured_events"] == 0
