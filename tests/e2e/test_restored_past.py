"""The past of a person whose deletion was cancelled, in every reader: as if it had never been deleted."""

from __future__ import annotations

import io
import zipfile
from typing import Any
from urllib.parse import quote

import orjson

from tests.e2e.test_restored_persons import cancelled, deleted, merged
from tests.support.asking import sent, shown
from tests.support.processes import Stack

VIEWS = ("property_changes", "changes_of(key = 'plan')", "persons", "events")


def archive(stack: Stack, uuid: str) -> dict[str, list[dict[str, Any]]]:
    """The files of the person's archive, by what they hold; what differs from one archive to the next is left out."""
    answer = stack.persons(f"/{uuid}/export/")
    assert answer.status == 200, answer.body
    with zipfile.ZipFile(io.BytesIO(answer.body)) as packed:
        return {
            name: [orjson.loads(line) for line in packed.read(name).splitlines()]
            for name in packed.namelist()
            if name in ("changes.ndjson", "events.ndjson", "distinct_ids.ndjson")
        }


def views(stack: Stack, uuids: list[str]) -> dict[str, list[str]]:
    """What the analysts' views show of these fragments."""
    found = {}
    for view in VIEWS:
        column = "person" if view == "persons" else "fragment"
        shows = f"SELECT * FROM {view} WHERE {column} IN {tuple(uuids)} FORMAT JSONEachRow"
        found[view] = sorted(stack.query(shows).splitlines())
    return found


def test_every_reader_of_the_past_shows_a_restored_person_as_never_deleted(stack: Stack, name: str) -> None:
    before = merged(stack, name)
    uuid, uuids = before["uuid"], [stack.uuid(one) for one in before["distinct_ids"]]
    position = quote(stack.persons(f"/{uuid}/").headers["Position"])
    timeline = f"/{uuid}/properties_timeline/?source=changes&date_from=2020-01-01"
    points, history = stack.persons(timeline).json["points"], stack.persons(f"/{uuid}/properties/plan/history/").json
    whole, seen = archive(stack, uuid), views(stack, uuids)
    assert len(points) >= 3 and len(whole["events.ndjson"]) == 5 and all(seen.values())
    location = deleted(stack, before, "?delete_events=true")
    between = sent(stack, f"{name}-bystander")
    assert not any(views(stack, uuids).values())
    assert cancelled(stack, location).status == 204
    for moment in (position, next(one for one in between.split(",") if one.startswith("c."))):
        past = stack.persons(f"/{uuid}/?as_of={moment}")
        assert past.status == 200, (moment, past.body)
        assert past.json["distinct_ids"] == before["distinct_ids"]
        assert past.json["properties"] == before["properties"]
    assert [point["properties"] for point in stack.persons(timeline).json["points"]] == [
        point["properties"] for point in points
    ]
    assert stack.persons(f"/{uuid}/properties/plan/history/").json == history
    again = archive(stack, uuid)
    restored = [one for one in again["changes.ndjson"] if one["fact"] in ("fragment.restored", "person.restored")]
    assert [one for one in again["changes.ndjson"] if one not in restored] == whole["changes.ndjson"]
    assert again["events.ndjson"] == whole["events.ndjson"]
    assert again["distinct_ids.ndjson"] == whole["distinct_ids.ndjson"]
    assert views(stack, uuids) == seen
    items = [one["activity"] for one in stack.persons(f"/{uuid}/activity/").json["results"]]
    assert items[:2] == ["restored", "deleted"]


def test_what_was_purged_of_a_project_meanwhile_does_not_come_back(stack: Stack, name: str) -> None:
    before = merged(stack, name)
    sent(stack, name, **{"$set": {"diagnosis": "secret"}})
    location = deleted(stack, before)
    purged = stack.persons("/purge_property/", "POST", {"key": "diagnosis"})
    assert purged.status in (200, 202), purged.body
    assert cancelled(stack, location).status == 204
    back = shown(stack, name)
    assert back is not None and back == before
    values = stack.persons(f"/{before['uuid']}/properties/diagnosis/history/").body
    assert b"secret" not in values
    assert all(b"secret" not in b"".join(map(orjson.dumps, rows)) for rows in archive(stack, before["uuid"]).values())
