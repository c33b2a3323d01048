"""What erasing relies on in an object store, for a local folder, a bucket, and a prefix in a bucket."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from shared.domain.errors import Corrupt, Transient
from shared.store import objects as module
from shared.store.objects import DRAFT_SECONDS, MARKER, Erased, Objects, Span
from tests.support.processes import free_port
from tests.support.s3 import S3

Open = Callable[[], Objects]


@pytest.fixture(params=["folder", "bucket", "prefix"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same, empty store again and again: each call is another process."""
    if request.param == "folder":
        return lambda: Objects(str(tmp_path / "objects"))
    s3: S3 = request.getfixturevalue("s3")
    bucket = f"b-{uuid4().hex}"
    s3.make(bucket)
    url = f"s3://{bucket}/a/b" if request.param == "prefix" else f"s3://{bucket}"
    return lambda: Objects(url, **s3.config)


async def test_an_object_comes_back_whole_and_in_parts(store: Open) -> None:
    await store().put("x/one", b"0123456789")
    objects = store()
    assert await objects.read("x/one") == b"0123456789"
    assert await objects.read("x/one", Span(2, 3)) == b"234"
    assert await objects.read("x/two") is None
    assert await objects.read("x/two", Span(0, 1)) is None
    assert await objects.paths() == ["x/one"]


async def test_an_object_is_written_once(store: Open) -> None:
    await store().put("x/one", b"first")
    with pytest.raises(FileExistsError):
        await store().put("x/one", b"second")
    assert await store().read("x/one") == b"first"


async def test_erasing_fills_with_zeros_in_place(store: Open) -> None:
    await store().put("x/one", b"annBOBann")
    assert await store().erase("x/one", [Span(0, 3), Span(6, 3)]) == Erased(deleted=False, written=9)
    assert await store().read("x/one") == b"\0\0\0BOB\0\0\0"
    assert await store().erase("x/one", [Span(0, 3), Span(6, 3)]) == Erased(deleted=False, written=0)


async def test_an_object_without_anybody_is_deleted(store: Open) -> None:
    await store().put("x/one", b"annBOB")
    await store().erase("x/one", [Span(0, 3)])
    assert await store().erase("x/one", [Span(3, 3)]) == Erased(deleted=True, written=0)
    assert await store().read("x/one") is None
    assert await store().paths() == []
    assert await store().erase("x/one", [Span(0, 3)]) == Erased(deleted=True, written=0)


async def test_a_place_beyond_the_end_reaches_to_the_end(store: Open) -> None:
    await store().put("x/one", b"BOBann")
    await store().erase("x/one", [Span(3, 100), Span(200, 5)])
    assert await store().read("x/one") == b"BOB\0\0\0"


async def test_a_store_has_one_name_whoever_gives_it_first(store: Open) -> None:
    with pytest.raises(Corrupt, match="has no personlog-recordings"):
        await store().home()
    first = await store().home(make=UUID(int=1))
    assert first == str(UUID(int=1)) == await store().home(make=UUID(int=2)) == await store().home()


@pytest.mark.parametrize("name", ["ü ö", "a%2Fb", "a b+c"])
async def test_names_are_taken_as_they_are(store: Open, name: str) -> None:
    await store().put(f"x/{name}", b"one")
    assert await store().read(f"x/{name}") == b"one"
    await store().erase(f"x/{name}", [Span(0, 3)])
    assert await store().paths() == []


async def test_a_larger_object_is_refused_and_stays(store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    await store().put("x/one", b"12345")
    monkeypatch.setattr(module, "OBJECT_BYTES_MAX", 4)
    with pytest.raises(Corrupt, match="has 5 bytes"):
        await store().erase("x/one", [Span(0, 1)])
    monkeypatch.undo()
    assert await store().read("x/one") == b"12345"


async def test_a_bucket_that_is_away_is_never_taken_for_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRIES_MAX", 0)
    away = Objects("s3://b", endpoint=f"http://127.0.0.1:{free_port()}", access_key_id="t", secret_access_key="t")
    with pytest.raises(Transient, match=MARKER):
        await away.home()
    with pytest.raises(Transient, match="x/one"):
        await away.erase("x/one", [Span(0, 1)])


async def test_the_clouds_own_variables_say_where_a_bucket_is(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in s3.environment.items():
        monkeypatch.setenv(variable, value)
    bucket = f"b-{uuid4().hex}"
    s3.make(bucket)
    await Objects(f"s3://{bucket}/a").put("x/one", b"1")
    assert await Objects(f"s3://{bucket}", **s3.config).paths() == ["a/x/one"]


async def test_a_missing_bucket_is_no_erased_one(s3: S3) -> None:
    with pytest.raises((Corrupt, Transient)):
        await Objects(f"s3://b-{uuid4().hex}", **s3.config).home()


async def test_drafts_of_killed_writers_are_removed_and_young_ones_are_not(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    await objects.put("x/one", b"1")
    for name, age in (("two#1", DRAFT_SECONDS + 60), ("three#1", 0.0)):
        (tmp_path / "x" / name).write_bytes(b"draft")
        os.utime(tmp_path / "x" / name, (time.time() - age,) * 2)
    await objects.tidy()
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["one", "three#1"]
