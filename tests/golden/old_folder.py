"""Make the data folder of e98b22b that tests/e2e/test_old_folder.py opens. Run by hand, once: the fixture is kept.

    git worktree add /tmp/e98b22b e98b22b
    python tests/golden/old_folder.py /tmp/e98b22b

It starts `personlog up` of that checkout on a data folder, writes through HTTP and commands, reads everything, stops,
and puts two files beside itself: the packed folder, and what it read. Nothing of the present code runs in it. The keys
in it are made for it, and open nothing else.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from tests.support.processes import Answer, Stack

HERE = Path(__file__).resolve().parent
COMMIT = "e98b22b"
FOLDER, GOLDEN = HERE / f"data-{COMMIT}.tar.xz", HERE / f"data-{COMMIT}.json"

PACKED = ("engine", "keys.env", "log", "objects", "receipts")
"""The rest is of the processes that ran: pids, locks, shared memory, what they said."""

SETTINGS = {
    "PERSONLOG_PERSONAL_KEY": "",  # from keys.env
    "PERSONLOG_PROJECT_TOKEN": "",
    "PERSONLOG_WINDOW": "0 5 29 2 *",  # no window opens but by `deletions run`
    "PERSONLOG_DELETION_DAYS": "365",
}
"""What the folder's stack is started with, then and now. Requests older than 365 days are worked on at any hour: after
a year the folder is made anew."""

PERSONS = 200
KEPT, ERASED, OPEN = "person-040", "person-050", "person-060"
"""Who shares an object of recordings: nobody asks for the first one's erasure, the second one's is verified."""

PROFILE_ERASED, EVENTS_ERASED, MERGED_ERASED = "person-051", "person-052", "person-053"
OPEN_WITHOUT_EVENTS, OPEN_TOO = "person-070", "person-071"
TABLES = ("fragments", "identity", "timeline", "numbers", "captured_events", "recording_blocks", "search")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help=f"a checkout of {COMMIT}, without changes in its code")
    checkout = parser.parse_args().checkout.resolve()
    said = subprocess.run(
        ["git", "diff", "--stat", COMMIT, "--", "services", "shared", "tests/support"],
        cwd=checkout, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if said:
        sys.exit(f"{checkout} is not {COMMIT}:\n{said}")
    sys.path.insert(0, str(checkout))  # from here on, its modules
    os.environ["PYTHONPATH"] = str(checkout)
    from tests.support.processes import PERSONAL_KEY, TOKEN, running

    with tempfile.TemporaryDirectory(prefix="personlog-old-") as scratch:
        data = Path(scratch) / "data"
        data.mkdir(mode=0o700)
        (data / "keys.env").write_text(f"PERSONLOG_PERSONAL_KEY={PERSONAL_KEY}\nPERSONLOG_PROJECT_TOKEN={TOKEN}\n")
        (data / "keys.env").chmod(0o600)
        with running(data, **SETTINGS) as stack:
            golden = _filled(stack, Path(scratch))
        with running(data, **SETTINGS) as stack:
            golden |= _last(stack) | {"persons": PERSONS}
            golden["reads"] = [[path, *read(stack, path)] for path in _paths(golden)]
            golden["rows"] = {table: rows(stack, table) for table in TABLES}
            parts = stack.query("SELECT table, count() FROM system.parts WHERE active GROUP BY table ORDER BY table")
        FOLDER.write_bytes(pack(data))
    lines = ",\n".join(orjson.dumps(one).decode() for one in golden.pop("reads"))
    rest = orjson.dumps(golden, option=orjson.OPT_INDENT_2).decode().removesuffix("\n}")
    GOLDEN.write_text(f'{rest},\n  "reads": [\n{lines}\n]\n}}\n')
    print(f"{parts}\n{FOLDER}: {FOLDER.stat().st_size:,} bytes\n{GOLDEN}: {GOLDEN.stat().st_size:,} bytes")


def read(stack: Stack, path: str) -> tuple[int, Any]:
    """Status and body of a GET, without what differs from stack to stack and from moment to moment."""
    answer = stack.ask("GET", path)
    text = answer.body.decode().replace(stack.url, "")
    if not answer.headers.get("Content-Type", "").startswith("application/json"):
        return answer.status, text
    body = orjson.loads(text)
    body.pop("effective_date_to", None)  # of a timeline: the moment of the read
    return answer.status, body


def rows(stack: Stack, table: str) -> int:
    """How many rows a reader of the table sees, positions left out."""
    return int(stack.query(f"SELECT count() FROM {table} FINAL WHERE project > 0"))


def pack(data: Path) -> bytes:
    """The folder as an archive that depends on the content of its files only."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9, format=tarfile.GNU_FORMAT) as archive:
        for name in PACKED:  # `add` goes through folders in the order of their names
            archive.add(data / name, name, filter=plain)
    return packed.getvalue()


