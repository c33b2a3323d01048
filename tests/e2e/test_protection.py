"""What a project's public token may do: properties that only a personal key may set, and dangerous merges."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.asking import sent, shown
from tests.support.processes import Answer, Stack, wait_for
from tests.support.stacks import Projects

NAMES = ("is_admin", "plan", "$os", "$initial_utm_source")


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    """A project whose properties NAMES are the server's; `before` set them while they were not."""
    stack = projects.fresh()
    sent(stack, "before", **{"$set": {"is_admin": True, "name": "Ada"}})
    told = protect(stack, "--dangerous", "off", "--server-only", ",".join(NAMES))
    assert told == f"protection of project {stack.project}: dangerous off  server-only {','.join(sorted(NAMES))}\n"
    wait_for(lambda: warned(captured(stack, "probe", **{"$set": {"plan": 1}})), 60, "the protection to be known")
    return stack


def protect(stack: Stack, *options: str) -> str:
    done = stack.call("projects", "protect", str(stack.project), *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def captured(stack: Stack, name: str, event: str = "e", **fields: Any) -> Answer:
    answer = stack.capture(event=event, distinct_id=name, **fields)
    assert answer.status == 200, answer.body
    stack.persons("/?limit=1", Min_Position=answer.headers["Position"])
    return answer


def warned(answer: Answer) -> set[str]:
    return {warning["field"] for warning in answer.json.get("warnings", [])}


def properties(stack: Stack, name: str) -> dict[str, Any]:
    person = shown(stack, name)
    assert person is not None
    return dict(person["properties"])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"$set": {"is_admin": True, "kept": 1}}, "$set"),
        ({"properties": {"$set": {"plan": "pro", "kept": 1}}}, "$set"),
        ({"$set_once": {"is_admin": True}, "$set": {"kept": 1}}, "$set_once"),
        ({"properties": {"$os": "Linux", "$set": {"kept": 1}}}, "properties"),
        ({"properties": {"utm_source": "x"}, "$set": {"kept": 1}}, "$set_once"),
    ],
)
def test_the_public_token_sets_no_property_of_the_server(stack: Stack, name: str, fields: Any, field: str) -> None:
    assert warned(captured(stack, name, **fields)) == {field}
    assert properties(stack, name).keys() & {*NAMES} == set() and properties(stack, name)["kept"] == 1


def test_a_personal_key_sets_it_and_the_public_token_cannot_take_it_away(stack: Stack, name: str) -> None:
    captured(stack, name)
    patched = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"is_admin": True}})
    assert patched.status == 200
    for attempt in ({"$unset": ["is_admin"]}, {"$set": {"is_admin": False}}, {"$unset": "is_admin"}):
        assert "$unset" in warned(captured(stack, name, **attempt)) or "$set" in attempt
    assert properties(stack, name) == {"is_admin": True}


@pytest.mark.parametrize("anonymous_first", [True, False])
def test_nobody_carries_it_into_another_person_by_a_merge(stack: Stack, name: str, anonymous_first: bool) -> None:
    anon = f"anon-{name}"
    own = {"$set": {"is_admin": True, "plan": "free", "seen": 1}}
    merge = {"properties": {"$anon_distinct_id": anon}}
    for step in (captured, captured) if anonymous_first else (captured,):
        step(stack, anon, **own)
    captured(stack, name, "$identify", **merge)
    captured(stack, anon, **own)
    assert properties(stack, name) == {"seen": 1}


def test_a_dangerous_merge_is_refused_and_its_event_is_kept(stack: Stack, name: str) -> None:
    for one in (name, f"other-{name}"):
        captured(stack, one, "$identify", properties={"$anon_distinct_id": f"anon-{one}"})
    answer = captured(stack, name, "$merge_dangerously", properties={"alias": f"other-{name}"}, **{"$set": {"kept": 1}})
    assert warned(answer) == {"event"}
    person, other = shown(stack, name), shown(stack, f"other-{name}")
    assert person is not None and other is not None and person["uuid"] != other["uuid"]
    assert person["properties"] == {"kept": 1}
    merged = stack.persons(f"/{stack.uuid(name)}/merge/", "POST", {"distinct_id": f"other-{name}"})
    assert merged.status == 200, "a personal key may"


def test_an_audit_lists_what_the_public_token_set_before(stack: Stack) -> None:
    _, *listed, count = protect(stack, "--audit").splitlines()
    assert count == f"{len(listed)} set by the public token"
    (line,) = [line for line in listed if line.startswith(stack.uuid("before"))]
    assert line.endswith("  is_admin") and "True" not in line and "Ada" not in "".join(listed)
    assert all(line.endswith("  plan") for line in listed if not line.startswith(stack.uuid("before"))), "the probe's"


def test_protection_is_listed_and_a_project_that_is_none_is_told(stack: Stack) -> None:
    assert "dangerous off  server-only $initial_utm_source,$os,is_admin,plan" in stack.call("projects", "list").stdout
    assert stack.call("projects", "protect", "999999", "--dangerous", "off").returncode != 0
    assert stack.call("projects", "protect", "1", "--server-only", "x" * 401).returncode == 2
