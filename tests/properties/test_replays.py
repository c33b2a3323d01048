"""A dead letter that is replayed late: it counts at the time it was received, and brings nobody back.

Against a model of one fragment: what is replayed is folded as if it had come in time, or not at all when a deletion
came in between. And each rule taken away alone is missed.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid5

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.commands import REPLAYED, Capture, Delete, Erase, MergePersons, Write, decode, encode
from shared.domain.errors import NewerVersion
from shared.domain.ids import fragment_id, version_of
from shared.domain.person import fragment as fragments
from shared.domain.person import identity
from shared.domain.person.fragment import FoldOutcome, Fragment
from shared.domain.person.identity import Membership, handle

ANN, BOB = fragment_id(1, "ann"), fragment_id(1, "bob")
SPACE = UUID(int=1)

Step = tuple[str, int, bool]
"""What happens: a kind, which value, and whether it goes to the dead letters first."""

STEPS = st.lists(
    st.tuples(st.sampled_from(["set", "once", "event", "erase"]), st.integers(0, 3), st.booleans()), max_size=12
)


def command_at(index: int, kind: str, value: int) -> Write | Capture | Erase:
    at, common = 1_000 * (index + 1), {"id": uuid5(SPACE, str(index)), "project": 1, "fragment": ANN}
    if kind == "erase":
        return Erase(**common, at=at, iver=index + 1)
    if kind == "event":
        return Capture(
            **common, at=at, distinct_id="ann", uuid=uuid5(SPACE, f"e{index}"), event="e", timestamp=at + 7,
            set={"a": value},
        )  # fmt: skip
    changes = {"set": {"a": value}} if kind == "set" else {"set_once": {"a": value}}
    return Write(**common, at=at, distinct_id="ann", **changes)


def folded(commands: list[Write | Capture | Erase]) -> Fragment:
    fragment = Fragment(1, ANN)
    for offset, command in enumerate(commands):
        fragment.handle(command, version_of(offset), 0)
    return fragment


def check(steps: list[Step]) -> None:
    """Those that went to the dead letters come last, marked; the rest came in time."""
    timely: list[Write | Capture | Erase] = []
    dead: list[Write | Capture] = []
    erased_at = 0
    for index, (kind, value, failed) in enumerate(steps):
        command = command_at(index, kind, value)
        if isinstance(command, Erase):
            timely.append(command)
            erased_at = command.at
        elif failed:
            dead.append(command)
        else:
            timely.append(command)
    replayed = [msgspec.structs.replace(command, replayed=True) for command in dead]
    late = folded([*timely, *replayed])
    living = [command for command in dead if command.at > erased_at]
    if not any(not isinstance(one, Erase) and one.at > erased_at for one in timely) and not living:
        assert not late.alive
        assert late.properties == {}
    hard = [
        (command.at, command.set["a"])
        for command in [*timely, *living]
        if not isinstance(command, Erase) and command.at > erased_at and command.set
    ]
    if hard:
        assert late.properties["a"] == max(hard)[1]
    assert folded([*timely, *replayed, *replayed]).properties == late.properties


@given(STEPS)
def test_what_is_replayed_counts_when_it_was_received_or_not_at_all(steps: list[Step]) -> None:
    check(steps)


def _as_of_now(patch: pytest.MonkeyPatch) -> None:
    """What is replayed counts as if it came now."""
    meant = fragments.imported_at
    patch.setattr(
        fragments, "imported_at", lambda command: meant(msgspec.structs.replace(command, replayed=False))
    )


def _dropped_by_nobody(patch: pytest.MonkeyPatch) -> None:
    """What lies before an erasure is folded all the same."""
    for name in ("_write", "_capture"):
        whole: Callable[..., FoldOutcome] = getattr(Fragment, name)

        def forgetful(
            self: Fragment, *arguments: object, whole: Callable[..., FoldOutcome] = whole
        ) -> FoldOutcome:
            erased_at, self.erased_at = self.erased_at, 0
            outcome = whole(self, *arguments)
            self.erased_at = self.erased_at or erased_at
            return outcome

        patch.setattr(Fragment, name, forgetful)


@pytest.mark.parametrize("fault", [_as_of_now, _dropped_by_nobody])
def test_without_the_rule_it_is_seen(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    kinds = ("set", "erase", "event")
    wrong = 0
    for first in kinds:
        for second in kinds:
            try:
                check([(first, 1, True), (second, 2, False)])
            except AssertionError:
                wrong += 1
    assert wrong


def test_who_does_not_know_the_word_stops_and_folds_nothing_as_of_now() -> None:
    replayed = encode(msgspec.structs.replace(command_at(0, "set", 1), replayed=True))
    assert decode(replayed).replayed
    assert orjson.loads(replayed)["v"] == REPLAYED
    assert "v" not in orjson.loads(encode(command_at(0, "set", 1)))
    with pytest.raises(NewerVersion):
        decode(replayed.replace(b'"replayed":true', b'"another":true'))


class People:
    """Two persons and their identity."""

    def __init__(self) -> None:
        self.book = {one: Membership(1, one) for one in (ANN, BOB)}
        self.offset = 0

    def fold(self, command: MergePersons | Delete) -> FoldOutcome:
        self.offset += 1
        decision = handle(command, version_of(self.offset), self.book.__getitem__)
        for member in decision.touched:
            member.collect_events()
        return decision.outcome


def delete(at: int, *, replayed: bool = False) -> Delete:
    one, other = uuid5(SPACE, f"d{at}"), uuid5(SPACE, f"r{at}")
    return Delete(id=one, project=1, at=at, person=ANN, request=other, replayed=replayed)


def merge(at: int) -> MergePersons:
    return MergePersons(
        id=uuid5(SPACE, f"m{at}"), project=1, at=at, into=BOB, source=ANN, into_id="bob", source_id="ann", mode="alias",
        replayed=True,
    )  # fmt: skip


def test_a_merge_of_before_a_deletion_ties_nobody_to_who_was_deleted() -> None:
    people = People()
    people.fold(delete(2_000))
    assert people.fold(merge(1_000)) is FoldOutcome.DROPPED
    assert people.fold(merge(3_000)) is FoldOutcome.CHANGED


def test_a_deletion_of_before_another_takes_no_new_life() -> None:
    people = People()
    people.fold(delete(2_000))
    erase = people.book[ANN].erase
    assert people.fold(delete(1_000, replayed=True)) is FoldOutcome.DROPPED
    assert people.book[ANN].erase == erase
    assert people.fold(delete(3_000, replayed=True)) is FoldOutcome.CHANGED


def test_without_the_rule_of_deletions_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_deleted_after", lambda at, named: False)
    with pytest.raises(AssertionError):
        test_a_merge_of_before_a_deletion_ties_nobody_to_who_was_deleted()
    with pytest.raises(AssertionError):
        test_a_deletion_of_before_another_takes_no_new_life()