def _filled(stack: Stack, scratch: Path) -> dict[str, Any]:
    """Everything but the last life of the folder; what must be remembered of it."""
    golden: dict[str, Any] = {"first": _signed_up(stack)}
    golden["second"] = _changed(stack)
    _merged(stack)
    _edited(stack)
    _imported(stack, scratch)
    golden["sessions"] = _recorded(stack)
    golden |= _keys_and_projects(stack)
    _called(stack, "rebuild", "--verify")
    golden["third"] = _captured(stack, [_event(_name(number), "$set", plan="annual") for number in range(80, 100)])
    golden["people"] = {name: _person(stack, name)["uuid"] for name in _interesting()}
    _erased(stack, golden["people"])
    return golden


def _last(stack: Stack) -> dict[str, Any]:
    """After a restart: INSERTs that nothing merges any more, and deletions that stay open."""
    stack.query("SYSTEM STOP MERGES")
    for start in range(100, 160, 20):
        events = [_event(_name(number), "$set", seats=number * 2) for number in range(start, start + 20)]
        position = _captured(stack, [*events, {"event": "seen", "distinct_id": _name(start), "properties": {}}])
    people = {name: _person(stack, name)["uuid"] for name in (OPEN, OPEN_WITHOUT_EVENTS, OPEN_TOO)}
    flags = "delete_events=true&delete_recordings=true"
    gone = _done(stack.persons(f"/{people[OPEN]}/?{flags}", "DELETE"), 204)
    bulk = _done(stack.persons("/bulk_delete/", "POST", {"ids": [people[OPEN_WITHOUT_EVENTS], people[OPEN_TOO]]}), 202)
    requests = [gone.headers["Location"].rstrip("/").rpartition("/")[2], *bulk.json["deletion_requests"]]
    for path in ("/?email=nobody", *(f"/deletion_requests/{request}/" for request in requests)):
        _done(stack.persons(path, Min_Position=gone.headers["Position"]))
    return {"fourth": position, "open": people, "requests": requests}


def _signed_up(stack: Stack) -> str:
    """Every person's first event, in blocks of 50: the position of the last."""
    for start in range(0, PERSONS, 50):
        position = _captured(stack, [_sign_up(number) for number in range(start, start + 50)])
    return position


def _sign_up(number: int) -> dict[str, Any]:
    name = _name(number)
    plan = ("free", "pro", "team")[number % 3]
    sets: dict[str, Any] = {"email": f"{name}@example.com", "plan": plan, "seats": number}
    if number % 10 == 0:
        sets |= {"deep": {"list": [1, {"a.b": None}], "empty": {}}, "größe": 1.5, "no": None, "yes": True, "big": 2**63}
    once = {"first_plan": plan, "$initial_os": "mac"}
    properties = {"$set": sets, "$set_once": once, "amount": number / 4}
    return {"event": "sign up", "distinct_id": name, "properties": properties}


def _changed(stack: Stack) -> str:
    """All three operations on who is there, and events that make nobody; the position of the last."""
    _captured(stack, [_event(_name(number), "$set", plan="enterprise") for number in range(0, PERSONS, 3)])
    once = {"first_plan": "never", "late": 1}
    _captured(stack, [_event(_name(number), "$set_once", **once) for number in range(0, PERSONS, 7)])
    unset = {"event": "$unset", "properties": {"$unset": ["seats", "no"]}}
    position = _captured(stack, [unset | {"distinct_id": _name(number)} for number in range(0, PERSONS, 5)])
    personless = {"event": "view", "properties": {"$process_person_profile": False}}
    _captured(stack, [personless | {"distinct_id": f"nobody-{number}"} for number in range(5)])
    return position


