"""Taking a deletion back: the folds of `restore` and `revive`, the ledger's states, and the command that is made."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from services.deleter.ledger import decide
from services.deleter.restores import delete_version, restore
from services.deleter.sweep.planner import Tombstone
from shared.domain.commands import (
    Cancel,
    Capture,
    Erase,
    MergePersons,
    RequestDeletion,
    Restore,
    Restored,
    Revive,
    Scope,
    Write,
)
from shared.domain.deletion import OPEN, DeletionRequest, load
from shared.domain.errors import Rejected
from shared.domain.ids import fragment_id, version_of
from shared.domain.person.fragment import HOUR_US, FoldOutcome, Fragment
from shared.domain.person.fragment_events import FragmentErased, FragmentEvent, FragmentPurged, FragmentRestored
from shared.domain.person.identity import Decision
from shared.domain.person.identity_events import PersonRestored
from shared.domain.restore import ClosedLife
from tests.unit.test_identity import Book, of

KEY = fragment_id(1, "ada")
AT = 1_700_000_000_000_000


class Lives:
    """A fragment with all its facts, from which closed lives are folded."""

    def __init__(self) -> None:
        self.fragment, self.offset = Fragment(1, KEY), 0
        self.facts: list[FragmentEvent] = []
        self.seen: list[tuple[int, int]] = []

    def write(self, at: int = 0, **changes: Any) -> FoldOutcome:
        common = {"id": uuid4(), "project": 1, "at": at or 1_000 + self.offset}
        return self.fold(Write(**common, fragment=KEY, distinct_id="ada", **changes))

    def capture(self, hour: int, **changes: Any) -> FoldOutcome:
        common = {"id": uuid4(), "project": 1, "at": 1_000 + self.offset, "fragment": KEY, "distinct_id": "ada"}
        self.seen.append((version_of(self.offset), hour * HOUR_US))
        return self.fold(Capture(**common, uuid=uuid4(), event="e", timestamp=hour * HOUR_US + 5, **changes))

    def erase(self, iver: int) -> FoldOutcome:
        return self.fold(Erase(id=uuid4(), project=1, at=1_000 + self.offset, fragment=KEY, iver=iver))

    def revive(self, iver: int, at: int = 0) -> FoldOutcome:
        return self.fold(Revive(id=uuid4(), project=1, at=at or 1_000 + self.offset, fragment=KEY, iver=iver))

    def fold(self, command: Any) -> FoldOutcome:
        version, life = version_of(self.offset), None
        if isinstance(command, Revive):
            life = self.life(command.iver, version)
        outcome = self.fragment.handle(command, version, 0, life)
        self.facts += self.fragment.collect_events()
        self.offset += 1
        return outcome

    def life(self, iver: int, version: int) -> Fragment:
        facts = [fact for fact in self.facts if fact.originator_version < version]
        ends = [fact for fact in facts if isinstance(fact, FragmentErased | FragmentRestored | FragmentPurged)]
        life = ClosedLife(1, KEY, iver, ends)
        for fact in facts:
            if fact.originator_version >= life.since:
                life.replay(fact)
        for seen, hour in self.seen:
            if life.since < seen < version:
                life.observe_event(hour)
        return life.fragment

    def told(self) -> tuple[Any, ...]:
        """All that readers see of the fragment, and what later folds depend on."""
        one = self.fragment
        return (
            one.properties, one.cells, one.distinct_id, one.number, one.created_at, one.seen_at, one.erased,
            one.erased_at,
        )  # fmt: skip


class TestFragment:
    def test_a_restored_fragment_is_what_it_was_before_the_erasure(self) -> None:
        one = Lives()
        one.capture(7, set={"plan": "pro"}, set_once={"first": 1})
        one.write(unset=("plan",), set={"n": None})
        before, stamp = one.told(), one.fragment.stamp
        assert one.erase(50) is FoldOutcome.CHANGED
        assert one.fragment.properties == {}
        assert one.revive(50) is FoldOutcome.CHANGED
        assert one.told() == before
        assert one.fragment.restored == 50
        assert one.fragment.stamp >= stamp
        assert one.fragment.effect == one.fragment.version == version_of(one.offset - 1)

    def test_what_was_sent_after_the_erasure_joins_the_restored_life(self) -> None:
        one = Lives()
        one.capture(9, set={"plan": "pro", "kept": 1}, set_once={"first": 1})
        created, number = one.fragment.created_at, one.fragment.number
        one.erase(50)
        one.capture(3, set={"plan": "free"}, set_once={"first": 2, "second": 2})
        one.revive(50)
        assert one.fragment.properties == {"plan": "free", "kept": 1, "first": 1, "second": 2}
        assert (one.fragment.created_at, one.fragment.number) == (created, number)
        assert one.fragment.seen_at == 9 * HOUR_US

    def test_an_erase_record_that_comes_after_the_restore_erases_nothing(self) -> None:
        one = Lives()
        one.write(set={"a": 1})
        one.erase(50)
        one.revive(50)
        assert one.erase(50) is FoldOutcome.NOTHING
        assert one.revive(50) is FoldOutcome.NOTHING
        assert one.fragment.properties == {"a": 1}
        assert one.erase(60) is FoldOutcome.CHANGED

    def test_a_revival_of_what_was_erased_again_does_nothing(self) -> None:
        one = Lives()
        one.write(set={"a": 1})
        one.erase(50)
        one.erase(60)
        assert one.revive(50) is FoldOutcome.NOTHING
        assert one.fragment.properties == {}

    def test_a_former_life_stays_erased(self) -> None:
        one = Lives()
        one.write(set={"former": 1})
        one.erase(40)
        one.write(set={"present": 1})
        before = one.told()
        one.erase(50)
        one.revive(50)
        assert one.told() == before
        assert one.fragment.erased == 40

    def test_deletes_are_taken_back_one_after_the_other_and_their_late_erase_records_do_nothing(self) -> None:
        one = Lives()
        one.write(set={"first": 1})
        one.erase(50)
        one.write(set={"second": 1})
        one.erase(60)
        assert one.revive(60) is FoldOutcome.CHANGED
        assert (one.fragment.properties, one.fragment.erased) == ({"second": 1}, 50)
        assert one.revive(50) is FoldOutcome.CHANGED
        assert (one.fragment.properties, one.fragment.erased) == ({"first": 1, "second": 1}, 0)
        for late in (50, 60):
            assert one.erase(late) is FoldOutcome.NOTHING

    def test_a_life_that_was_restored_before_is_restored_again(self) -> None:
        one = Lives()
        one.write(set={"a": 1})
        one.erase(50)
        one.revive(50)
        one.write(set={"b": 2})
        before = one.told()
        one.erase(60)
        one.revive(60)
        assert one.told() == before
        assert one.erase(50) is FoldOutcome.NOTHING

    def test_retries_are_recognised_across_a_restore(self) -> None:
        one = Lives()
        one.write(set={"a": 1}, key=7, digest=7)
        one.erase(50)
        one.revive(50)
        assert one.write(set={"a": 2}, key=7, digest=7) is FoldOutcome.DUPLICATE

    def test_a_fragment_that_never_lived_is_restored_to_nothing(self) -> None:
        one = Lives()
        one.erase(50)
        assert one.revive(50) is FoldOutcome.CHANGED
        assert (one.fragment.alive, one.fragment.erased) == (False, 0)


class TestIdentity:
    def restore(self, book: Book, iver: int, *members: str, key: int = 9, **before: Any) -> Decision:
        told = {"identified": False, "erase": 0, "erased_at": 0} | before
        return book.fold(
            Restore(
                id=uuid4(),
                project=1,
                at=5_000,
                key=key,
                digest=key,
                person=of(members[0]),
                request=uuid4(),
                iver=iver,
                members=tuple(Restored(of(name), **told) for name in members),
            )
        )

    def deleted(self, *names: str) -> tuple[Book, int]:
        book = Book()
        for name in names[1:]:
            book.merge(names[0], name, "operator")
        book.delete(names[0])
        return book, version_of(book.offset - 1)

    def test_all_members_are_one_person_again(self) -> None:
        book, iver = self.deleted("a", "b", "c")
        decision = self.restore(book, iver, "a", "b", "c", identified=True, erase=3, erased_at=4)
        assert decision.outcome is FoldOutcome.CHANGED
        assert book.person("c") == ["a", "b", "c"]
        for name in "abc":
            one = book.row(of(name))
            assert (one.root, one.identified, one.erase, one.erased_at) == (of("a"), True, 3, 4)
        facts = [fact for one in decision.touched for fact in one.collect_events() if isinstance(fact, PersonRestored)]
        assert len(facts) == 3
        revived = [one for one in decision.followups if isinstance(one, Revive)]
        assert [(one.fragment, one.iver) for one in revived] == [(of(name), iver) for name in "abc"]
        assert len({one.id for one in revived}) == 3

    def test_a_member_that_belongs_to_somebody_else_refuses_the_whole(self) -> None:
        for into, source in (("x", "b"), ("b", "x"), ("a", "c")):
            book, iver = self.deleted("a", "b", "c")
            book.merge(into, source, "operator")
            decision = self.restore(book, iver, "a", "b", "c")
            assert (decision.outcome, decision.followups) == (FoldOutcome.REFUSED, ())
            (told,) = [fact for fact in decision.touched[0].collect_events() if fact.TOPIC == "person.restore_refused"]  # type: ignore[attr-defined]
            assert told.reason == "belongs_to_another"  # type: ignore[attr-defined]
            assert book.row(of("c")).erase == iver

    def test_a_member_that_was_deleted_again_refuses_the_whole(self) -> None:
        book, iver = self.deleted("a", "b")
        book.delete("b")
        decision = self.restore(book, iver, "a", "b")
        assert decision.outcome is FoldOutcome.REFUSED
        assert decision.touched[0].collect_events()[-1].reason == "deleted_again"
        assert book.person("a") == ["a"]

    def test_what_was_identified_meanwhile_stays_so(self) -> None:
        book, iver = self.deleted("a", "b")
        book.merge("b", "email", "identify")  # an id that never merges: nothing
        book.rows[of("b")].identified = True
        self.restore(book, iver, "a", "b")
        assert (book.identified("a"), book.identified("b")) == (False, True)

    def test_the_same_restore_twice_counts_once(self) -> None:
        book, iver = self.deleted("a", "b")
        assert self.restore(book, iver, "a", "b", key=7).outcome is FoldOutcome.CHANGED
        book.merge("a", "d", "operator")
        assert self.restore(book, iver, "a", "b", key=7).outcome is FoldOutcome.DUPLICATE
        assert book.person("d") == ["a", "b", "d"]

    def test_a_record_that_is_redelivered_is_skipped(self) -> None:
        book, iver = self.deleted("a", "b")
        self.restore(book, iver, "a", "b")
        book.offset -= 1
        assert self.restore(book, iver, "a", "b").outcome is FoldOutcome.SKIPPED


def asked(scope: Scope, *members: UUID) -> RequestDeletion:
    return RequestDeletion(
        id=uuid4(), project=1, at=AT, request=uuid4(), person=members[0], members=members, scope=scope
    )


class TestLedger:
    def test_a_cancelled_deletion_of_a_profile_waits_for_the_restore(self) -> None:
        command = asked(Scope(profile=True, events=True), of("a"), of("b"))
        cancel = Cancel(id=uuid4(), project=1, at=AT + 1, actor="key:1", request=command.request)
        (request,) = decide([command, cancel], {})
        assert (request.state, request.cancellable) == ("cancelling", False)
        assert request.state in OPEN
        assert decide([cancel], {request.id: request}) == []
        for step in (lambda: request.begin(uuid4(), AT), lambda: request.fail("", AT)):
            with pytest.raises(Rejected):
                step()
        request.restored(AT + 2)
        again = load(request.id, request.document(None))
        assert (again.state, again.canceller) == ("cancelled", "key:1")
        assert [fact["topic"] for fact in again.history] == [
            "deletion.requested", "deletion.cancelling", "deletion.cancelled",
        ]  # fmt: skip

    def test_a_refused_cancel_leaves_the_request_to_the_window_and_says_why(self) -> None:
        request = DeletionRequest.of(asked(Scope(profile=True), of("a")))
        request.cancel("", AT + 1)
        request.refuse("belongs_to_another", AT + 2)
        again = load(request.id, request.document("2026-11-29T05:00:00Z"))
        assert (again.state, again.refusal, again.cancels) == ("pending", "belongs_to_another", 1)
        again.cancel("", AT + 3)
        assert (again.state, again.cancels, again.refusal) == ("cancelling", 2, "")
        again.refuse("deleted_again", AT + 4)
        again.begin(uuid4(), AT + 5)
        assert again.plan is not None

    def test_who_has_nobody_to_restore_is_cancelled_at_once(self) -> None:
        request = DeletionRequest.of(asked(Scope(events=True, recordings=True), of("a")))
        request.cancel("", AT + 1)
        assert request.state == "cancelled"
        for step in (lambda: request.restored(AT), lambda: request.refuse("", AT)):
            with pytest.raises(Rejected):
                step()

    def test_a_history_of_before_restores_still_loads(self) -> None:
        request = DeletionRequest.of(asked(Scope(profile=True), of("a")))
        request.cancel("", AT + 1)
        request.restored(AT + 2)
        old = request.document(None).replace(b"deletion.cancelling", b"deletion.cancelled", 1)
        assert load(request.id, old).state == "cancelled"


class TestCommand:
    def test_a_restore_is_the_same_however_often_it_is_made(self) -> None:
        request = DeletionRequest.of(asked(Scope(profile=True), of("a"), of("b")))
        request.cancel("key:1", AT + 1)
        made = [restore(request, UUID(int=5), 50, {of("b"): (True, 40, 7)}) for _ in range(2)]
        assert made[0] == made[1]
        assert made[0].members == (Restored(of("a"), False, 0, 0), Restored(of("b"), True, 40, 7))
        assert (made[0].at, made[0].actor, made[0].person) == (AT + 1, "key:1", of("a"))
        assert made[0].key == made[0].digest != 0

    def test_the_delete_is_the_one_that_all_members_share(self) -> None:
        request = DeletionRequest.of(asked(Scope(profile=True), of("a"), of("b")))

        def deleted(name: str, iver: int, at: int) -> Tombstone:
            return Tombstone(of(name), "person.deleted", iver, iver, at)

        marks = [deleted("a", 50, AT), deleted("a", 40, AT - 5), Tombstone(of("a"), "fragment.erased", 7, 50, AT)]
        assert delete_version(request, marks) == 0
        assert delete_version(request, [*marks, deleted("b", 50, AT)]) == 50


def test_a_merge_between_two_restores_is_not_undone_by_the_older_one() -> None:
    """A restore in the log twice, the second past the memory of its key, finds another erase mark."""
    book = Book()
    book.merge("a", "b", "operator")
    book.delete("a")
    iver = version_of(book.offset - 1)
    command = Restore(
        id=uuid4(), project=1, at=5_000, key=1, digest=1, person=of("a"), request=uuid4(), iver=iver,
        members=(Restored(of("a"), False, 0, 0), Restored(of("b"), False, 0, 0)),
    )  # fmt: skip
    book.fold(command)
    for key in range(2, 40):
        book.fold(MergePersons(**book.common(key), into=of("a"), source=of("b"), mode="operator"))
    assert book.fold(command).outcome is FoldOutcome.REFUSED
    assert book.person("b") == ["a", "b"]
