"""The deletion request, the window and the planner. Never with a store."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest

from services.deleter.ledger import decide
from services.deleter.sweep.planner import Boundary, Tombstone, plan
from services.deleter.window import Window
from shared.domain.commands import Cancel, RequestDeletion, Scope
from shared.domain.deletion import DeletionRequest, load
from shared.domain.errors import Corrupt, Rejected
from shared.store import targets
from shared.store.targets import FRAGMENTS_MAX

AT = 1_700_000_000_000_000
ALL = Scope(profile=True, events=True, recordings=True)
EVENTS = Scope(events=True)


def asked(scope: Scope = ALL, members: tuple[UUID, ...] = (), at: int = AT) -> RequestDeletion:
    members = members or (uuid4(), uuid4())
    return RequestDeletion(
        id=uuid4(), project=1, at=at, request=uuid4(), person=members[0], members=members, scope=scope
    )


def cancelled(request: RequestDeletion, project: int = 1) -> Cancel:
    return Cancel(id=uuid4(), project=project, at=AT + 1, request=request.request)


def us(*parts: int) -> int:
    return round(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc,arg-type]


class TestRequest:
    def test_a_request_goes_its_whole_way_and_its_document_brings_it_back(self) -> None:
        request = DeletionRequest.of(asked())
        request.begin(uuid4(), AT + 1)
        request.hide({"timeline": 3, "fragments": 1}, {"timeline": {"202501": 3}, "fragments": {"all": 1}}, AT + 2)
        request.erase(0, 2, AT + 3)
        request.erase(2, 2, AT + 4)
        request.fail("rows are left", AT + 5)
        request.retry(AT + 6)
        request.begin(uuid4(), AT + 7)
        request.hide({"timeline": 3, "fragments": 1}, {"timeline": {"202501": 3}, "fragments": {"all": 1}}, AT + 8)
        request.erase(1, 1, AT + 9)
        request.verify({"timeline": 0, "fragments": 0}, AT + 10)
        document = request.document("2026-11-29T05:00:00Z")
        again = load(request.id, document)
        assert again == request
        assert (again.state, again.version, again.cutoff, again.updated_at) == ("verified", 11, AT, AT + 10)
        assert again.document("2026-11-29T05:00:00Z") == document
        shown = msgspec.json.decode(document)
        assert shown["phases"]["timeline"] == {"hidden": 3, "remaining": 0}
        assert shown["phases"]["fragments"] == {"hidden": 1, "remaining": 0}
        assert len(shown["phases"]) == 2
        assert shown["partition"] == {"done": 1, "of": 1}
        assert shown["window"] is None

    def test_the_topics_of_the_history_never_change(self) -> None:
        assert [
            kind.TOPIC
            for kind in (
                DeletionRequest.Requested, DeletionRequest.HidingBegan, DeletionRequest.Hidden,
                DeletionRequest.Erasing, DeletionRequest.Verified, DeletionRequest.Cancelling,
                DeletionRequest.CancelRefused, DeletionRequest.Cancelled, DeletionRequest.Failed,
                DeletionRequest.Retried,
            )
        ] == [
            "deletion.requested", "deletion.hiding_began", "deletion.hidden", "deletion.erasing",
            "deletion.verified", "deletion.cancelling", "deletion.cancel_refused", "deletion.cancelled",
            "deletion.failed", "deletion.retried",
        ]  # fmt: skip

    def test_a_request_can_be_cancelled_only_before_hiding_begins(self) -> None:
        request = DeletionRequest.of(asked())
        request.begin(uuid4(), AT + 1)
        assert request.state == "pending"
        with pytest.raises(Rejected):
            request.cancel("", AT + 2)
        early = DeletionRequest.of(asked(EVENTS))
        early.cancel("somebody", AT + 1)
        assert early.state == "cancelled"
        for step in (lambda: early.begin(uuid4(), AT), lambda: early.fail("", AT), lambda: early.retry(AT)):
            with pytest.raises(Rejected):
                step()

    def test_no_step_can_be_left_out(self) -> None:
        request = DeletionRequest.of(asked())
        for step in (
            lambda: request.hide({}, {}, AT),
            lambda: request.erase(0, 1, AT),
            lambda: request.verify({"timeline": 0}, AT),
            lambda: request.retry(AT),
        ):
            with pytest.raises(Rejected):
                step()
        assert request.version == 1

    def test_only_a_count_of_zero_verifies(self) -> None:
        request = DeletionRequest.of(asked())
        request.begin(uuid4(), AT)
        request.hide({"timeline": 1}, {"timeline": {"202501": 1}}, AT)
        for counts in ({}, {"timeline": 1}):
            with pytest.raises(Rejected):
                request.verify(counts, AT)
        assert request.state == "hidden"

    def test_a_history_that_cannot_be_replayed_is_corrupt(self) -> None:
        for document in (b"", b"{}", b'{"history":[]}', b'{"history":[{"topic":"deletion.unheard"}]}'):
            with pytest.raises(Corrupt):
                load(uuid4(), document)


class TestLedger:
    def test_a_request_that_is_taken_twice_counts_once(self) -> None:
        command = asked()
        (request,) = decide([command, command], {})
        request.begin(uuid4(), AT)
        assert decide([command], {request.id: request}) == []

    def test_a_cancel_that_comes_too_late_or_for_nobody_changes_nothing(self) -> None:
        command = asked()
        request = DeletionRequest.of(command)
        request.begin(uuid4(), AT)
        assert decide([cancelled(command)], {request.id: request}) == []
        assert decide([cancelled(command)], {}) == []
        assert decide([cancelled(command, project=2)], {request.id: DeletionRequest.of(command)}) == []

    def test_a_cancel_in_the_same_batch_is_heard(self) -> None:
        command = asked(EVENTS)
        (request,) = decide([command, cancelled(command)], {})
        assert (request.state, request.version) == ("cancelled", 2)


class TestWindow:
    def test_sunday_is_day_zero(self) -> None:
        window = Window(cron="0 5 * * 0", hours=6, zone="UTC")
        sunday = us(2026, 11, 29, 5)
        assert datetime(2026, 11, 29).strftime("%A") == "Sunday"
        assert window.next_opening(us(2026, 11, 23)) == sunday
        assert not window.open_at(sunday - 1)
        assert window.closes_at(sunday) == us(2026, 11, 29, 11)
        assert window.open_at(us(2026, 11, 29, 11) - 1)
        assert not window.open_at(us(2026, 11, 29, 11))
        assert window.next_opening(sunday) == us(2026, 12, 6, 5)

    def test_an_opening_in_the_hour_that_spring_skips_comes_right_after_it(self) -> None:
        window = Window(cron="30 2 * * *", hours=2, zone="Europe/Berlin")
        assert window.next_opening(us(2026, 3, 29)) == us(2026, 3, 29, 1)
        assert not window.open_at(us(2026, 3, 29, 0, 59))
        assert window.closes_at(us(2026, 3, 29, 1)) == us(2026, 3, 29, 3)

    def test_an_opening_in_the_hour_that_autumn_repeats_comes_once(self) -> None:
        window = Window(cron="30 2 * * *", hours=2, zone="Europe/Berlin")
        assert window.next_opening(us(2026, 10, 25)) == us(2026, 10, 25, 0, 30)
        for minute in (30, 59, 60, 90, 149):
            assert window.closes_at(us(2026, 10, 25) + minute * 60_000_000) == us(2026, 10, 25, 2, 30)
        assert not window.open_at(us(2026, 10, 25, 2, 30))
        assert window.next_opening(us(2026, 10, 25, 0, 30)) == us(2026, 10, 26, 1, 30)

    def test_a_window_lasts_its_hours_on_every_day(self) -> None:
        for zone in ("Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia"):
            window = Window(cron="15 0 * * *", hours=6, zone=zone)
            opening = us(2026, 1, 1)
            for _ in range(366):
                following = window.next_opening(opening)
                assert following is not None
                opening = following
                assert window.closes_at(opening) == opening + 6 * 3_600_000_000
                assert window.closes_at(opening + 6 * 3_600_000_000 - 1) == opening + 6 * 3_600_000_000


class TestPlan:
    def tombstones(self, member: UUID, at: int, iver: int, life: int) -> list[Tombstone]:
        return [
            Tombstone(member, "person.deleted", iver, iver, at),
            Tombstone(member, "fragment.erased", life, iver, at),
        ]

    def test_a_request_waits_until_every_member_is_erased(self) -> None:
        one, two = uuid4(), uuid4()
        request = DeletionRequest.of(asked(members=(one, two)))
        marks = self.tombstones(one, AT, 50, 7)
        assert plan([request], marks, {one: 50}, projected=True).waiting == [request]
        marks += self.tombstones(two, AT, 50, 9)
        assert plan([request], marks, {one: 50, two: 49}, projected=True).waiting == [request]
        ready = plan([request], marks, {one: 50, two: 50}, projected=True)
        assert ready.requests == [request]
        assert ready.boundaries[two] == Boundary(project=1, iver=50, life=9, captured=9, recorded=9)

    def test_a_request_reaches_only_the_life_that_it_ended(self) -> None:
        one = uuid4()
        request = DeletionRequest.of(asked(members=(one,)))
        marks = self.tombstones(one, AT - 9, 40, 3) + self.tombstones(one, AT, 50, 7)
        marks += self.tombstones(one, AT + 9, 60, 12)
        reach = plan([request], marks, {one: 60}, projected=True).boundaries[one]
        assert (reach.iver, reach.life) == (50, 7)

    def test_an_erase_record_that_was_overtaken_ends_the_life_as_well(self) -> None:
        one = uuid4()
        request = DeletionRequest.of(asked(members=(one,)))
        marks = [Tombstone(one, "person.deleted", 50, 50, AT), Tombstone(one, "fragment.erased", 7, 60, AT + 9)]
        assert plan([request], marks, {one: 60}, projected=True).boundaries[one].life == 7

    def test_who_shares_a_member_with_a_request_that_is_being_cancelled_waits(self) -> None:
        one, two = uuid4(), uuid4()
        older, newer = (DeletionRequest.of(asked(members=(one,), at=at)) for at in (AT, AT + 9))
        other = DeletionRequest.of(asked(EVENTS, (two,)))
        older.cancel("", AT + 10)
        marks = self.tombstones(one, AT, 50, 7) + self.tombstones(one, AT + 9, 60, 12)
        ready = plan([newer, other], marks, {one: 60}, projected=True, cancelling=[older])
        assert (ready.requests, ready.waiting) == ([other], [newer])
        assert plan([newer], marks, {one: 60}, projected=True).requests == [newer]

    def test_captured_events_wait_for_the_projector(self) -> None:
        request = DeletionRequest.of(asked(EVENTS))
        assert plan([request], [], {}, projected=False).waiting == [request]
        ready = plan([request], [], {}, projected=True)
        assert {(limit.captured_at, limit.life, limit.iver) for limit in ready.boundaries.values()} == {(AT, 0, 0)}

    def test_two_requests_for_one_fragment_reach_as_far_as_the_further_one(self) -> None:
        one = uuid4()
        requests = [DeletionRequest.of(asked(EVENTS, (one,), at)) for at in (AT, AT + 5)]
        assert plan(requests, [], {}, projected=True).boundaries[one].captured_at == AT + 5

    def test_a_statement_names_a_bounded_number_of_fragments(self) -> None:
        members = tuple(UUID(int=number) for number in range(FRAGMENTS_MAX + 1))
        ready = plan([DeletionRequest.of(asked(EVENTS, members))], [], {}, projected=True)
        sizes = [len(parameters["fragments"]) for parameters in ready.statements()]
        assert sizes == [FRAGMENTS_MAX, 1]


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.name)
def test_what_is_counted_is_what_is_hidden(target: targets.Target) -> None:
    def condition(query: str, end: str) -> str:
        return target.query(query).sql.partition("WHERE ")[2].partition(end)[0].strip()

    reach = condition("count", "GROUP BY")
    assert reach.startswith("project IN {projects:Array(UInt32)} AND fragment IN ")
    assert reach == condition("clear" if target.rows_stay else "hide", "AND {plan:UUID}")