def _merged(stack: Stack) -> None:
    """Merges of each kind, a refused one, and splits of each kind."""
    _captured(stack, [_event(f"device-{number}", "$set", theme="dark", plan="none") for number in range(20)])
    for number in range(10):
        _captured(stack, [_merge("$identify", _name(number), {"$anon_distinct_id": f"device-{number}"})])
    for number in range(10, 15):
        _captured(stack, [_merge("$create_alias", _name(number), {"alias": f"device-{number}"})])
    for number in range(15, 18):
        _captured(stack, [_merge("$merge_dangerously", _name(number), {"alias": f"device-{number}"})])
    _captured(stack, [_merge("$identify", _name(0), {"$anon_distinct_id": _name(1)})])  # refused: both are identified
    _captured(stack, [_merge("$create_alias", MERGED_ERASED, {"alias": "device-18"})])
    for name, other in (("person-020", "person-021"), ("person-022", "person-023"), ("person-022", "person-024")):
        _done(stack.persons(f"/{_person(stack, name)['uuid']}/merge/", "POST", {"distinct_id": other}))
    for name, body in (
        (_name(3), {"main_distinct_id": _name(3)}),
        ("person-022", {"distinct_ids_to_split": ["person-024"]}),
    ):
        _done(stack.persons(f"/{_person(stack, name)['uuid']}/split/", "POST", body))


def _edited(stack: Stack) -> None:
    """What people do by REST, one with a key that makes a repeat harmless."""
    for number in range(30, 35):
        path = f"/{_person(stack, _name(number))['uuid']}/"
        patch = {"properties": {"note": "by hand", "n": number}}
        _done(stack.persons(path, "PATCH", patch, Idempotency_Key=f"key-{number}"))
        _done(stack.persons(f"{path}update_property/", "POST", {"key": "plan", "value": "edited"}))
        _done(stack.persons(f"{path}delete_property/", "POST", {"$unset": "$initial_os"}))


def _imported(stack: Stack, scratch: Path) -> None:
    """Persons and events of the past."""
    persons: list[Any] = [
        {"distinct_ids": [f"import-{n}", f"import-{n}-device"], "properties": {"plan": "then", "n": n},
         "created_at": "2023-01-01T00:30:00Z", "is_identified": True, "last_seen_at": "2023-05-05T05:00:00Z"}
        for n in range(10)
    ]  # fmt: skip
    past = {"event": "bought", "timestamp": "2023-02-03T04:05:06Z", "properties": {"$set": {"plan": "past"}}}
    for name, lines in (("persons", persons), ("events", [past | {"distinct_id": f"import-{n}"} for n in range(10)])):
        source = scratch / f"{name}.ndjson"
        source.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        _called(stack, "import", str(source), "--at", "2023-06-01T00:00:00Z")


def _recorded(stack: Stack) -> dict[str, str]:
    """One object with a session of each of three, one later with two more blocks; the sessions."""
    from tests.support.snapshots import BEGAN_MS, body, event, snapshots

    sessions = {name: f"01a207ca-9815-7000-8000-00000000{name[-3:]}0" for name in (KEPT, ERASED, OPEN)}
    for names in (tuple(sessions), (KEPT, ERASED)):
        shown = {name: {"$snapshot_data": snapshots(BEGAN_MS, name)} for name in names}
        sent = body(*(event(name, sessions[name], **shown[name]) for name in names))
        answer = _done(stack.ask("POST", "/s/?compression=gzip-js", sent, key=None, Content_Type="text/plain"))
    _done(stack.persons("/?limit=1", Min_Position=answer.headers["Position"]))
    return sessions


def _keys_and_projects(stack: Stack) -> dict[str, Any]:
    reader = _called(stack, "keys", "create", "--name", "reader", "--scopes", "person:read", "--projects", "1").strip()
    revoked = _called(stack, "keys", "create", "--name", "gone", "--scopes", "*", "--projects", "all").strip()
    _called(stack, "keys", "revoke", revoked)
    number, token = _called(stack, "projects", "create", "second", "--recordings").split()
    second = [_event("person-000", "$set", project=number)]

    def captured() -> bool:  # the API looks for new projects every few seconds
        return stack.ask("POST", "/batch/", {"api_key": token, "batch": second}, key=None).status == 200

    from tests.support.processes import wait_for

    wait_for(captured, 30, "the project to be known")
    wait_for(lambda: stack.ask("GET", f"/api/projects/{number}/persons/").json["results"], 30, "its person")
    return {"reader": reader, "revoked": revoked, "project": int(number), "token": token}


