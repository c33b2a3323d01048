"""Long answers: lists of any length as JSON and CSV, and the archive of one person, made while they are sent."""

from __future__ import annotations

import csv
import io
import urllib.request
import zipfile
from typing import Any
from uuid import uuid4

import orjson
import psutil
import pytest

from tests.support.asking import sent
from tests.support.processes import Stack, wait_for
from tests.support.stacks import Projects
from tests.support.tier import sized

COUNT = 1_250
"""More than a page may have, and more than the persons held at once."""

FAT_BYTES = sized(dev=400, ci=40_000, soak=40_000)
"""Of one property of each person: all of them together have 50 MB, where memory is looked at."""

GROWTH_BYTES_MAX = 40_000_000
"""What an API process may grow by while it sends all of them: less than they have, and more than the 4 MB held at once
and what the allocator keeps of them."""


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    stack = projects.fresh()
    fill(stack)
    return stack


def fill(stack: Stack) -> None:
    for start in range(0, COUNT, 50):
        batch: list[dict[str, Any]] = [
            {
                "event": "e",
                "distinct_id": f"s{number:04}",
                "properties": {"$set": {"n": number, "fat": "x" * FAT_BYTES}},
            }
            for number in range(start, min(start + 50, COUNT))
        ]
        answer = stack.ask("POST", "/batch/", {"api_key": stack.token, "batch": batch}, key=None)
        assert answer.status == 200
    position = answer.headers["Position"]
    wait_for(lambda: stack.persons("/?search=s0&limit=1", Min_Position=position).status == 200, 60, "the projection")


def test_a_page_of_a_thousand_is_one_json_document_and_next_leads_to_the_rest(stack: Stack) -> None:
    first = stack.persons("/?limit=1000").json
    assert len(first["results"]) == 1_000 and first["previous"] is None
    rest = stack.persons("/?" + first["next"].partition("?")[2]).json
    assert rest["next"] is None
    names = [row["name"] for row in first["results"] + rest["results"]]
    assert sorted(names) == [f"s{number:04}" for number in range(COUNT)]


@pytest.mark.parametrize("query", ["limit=300", "limit=300&search=s", "limit=300&offset=300"])
def test_previous_leads_back_to_the_very_same_pages(stack: Stack, query: str) -> None:
    pages = [stack.persons(f"/?{query}").json]
    while pages[-1]["next"]:
        pages.append(stack.persons("/?" + pages[-1]["next"].partition("?")[2]).json)
    assert len(pages) == (4 if "offset" in query else 5)
    back = [pages[-1]]
    while back[-1]["previous"]:
        back.append(stack.persons("/?" + back[-1]["previous"].partition("?")[2]).json)
    names = [[row["name"] for row in page["results"]] for page in pages]
    assert [[row["name"] for row in page["results"]] for page in reversed(back)][-len(names) :] == names
    assert back[-1]["previous"] is None and len(back) == 5


def test_an_exact_multiple_of_the_limit_has_no_empty_last_page(stack: Stack) -> None:
    assert stack.persons(f"/?limit={COUNT // 2}&offset={COUNT - COUNT // 2}").json["next"] is None
    assert stack.persons("/?search=s00&limit=100").json["next"] is None
    assert len(stack.persons("/?search=s00&limit=100").json["results"]) == 100


