"""What one partition may take of a batch, by bytes: heavy records wait, and the others' become
visible. Pure.

A batch's flush makes the records of all partitions visible together, so one partition of heavy
records would hold up everybody. It gets a share, and goes on with the next batch: in its own order,
and always by one record at least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from services.projector.tables.rows import StateKey
from shared.domain.commands import Capture, Command, Erase, Purge, Revive, Write
from shared.log.port import Record

RECORD_BYTES_USUAL = 4_096
"""Of a record and what it rewrites; so much is free. A full batch of such takes a third of a
second."""

SHARE_BYTES, BATCH_BYTES = 32_000_000, 64_000_000
"""Beyond what is usual, of one partition in one batch: about 100 ms of the projector and as much of
the engine, so that a partition keeps up with what one sender can send: with 16 MB writes of those
who share it were visible 3.2 times as late as without that sender, with 32 MB 1.7 times. And of
all together: where more than two are heavy each gets less, but a quarter of the first at least."""

ROWS_BYTES = 2_000_000
"""Of large rows that are loaded for one partition in one batch."""

LOAD_BYTES_MAX = 32_000_000
"""Large rows loaded in one SELECT."""

FRAGMENT_COMMANDS = (Capture, Write, Erase, Revive, Purge)

Decoded = tuple[Record, Command | None]


class Shares:
    """What the partitions have taken of one batch. `over` are those that have had their share."""

    def __init__(self, records: Iterable[Record] = (), limit: int = 0) -> None:
        self.over: set[int] = set()
        self._bytes: dict[int, int] = {}
        self._limit = limit or SHARE_BYTES
        self.take_all(records)

    def take_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self.take(record.partition, len(record.value))

    def take(self, partition: int, size: int) -> None:
        """A record of so many bytes, with what it rewrites."""
        beyond = size - RECORD_BYTES_USUAL
        if beyond <= 0:
            return
        total = self._bytes[partition] = self._bytes.get(partition, 0) + beyond
        if total >= self._limit:
            self.over.add(partition)


def divided(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """(records for this batch, those that wait), by their own bytes alone; each in its order."""
    large = Shares(records, SHARE_BYTES // 4)
    shares = Shares(
        (),
        max(SHARE_BYTES // 4, min(SHARE_BYTES, BATCH_BYTES // max(len(large.over), 1))),
    )
    now: list[Record] = []
    later: list[Record] = []
    for record in records:
        if record.partition in shares.over:
            later.append(record)
            continue
        now.append(record)
        shares.take(record.partition, len(record.value))
    return now, later


def affordable(
    decoded: Iterable[Decoded], large: Mapping[StateKey, int]
) -> list[list[StateKey]]:
    """Which large rows are loaded for this batch, in SELECTs of LOAD_BYTES_MAX: of each partition
    ROWS_BYTES."""
    sizes: dict[int, int] = {}
    blocked: set[int] = set()
    parts: list[list[StateKey]] = [[]]
    chosen: set[StateKey] = set()
    size = 0
    for record, command in decoded:
        key = key_of(command)
        if (
            key is None
            or key not in large
            or key in chosen
            or record.partition in blocked
        ):
            continue
        if sizes.get(record.partition, 0) >= ROWS_BYTES:
            blocked.add(record.partition)
            continue
        sizes[record.partition] = sizes.get(record.partition, 0) + large[key]
        chosen.add(key)
        if parts[-1] and size + large[key] > LOAD_BYTES_MAX:
            parts.append([])
            size = 0
        parts[-1].append(key)
        size += large[key]
    return parts if parts[0] else []


def key_of(command: Command | None) -> StateKey | None:
    """The fragment whose row a command needs."""
    return (
        (command.project, command.fragment)
        if isinstance(command, FRAGMENT_COMMANDS)
        else None
    )


def loaded(
    decoded: Sequence[Decoded], unloaded: Collection[StateKey]
) -> tuple[list[Decoded], list[Decoded]]:
    """(what can be folded, what waits): from the first record of a partition on whose row was not
    loaded."""
    if not unloaded:
        return list(decoded), []
    now: list[Decoded] = []
    later: list[Decoded] = []
    blocked: set[int] = set()
    for record, command in decoded:
        if record.partition not in blocked and key_of(command) in unloaded:
            blocked.add(record.partition)
        (later if record.partition in blocked else now).append((record, command))
    return now, later
