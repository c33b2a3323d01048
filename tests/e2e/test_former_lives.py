"""A distinct id that is used again after a delete: no route and no view shows anything of the life before.

Before the window the rows of that life are all still there. Every route of the API and every view of the analysts has a
case here; one that is added without a case fails.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import orjson
import pytest

from services.api.app import ROUTES
from shared.store.clickhouse.roles import ANALYST, ANALYST_VIEWS
from tests.support import snapshots
from tests.support.asking import sent, sent_in_a_row, shown
from tests.support.processes import Answer, Stack
from tests.support.tier import sized

WRITES = "its answer shows the person as other routes do, and it is tried by the suites that hold it"

READS: dict[tuple[str, str], list[tuple[str, Any]] | str] = {
    ("GET", ""): [
        ("/?limit=1000", None), ("/?distinct_id={name}", None), ("/?search={name}", None), ("/?format=csv", None),
        ("/?search={mark}", None), ("/?limit=1000&as_of={during}", None), ("/?email={mark}@example.com", None),
        ("/?properties=%5B%7B%22key%22%3A%22diagnosis%22%2C%22value%22%3A%22{mark}%22%7D%5D", None),
    ],
    ("POST", ""): WRITES,
    ("GET", "/{id}"): [("/{uuid}/", None), ("/{uuid}/?as_of={during}", None), ("/{other}/", None)],
    ("PATCH", "/{id}"): WRITES,
    ("PUT", "/{id}"): WRITES,
    ("DELETE", "/{id}"): [("/{uuid}/?dry_run=true", None)],
    ("GET", "/activity"): [("/activity/?limit=1000", None)],
    ("GET", "/{id}/activity"): [("/{uuid}/activity/?limit=1000", None)],
    ("POST", "/{id}/delete_events"): [("/{uuid}/delete_events/?dry_run=true", {})],
    ("POST", "/{id}/delete_recordings"): [("/{uuid}/delete_recordings/?dry_run=true", {})],
    ("POST", "/{id}/delete_property"): WRITES,
    ("POST", "/{id}/update_property"): WRITES,
    ("GET", "/{id}/properties_timeline"): [
        ("/{uuid}/properties_timeline/?date_from=2020-01-01", None),
        ("/{uuid}/properties_timeline/?source=changes&date_from=2020-01-01", None),
        ("/{uuid}/properties_timeline/?date_from=2020-01-01&as_of={during}", None),
    ],
    ("POST", "/{id}/split"): WRITES,
    ("POST", "/{id}/merge"): [("/{uuid}/merge/?dry_run=true", {"distinct_id": "{bystander}"})],
    ("POST", "/{id}/purge_property"): [("/{uuid}/purge_property/?dry_run=true", {"key": "diagnosis"})],
    ("POST", "/purge_property"): [("/purge_property/?dry_run=true", {"key": "diagnosis"})],
    ("POST", "/bulk_delete"): [("/bulk_delete/?dry_run=true", {"distinct_ids": ["{name}"], "delete_events": True})],
    ("GET", "/deletion_status"): [("/deletion_status/", None)],
    ("GET", "/deletion_requests"): [("/deletion_requests/", None)],
    ("GET", "/deletion_requests/{request}"): [("/deletion_requests/{request}/", None)],
    ("DELETE", "/deletion_requests/{request}"): WRITES,
    ("POST", "/reset_person_distinct_id"): [("/reset_person_distinct_id/", {"distinct_id": "{name}"})],
    ("GET", "/values"): [("/values/?key=diagnosis", None), ("/values/?key={mark}name", None)],
    ("POST", "/batch_by_distinct_ids"): [("/batch_by_distinct_ids/", {"distinct_ids": ["{name}", "{second}"]})],
    ("POST", "/batch_by_uuids"): [("/batch_by_uuids/", {"uuids": ["{uuid}", "{other}"]})],
    ("GET", "/properties_at_time"): [
        ("/properties_at_time/?distinct_id={name}&timestamp={during}", None),
        ("/properties_at_time/?distinct_id={name}&timestamp={after}", None),
    ],
    ("GET", "/{id}/export"): [("/{uuid}/export/", None), ("/{uuid}/export/?as_of={during}", None)],
    ("GET", "/{id}/properties/{key}/history"): [
        ("/{uuid}/properties/diagnosis/history/", None), ("/{uuid}/properties/{mark}name/history/", None),
    ],
    ("GET", "/ingestion_warnings"): [("/../ingestion_warnings/", None)],
    ("GET", "/{id}/recordings"): [("/{uuid}/recordings/", None)],
    ("GET", "/{id}/recordings/{session}"): [("/{uuid}/recordings/{session}/", None)],
}  # fmt: skip
"""What is asked of each route once the id has a new life, or why it is not asked."""


WHEN = ("before the window", "after it")


class Former(NamedTuple):
    """An id that was somebody's before. `mark` is in every value of that life, `kept` in its event's own property."""

    flags: str
    names: dict[str, str]
    mark: str
    kept: str


@pytest.fixture(scope="module")
def stack(erasing_stack: Stack) -> Stack:
    return erasing_stack


@pytest.fixture(scope="module", params=["", "?delete_events=true&delete_recordings=true"], ids=["kept", "all"])
def former(request: pytest.FixtureRequest, stack: Stack) -> Former:
    """A person of two ids with everything that can be known of one, deleted, and the first id used again."""
    mark, kept, name = f"secret{uuid4().hex[:10]}", f"kept{uuid4().hex[:10]}", f"{uuid4()}"
    second, session, bystander = f"second-{name}", str(uuid4()), f"bystander-{name}"
    told = {
        "diagnosis": mark, "email": f"{mark}@example.com", f"{mark}name": 1, "nested": {"deep": [mark]},
    }  # fmt: skip
    sent_in_a_row(
        stack,
        (name, f"{kept}-visit", {"$set": told, "$set_once": {"first": mark}, "$current_url": f"https://x/{mark}",
                                 "utm_source": mark, "page": kept, "price": 1.0, "list": [1, {"$set": 2}]}),
        (second, "e", {"$set": {"diagnosis": f"{mark}-2"}}),
        (name, "$identify", {"$anon_distinct_id": second}),
        (bystander, "e", {"$set": {"diagnosis": "nothing"}}),
    )  # fmt: skip
    patched = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"plan": f"{mark}-patched"}})
    assert patched.status == 200, patched.body
    recorded = snapshots.event(
        name, session, stack.token, **{"$snapshot_data": snapshots.snapshots(snapshots.BEGAN_MS, mark)}
    )
    assert stack.ask("POST", "/s/", snapshots.body(recorded), key=None, Content_Type="text/plain").status == 200
    during = patched.headers["Position"]
    gone = stack.persons(f"/{stack.uuid(name)}/{request.param}", "DELETE")
    assert gone.status == 204, gone.body
    found = gone.headers["Location"].rstrip("/").rpartition("/")[2]
    after = sent(stack, name, "new-visit", **{"$set": {"plan": "free"}})
    assert (shown(stack, name) or {})["properties"]["plan"] == "free"
    names = {
        "name": name, "second": second, "uuid": stack.uuid(name), "other": stack.uuid(second), "session": session,
        "request": found, "mark": mark, "during": quote(during), "after": quote(after), "bystander": bystander,
    }  # fmt: skip
    return Former(request.param, names, mark, kept)


@pytest.fixture(scope="module", params=sized(dev=WHEN[:1], ci=WHEN, soak=WHEN))
def asked_when(request: pytest.FixtureRequest, stack: Stack, former: Former) -> str:
    if request.param == "after it":
        done = stack.call("deletions", "run")
        assert done.returncode == 0, done.stdout + done.stderr
    return str(request.param)


def filled(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, list):
        return [filled(one, names) for one in value]
    return {key: filled(one, names) for key, one in value.items()} if isinstance(value, dict) else value


def texts(answer: Answer) -> Iterator[bytes]:
    """Everything readable in an answer: of an archive, what is packed in it."""
    if answer.body[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
            for name in archive.namelist():
                yield archive.read(name)
    else:
        yield answer.body


def test_every_route_has_a_case() -> None:
    served = {(route.method, route.path) for route in ROUTES}
    assert served - READS.keys() == set(), "a route that shows persons needs a case above"
    assert READS.keys() - served - {("POST", ""), ("PUT", "/{id}")} == set()


def test_no_route_shows_the_life_before(stack: Stack, former: Former, asked_when: str) -> None:
    leaks = []
    for (method, path), reads in READS.items():
        for suffix, body in reads if isinstance(reads, list) else ():
            answer = stack.persons(filled(suffix, former.names), method, filled(body, former.names))
            assert answer.status < 500, (suffix, answer.body)
            own = former.mark.encode() in filled(suffix, former.names).encode()
            for text in texts(answer):
                found = [one for one in (former.mark, former.kept) if one.encode() in text.replace(b"\\", b"")]
                if found and not (own and _only_in_links(text, former.mark)):
                    leaks.append((method, path, suffix, found))
    assert leaks == [], asked_when


def test_the_new_life_is_there(stack: Stack, former: Former, asked_when: str) -> None:
    person = shown(stack, former.names["name"])
    assert person is not None and person["properties"] == {"plan": "free"}
    export = stack.persons(f"/{former.names['uuid']}/export/")
    with zipfile.ZipFile(io.BytesIO(export.body)) as archive:
        events = [orjson.loads(line) for line in archive.read("events.ndjson").splitlines()]
        changes = [orjson.loads(line) for line in archive.read("changes.ndjson").splitlines()]
    assert [one["event"] for one in events] == ["new-visit"]
    assert [one["fact"] for one in changes] == ["fragment.changed"]


def _only_in_links(text: bytes, mark: str) -> bool:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(document, dict):
        return False
    bare = {key: value for key, value in document.items() if key not in ("next", "previous", "key", "person_id_used")}
    return mark.encode() not in orjson.dumps(bare)


def rows_of(stack: Stack, view: str) -> str:
    parameters = "(key = 'diagnosis')" if view == "changes_of" else ""
    return stack.query(f"SELECT * FROM {view}{parameters} WHERE project = {stack.project} FORMAT JSONEachRow")


def test_every_view_is_asked(stack: Stack) -> None:
    views = stack.query("SELECT name FROM system.tables WHERE database = 'personlog' AND engine = 'View'").split()
    assert sorted(views) == sorted(ANALYST_VIEWS)
    assert ANALYST.grants == tuple(f"SELECT ON {{db}}.{view}" for view in ANALYST_VIEWS)


@pytest.mark.parametrize("view", ANALYST_VIEWS)
def test_no_view_shows_the_life_before(stack: Stack, former: Former, view: str, asked_when: str) -> None:
    rows = rows_of(stack, view)
    assert former.mark not in rows
    assert former.names["second"] not in rows
    if view != "events" or former.flags:
        assert former.kept not in rows


def test_events_that_a_delete_kept_are_nobodys(stack: Stack, former: Former, asked_when: str) -> None:
    rows = [orjson.loads(line) for line in rows_of(stack, "events").splitlines()]
    kept = [row for row in rows if row["event"] == f"{former.kept}-visit"]
    if former.flags:
        assert kept == []
    else:
        text = f'{{"page":"{former.kept}","price":1.0,"list":[1,{{"$set":2}}]}}'
        assert [(row["distinct_id"], row["properties"]) for row in kept] == [("", text)]
    new = [row for row in rows if row["distinct_id"] == former.names["name"]]
    assert [row["event"] for row in new] == ["new-visit"]
