"""Ids, partitions, versions, numbers and positions: pure arithmetic. Never mints anything."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple
from uuid import UUID, SafeUUID

from shared.domain.errors import BadInput

NAMESPACE = UUID("932979b4-65c3-4424-8467-0b66ec27bc22")

GENERATION_FIRST, GENERATIONS_MAX = 1, 63
"""Generations of the log: a new partition count, or a log that was lost, is a new one. A number has
6 bits for it."""

COMMANDS, IDENTITY, DELETIONS, DEAD = (
    "personlog.commands",
    "personlog.identity",
    "personlog.deletions",
    "personlog.dead",
)
TOPIC_LETTERS = {COMMANDS: "c", IDENTITY: "i", DELETIONS: "d"}

_TOPICS_BY_LETTER = {ord(letter): topic for topic, letter in TOPIC_LETTERS.items()}

OFFSET_BITS = 48
"""Version = generation << 48 | offset: 2.8e14 records a partition before it would overflow."""

NUMBER_OFFSET_BITS, NUMBER_PARTITION_BITS, NUMBER_GENERATION_BITS = 37, 10, 6
"""53 bits together, because JavaScript's integers end there; 1.4e11 offsets, 1,024 partitions, 64
generations."""

PARTITIONS_MAX = 1 << NUMBER_PARTITION_BITS
POSITIONS_IN_TOKEN_MAX = 1_088
"""A token names each partition at most once: 1,024 of commands and 64 of the other topics."""

DISTINCT_ID_CHARS_MAX = 400

CAPTURED_ID_CHARS_MAX = 200
"""Capture v0 cuts there, as the original does."""

_OFFSET_MAX = (1 << OFFSET_BITS) - 1
_NAMESPACE = NAMESPACE.bytes
_NOT_VERSION = ~(0xF << 76 | 0x3 << 62)
_VERSION_5 = 0x5 << 76 | 0x2 << 62

_set_int, _set_safe = (vars(UUID)[slot].__set__ for slot in ("int", "is_safe"))
_SAFE = SafeUUID.unknown

_TOKEN = re.compile(r"([cid])\.(\d{1,4})\.(\d{1,15})(?:\.(\d{1,2}))?")
_ANONYMOUS = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+){4}")


class Position(NamedTuple):
    """`offset` is that of the last command applied in (topic, partition) of this generation; -1 is
    before the first."""

    topic: str
    partition: int
    offset: int
    generation: int = GENERATION_FIRST

    @property
    def next(self) -> int:
        """The offset to read next: the only place that adds one."""
        return self.offset + 1

    @property
    def version(self) -> int:
        """As stored in a position row; above every version of earlier generations. 0 before the
        first command of all, when there is no row."""
        if self.offset < 0 and self.generation == GENERATION_FIRST:
            return 0
        return (self.generation << OFFSET_BITS) + self.offset


def fragment_id(project: int, distinct_id: str) -> UUID:
    """The uuid of a distinct id, for ever: uuid5 of "<project>:<distinct_id>"."""
    name = f"{project}:{distinct_id}".encode("utf-8", "surrogatepass")
    digest = int.from_bytes(
        hashlib.sha1(_NAMESPACE + name, usedforsecurity=False).digest()[:16], "big"
    )
    return uuid_of(digest & _NOT_VERSION | _VERSION_5)


def uuid_of(number: int) -> UUID:
    """The uuid of 128 bits, without the questions that its constructor asks: 0.14 µs against
    1.1."""
    uuid = object.__new__(UUID)
    _set_int(uuid, number)
    _set_safe(uuid, _SAFE)
    return uuid


def partition_of(fragment: UUID, partitions: int) -> int:
    """The commands partition of a fragment, from the first 8 bytes of its uuid."""
    return partition_of_integer(fragment.int, partitions)


def partition_of_integer(fragment: int, partitions: int) -> int:
    """The same for who has the uuid's integer."""
    return (fragment >> 64) % partitions


def version_of(offset: int, generation: int = GENERATION_FIRST) -> int:
    return generation << OFFSET_BITS | offset


def offset_of(version: int) -> int:
    return version & _OFFSET_MAX


