"""A deleted id leads nowhere: merges beside a DELETE, and imports of before it. On real processes, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from tests.support.asking import sent, shown
from tests.support.processes import Answer, Stack, wait_for
from tests.support.tier import sized

RACES = sized(dev=8, ci=16, soak=16)
"""Eight have each delay once, and each of both persons deleted."""

BEFORE = "2024-01-01T00:00:00Z"
SECONDS_MAX = 60.0

GHOSTS = """
SELECT count()
FROM
(
    SELECT arrayJoin(members) AS member
    FROM (SELECT members FROM identity WHERE project = {project} ORDER BY fragment, version DESC LIMIT 1 BY fragment)
    WHERE length(members) > 1
) AS held
LEFT JOIN
(
    SELECT fragment, created_at FROM fragments WHERE project = {project} ORDER BY fragment, version DESC
    LIMIT 1 BY fragment
) AS state ON held.member = state.fragment
WHERE state.created_at = 0
"""
"""Members of persons of several ids who do not live."""


def ghosts(stack: Stack) -> int:
    return int(stack.query(GHOSTS.format(project=stack.project)))


def raced(race: int, deleting: Callable[[], Answer], merging: Callable[[], Answer]) -> tuple[Answer, Answer]:
    """Both at once, the merge later by so little that the DELETE is in the log by then and reads do not see it yet."""

    def later() -> Answer:
        time.sleep(race % 8 * 0.003)
        return merging()

    with ThreadPoolExecutor(2) as pool:
        deleted, merged = pool.submit(deleting), pool.submit(later)
        return deleted.result(), merged.result()


def settled(stack: Stack, *answers: Answer) -> None:
    """Reads see what these have written."""
    position = ",".join(answer.headers["Position"] for answer in answers if "Position" in answer.headers)
    assert stack.persons("/?limit=1", Min_Position=position).status == 200


def test_a_merge_beside_a_delete_leaves_no_erased_id_in_a_person(stack: Stack) -> None:
    statuses = []
    for race in range(RACES):
        into, source = f"into-{uuid4().hex}", f"source-{uuid4().hex}"
        sent(stack, into)
        sent(stack, source)
        gone = (into, source)[race % 2]
        deleted, merged = raced(
            race,
            lambda: stack.persons(f"/{stack.uuid(gone)}/", "DELETE"),  # noqa: B023  # both end before the next race
            lambda: stack.persons(f"/{stack.uuid(into)}/merge/", "POST", {"distinct_id": source}),  # noqa: B023
        )
        assert deleted.status == 204
        settled(stack, merged, deleted)
        assert merged.status in (200, 404), merged.body
        assert shown(stack, gone) is None
        other = shown(stack, source if gone == into else into)
        if other is not None:  # the DELETE came first: it lives alone, and nobody was merged
            assert (merged.status, len(other["distinct_ids"]), merged.json["code"]) == (404, 1, "not_found")
        statuses.append(merged.status)
    assert ghosts(stack) == 0, statuses


def test_a_captured_merge_beside_a_delete_leaves_no_erased_id_in_a_person(stack: Stack) -> None:
    pairs = []
    for race in range(RACES):
        into, source = f"into-{uuid4().hex}", f"source-{uuid4().hex}"
        sent(stack, into)
        sent(stack, source, **{"$set": {"of": "the former life"}})
        gone = (into, source)[race % 2]
        identify: dict[str, Any] = {"event": "$identify", "distinct_id": into}
        deleted, captured = raced(
            race,
            lambda: stack.persons(f"/{stack.uuid(gone)}/", "DELETE"),  # noqa: B023
            lambda: stack.capture(**identify, properties={"$anon_distinct_id": source}),  # noqa: B023
        )
        assert (captured.status, deleted.status) == (200, 204)
        settled(stack, captured, deleted)
        pairs.append((into, source))
    wait_for(lambda: ghosts(stack) == 0, SECONDS_MAX, "every merged id to live")
    for into, source in pairs:
        one, other = shown(stack, into), shown(stack, source)
        assert one == other, "one person, or nobody"


@pytest.fixture
def deleted(stack: Stack, name: str) -> tuple[str, str]:
    """A living person, and one of two ids that was deleted."""
    living, erased = f"{name}-living", f"{name}-erased"
    sent(stack, living)
    sent(stack, erased, "$identify", **{"$anon_distinct_id": f"{erased}-device", "$set": {"secret": 1}})
    assert stack.persons(f"/{stack.uuid(erased)}/?delete_events=true", "DELETE").status == 204
    return living, erased


def everything_of_before(stack: Stack, living: str, erased: str) -> None:
    def said(event: str, who: str, **properties: Any) -> dict[str, Any]:
        return {"event": event, "distinct_id": who, "timestamp": BEFORE, "properties": properties}

    batch = [
        said("e", living, **{"$set": {"plan": "old"}}), said("e", erased, **{"$set": {"secret": 1}}),
        said("$identify", erased, **{"$anon_distinct_id": f"{erased}-device"}),
        said("$identify", living, **{"$anon_distinct_id": erased}),
        said("$create_alias", living, alias=f"{erased}-device"), said("$merge_dangerously", erased, alias=living),
    ]  # fmt: skip
    body = {"api_key": stack.token, "historical_migration": True, "batch": batch}
    settled(stack, stack.ask("POST", "/batch/", body, key=None))


def test_an_import_of_everything_from_before_the_deletion_twice_leads_nowhere(
    stack: Stack, deleted: tuple[str, str]
) -> None:
    living, erased = deleted
    gone = [erased, f"{erased}-device"]
    for _ in range(2):
        everything_of_before(stack, living, erased)
        for one in gone:
            assert stack.persons(f"/{stack.uuid(one)}/").status == 404
            assert shown(stack, one) is None
        asked = {"distinct_ids": [*gone, living]}
        found = stack.persons("/batch_by_distinct_ids/", "POST", asked).json["results"]
        assert list(found) == [living]
        assert stack.persons("/batch_by_uuids/", "POST", {"uuids": [stack.uuid(one) for one in gone]}).json == {
            "results": {}
        }  # fmt: skip
        person = found[living]
        assert (person["distinct_ids"], person["properties"]) == ([living], {"plan": "old"})
        assert not person["is_identified"]  # what was dropped marks nobody
    fragments = ", ".join(f"'{stack.uuid(one)}'" for one in (*gone, living))
    rows = stack.query(f"SELECT max(length(members)) FROM identity FINAL WHERE fragment IN ({fragments})")
    assert int(rows) <= 1


def test_an_id_that_lives_again_is_not_tied_by_what_is_imported_of_before(
    stack: Stack, deleted: tuple[str, str]
) -> None:
    living, erased = deleted
    sent(stack, erased, **{"$set": {"life": 2}})
    everything_of_before(stack, living, erased)
    person = shown(stack, erased)
    assert person is not None and (person["distinct_ids"], person["properties"]) == ([erased], {"life": 2})
    path, body = f"/{stack.uuid(living)}/merge/", {"distinct_id": erased, "timestamp": BEFORE}
    for query in ("", "?dry_run=true"):
        answer = stack.persons(path + query, "POST", body)
        assert (answer.status, answer.json["code"], answer.json["detail"]) == (404, "not_found", "Not found.")
    now = stack.persons(path, "POST", {"distinct_id": erased, "timestamp": person["created_at"]})
    assert (now.status, sorted(now.json["distinct_ids"])) == (200, sorted([living, erased]))


def test_an_id_that_was_deleted_merges_by_capture_as_any_other(stack: Stack, deleted: tuple[str, str]) -> None:
    living, erased = deleted
    sent(stack, living, "$identify", **{"$anon_distinct_id": erased})
    wait_for(
        lambda: sorted((shown(stack, erased) or {"distinct_ids": []})["distinct_ids"]) == sorted([living, erased]),
        SECONDS_MAX, "the id to be of the person",
    )  # fmt: skip
    assert ghosts(stack) == 0


@pytest.mark.parametrize("timestamp", ["yesterday", 5, [], {}, "", "2024-13-01T00:00:00Z"], ids=repr)
def test_a_merge_whose_time_is_no_time_is_refused(stack: Stack, name: str, timestamp: Any) -> None:
    sent(stack, name)
    sent(stack, f"{name}-2")
    body = {"distinct_id": f"{name}-2", "timestamp": timestamp}
    answer = stack.persons(f"/{stack.uuid(name)}/merge/", "POST", body)
    assert (answer.status, answer.json["code"], answer.json["attr"]) == (400, "invalid_input", "timestamp")