def _erased(stack: Stack, people: dict[str, str]) -> None:
    """Verified requests of each scope, a cancelled one, and an id that lives again."""
    flags = "?delete_events=true&delete_recordings=true"
    for name, query in ((ERASED, flags), (PROFILE_ERASED, ""), (MERGED_ERASED, "?delete_events=true")):
        _done(stack.persons(f"/{people[name]}/{query}", "DELETE"), 204)
    _done(stack.persons(f"/{people[EVENTS_ERASED]}/delete_events/", "POST"))
    cancelled = _done(stack.persons(f"/{people[KEPT]}/delete_events/", "POST")).json["id"]
    _done(stack.persons(f"/deletion_requests/{cancelled}/", "DELETE"), 204)
    said = _called(stack, "deletions", "run")
    assert said.endswith("4 verified, 0 failed, 0 left open\n"), said  # progress before it, on a busy machine
    _captured(stack, [_event(PROFILE_ERASED, "$set", plan="again")])


def _interesting() -> list[str]:
    """Who is looked at one by one."""
    merged = [_name(number) for number in (0, 1, 3, 10, 15, 17, 20, 21, 22, 24)]
    devices = ["device-0", "device-3", "device-10", "device-19"]
    edited = ["person-030", "import-0", "import-9-device", KEPT, EVENTS_ERASED, "person-100", "person-199"]
    return [*merged, *devices, *edited, ERASED, PROFILE_ERASED, MERGED_ERASED, OPEN]


def _paths(golden: dict[str, Any]) -> list[str]:
    """What is read before and after."""
    persons = "/api/projects/1/persons/"
    lists = ["?limit=1000", "?limit=7&search=person-1", "?email=person-007@example.com", "?distinct_id=device-0"]
    lists += ["?limit=3&include_total=true", "values/?key=plan", "?limit=5&format=csv", "activity/?limit=40"]
    lists += ['?limit=9&properties=[{"key":"seats","operator":"gt","value":300}]', "deletion_requests/"]
    lists += ["?distinct_id=nobody-1", f"?limit=50&as_of={golden['second']}"]
    alone = ["", "properties/plan/history/", "activity/", "properties_timeline/?source=changes"]
    alone += [f"?as_of={golden['first']}", f"?as_of={golden['second']}", f"?as_of={golden['third']}"]
    paths = [persons + one for one in lists]
    paths += [f"{persons}{uuid}/{one}" for uuid in golden["people"].values() for one in alone]
    for name, session in golden["sessions"].items():
        paths += [f"{persons}{golden['people'][name]}/recordings/{one}" for one in ("", f"{session}/")]
    return [*paths, f"/api/projects/{golden['project']}/persons/"]


def _name(number: int) -> str:
    return f"person-{number:03}"


def _event(name: str, operation: str, **properties: Any) -> dict[str, Any]:
    return {"event": "changed", "distinct_id": name, "properties": {operation: properties}}


def _merge(event: str, name: str, properties: dict[str, str]) -> dict[str, Any]:
    return {"event": event, "distinct_id": name, "properties": properties}


def _batch(events: list[dict[str, Any]]) -> dict[str, Any]:
    from tests.support.processes import TOKEN

    return {"api_key": TOKEN, "batch": events}


def _captured(stack: Stack, events: list[dict[str, Any]]) -> str:
    """The position of these events, once reads see them: they are INSERTs of their own."""
    position = _done(stack.ask("POST", "/batch/", _batch(events), key=None)).headers["Position"]
    _done(stack.persons("/?limit=1", Min_Position=position))
    return position


def _person(stack: Stack, name: str) -> dict[str, Any]:
    (found,) = _done(stack.persons(f"/?distinct_id={name}")).json["results"]
    return dict(found)


def _called(stack: Stack, *command: str) -> str:
    ended = stack.call(*command, seconds=180)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def _done(answer: Answer, status: int = 200) -> Answer:
    assert answer.status == status, (answer.status, answer.body)
    return answer


if __name__ == "__main__":
    main()
