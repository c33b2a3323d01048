"""A purge end to end: one property's values of one person and of a project of 1,000 are gone from every read at once,
and from every table and file after the window; nothing brings them back."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import orjson
import pytest

from shared.store.clickhouse.roles import ANALYST_VIEWS
from tests.e2e.test_former_lives import READS, filled, texts
from tests.support.asking import sent, sent_in_a_row, shown
from tests.support.processes import Answer, Stack, running, wait_for

pytestmark = pytest.mark.alone

PEOPLE = 980
BATCH = 200
OFTEN = range(0, PEOPLE, 49)
"""Persons who set the property again and again, by REST too, and through a second distinct id: 1,000 have it."""

RUN_SECONDS_MAX = 600.0
MARK = re.compile(rb"[sk]e[0-9]{4}x[a-z]{4}z")
"""A secret or what is kept: `se0007xplanz`, `ke0007xmailz`."""

ALONE = "alone@example.com"


def secret(number: int, kind: str) -> str:
    return f"se{number:04}x{kind}z"


def kept(number: int, kind: str) -> str:
    return f"ke{number:04}x{kind}z"


def name(number: int) -> str:
    return f"person-{number}"


def event(number: int, timestamp: str = "2026-01-05T10:00:00Z") -> dict[str, Any]:
    """What everybody sends: the property set and set once, beside others."""
    properties = {
        "$set": {"diagnosis": secret(number, "sett"), "email": kept(number, "mail"), "score": 1.0},
        "$set_once": {"diagnosis": secret(number, "once"), "first": kept(number, "once")},
        "diagnosis": kept(number, "ownp"), "page": kept(number, "page"),
    }  # fmt: skip
    return {"event": "visit", "distinct_id": name(number), "timestamp": timestamp, "properties": properties}


SECRETS = {secret(number, kind) for number in range(PEOPLE) for kind in ("sett", "once")}
SECRETS |= {secret(number, kind) for number in OFTEN for kind in ("rest", "agai", "anon")}
SECRETS |= {secret(9_999, kind) for kind in ("sett", "rest", "lift")}
KEPT = {kept(number, kind) for number in range(PEOPLE) for kind in ("mail", "once", "ownp", "page")}
KEPT |= {kept(9_999, kind) for kind in ("mail", "ossy")}


def batch(stack: Stack, events: list[dict[str, Any]], **more: Any) -> str:
    positions = []
    for start in range(0, len(events), BATCH):
        body = {"api_key": stack.token, "batch": events[start : start + BATCH]} | more
        answer = stack.ask("POST", "/batch/", body, key=None)
        assert answer.status == 200, answer.body
        positions.append(answer.headers["Position"])
    together = positions[-1]
    for position in positions:
        wait_for(lambda at=position: stack.persons("/?limit=1", Min_Position=at).status == 200, 120.0, "projection")  # type: ignore[misc]
    return together


def held(stack: Stack) -> set[str]:
    """Every mark in any table, hidden rows too, and in any file but the log, which forgets by retention."""
    found: set[bytes] = set()
    for line in stack.query("SELECT name, engine FROM system.tables WHERE database = 'personlog'").splitlines():
        table, engine = line.split("\t")
        if engine != "View":
            rows = stack.query(f"SELECT * FROM {table} SETTINGS apply_deleted_mask = 0 FORMAT JSONEachRow")
            found |= set(MARK.findall(rows.encode()))
    for folder, _, names in os.walk(stack.data):
        for path in (Path(folder) / one for one in names):
            with suppress(FileNotFoundError):
                if path.relative_to(stack.data).parts[0] != "log":
                    found |= set(MARK.findall(path.read_bytes()))
    return {mark.decode() for mark in found}


def run(stack: Stack) -> str:
    done = stack.call("deletions", "run", seconds=RUN_SECONDS_MAX)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def verified(stack: Stack) -> None:
    done = stack.call("rebuild", "--verify", seconds=RUN_SECONDS_MAX)
    assert done.returncode == 0, done.stdout + done.stderr


class Purged(NamedTuple):
    """A stack whose project was purged of `diagnosis`, and somebody of `plan`; `before` is when all was there."""

    stack: Stack
    before: str
    answers: tuple[Answer, Answer, Answer]
    previews: tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def purged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Purged]:
    with running(tmp_path_factory.mktemp("purge") / "data") as stack:
        batch(stack, [event(number) for number in range(PEOPLE)])
        for number in OFTEN:
            sent(stack, f"device-{number}", "open", **{"$set": {"diagnosis": secret(number, "anon")}})
            patch = {"properties": {"diagnosis": secret(number, "rest")}}
            assert stack.persons(f"/{stack.uuid(name(number))}/", "PATCH", patch).status == 200
            again = (name(number), "again", {"$set": {"diagnosis": secret(number, "agai")}})
            sent_in_a_row(stack, again, (name(number), "$identify", {"$anon_distinct_id": f"device-{number}"}))
        lifted = {"$browser": secret(9_999, "lift"), "$os": kept(9_999, "ossy")}
        sent(stack, ALONE, "open", **{"$set": {"plan": secret(9_999, "sett"), "email": kept(9_999, "mail")}}, **lifted)
        patch = {"properties": {"plan": secret(9_999, "rest")}}
        before = stack.persons(f"/{stack.uuid(ALONE)}/", "PATCH", patch).headers["Position"]
        wait_for(lambda: stack.persons(f"/?search={kept(9_999, 'mail')}").json["results"], 60.0, "the search table")
        assert held(stack) >= SECRETS | KEPT
        one = f"/{stack.uuid(ALONE)}/purge_property/"
        previews = tuple(
            stack.persons(f"{path}?dry_run=true", "POST", {"key": key}).json
            for path, key in ((one, "plan"), ("/purge_property/", "diagnosis"))
        )
        answers = tuple(
            stack.persons(path, "POST", {"key": key})
            for path, key in ((one, "plan"), (one, "$browser"), ("/purge_property/", "diagnosis"))
        )
        yield Purged(stack, before, answers, previews)  # type: ignore[arg-type]  # of two and of three


def shows(purged: Purged, number: int) -> list[str]:
    """Which routes show a secret of somebody."""
    who = name(number) if number < PEOPLE else ALONE
    names = {
        "name": who, "second": f"device-{number}", "uuid": purged.stack.uuid(who),
        "other": purged.stack.uuid(f"device-{number}"), "session": str(uuid4()), "request": str(uuid4()),
        "mark": secret(number, "sett"), "during": quote(purged.before), "after": quote(purged.before),
        "bystander": name(number + 1),
    }  # fmt: skip
    if number >= PEOPLE:
        names["second"] = who
        names["other"] = names["uuid"]
    leaks = []
    for (method, path), reads in READS.items():
        for suffix, body in reads if isinstance(reads, list) else ():
            answer = purged.stack.persons(filled(suffix, names), method, filled(body, names))
            assert answer.status < 500, (suffix, answer.body)
            asked = set(MARK.findall(filled(suffix, names).encode()))
            for text in texts(answer):
                shown_here = {one for one in MARK.findall(text) if one.startswith(b"se")} - asked
                leaks += [f"{method} {path} {suffix}"] * bool(shown_here)
    return leaks


def test_a_dry_run_counts_and_takes_nothing(purged: Purged) -> None:
    one, all_of_them = purged.previews
    assert one["persons_found"] == 1
    assert one["targets"]["purged_timeline"]["rows"] == 2
    assert one["targets"]["purged_events"]["rows"] == 1
    assert all_of_them["persons_found"] == PEOPLE
    assert all_of_them["targets"]["purged_events"]["rows"] == PEOPLE + 2 * len(OFTEN)
    assert all_of_them["targets"]["purged_timeline"]["bytes"] > 0


def test_the_answer_is_the_request_and_then_no_read_shows_a_value(purged: Purged) -> None:
    for answer, key in zip(purged.answers, ("plan", "$browser", "diagnosis"), strict=True):
        assert (answer.status, answer.json["state"]) == (200, "pending"), answer.body
        assert answer.json["scope"] == {"profile": False, "events": False, "recordings": False, "purge": key}
    assert purged.answers[2].json["person_uuid"] is None
    assert {leak for number in (*OFTEN[:2], 1, 9_999) for leak in shows(purged, number)} == set()
    for view in ANALYST_VIEWS:
        of_key = "(key = 'diagnosis')" if view == "changes_of" else ""
        rows = purged.stack.query(f"SELECT * FROM {view}{of_key} FORMAT JSONEachRow").encode()
        assert [mark for mark in MARK.findall(rows) if mark.startswith(b"se")] == [], view
    person = shown(purged.stack, name(0))
    assert person is not None
    assert person["properties"] == {"email": kept(0, "mail"), "score": 1.0, "first": kept(0, "once")}
    alone = shown(purged.stack, ALONE)
    assert alone is not None
    assert alone["properties"].keys() == {"email", "$os", "$initial_os"}


def test_the_history_and_the_activity_say_that_it_was_purged(purged: Purged) -> None:
    history = purged.stack.persons(f"/{purged.stack.uuid(ALONE)}/properties/plan/history/").json
    assert [one["operation"] for one in history["results"]] == ["purge"]
    activity = purged.stack.persons("/activity/?limit=1000").json["results"]
    purges = [one["detail"]["changes"][0]["after"]["key"] for one in activity if one["activity"] == "purge_property"]
    assert purges == ["diagnosis", "$browser", "plan"]
    mine = purged.stack.persons(f"/{purged.stack.uuid(ALONE)}/activity/").json["results"]
    assert {one["activity"] for one in mine} == {"purge_property"}  # the edit told of nothing else


def test_after_the_window_no_file_has_a_value_and_all_others_are_there(purged: Purged) -> None:
    stack = purged.stack
    verified(stack)
    new = sent(stack, name(3), "later", **{"$set": {"diagnosis": "a new one"}})
    assert run(stack).splitlines()[-1] == "3 verified, 0 failed, 0 left open"
    found = held(stack)
    assert found & SECRETS == set()
    assert found >= KEPT
    for answer in purged.answers:
        request = stack.persons(f"/deletion_requests/{answer.json['id']}/").json
        assert request["state"] == "verified"
        assert request["receipt"]["said"]["scope"]["purge"] == request["scope"]["purge"]
        assert request["phases"]["purged_events"]["hidden"] >= 1
        assert all(phase["remaining"] == 0 for phase in request["phases"].values())
    person = stack.persons(f"/{stack.uuid(name(3))}/", Min_Position=new).json
    assert person["properties"]["diagnosis"] == "a new one"
    verified(stack)
    assert run(stack).splitlines()[-1] == "0 verified, 0 failed, 0 left open"


def test_neither_imports_nor_late_events_bring_one_back(purged: Purged) -> None:
    stack = purged.stack
    for _ in range(2):
        batch(stack, [event(number) | {"uuid": str(uuid4())} for number in range(PEOPLE)], historical_migration=True)
    found = held(stack)
    assert found & SECRETS == set()
    assert found >= KEPT
    assert {leak for number in (*OFTEN[:1], 1) for leak in shows(purged, number)} == set()
    person = shown(stack, name(3))
    assert person is not None
    assert person["properties"]["diagnosis"] == "a new one"
    assert run(stack).splitlines()[-1] == "0 verified, 0 failed, 0 left open"
    verified(stack)


def test_what_is_set_again_is_a_value_like_any_other(purged: Purged) -> None:
    stack = purged.stack
    sent(stack, ALONE, "back", **{"$set": {"plan": "pro"}})
    history = stack.persons(f"/{stack.uuid(ALONE)}/properties/plan/history/").json
    assert [one["operation"] for one in history["results"]] == ["set", "purge"]
    assert history["value"] == "pro"


def test_a_project_of_more_than_a_call_takes_is_purged_by_the_deleter(purged: Purged) -> None:
    """1,000 and some more: the answer is 202, and the rest follows without a window."""
    stack = purged.stack
    more = [{"event": "e", "distinct_id": f"more-{number}", "properties": {"$set": {"wide": "wide-value"}}}
            for number in range(1_200)]  # fmt: skip
    batch(stack, more)
    answer = stack.persons("/purge_property/", "POST", {"key": "wide"})
    assert (answer.status, answer.body) == (202, b"")
    began = time.monotonic()
    wait_for(lambda: stack.persons("/values/?key=wide").json["results"] == [], 120.0, "nobody to show it")
    assert time.monotonic() - began < 120.0
    assert run(stack).splitlines()[-1] == "1 verified, 0 failed, 0 left open"
    request = stack.persons(f"{answer.headers['Location'].split('/persons')[1]}").json
    assert (request["state"], request["phases"]["purged_events"]["hidden"]) == ("verified", 1_200)
    assert stack.query("SELECT count() FROM captured_events WHERE position(properties, 'wide-value') > 0") == "0"


BODIES: tuple[tuple[Any, int, str, str], ...] = (
    ({"key": "x" * 401}, 400, "invalid_input", "key"),
    ({"key": ""}, 400, "invalid_input", "key"),
    ({}, 400, "required", "key"),
    ({"key": None}, 400, "invalid_input", "key"),
    ({"key": 7}, 400, "invalid_input", "key"),
    ([], 400, "parse_error", ""),
)


@pytest.mark.parametrize("path", ["/{uuid}/purge_property/", "/purge_property/"])
@pytest.mark.parametrize(("body", "status", "code", "attr"), BODIES)
def test_bad_input_is_refused(purged: Purged, path: str, body: Any, status: int, code: str, attr: str) -> None:
    answer = purged.stack.persons(path.replace("{uuid}", purged.stack.uuid(ALONE)), "POST", body)
    assert (answer.status, answer.json["code"], answer.json["attr"] or "") == (status, code, attr), answer.body


def test_a_purge_needs_the_scope_and_a_person(purged: Purged) -> None:
    stack = purged.stack
    created = stack.call("keys", "create", "--scopes", "person:read", "--projects", "1")
    reader = re.search(r"phx_[\w-]+", created.stdout)
    assert reader is not None
    with_key = stack.as_project(1, stack.token, reader[0])
    paths = (f"/{stack.uuid(ALONE)}/purge_property/", "/purge_property/")
    for path in paths:
        answer = wait_for(
            lambda at=path: found if (found := with_key.persons(at, "POST", {"key": "a"})).status != 401 else None,  # type: ignore[misc]
            60.0, "the key to be known",
        )  # fmt: skip
        assert (answer.status, answer.json["code"]) == (403, "permission_denied")
    assert stack.persons(f"/{uuid4()}/purge_property/", "POST", {"key": "a"}).status == 404


def test_a_name_that_nobody_has_a_repeat_and_a_cancel(purged: Purged) -> None:
    stack = purged.stack
    path = f"/{stack.uuid(ALONE)}/purge_property/"
    first = stack.persons(path, "POST", {"key": "nobody has it"}, Idempotency_Key="once")
    again = stack.persons(path, "POST", {"key": "nobody has it"}, Idempotency_Key="once")
    other = stack.persons(path, "POST", {"key": "another"}, Idempotency_Key="once")
    assert (first.status, again.status, other.status) == (200, 200, 422), again.body + other.body
    assert first.json["id"] == again.json["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    everybody = stack.persons("/purge_property/", "POST", {"key": "nobody has it"})
    assert everybody.status == 200
    for answer in (first, everybody):
        refused = stack.persons(f"/deletion_requests/{answer.json['id']}/", "DELETE")
        assert (refused.status, refused.json["code"]) == (409, "conflict"), refused.body
    assert run(stack).splitlines()[-1] == "2 verified, 0 failed, 0 left open"
    phases = orjson.loads(stack.persons(f"/deletion_requests/{everybody.json['id']}/").body)["phases"]
    assert {phase["hidden"] for phase in phases.values()} == {0}
