"""Who is one person: docs/contract.md §8 and §13, "Identified, exactly", "Split, exactly"."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.domain.commands import Delete, Erase, MergePersons, RequestDeletion, Scope, SplitPerson, Write
from shared.domain.ids import fragment_id, version_of
from shared.domain.legal_ids import is_legal
from shared.domain.person import identity, identity_events
from shared.domain.person.fragment import FoldOutcome
from shared.domain.person.identity import Decision, Membership, handle


class Book:
    """The memberships of one project."""

    def __init__(self) -> None:
        self.rows: dict[UUID, Membership] = {}
        self.offset = 0

    def merge(self, into: str, source: str, mode: Any = "identify", key: int = 0, **seen: Any) -> Decision:
        ids = {} if mode == "operator" else {"into_id": into, "source_id": source}
        return self.fold(MergePersons(**self.common(key), into=of(into), source=of(source), mode=mode, **ids, **seen))

    def split(self, person: str, keep: str | None = None, leave: tuple[str, ...] = ()) -> Decision:
        kept = of(keep) if keep else None
        return self.fold(SplitPerson(**self.common(0), person=of(person), keep=kept, leave=tuple(map(of, leave))))

    def delete(self, person: str) -> Decision:
        scope = Scope(profile=True, events=True)
        return self.fold(Delete(**self.common(0), person=of(person), request=uuid4(), scope=scope))

    def fold(self, command: Any) -> Decision:
        self.offset += 1
        return handle(command, version_of(self.offset - 1), self.row)

    def common(self, key: int) -> dict[str, Any]:
        return {"id": uuid4(), "project": 1, "at": 1_000 + self.offset, "key": key}

    def row(self, fragment: UUID) -> Membership:
        return self.rows.setdefault(fragment, Membership(1, fragment))

    def person(self, name: str) -> list[str]:
        names = {of(one): one for one in "abcdefgh"}
        return [names[member] for member in self.row(self.row(of(name)).root).members]

    def identified(self, name: str) -> bool:
        return self.row(of(name)).identified


def of(name: str) -> UUID:
    return fragment_id(1, name)


def test_a_merge_appends_the_absorbed_members_in_their_own_order() -> None:
    book = Book()
    book.merge("a", "b", "operator")
    book.merge("c", "d", "operator")
    assert book.merge("c", "b", "operator").outcome is FoldOutcome.CHANGED
    assert book.person("a") == book.person("d") == ["c", "d", "a", "b"]


def test_an_identified_source_is_refused_except_by_force() -> None:
    book = Book()
    book.merge("b", "x")
    assert book.merge("a", "b").outcome is FoldOutcome.REFUSED
    assert book.person("a") == ["a"]
    assert book.merge("a", "b", "alias").outcome is FoldOutcome.REFUSED
    assert book.merge("a", "b", "dangerous").outcome is FoldOutcome.CHANGED


def test_a_refusal_is_a_fact_on_both_persons_and_marks_the_target_all_the_same() -> None:
    book = Book()
    book.merge("b", "x")
    decision = book.merge("a", "b")
    facts = [event for row in decision.touched for event in row.collect_events()]
    refusals = [event for event in facts if isinstance(event, identity_events.MergeRefused)]
    assert {event.originator_id for event in refusals} == {of("a"), of("b")}
    assert {event.reason for event in refusals} == {"already_identified"}
    assert book.identified("a")


def test_equal_or_illegal_ids_mark_nothing_and_an_operators_merge_neither() -> None:
    book = Book()
    assert book.merge("a", "a").outcome is FoldOutcome.NOTHING
    assert book.merge("a", "null").outcome is FoldOutcome.REFUSED
    book.merge("b", "c", "operator")
    assert not any(map(book.identified, "abc"))


def test_different_legal_ids_of_one_person_mark_the_target() -> None:
    book = Book()
    book.merge("a", "b", "operator")
    assert book.merge("b", "a").outcome is FoldOutcome.CHANGED
    assert (book.identified("b"), book.identified("a")) == (True, False)
    assert book.person("a") == ["a", "b"]


def test_the_flag_leaves_with_its_id_at_a_split_and_goes_at_a_delete() -> None:
    book = Book()
    book.merge("a", "b")
    book.split("a", leave=("a",))
    assert (book.identified("a"), book.identified("b")) == (True, False)
    book.delete("a")
    assert not book.identified("a")


def test_a_person_over_the_member_cap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MEMBERS_MAX", 2)
    book = Book()
    assert book.merge("a", "b", "operator").outcome is FoldOutcome.CHANGED
    assert book.merge("a", "c", "operator").outcome is FoldOutcome.REFUSED
    assert book.person("a") == ["a", "b"]


def test_a_merge_with_a_key_that_was_seen_does_not_merge_again_after_a_split() -> None:
    book = Book()
    book.merge("a", "b", "dangerous", key=7)
    book.split("a", keep="a")
    assert book.merge("a", "b", "dangerous", key=7).outcome is FoldOutcome.DUPLICATE
    assert book.person("a") == ["a"]


def test_a_split_that_keeps_one_lets_all_others_leave() -> None:
    book = Book()
    for source in "bcd":
        book.merge("a", source, "operator")
    book.split("d", keep="c")
    assert [book.person(one) for one in "abcd"] == [["a"], ["b"], ["c"], ["d"]]


def test_when_the_root_leaves_the_first_remaining_member_becomes_the_root() -> None:
    book = Book()
    for source in "bcd":
        book.merge("a", source, "operator")
    book.split("a", leave=("a", "c"))
    assert [book.person(one) for one in "abcd"] == [["a"], ["b", "d"], ["c"], ["b", "d"]]


@pytest.mark.parametrize(("keep", "leave"), [("z", ()), (None, ("a", "b")), (None, ("z",))])
def test_a_split_that_names_nobody_who_can_leave_is_refused(keep: str | None, leave: tuple[str, ...]) -> None:
    book = Book()
    book.merge("a", "b", "operator")
    assert book.split("a", keep=keep, leave=leave).outcome is FoldOutcome.REFUSED
    assert book.person("a") == ["a", "b"]


def test_a_delete_dissolves_the_person_and_asks_every_member_to_be_erased() -> None:
    book = Book()
    book.merge("a", "b", "operator")
    decision = book.delete("b")
    erases = [one for one in decision.followups if isinstance(one, Erase)]
    requests = [one for one in decision.followups if isinstance(one, RequestDeletion)]
    assert [(one.fragment, one.iver) for one in erases] == [(of("a"), version_of(1)), (of("b"), version_of(1))]
    assert (requests[0].members, requests[0].scope) == ((of("a"), of("b")), Scope(profile=True, events=True))
    assert [book.person(one) for one in "ab"] == [["a"], ["b"]]
    assert book.row(of("a")).erase == version_of(1)


def test_a_deletes_followups_have_the_same_ids_when_it_is_folded_again() -> None:
    command = Delete(id=uuid4(), project=1, at=5, person=of("a"), request=uuid4())
    first = handle(command, version_of(0), Book().row).followups
    second = handle(command, version_of(0), Book().row).followups
    assert first == second


@pytest.mark.parametrize(
    "name",
    ["", "  ", "anonymous", "GUEST", "Distinct_Id", "undefined", "TRUE", "[object Object]", "NaN", "None", "none",
     "null", "0", '"null"', "'anonymous'", "a\x00b", "x" * 401],
)  # fmt: skip
def test_ids_that_never_merge(name: str) -> None:
    assert not is_legal(name)


@pytest.mark.parametrize("name", ["NULL", "nan", "00", "anonymous-user", "x" * 400, "ada"])
def test_ids_that_do(name: str) -> None:
    assert is_legal(name)


@pytest.mark.parametrize("deleted", ["a", "b"])
def test_an_imported_merge_of_before_a_delete_ties_nobody_and_marks_nobody(deleted: str) -> None:
    book = Book()
    book.merge("a", "c", "operator")
    book.delete(deleted)
    asked_at = book.row(of(deleted)).erased_at
    decision = book.merge("a", "b", key=7, since=asked_at - 1)
    assert (decision.outcome, decision.touched, decision.followups) == (FoldOutcome.DROPPED, (), ())
    assert book.person("b") == ["b"] and not book.identified("a")
    later = book.merge("a", "b", key=7, since=asked_at)  # of the new life, and the key is free
    assert later.outcome is FoldOutcome.CHANGED
    assert "b" in book.person("a") and book.identified("a")


def test_a_delete_of_somebody_else_in_the_person_drops_no_import() -> None:
    book = Book()
    book.delete("d")
    book.merge("a", "d", "operator")
    assert book.merge("a", "b", since=1).outcome is FoldOutcome.CHANGED


def test_of_a_delete_of_unknown_time_every_import_is_of_before() -> None:
    book = Book()
    book.delete("b")
    book.row(of("b")).erased_at = 0  # as a store of before this was kept has it
    assert book.merge("a", "b", since=10**15).outcome is FoldOutcome.DROPPED
    assert book.merge("a", "b").outcome is FoldOutcome.CHANGED


@pytest.mark.parametrize("deleted", ["a", "b"])
def test_an_operators_merge_is_refused_when_one_was_deleted_after_it_was_found(deleted: str) -> None:
    book = Book()
    book.delete(deleted)
    seen = {"into_erase": book.row(of("a")).erase, "source_erase": book.row(of("b")).erase}
    book.delete(deleted)
    decision = book.merge("a", "b", "operator", **seen)
    assert decision.outcome is FoldOutcome.REFUSED
    facts = [event for row in decision.touched for event in row.collect_events()]
    refused = [event for event in facts if isinstance(event, identity_events.MergeRefused)]
    assert {(event.originator_id, event.reason) for event in refused} == {
        (of("a"), "deleted"), (of("b"), "deleted"),
    }  # fmt: skip
    assert book.person("b") == ["b"]
    seen = {"into_erase": book.row(of("a")).erase, "source_erase": book.row(of("b")).erase}
    assert book.merge("a", "b", "operator", **seen).outcome is FoldOutcome.CHANGED


def test_an_operators_import_of_before_a_delete_is_refused() -> None:
    book = Book()
    book.delete("b")
    erase = book.row(of("b")).erase
    assert book.merge("a", "b", "operator", since=1, source_erase=erase).outcome is FoldOutcome.REFUSED


def test_who_was_ever_deleted_is_born_again_behind_its_erase_record_when_a_capture_merges_it() -> None:
    book = Book()
    assert book.merge("c", "d").followups == ()
    book.delete("b")
    decision = book.merge("a", "b", since=book.row(of("b")).erased_at + 1)
    (birth,) = decision.followups
    assert isinstance(birth, Write)
    assert (birth.fragment, birth.distinct_id, birth.iver) == (of("b"), "b", book.row(of("b")).erase)
    assert birth.since == book.row(of("b")).erased_at + 1
    again = MergePersons(**book.common(0) | {"id": UUID(int=5)}, into=of("e"), source=of("b"), mode="dangerous")
    assert book.fold(again).followups == ()  # it does not say which id that is


def test_a_long_id_is_born_as_it_is_kept() -> None:
    book, sent = Book(), "x" * 300
    kept = fragment_id(1, sent[:200])
    book.fold(Delete(**book.common(0), person=kept, request=uuid4(), scope=Scope(profile=True)))
    merge = MergePersons(**book.common(0), into=of("a"), source=kept, into_id="a", source_id=sent, mode="identify")
    (birth,) = book.fold(merge).followups
    assert isinstance(birth, Write) and birth.distinct_id == sent[:200]
