"""Whether a log is the tables' own: each difference has a kind, and one line that says what to do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shared.domain.errors import LogUnavailable
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, Position, hash64
from shared.log.doubts import Doubts, Witness
from shared.log.identity import Evidence, Generation, LogIdentity, Mismatch, compare

COUNTS = {COMMANDS: 16, IDENTITY: 4, DELETIONS: 1, DEAD: 1}
CLUSTER = LogIdentity(id="cluster", topics={topic: f"id of {topic}" for topic in COUNTS}, partitions=COUNTS)
KNOWN = Generation(number=1, identity=CLUSTER)
FILE = LogIdentity(id="file", partitions=COUNTS)


def changed(**fields: Any) -> LogIdentity:
    return msgspec.structs.replace(CLUSTER, **fields)


def at(
    offset: int, record: int = 0, *, start: int = 0, head: int = 100, found: int | None = None, **of: int
) -> Evidence:
    position = Position(COMMANDS, 3, offset, of.get("generation", 1))
    log = of.get("log", 1)
    return Evidence(position, record, Position(COMMANDS, 3, start, log), Position(COMMANDS, 3, head, log), found)


def test_the_same_log_is_the_tables_own() -> None:
    assert compare(KNOWN, CLUSTER, [at(100, 7, found=7), at(-1), at(50, 7), at(50, found=7)]) is None


@pytest.mark.parametrize(
    ("kind", "actual"),
    [
        ("removed", LogIdentity(id="")),
        ("removed", changed(partitions={COMMANDS: 16, DELETIONS: 1}, topics={})),
        ("another", changed(id="other")),
        ("another", changed(topics=CLUSTER.topics | {IDENTITY: "made anew"})),
        ("partitions", changed(partitions=COUNTS | {COMMANDS: 17})),
        ("partitions", changed(partitions=COUNTS | {IDENTITY: 8})),
    ],
)
def test_another_identity_is_a_mismatch(kind: str, actual: LogIdentity) -> None:
    check(compare(KNOWN, actual, []), kind)


@pytest.mark.parametrize(
    ("kind", "evidence"),
    [
        ("older", at(101)),
        ("older", at(100, 7, found=8)),
        ("older", at(0, head=-1)),
        ("ended", at(5, generation=2)),
        ("passed", at(9, start=11)),
        ("passed", at(-1, start=1)),
        ("behind", at(50, start=1, generation=1, log=2)),
    ],
)
def test_partitions_that_do_not_fit_are_a_mismatch(kind: str, evidence: Evidence) -> None:
    for known in (KNOWN, None):
        check(compare(known, CLUSTER, [at(1), evidence]), kind)


def test_what_was_projected_may_be_forgotten() -> None:
    assert compare(KNOWN, CLUSTER, [at(10, 7, start=11), at(100, 7, start=101), at(-1, head=-1)]) is None


def test_a_position_of_a_former_generation_is_a_mismatch() -> None:
    """A renewal writes a position before the first record for each partition; tables of before it have none."""
    check(compare(KNOWN, CLUSTER, [at(5_000, 7, head=3, generation=1, log=2)]), "behind")


def test_dead_letters_may_be_made_anew() -> None:
    partitions = {topic: count for topic, count in COUNTS.items() if topic != DEAD}
    assert compare(KNOWN, changed(partitions=partitions), []) is None
    assert compare(KNOWN, changed(topics=CLUSTER.topics | {DEAD: "made anew"}), []) is None


def test_brokers_without_topic_ids_are_compared_by_the_rest() -> None:
    assert compare(KNOWN, changed(topics={}), []) is None
    assert compare(Generation(number=1, identity=FILE), FILE, []) is None


def test_an_identity_is_stored_and_read() -> None:
    assert msgspec.json.decode(msgspec.json.encode(CLUSTER), type=LogIdentity) == CLUSTER


def test_an_offset_that_does_not_rise_is_doubted_until_it_is_explained() -> None:
    doubts = Doubts()
    doubts.rises(Position(COMMANDS, 0, 0), doubts.floor(COMMANDS, 0))
    doubts.raised(Position(COMMANDS, 0, 9))
    doubts.rises(Position(COMMANDS, 0, 10), doubts.floor(COMMANDS, 0))
    for offset in (9, 0, 11):  # the last one would be right, were there no doubt
        with pytest.raises(LogUnavailable):
            doubts.rises(Position(COMMANDS, 0, offset), doubts.floor(COMMANDS, 0))
    assert doubts.count == 2
    doubts.trust(1)
    assert doubts.pending
    doubts.trust(2)
    doubts.rises(Position(COMMANDS, 0, 0), doubts.floor(COMMANDS, 0))


def test_a_log_that_became_shorter_is_doubted_and_one_that_grew_since_is_not() -> None:
    doubts = Doubts()
    doubts.heads([Position(COMMANDS, 0, 5)], doubts.seen())
    before = doubts.seen()
    doubts.raised(Position(COMMANDS, 0, 7))  # appended while the log was asked
    doubts.heads([Position(COMMANDS, 0, 6)], before)
    assert not doubts.pending
    assert doubts.floor(COMMANDS, 0) == 7
    doubts.heads([Position(COMMANDS, 0, 6)], doubts.seen())
    assert doubts.pending


def test_what_a_process_has_seen_stays_its_witness_when_a_doubt_is_explained() -> None:
    doubts = Doubts()
    doubts.heads([Position(COMMANDS, 0, -1), Position(COMMANDS, 1, 5)], doubts.seen())
    doubts.raised(Position(COMMANDS, 0, 3), b"mine")
    doubts.raised(Position(COMMANDS, 0, 2), b"older")
    doubts.add()
    assert doubts.trust(1)
    assert doubts.witnesses(COMMANDS) == {
        0: Witness(Position(COMMANDS, 0, 3), b"mine"),
        1: Witness(Position(COMMANDS, 1, 5), None),
    }
    assert [witness.record for witness in doubts.witnesses(COMMANDS).values()] == [hash64(b"mine"), 0]
    assert doubts.witnesses(IDENTITY) == {}


def test_a_log_that_lacks_what_this_process_has_seen_is_an_older_copy() -> None:
    start, seen = Position(COMMANDS, 0, 0), Position(COMMANDS, 0, 9)
    for head, found in ((Position(COMMANDS, 0, 8), None), (Position(COMMANDS, 0, 12), 2)):
        check(compare(None, None, [Evidence(seen, 1, start, head, found, process=True)]), "older")
    later = Position(COMMANDS, 0, 20)
    assert compare(None, None, [Evidence(seen, 1, later, later, process=True)]) is None, "others went on, and retention"


def check(mismatch: Mismatch | None, kind: str) -> None:
    assert mismatch is not None
    assert mismatch.kind == kind
    assert "\n" not in mismatch.line
    assert "`personlog log renew`" in mismatch.line
