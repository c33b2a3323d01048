"""The parts of one API process, built once by `app` and given to every endpoint."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from services.api.http.guards.access import Access
from services.api.http.guards.admission import AdmissionControl
from services.api.http.guards.costly import Gate
from services.api.http.guards.rate_limit import CaptureQuotas, RateLimiter
from services.api.http.pipeline import POSITION_HEADER
from services.api.http.spool import Spools
from services.api.reads.persons import Reads
from services.api.reads.rendered import RenderedPersons
from services.api.reads.stamps import Mint, Stamps
from services.api.reads.watermarks import Watermarks
from services.api.writes.block_writer import BlockStore
from shared.domain.commands import Command, encode, route
from shared.domain.errors import BadInput, NotYet
from shared.domain.generations import Generations
from shared.domain.ids import DELETIONS, Position, format_positions, position_of
from shared.log.port import RECORD_BYTES_MAX, Entry, Log
from shared.runtime.clock import Clock
from shared.store.clickhouse.client import Store
from shared.store.logwatch import LogWatch


class PositionToken:
    """The position token of answers, and what it was put together from."""

    source: tuple[int, int] | None = None
    """How often rows and watermarks had been read by then."""

    text = ""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one API process."""

    limits: RateLimiter = msgspec.field(default_factory=lambda: RateLimiter(0, 1))
    quotas: CaptureQuotas = msgspec.field(default_factory=CaptureQuotas)
    gate: Gate = msgspec.field(default_factory=Gate)
    spools: Spools = msgspec.field(default_factory=Spools)


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one API process."""

    log: Log
    generations: Generations
    watch: LogWatch
    store: Store
    access: Access
    reads: Reads
    watermarks: Watermarks
    search_watermarks: Watermarks
    limits: RateLimiter
    quotas: CaptureQuotas
    stamps: Stamps
    clock: Clock
    mint: Mint
    blocks: BlockStore
    gate: Gate
    spools: Spools
    admission: AdmissionControl = msgspec.field(default_factory=AdmissionControl)
    token: PositionToken = msgspec.field(default_factory=PositionToken)
    rendered: RenderedPersons

    async def append(self, commands: Sequence[Command]) -> list[Position]:
        """Append commands in order; durable on return. BadInput when one is larger than a record
        may be."""
        return await self.log.append(self.entries(commands))

    def mismatch(self) -> bool:
        """Whether the log is known to be another one than that of the tables."""
        return self.watch.mismatch is not None

    def reflected(self) -> str:
        """The token of the positions that an answer reflects at least: those of rows that were
        read, and of the last poll."""
        token, source = self.token, (self.reads.loads, self.watermarks.polls)
        if token.source != source:
            versions = self.watermarks.versions()
            for key, version in self.reads.versions.items():
                versions[key] = max(version, versions.get(key, 0))
            token.source = source
            # persons are a matter of the other two topics, and `as_of` takes what a read has
            # answered with
            token.text = format_positions(
                [
                    position
                    for key, version in versions.items()
                    if key[0] != DELETIONS
                    and (position := position_of(*key, version)).offset >= 0
                ]
            )
        return token.text

    def is_former(self, position: Position) -> bool:
        """Whether the position is of a former generation of the log: reads see all that was ever
        projected of it."""
        return position.generation < self.log.generation

    async def wait_for(self, positions: Sequence[Position]) -> None:
        """Return once reads see these positions; NotYet after the usual time.

        At once for one beyond the end of the log: no write has answered with it, and waiting would
        be in vain.
        """
        positions = [position for position in positions if not self.is_former(position)]
        if self.watermarks.covers(positions):
            return
        ends = {
            (head.topic, head.partition): head.version
            for topic in {position.topic for position in positions}
            for head in await self.log.heads(topic)
        }
        if any(position.version > ends.get(position[:2], 0) for position in positions):
            raise NotYet("No write has answered with this position yet.")
        await self.watermarks.wait(positions)

    async def wait_for_heads(self, *topics: str) -> None:
        """Return once reads see all that is in the log of these topics now; NotYet after the usual
        time."""
        heads = [head for topic in topics for head in await self.log.heads(topic)]
        await self.watermarks.wait([head for head in heads if head.offset >= 0])

    def entries(
        self, commands: Sequence[Command], counts: dict[str, int] | None = None
    ) -> list[Entry]:
        """Commands as the log with these partitions takes them. BadInput when one is larger than a
        record may be."""
        counts = counts or self.log.partitions()
        entries = []
        for command in commands:
            value = encode(command)
            if len(value) > RECORD_BYTES_MAX:
                raise BadInput(
                    f"One change may have {RECORD_BYTES_MAX} bytes.", slug="too_large"
                )
            entries.append(Entry(*route(command, counts), value))
        return entries


def position_header(positions: Sequence[Position]) -> dict[str, str]:
    return {POSITION_HEADER: format_positions(list(positions))} if positions else {}
