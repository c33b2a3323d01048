"""What the log says of the tables' positions and of this process's own, for `identity.compare` to
judge. Never asks the tables itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn, Protocol

from shared.domain.errors import Corrupt, Transient
from shared.domain.ids import Position, hash64
from shared.log.identity import Evidence, compare
from shared.log.port import Log


class Stand(Protocol):
    """What says where tables are in a partition, and the hash of the record there (0: not
    known)."""

    @property
    def position(self) -> Position: ...

    @property
    def record(self) -> int: ...


class Standing(NamedTuple):
    """What a position row says: where the tables are, and the hash of the record there (0: not
    known)."""

    position: Position
    record: int


async def evidence(
    log: Log, topic: str, tables: Mapping[int, Stand], starts: Sequence[Position]
) -> list[Evidence]:
    """Of the partitions that `tables` names. `starts` must be of before the tables were asked, for
    both only rise."""
    first = {start.partition: start for start in starts}
    found = []
    for head in await log.heads(topic):
        if head.partition in tables:
            table = tables[head.partition]
            found.append(
                await _whole(
                    log,
                    Evidence(table.position, table.record, first[head.partition], head),
                )
            )
    return found


async def own_evidence(
    log: Log, topic: str, starts: Sequence[Position]
) -> list[Evidence]:
    """What this process has seen of the log: the tables may not have come that far yet."""
    first = {start.partition: start for start in starts}
    witnesses = log.witnesses(topic)
    return [
        await _whole(
            log,
            Evidence(
                witness.position,
                witness.record,
                first[head.partition],
                head,
                process=True,
            ),
        )
        for head in await log.heads(topic)
        if (witness := witnesses.get(head.partition)) is not None
    ]


async def check(
    log: Log,
    topic: str,
    tables: Mapping[int, Stand],
    starts: Sequence[Position],
    since: int,
) -> None:
    """Raise LogMismatch when the log is not the one that these positions are of, Superseded when it
    was renewed.

    LogUnavailable when there were doubts since there had been `since`: of a log that changed
    meanwhile the evidence says nothing, and its watch compares again.
    """
    mismatch = compare(None, None, await evidence(log, topic, tables, starts))
    await log.assure(topic, since)
    if mismatch is not None:
        raise mismatch.error


class MissingRecords:
    """Records are gone, and the log is the tables' own all the same."""

    def __init__(self) -> None:
        self._posed = False

    def pose(self, error: Corrupt) -> NoReturn:
        """Raises Transient, for the right log may have come back just now; the error itself if it
        was so last time."""
        if self._posed:
            raise error
        self._posed = True
        raise Transient(error.detail) from error

    def solved(self) -> None:
        """Records came, or none: nothing is gone."""
        self._posed = False


async def _whole(log: Log, one: Evidence) -> Evidence:
    """With the record at the tables' position, where both sides have one. What a disk has spoilt
    says nothing."""
    if not one.record or not one.start.offset <= one.offset <= one.head.offset:
        return one
    there = await log.read(one.position)
    return one._replace(
        found=hash64(there.value) if there is not None and not there.fault else None
    )
