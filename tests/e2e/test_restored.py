"""An old copy of the engine is put back after an erasure: the log is replayed over it, and the erased stay erased."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.asking import sent, shown
from tests.support.processes import Stack, running

pytestmark = pytest.mark.alone

ERASED, KEPT, SECRET, OPEN = "ann@example.com", "bob@example.com", "a-secret-of-anns", "a-secret-of-bobs"
RUN_SECONDS_MAX = 120.0
TABLES = ("fragments", "timeline", "search", "captured_events", "identity", "deletion_requests")


@pytest.fixture(scope="module")
def before() -> list[str]:
    """When both were there."""
    return []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, before: list[str]) -> Iterator[Stack]:
    """Two persons, a copy of the engine, an erasure with its receipt, and the copy put back."""
    folder = tmp_path_factory.mktemp("restored")
    with running(folder / "data") as stack:
        for name, secret in ((ERASED, SECRET), (KEPT, OPEN)):
            sent(stack, f"{name}-device", "open", **{"$set": {"theme": "dark"}})
            sent(stack, name, f"pay {secret}", **{"$set": {"plan": secret, f"name-{secret}": 1}})
            sent(stack, name, "$merge_dangerously", alias=f"{name}-device")
        assert listed(stack) == {ERASED: 1, KEPT: 1}
        before.append(datetime.now(UTC).isoformat())
        sent(stack, KEPT, "later", **{"$set": {"seen": 1}})
        stack.stop()
        shutil.copytree(stack.data / "engine", folder / "backup", symlinks=True)
        stack.start()
        answer = stack.persons(f"/{stack.uuid(ERASED)}/?delete_events=true&delete_recordings=true", "DELETE")
        assert answer.status == 204
        run(stack, "1 verified, 0 failed, 0 left open\n")
        assert not held(stack, SECRET)
        stack.stop()
        shutil.rmtree(stack.data / "engine")
        shutil.copytree(folder / "backup", stack.data / "engine", symlinks=True)
        stack.start()
        assert stack.persons("/?limit=1", Min_Position=answer.headers["Position"]).status == 200
        yield stack


def run(stack: Stack, said: str) -> None:
    ran = stack.call("deletions", "run", seconds=RUN_SECONDS_MAX)
    last = ran.stdout.splitlines(keepends=True)[-1:]  # before it stands how far a long run is
    assert (ran.returncode, last) == (0, [said]), ran.stderr


def held(stack: Stack, text: str) -> set[str]:
    """Tables with a row, hidden ones too, that has this text."""
    query = (
        "SELECT count() FROM {} WHERE position(formatRow('JSONEachRow', *), '{}') > 0 SETTINGS apply_deleted_mask = 0"
    )
    return {table for table in TABLES if stack.query(query.format(table, text)) != "0"}


def listed(stack: Stack, as_of: str = "") -> dict[str, int]:
    """How many persons a search for each name finds."""
    then = f"&as_of={as_of.replace('+', '%2B')}" if as_of else ""
    return {name: stack.persons(f"/?search={name}&include_total=true{then}").json["count"] for name in (ERASED, KEPT)}


def nothing_is_back(stack: Stack, then: str) -> None:
    assert shown(stack, ERASED) is None
    assert stack.persons(f"/{stack.uuid(ERASED)}/").status == 404
    assert stack.persons(f"/{stack.uuid(f'{ERASED}-device')}/").status == 404
    assert stack.persons(f"/{stack.uuid(ERASED)}/?as_of={then.replace('+', '%2B')}").status == 404
    assert listed(stack) == listed(stack, then) == {ERASED: 0, KEPT: 1}
    kept: dict[str, Any] | None = shown(stack, KEPT)
    assert kept is not None
    assert (kept["properties"]["plan"], kept["properties"]["seen"], len(kept["distinct_ids"])) == (OPEN, 1, 2)


def test_the_replay_takes_the_person_out_of_every_answer_at_once(stack: Stack, before: list[str]) -> None:
    nothing_is_back(stack, before[0])


@pytest.fixture(scope="module")
def proof(stack: Stack) -> bytes:
    """The receipt, as it was before a run erased what the copy had brought back."""
    (receipt,) = (stack.data / "receipts").glob("*.json")
    written = receipt.read_bytes()
    assert held(stack, SECRET) >= {"timeline", "captured_events"}
    run(stack, "1 verified, 0 failed, 0 left open\n")
    assert not held(stack, SECRET)
    return written


def test_a_run_erases_the_rows_again_and_makes_no_second_receipt(
    stack: Stack, before: list[str], proof: bytes
) -> None:
    (receipt,) = (stack.data / "receipts").glob("*.json")
    assert held(stack, OPEN) == {"fragments", "timeline", "search", "captured_events"}
    assert [(path, path.read_bytes()) for path in (stack.data / "receipts").glob("*.json")] == [(receipt, proof)]
    checked = stack.call("receipts", "verify", str(receipt))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    nothing_is_back(stack, before[0])


@pytest.mark.usefixtures("proof")
def test_a_rebuild_after_that_brings_nothing_back(stack: Stack, before: list[str]) -> None:
    ran = stack.call("rebuild", seconds=RUN_SECONDS_MAX)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    nothing_is_back(stack, before[0])
    assert not held(stack, SECRET)


def test_the_id_may_be_used_again_and_starts_empty(stack: Stack) -> None:
    sent(stack, ERASED, "again", **{"$set": {"plan": "new"}})
    found = shown(stack, ERASED)
    assert found is not None
    assert (found["properties"], found["distinct_ids"]) == ({"plan": "new"}, [ERASED])
