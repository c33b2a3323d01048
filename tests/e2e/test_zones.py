"""Days are those of the project's zone: in date filters, in the properties they look at, and in timelines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import orjson
import pytest

from tests.support.asking import sent
from tests.support.processes import Stack, wait_for
from tests.support.stacks import Projects

ZONE = ZoneInfo("America/New_York")

PERSONS = {
    "late on the 1st": "2026-07-02T03:59:59.999999Z",  # 23:59:59.999999 of the 1st there
    "first of the 2nd": "2026-07-02T04:00:00Z",
    "a day": "2026-07-02",
    "a time without a zone": "2026-07-02 23:30:00",
    "last of the 2nd": "2026-07-03T03:59:59.999Z",
    "first of the 3rd": "2026-07-03T00:00:00-04:00",
}


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    stack = projects.fresh()
    said = stack.call("projects", "zone", str(stack.project), ZONE.key)
    assert (said.returncode, said.stdout.strip()) == (0, f"zone of project {stack.project}: {ZONE.key}")
    assert f"zone {ZONE.key}" in stack.call("projects", "list").stdout
    for name, joined in PERSONS.items():
        sent(stack, name, **{"$set": {"joined": joined}})
    wait_for(lambda: timeline(stack)["effective_date_to"][-6:] in ("-04:00", "-05:00"), 60, "the zone to be known")
    return stack


def timeline(stack: Stack, **query: str) -> dict[str, Any]:
    text = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    answer = stack.persons(f"/{stack.uuid('a day')}/properties_timeline/?{text}")
    assert answer.status == 200, answer.body
    return dict(answer.json)


@pytest.mark.parametrize(
    ("operator", "value", "names"),
    [
        ("is_date_exact", "2026-07-02", ["first of the 2nd", "a day", "a time without a zone", "last of the 2nd"]),
        ("is_date_before", "2026-07-02", ["late on the 1st"]),
        ("is_date_after", "2026-07-02", ["first of the 3rd"]),
        ("is_date_before", "2026-07-02T00:00:00Z", []),
        ("is_date_before", "2026-07-02 00:00:00", ["late on the 1st"]),
        ("is_date_exact", "2026-07-02T00:00", ["first of the 2nd", "a day"]),
        ("is_date_exact", "2026-07-02T04:00:00Z", ["first of the 2nd", "a day"]),
    ],
)
def test_a_date_filter_means_the_days_of_the_zone(stack: Stack, operator: str, value: str, names: list[str]) -> None:
    filters = orjson.dumps([{"key": "joined", "operator": operator, "value": value, "type": "person"}]).decode()
    answer = stack.persons(f"/?properties={quote(filters)}")
    assert sorted(row["distinct_ids"][0] for row in answer.json["results"]) == sorted(names)


def test_relative_dates_and_ends_of_timelines_are_of_the_zone(stack: Stack) -> None:
    today = datetime.now(ZONE).date()
    body = timeline(stack, date_from="-1dStart", date_to="-1dEnd")
    yesterday = (today - timedelta(days=1)).isoformat()
    if datetime.now(ZONE).date() == today:
        assert body["effective_date_from"][:19] == f"{yesterday}T00:00:00"
        assert body["effective_date_to"][:26] == f"{yesterday}T23:59:59.999999"
    body = timeline(stack, date_from="2026-11-01", date_to="2026-11-01")  # clocks are turned back: 25 hours
    assert body["effective_date_from"] == "2026-11-01T00:00:00-04:00"
    assert body["effective_date_to"] == "2026-11-01T23:59:59.999999-05:00"


def test_all_begins_with_the_person(stack: Stack) -> None:
    born = datetime.fromisoformat(stack.persons(f"/{stack.uuid('a day')}/").json["created_at"])
    since = datetime.fromisoformat(timeline(stack, date_from="all")["effective_date_from"])
    assert since == born.astimezone(ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
    assert since.astimezone(UTC) <= born


@pytest.mark.parametrize("zone", ["Atlantis/Centre", "+02:00", "europe/berlin", ""])
def test_a_zone_that_is_none_is_refused(stack: Stack, zone: str) -> None:
    said = stack.call("projects", "zone", str(stack.project), zone)
    assert said.returncode == 2 and "is no time zone" in said.stderr


def test_a_project_that_is_none_is_named(stack: Stack) -> None:
    said = stack.call("projects", "zone", "999999", "UTC")
    assert said.returncode != 0 and "No such project" in said.stdout + said.stderr
