"""Commands as they lie in the log. The golden bytes change only with a line in CHANGELOG.md."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from shared.domain.commands import (
    Cancel,
    Capture,
    Command,
    Delete,
    Erase,
    MergePersons,
    Purge,
    RecordBlock,
    RequestDeletion,
    Restore,
    Restored,
    Revive,
    Scope,
    SplitPerson,
    Write,
    decode,
    encode,
    route,
)
from shared.domain.errors import BadRecord
from shared.domain.ids import COMMANDS, DELETIONS, IDENTITY, fragment_id, partition_of
from shared.domain.person import fragment_events, identity_events

GOLDEN = Path(__file__).parents[1] / "golden"
ONE, TWO = UUID(int=1), UUID(int=2)
A, B = fragment_id(1, "a"), fragment_id(1, "b")
ENVELOPE = {"id": ONE, "project": 1, "at": 1_700_000_000_000_000, "actor": "key:1"}

EXAMPLES: dict[str, Command] = {
    "capture": Capture(
        **ENVELOPE, fragment=A, distinct_id="a", uuid=TWO, event="$set", timestamp=1_699_999_999_000_000,
        properties=msgspec.Raw(b'{"x":1.0}'), set={"plan": "pro"}, lifted={"$os": "Linux"}, set_once={"first": None},
        unset=("old",), historical=True,
    ),
    "write": Write(**ENVELOPE, key=7, fragment=A, distinct_id="a", set={"n": 2**64 - 1}, expect=5, reason="update"),
    "erase": Erase(**ENVELOPE, fragment=A, iver=9),
    "revive": Revive(**ENVELOPE, fragment=A, iver=9),
    "purge": Purge(**ENVELOPE, fragment=A, names=("ssn", "first_ssn"), before=1_700_000_000_000_000, request=TWO),
    "purge of a project": RequestDeletion(
        **ENVELOPE, request=TWO, person=UUID(int=0), members=(), scope=Scope(purge="ssn")
    ),
    "record": RecordBlock(
        **ENVELOPE, fragment=A, uuid=TWO, session="s-1", window="w-1", object="home/1", start=7, length=9,
        started_at=1_699_999_998_000_000, ended_at=1_699_999_999_000_000,
    ),
    "merge": MergePersons(**ENVELOPE, into=A, source=B, into_id="a", source_id="b", mode="identify"),
    "merge of an import": MergePersons(
        **ENVELOPE, into=A, source=B, into_id="a", source_id="b", mode="alias", since=1_699_999_999_000_000
    ),
    "merge of the living": MergePersons(**ENVELOPE, into=A, source=B, mode="operator", into_erase=0, source_erase=9),
    "birth": Write(**ENVELOPE, fragment=A, distinct_id="a", iver=9, reason="merge"),
    "split": SplitPerson(**ENVELOPE, person=A, leave=(B,)),
    "delete": Delete(**ENVELOPE, person=A, request=TWO, scope=Scope(profile=True, events=True)),
    "restore": Restore(
        **ENVELOPE, key=3, digest=3, person=A, request=TWO, iver=9,
        members=(Restored(A, True, 5, 1_600_000_000_000_000), Restored(B, False, 0, 0)),
    ),
    "request": RequestDeletion(**ENVELOPE, request=TWO, person=A, members=(A, B), scope=Scope(recordings=True)),
    "cancel": Cancel(**ENVELOPE, request=TWO),
}  # fmt: skip


def test_commands_lie_in_the_log_as_they_always_did() -> None:
    golden = json.loads((GOLDEN / "commands.json").read_text())
    assert {name: encode(command).decode() for name, command in EXAMPLES.items()} == golden


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_command_comes_back_as_it_was(name: str) -> None:
    assert encode(decode(encode(EXAMPLES[name]))) == encode(EXAMPLES[name])


def test_the_topics_of_stored_events_never_change() -> None:
    classes = [*vars(fragment_events).values(), *vars(identity_events).values()]
    topics = sorted({one.TOPIC for one in classes if isinstance(one, type) and isinstance(vars(one).get("TOPIC"), str)})
    assert topics == json.loads((GOLDEN / "topics.json").read_text())


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"[]", b"{}", b'{"op":"nothing"}', b'{"op":"write"}', b"\xff", b"[" * 100_000, b'{"op":"erase"}'],
)
def test_what_is_no_command_is_a_bad_record(value: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(value)


def test_a_fragments_commands_go_to_its_partition_and_a_projects_identity_to_one() -> None:
    counts = {COMMANDS: 16, IDENTITY: 4, DELETIONS: 1}
    for name in ("capture", "write", "erase", "revive", "record"):
        assert route(EXAMPLES[name], counts) == (COMMANDS, partition_of(A, 16), A.bytes)
    for name in ("merge", "split", "delete", "restore"):
        assert route(EXAMPLES[name], counts) == (IDENTITY, 1, b"1")
    for name in ("request", "cancel"):
        assert route(EXAMPLES[name], counts) == (DELETIONS, 0, b"1")