def test_csv_without_a_limit_has_all_rows_and_with_one_a_page(stack: Stack) -> None:
    answer = stack.persons("/?format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert sorted(row["distinct_ids.0"] for row in rows) == [f"s{number:04}" for number in range(COUNT)]
    assert {row["properties.n"] for row in rows} == {str(number) for number in range(COUNT)}
    assert len(stack.persons("/?format=csv&limit=7").body.splitlines()) == 8
    assert len(stack.persons("/?format=csv&search=s01").body.splitlines()) == 101


@pytest.mark.parametrize("how", [{"query": "format=ndjson"}, {"Accept": "application/x-ndjson"}])
def test_ndjson_without_a_limit_has_all_rows_and_with_one_a_page(stack: Stack, how: dict[str, str]) -> None:
    query, accept = how.get("query", ""), {"Accept": how["Accept"]} if "Accept" in how else {}
    answer = stack.persons(f"/?{query}", **accept)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    rows = [orjson.loads(line) for line in answer.body.splitlines()]
    assert sorted(row["distinct_ids"][0] for row in rows) == [f"s{number:04}" for number in range(COUNT)]
    first = stack.persons("/?limit=7").json["results"]
    assert [orjson.loads(line) for line in stack.persons(f"/?{query}&limit=7", **accept).body.splitlines()] == first
    one = stack.persons(f"/?{query}&distinct_id=s0001", **accept).body
    assert [orjson.loads(line)["distinct_ids"] for line in one.splitlines()] == [["s0001"]]


def test_ndjson_is_for_the_list_alone(stack: Stack) -> None:
    person = stack.persons("/?distinct_id=s0001").json["results"][0]["uuid"]
    for path in (f"/{person}/", "/activity/", "/values/?key=n"):
        mark = "&" if "?" in path else "?"
        assert stack.persons(f"{path}{mark}format=ndjson").status == 404
        assert stack.persons(path, Accept="application/x-ndjson").status == 406


@pytest.mark.alone
@pytest.mark.parametrize("query", ["format=csv", "limit=1000"])
def test_the_memory_of_a_long_list_is_constant(stack: Stack, query: str) -> None:
    process = psutil.Process(stack.pid("api"))
    stack.persons("/?limit=200")  # what every list needs, once
    before = process.memory_info().rss
    asked = urllib.request.Request(
        f"{stack.url}/api/projects/{stack.project}/persons/?{query}",
        headers={"Authorization": f"Bearer {stack.key}"},
    )
    highest = received = 0
    with urllib.request.urlopen(asked, timeout=60) as answer:
        while part := answer.read(1_048_576):
            received += len(part)
            highest = max(highest, process.memory_info().rss)
    print(f"{query}: {received / 1e6:.0f} MB sent, the process grew by {(highest - before) / 1e6:.1f} MB")
    assert received > 0.8 * COUNT * FAT_BYTES if query == "format=csv" else received > 0.8 * 1_000 * FAT_BYTES
    assert highest - before < GROWTH_BYTES_MAX


def test_an_error_of_a_csv_is_json(stack: Stack) -> None:
    answer = stack.persons("/?format=csv&limit=0")
    assert (answer.status, answer.json["attr"]) == (400, "limit")
    assert answer.headers["Content-Type"].startswith("application/json")


def test_the_archive_of_a_person_has_everything_held_about_it(stack: Stack) -> None:
    name = f"ada-{uuid4().hex[:8]}"
    sent(stack, f"{name}-phone", "open", **{"$set": {"theme": "dark"}, "screen": 7})
    early = sent(stack, name, "sign up", **{"$set": {"email": f"{name}@x.y", "plan": "free"}})
    sent(stack, name, "$merge_dangerously", alias=f"{name}-phone")
    person = stack.persons(f"/?distinct_id={name}").json["results"][0]
    assert stack.persons(f"/{person['id']}/", "PATCH", {"properties": {"plan": "pro"}}).status == 200
    request = stack.persons(f"/{person['id']}/delete_recordings/", "POST").json
    sent(stack, f"{name}-other", "sign up", **{"$set": {"secret": "canary"}})

    files = unzipped(stack, f"/{person['uuid']}/export/")
    assert files["person.ndjson"] == [stack.persons(f"/{person['id']}/").json]
    assert {row["distinct_id"]: row["properties"] for row in files["distinct_ids.ndjson"]} == {
        name: {"email": f"{name}@x.y", "plan": "pro"},
        f"{name}-phone": {"theme": "dark"},
    }
    assert sorted(row["event"] for row in files["events.ndjson"]) == ["$merge_dangerously", "open", "sign up"]
    (opened,) = [row for row in files["events.ndjson"] if row["event"] == "open"]
    assert opened["properties"]["screen"] == 7
    changes = files["changes.ndjson"]
    assert {row["fact"] for row in changes} >= {"fragment.changed", "person.merged", "person.joined"}
    (edited,) = [row for row in changes if row["source"] == "update"]
    assert edited["changes"] == [{"key": "plan", "operation": "set", "before": "free", "value": "pro"}]
    assert [row["id"] for row in files["deletion_requests.ndjson"]] == [request["id"]]
    assert files["recordings.ndjson"] == []
    (manifest,) = files["manifest.json"]
    assert manifest["person"] == person["uuid"] and manifest["rows"]["events"] == 3
    assert b"canary" not in orjson.dumps(files)

    past = unzipped(stack, f"/{stack.uuid(name)}/export/?as_of={early}")
    assert past["person.ndjson"][0]["properties"] == {"email": f"{name}@x.y", "plan": "free"}
    assert [row["event"] for row in past["events.ndjson"]] == ["sign up"]
    assert {row["fact"] for row in past["changes.ndjson"]} == {"fragment.changed"}


@pytest.mark.parametrize(
    ("how", "status"),
    [("/?format=csv", 404), (".json", 404), ("/?as_of=soon", 400), ("/?as_of=1999-01-01", 404)],
)
def test_an_archive_is_a_zip_and_nothing_else(stack: Stack, how: str, status: int) -> None:
    assert stack.persons(f"/{stack.uuid('s0001')}/export{how}").status == status
    assert stack.persons(f"/{stack.uuid('s0001')}/export/", Accept="application/json").status == 406
    assert stack.persons(f"/{stack.uuid('s0001')}/export/", Accept="application/zip").status == 200
    assert stack.persons(f"/{stack.uuid('nobody')}/export/").status == 404


def unzipped(stack: Stack, path: str) -> dict[str, list[Any]]:
    answer = stack.persons(path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/zip"), answer.body
    with zipfile.ZipFile(io.BytesIO(answer.body)) as files:
        read = {name: files.read(name) for name in files.namelist()}
    return {
        name: [orjson.loads(raw)] if name.endswith(".json") else [orjson.loads(line) for line in raw.splitlines()]
        for name, raw in read.items()
    }
