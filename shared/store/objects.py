"""The object store: blocks of recordings in a local folder or at an `s3://` address. Never knows
whose they are.

An object is written once and holds blocks of several people, one behind the other. Erasing a block
fills it with zeros, so that the places of its neighbours stay what their rows say; an object of
nothing but zeros is deleted. So an object tells by itself whether anybody still has something in
it, and erasing may be repeated at any point.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from shared.domain.errors import Corrupt
from shared.store.clickhouse.failures import StoreAway

OBJECT_BYTES_MAX = 64 * 1_048_576
"""An object is read whole to erase from it; who writes them ends one far below."""

CALL_SECONDS_MAX = 60.0
"""One call, its retries included; an object of the largest size takes 10 s at 50 Mbit/s."""

RETRIES_MAX = 3

DRAFT_SECONDS = 10 * CALL_SECONDS_MAX
"""The library writes local files as `name#1` and renames them; nobody is still writing one that is
so old."""

LANDED_SECONDS_MAX = 10.0
"""From a block's stamp until its object is written. Who writes takes back what came later, so a row
that is older than SETTLED_SECONDS leads to an object that is there, or never will be."""

SETTLED_SECONDS = 1.5 * LANDED_SECONDS_MAX
"""With a margin for taking back and for clocks that differ. Before, an object may come after its
rows were erased."""

MARKER = "personlog-recordings"
"""Names the store. Blocks lie under this name: with another bucket, or an empty one, nothing is
taken for erased."""


class Span(NamedTuple):
    """Bytes of an object: `length` of them from `start` on."""

    start: int
    length: int


class Erased(NamedTuple):
    """What erasing in one object did: whether it is gone now, and how many bytes were written."""

    deleted: bool
    written: int


class Objects:
    """One folder or bucket. Calls may run at the same time; each has a time limit. Transient when
    it is away."""

    def __init__(self, url: str, **config: Any) -> None:
        """`url`: a path, or `s3://bucket/prefix` with what AWS_… variables (or `config`) say."""
        self._folder: Path | None = None
        if not urlsplit(url).scheme:
            self._folder = Path(url).resolve()
            self._store: Any = LocalStore(self._folder, mkdir=True)
            return
        endpoint = config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
        self._store = from_url(
            url,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "timeout": f"{CALL_SECONDS_MAX:g}s",
            },
            retry_config={
                "max_retries": RETRIES_MAX,
                "retry_timeout": timedelta(seconds=CALL_SECONDS_MAX),
            },
            **config,
        )

    async def home(self, *, make: UUID | None = None) -> str:
        """The name of this store, under which its blocks lie; `make` names one that has none yet.
        Corrupt without."""
        if make is not None:
            with suppress(FileExistsError):  # it has its name
                await self.put(MARKER, str(make).encode())
        name = await self.read(MARKER)
        if name is None:
            raise Corrupt(
                f"The object store has no {MARKER}: it is not the one"
                " that recordings were written to."
            )
        return name.decode()

    async def put(self, path: str, content: bytes) -> None:
        """Write a new object, durably. FileExistsError when there is one already."""
        async with _failures(path):
            try:
                await obstore.put_async(
                    self._store, path, content, mode="create", use_multipart=False
                )
            except AlreadyExistsError:
                raise FileExistsError(path) from None
            await self._settle(path)

    async def read(self, path: str, span: Span | None = None) -> bytes | None:
        """An object, or a part of it; None when there is no such object."""
        async with _failures(path):
            try:
                if span is not None:
                    return bytes(
                        await obstore.get_range_async(
                            self._store, path, start=span.start, length=span.length
                        )
                    )
                response = await obstore.get_async(self._store, path)
                if response.meta["size"] > OBJECT_BYTES_MAX:
                    raise Corrupt(
                        f"The object {path} has {response.meta['size']} bytes."
                    )
                return bytes(await response.bytes_async())
            except FileNotFoundError:
                return None

    async def erase(self, path: str, spans: Iterable[Span]) -> Erased:
        """Fill these bytes with zeros, or delete the object when nothing else is in it; then look
        whether it is so.

        Corrupt when they are still there afterwards. An object that is not there (any more) is
        erased.
        """
        before = await self.read(path)
        if before is None:
            return Erased(deleted=True, written=0)
        after = _zeroed(before, spans)
        if not any_left(after):
            await self._delete(path)
            if await self.read(path) is not None:
                raise Corrupt(f"The object {path} was deleted and is still there.")
            return Erased(deleted=True, written=0)
        if after == before:
            return Erased(deleted=False, written=0)
        async with _failures(path):
            # In one piece: parts of an upload that was killed would lie in a bucket, out of sight.
            await obstore.put_async(
                self._store, path, after, mode="overwrite", use_multipart=False
            )
            await self._settle(path)
        if await self.read(path) != after:
            raise Corrupt(f"The object {path} was rewritten and holds something else.")
        return Erased(deleted=False, written=len(after))

    async def tidy(self) -> None:
        """Remove what writers of local files left behind when they were killed: drafts that no
        erasure would find."""
        if self._folder is not None:
            await asyncio.to_thread(
                _remove_drafts, self._folder, time.time() - DRAFT_SECONDS
            )

    async def paths(self) -> list[str]:
        """All objects, in no order. For tests and for who looks for something."""
        async with _failures("list"):
            return [
                entry["path"] for page in obstore.list(self._store) for entry in page
            ]

    async def _delete(self, path: str) -> None:
        async with _failures(path):
            try:
                await obstore.delete_async(self._store, path)
            except FileNotFoundError:
                return
            await self._settle(path)

    async def _settle(self, path: str) -> None:
        """A local file is only named so far: make that survive a power cut, as a bucket's answer
        does."""
        if self._folder is not None:
            await asyncio.to_thread(_sync, self._folder / path, self._folder)


def any_left(content: bytes) -> bool:
    """Whether anything but zeros is there."""
    return content.count(0) != len(content)


def _zeroed(content: bytes, spans: Iterable[Span]) -> bytes:
    changed = bytearray(content)
    for start, length in spans:
        end = min(start + length, len(changed))
        if start < end:
            changed[start:end] = bytes(end - start)
    return bytes(changed)


def _remove_drafts(folder: Path, before: float) -> None:
    for draft in folder.rglob("*#*"):
        if draft.is_file() and draft.stat().st_mtime < before:
            draft.unlink(missing_ok=True)


def _sync(path: Path, folder: Path) -> None:
    """The file, if it is there, and every folder down from `folder`."""
    for place in (
        path,
        *(parent for parent in path.parents if parent.is_relative_to(folder)),
    ):
        if not place.exists():
            continue
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@asynccontextmanager
async def _failures(path: str) -> AsyncIterator[None]:
    """Bound a call in time. Whatever the store says but "there is none" may be otherwise the next
    time."""
    try:
        async with asyncio.timeout(CALL_SECONDS_MAX):
            yield
    except TimeoutError as error:
        raise StoreAway(
            f"Object store, {path}: no answer within {CALL_SECONDS_MAX:g} s."
        ) from error
    except (BaseError, PermissionError, OSError) as error:
        if isinstance(error, FileExistsError):
            raise
        reason = str(error).partition("\n")[0]
        raise StoreAway(f"Object store, {path}: {reason}") from error