def check_order(fragment: UUID, version: int, own: UUID, own_version: int) -> None:
    """A fact must be of whom it is applied to, and newer. Raises ValueError."""
    if fragment is not own and fragment != own:
        raise ValueError("a fact of another fragment")
    if version <= own_version:
        raise ValueError("a fact that is not newer than the one before it")


def generation_of(version: int) -> int:
    return version >> OFFSET_BITS


def position_of(topic: str, partition: int, version: int) -> Position:
    """The position whose version this is: of a fact, or of a position row."""
    if version == 0:
        return Position(topic, partition, -1)
    generation, offset = version >> OFFSET_BITS, version & _OFFSET_MAX
    if (
        offset == _OFFSET_MAX
    ):  # no log gets there: before the first of the next generation
        return Position(topic, partition, -1, generation + 1)
    return Position(topic, partition, offset, generation)


def number_of(partition: int, version: int) -> int:
    """The wire's integer id of the fragment born by the record at (partition, version); below
    2**53."""
    return (
        offset_of(version) << (NUMBER_PARTITION_BITS + NUMBER_GENERATION_BITS)
        | partition << NUMBER_GENERATION_BITS
        | version >> OFFSET_BITS
    )


def position_key(topic: str, partition: int) -> UUID:
    """The fragment column of a position row (project 0); its first 8 bytes lead to the same
    partition.

    The topic's letter sits in the last byte, so that rows of different topics never meet in one
    table.
    """
    return UUID(int=partition << 64 | ord(TOPIC_LETTERS[topic]))


def partition_of_key(key: UUID) -> tuple[str, int] | None:
    """(topic, partition) that a position row's key is of; None for any other uuid."""
    topic, partition = _TOPICS_BY_LETTER.get(key.int & 0xFF), key.int >> 64
    return (
        (topic, partition)
        if topic is not None and position_key(topic, partition) == key
        else None
    )


def hash64(text: str | bytes) -> int:
    """A stable 64-bit hash, for recent keys: 32 of them collide once in 10**16."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")


def is_anonymous(distinct_id: str) -> bool:
    """Five groups of lowercase letters or digits joined by four dashes: what SDKs make up for a
    device."""
    return _ANONYMOUS.fullmatch(distinct_id) is not None


def format_positions(positions: list[Position] | tuple[Position, ...]) -> str:
    """The `Position` header: `c.17.123456,i.2.88.3`, the highest offset of each partition; behind
    it the generation, which the first one leaves out."""
    if len(positions) == 1:
        return _format_position(TOPIC_LETTERS[positions[0].topic], positions[0])
    highest: dict[tuple[str, int], Position] = {}
    for position in positions:
        key = (TOPIC_LETTERS[position.topic], position.partition)
        if key not in highest or position.version > highest[key].version:
            highest[key] = position
    return ",".join(
        [
            _format_position(letter, position)
            for (letter, _), position in sorted(highest.items())
        ]
    )


def parse_positions(text: str, attr: str | None = None) -> list[Position]:
    """The positions of a token, of the header Min-Position or the field `attr`; BadInput if any
    part is malformed."""
    topics = {letter: topic for topic, letter in TOPIC_LETTERS.items()}
    parts = [piece.strip() for piece in text.split(",")]
    if len(parts) > POSITIONS_IN_TOKEN_MAX:
        raise BadInput(f"More than {POSITIONS_IN_TOKEN_MAX} positions.", attr=attr)
    positions = []
    for piece in parts:
        match = _TOKEN.fullmatch(piece)
        if match is None:
            name = attr or "Min-Position"
            raise BadInput(
                f"{name} must look like c.17.123456, several joined by commas.",
                attr=attr,
            )
        generation = int(match[4]) if match[4] else GENERATION_FIRST
        if not GENERATION_FIRST <= generation <= GENERATIONS_MAX:
            raise BadInput(
                f"There are generations {GENERATION_FIRST} to {GENERATIONS_MAX}.",
                attr=attr,
            )
        positions.append(
            Position(topics[match[1]], int(match[2]), int(match[3]), generation)
        )
    return positions


def _format_position(letter: str, position: Position) -> str:
    _, partition, offset, generation = position
    later = f".{generation}" if generation != GENERATION_FIRST else ""
    return f"{letter}.{partition}.{offset}{later}"
