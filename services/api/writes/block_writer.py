"""Blocks of recordings on their way into the object store, and out of it. Never puts a byte there
that no row names.

Intent first: the rows of an object are in the log, durable, before the object is written, and the
client hears of it after both. A crash in between leaves rows of an object that is not there:
erasing takes it for erased, reading passes it over, and the client sends again. The other way round
it would leave an object that no erasure can find.

Group commit: one object is in flight, and what comes meanwhile is the next one. What a client has
given up, which it will send again, is not written.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from uuid import UUID

import msgspec

from services.api.reads.stamps import Mint, Stamps
from shared.domain.commands import Command, Record
from shared.domain.errors import Corrupt, PersonlogError, StoreUnavailable
from shared.domain.ids import Position
from shared.runtime.clock import Clock
from shared.runtime.group_commit import Capacity, GroupCommit, Pending
from shared.store.objects import LANDED_SECONDS_MAX, Objects, Span, any_left

OBJECT_BYTES_MAX = 4 * 1_048_576
"""Blocks of one object, but always all of a request, which has at most 20 MiB: erasing one of them
rewrites it."""

PENDING_BYTES_MAX = 64_000_000
"""Blocks that wait or are in flight in one process; above it clients are told, before memory
grows."""

ANSWER_SECONDS_MAX = 8.0
"""From a request's blocks to its answer: with its body a client must not hang past 10 s."""

INLINE_BYTES_MAX = 65_536
"""More is packed and unpacked in a thread."""

COMPRESSION = zlib.Z_BEST_SPEED
"""SDKs send the large parts packed already."""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """The snapshots of one captured event, packed: NDJSON that a player takes line by line. Times
    in microseconds."""

    project: int
    fragment: UUID
    uuid: UUID
    session: str
    window: str
    started_at: int
    ended_at: int
    content: bytes


Copy = tuple[str, int, int]
"""(object, start, length): where a block lies, or should."""


class BlockStore:
    """All blocks that one API process writes and reads. `append` puts commands into the log."""

    def __init__(
        self,
        objects: Objects,
        append: Callable[[Sequence[Command]], Awaitable[list[Position]]],
        stamps: Stamps,
        clock: Clock,
        mint: Mint,
    ) -> None:
        self._objects, self._append, self._stamps, self._clock, self._mint = (
            objects,
            append,
            stamps,
            clock,
            mint,
        )
        self._home = ""
        self.capacity = Capacity(
            PENDING_BYTES_MAX,
            lambda: StoreUnavailable("The object store does not keep up."),
        )
        self._writes: GroupCommit[Sequence[Block], list[Position]] = GroupCommit(
            self._write_group,
            size_max=OBJECT_BYTES_MAX,
            capacity=self.capacity,
            closing=StoreUnavailable,
            name="blocks of recordings",
        )

    @property
    def waiting(self) -> int:
        """Requests whose blocks are not in an object that is being written."""
        return self._writes.waiting

    async def store(self, blocks: Sequence[Block]) -> list[Position]:
        """Return once these blocks are durable, rows and bytes. Transient when they may not be."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await self._writes.submit(
                    blocks, sum(len(block.content) for block in blocks)
                )
        except TimeoutError:
            raise StoreUnavailable("The blocks were not stored in time.") from None

    async def read(self, copies: Sequence[Copy]) -> bytes:
        """The lines of the first of these copies that is there; nothing when none is, or an erasure
        was quicker."""
        if not self._home:
            try:
                self._home = await self._objects.home()
            except Corrupt as error:
                raise StoreUnavailable(error.detail) from error
        for path, start, length in copies:
            if not path.startswith(f"{self._home}/"):
                raise StoreUnavailable(
                    f"The recording lies in another object store than {self._home}."
                )
            packed = await self._objects.read(path, Span(start, length))
            if packed is not None and any_left(packed):
                large = length > INLINE_BYTES_MAX
                return (
                    await asyncio.to_thread(_unpack, packed)
                    if large
                    else _unpack(packed)
                )
        return b""

    async def close(self) -> None:
        """End the write in flight; nobody is left to hear of it."""
        await self._writes.close()

    async def _write_group(
        self, group: list[Pending[Sequence[Block], list[Position]]]
    ) -> None:
        """Write the blocks of several requests as one object."""
        try:
            positions = iter(
                await self._write(
                    [block for pending in group for block in pending.item]
                )
            )
        except PersonlogError:
            raise
        except Exception as error:
            raise StoreUnavailable from error
        for blocks, _, future in group:
            own = [next(positions) for _ in blocks]
            if not future.done():
                future.set_result(own)

    async def _write(self, blocks: Sequence[Block]) -> list[Position]:
        """One object: first its rows, then its bytes. One that lands late is taken back, for its
        rows may be erased."""
        if not blocks:
            return []
        self._home = self._home or await self._objects.home(make=self._mint())
        path, began = f"{self._home}/{self._mint()}", self._clock.elapsed_us()
        first = self._stamps.reserve(len(blocks))
        content = b"".join(block.content for block in blocks)
        starts = accumulate((len(block.content) for block in blocks), initial=0)
        commands = [
            Record(
                id=self._mint(),
                project=block.project,
                at=first + index,
                actor="capture",
                fragment=block.fragment,
                uuid=block.uuid,
                session=block.session,
                window=block.window,
                object=path,
                start=start,
                length=len(block.content),
                started_at=block.started_at,
                ended_at=block.ended_at,
            )
            for index, (block, start) in enumerate(zip(blocks, starts, strict=False))
        ]
        positions = await self._append(commands)
        await self._objects.put(path, content)
        if self._clock.elapsed_us() - began > LANDED_SECONDS_MAX * 1e6:
            await self._objects.erase(path, [Span(0, len(content))])
            raise StoreUnavailable("The object store took too long.")
        return positions


def pack(lines: Sequence[bytes]) -> bytes:
    """The content of a block."""
    return zlib.compress(b"".join(line + b"\n" for line in lines), COMPRESSION)


def _unpack(content: bytes) -> bytes:
    try:
        return zlib.decompress(content)
    except zlib.error as error:
        raise Corrupt("A block of a recording cannot be unpacked.") from error
