"""Identity: which fragments are one person. Merge, split and delete, folded one after the other for
a project.

Pure: no clock, no I/O, no randomness. Properties never move, so a split is lossless by
construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid5

import msgspec

from shared.domain.commands import (
    Command,
    Delete,
    Erase,
    IdentityCommand,
    MergePersons,
    RequestDeletion,
    Restore,
    Revive,
    SplitPerson,
    Write,
)
from shared.domain.ids import CAPTURED_ID_CHARS_MAX, fragment_id
from shared.domain.legal_ids import refusal
from shared.domain.person.fragment import FoldOutcome
from shared.domain.person.identity_events import (
    CommandRefused,
    FragmentIdentified,
    FragmentJoined,
    FragmentLeft,
    FragmentRerooted,
    MembershipEvent,
    MergeRefused,
    PersonDeleted,
    PersonMerged,
    PersonRestored,
    PersonSplit,
    RestoreRefused,
    SplitRefused,
)
from shared.domain.retries import KEY_REUSED, Remembered, recall, remember

MEMBERS_MAX = 2_500
"""Fragments of one person: one merge may rewrite every member's row, and all of them must fit one
INSERT block."""

DELETED = "deleted"
"""Why a merge is refused that names who was deleted after the API had found them, or before which
an import lies."""


class Membership:
    """The identity of one fragment. On a root, `members` are all fragments of the person, in order
    of joining."""

    __slots__ = (
        "erase",
        "erased_at",
        "facts",
        "id",
        "identified",
        "keys",
        "members",
        "project",
        "root",
        "stamp",
        "version",
    )

    def __init__(self, project: int, fragment: UUID) -> None:
        """A fragment that was never merged is its own person; it has no row."""
        self.project = project
        self.id = fragment
        self.version = 0
        self.root = fragment
        self.members: tuple[UUID, ...] = (fragment,)
        self.identified = False
        self.erase = 0
        self.erased_at = 0
        self.stamp = 0
        self.keys: list[Remembered] = []
        self.facts: list[MembershipEvent] = []
        """Facts that nobody has collected yet."""

    def collect_events(self) -> list[MembershipEvent]:
        """The facts since the last time."""
        facts = self.facts
        self.facts = []
        return facts

    def trigger(
        self, event_class: type[MembershipEvent], at: tuple[int, int], **after: Any
    ) -> None:
        """Make a fact at (version, stamp): the identity as it is, but for what `after` says."""
        identity: dict[str, Any] = {
            "root": self.root,
            "members": self.members,
            "identified": self.identified,
            "erase": self.erase,
            "erased_at": self.erased_at,
        }
        event = event_class(
            originator_id=self.id,
            originator_version=at[0],
            timestamp=at[1],
            **(identity | after),
        )
        event.mutate(self)
        self.facts.append(event)


Book = Callable[[UUID], Membership]
"""Looks up a membership of the command's project; KeyError with the fragment's uuid when it must be
loaded first."""


class Decision(msgspec.Struct, frozen=True):
    """The outcome of an identity command, the rows it touched, and the commands that must be in the
    log first."""

    outcome: FoldOutcome
    touched: tuple[Membership, ...] = ()
    followups: tuple[Command, ...] = ()


def addressed(command: IdentityCommand) -> tuple[UUID, ...]:
    """The fragments that a command names."""
    if isinstance(command, Restore):
        return tuple(member.fragment for member in command.members)
    return (
        (command.into, command.source)
        if isinstance(command, MergePersons)
        else (command.person,)
    )


def handle(command: IdentityCommand, version: int, book: Book) -> Decision:
    """Fold one command. Raises KeyError before it changes anything when `book` lacks a
    membership."""
    parties = [book(fragment) for fragment in addressed(command)]
    roots = [book(party.root) for party in parties]
    people = [[book(member) for member in root.members] for root in roots]
    if any(member.version >= version for person in people for member in person):
        # of all members: a refusal is on the roots only
        return Decision(FoldOutcome.SKIPPED)
    stamp = max(
        command.at, *(member.stamp + 1 for person in people for member in person)
    )
    if (first := recall(parties[0].keys, command)) is not None:
        if first[1] == command.digest:
            return Decision(FoldOutcome.DUPLICATE)
        parties[0].trigger(CommandRefused, (version, stamp), reason=KEY_REUSED)
        return Decision(FoldOutcome.REFUSED, (parties[0],))
    if isinstance(command, MergePersons):
        decision = _merge(command, (version, stamp), parties, people)
    elif (
        command.replayed
        and _deleted_after(command.at, parties)
        and not isinstance(command, Restore)
    ):
        return Decision(FoldOutcome.DROPPED)  # it meant who was deleted since
    elif isinstance(command, SplitPerson):
        decision = _split(command, (version, stamp), people[0])
    elif isinstance(command, Restore):
        decision = _restore(command, (version, stamp), parties)
    else:
        decision = _delete(command, (version, stamp), people[0])
    if not command.key or decision.outcome is FoldOutcome.DROPPED:
        return decision
    remember(parties[0].keys, command, version)
    parties[0].version = version
    outcome = max(decision.outcome, FoldOutcome.REMEMBERED)
    touched = _distinct(parties[0], *decision.touched)
    return Decision(outcome, touched, decision.followups)


def _merge(
    command: MergePersons,
    at: tuple[int, int],
    parties: list[Membership],
    people: list[list[Membership]],
) -> Decision:
    target, (survivor, absorbed) = parties[0], people
    into, source = survivor[0], absorbed[0]
    if command.into == command.source:
        return Decision(FoldOutcome.NOTHING)
    if (imported := _before_a_delete(command, parties)) and command.mode != "operator":
        return Decision(FoldOutcome.DROPPED)
    reason = refusal(command.into_id, command.source_id)
    if imported or _deleted_since(command, parties):
        reason = DELETED
    marks = command.mode != "operator" and reason is None and not target.identified
    if into is source and not marks:
        return Decision(FoldOutcome.NOTHING)
    if reason is None and into is not source:
        if command.mode in ("identify", "alias") and any(
            member.identified for member in absorbed
        ):
            reason = "already_identified"
        elif len(survivor) + len(absorbed) > MEMBERS_MAX:
            reason = "too_many_members"
    mark = {"identified": True} if marks else {}
    if marks and target is not into:
        target.trigger(FragmentIdentified, at, **mark)
    root_mark = mark if target is into else {}
    if into is source:
        if target is into:
            into.trigger(FragmentIdentified, at, **mark)
        return Decision(FoldOutcome.CHANGED, (target,))
    if reason is not None:
        into.trigger(MergeRefused, at, peer=source.id, reason=reason, **root_mark)
        source.trigger(MergeRefused, at, peer=into.id, reason=reason)
        return Decision(FoldOutcome.REFUSED, _distinct(target, into, source))
    members = (*into.members, *source.members)
    into.trigger(PersonMerged, at, peer=source.id, members=members, **root_mark)
    for member in absorbed:
        member.trigger(FragmentJoined, at, root=into.id, members=(), peer=source.id)
    touched = _distinct(target, into, *absorbed)
    return Decision(FoldOutcome.CHANGED, touched, _births(command, parties))


def _before_a_delete(command: MergePersons, parties: list[Membership]) -> bool:
    """Whether it is imported, or replayed, from before one of both was deleted."""
    since = command.since or (command.at if command.replayed else 0)
    return since > 0 and _deleted_after(since, parties)


def _deleted_after(at: int, parties: list[Membership]) -> bool:
    """Whether one of them was deleted later than that; of deletes of unknown time, each was."""
    return any(
        party.erase and (not party.erased_at or at < party.erased_at)
        for party in parties
    )


def _deleted_since(command: MergePersons, parties: list[Membership]) -> bool:
    """Whether one of both was deleted after the API had found it alive."""
    erases = (command.into_erase, command.source_erase)
    return any(
        erase is not None and party.erase > erase
        for party, erase in zip(parties, erases, strict=True)
    )


def _births(command: MergePersons, parties: list[Membership]) -> tuple[Write, ...]:
    """What lets those live who were ever deleted: what the API has sent for them may lie before
    their erase record. This lies behind it, for the delete was folded first."""
    births = []
    for party, sent_id in zip(
        parties, (command.into_id, command.source_id), strict=True
    ):
        distinct_id = (sent_id or "")[:CAPTURED_ID_CHARS_MAX]
        if party.erase and fragment_id(command.project, distinct_id) == party.id:
            birth = Write(
                id=uuid5(command.id, party.id.hex),
                project=command.project,
                at=command.at,
                actor=command.actor,
                fragment=party.id,
                distinct_id=distinct_id,
                since=command.since,
                iver=party.erase,
                reason="merge",
            )
            births.append(birth)
    return tuple(births)


def _split(
    command: SplitPerson, at: tuple[int, int], person: list[Membership]
) -> Decision:
    root = person[0]
    if command.keep is not None:
        leaving = [member for member in person if member.id != command.keep]
    else:
        leaving = [member for member in person if member.id in command.leave]
    staying = [member for member in person if member not in leaving]
    is_member = command.keep is None or any(
        member.id == command.keep for member in person
    )
    if not is_member or not staying or not leaving:
        if is_member and len(person) == 1 and command.keep is not None:
            return Decision(FoldOutcome.NOTHING)
        root.trigger(
            SplitRefused, at, reason="not_a_member" if staying else "nobody_would_stay"
        )
        return Decision(FoldOutcome.REFUSED, (root,))
    heir = staying[0]
    for member in leaving:
        member.trigger(
            FragmentLeft, at, root=member.id, members=(member.id,), peer=heir.id
        )
    heir.trigger(
        PersonSplit,
        at,
        root=heir.id,
        members=tuple(member.id for member in staying),
        peer=root.id,
    )
    rerooted = staying[1:] if heir is not root else []
    for member in rerooted:
        member.trigger(FragmentRerooted, at, root=heir.id, peer=root.id)
    return Decision(FoldOutcome.CHANGED, (heir, *leaving, *rerooted))


def _delete(command: Delete, at: tuple[int, int], person: list[Membership]) -> Decision:
    version = at[0]
    person_id = person[0].id
    for member in person:
        member.trigger(
            PersonDeleted,
            at,
            root=member.id,
            members=(member.id,),
            identified=False,
            erase=version,
            erased_at=command.at,
            peer=person_id,
            scope=str(command.scope),
        )
    erasures = tuple(
        Erase(
            id=uuid5(command.id, member.id.hex),
            project=command.project,
            at=command.at,
            actor=command.actor,
            fragment=member.id,
            iver=version,
        )
        for member in person
    )
    request = RequestDeletion(
        id=uuid5(command.id, "request"),
        project=command.project,
        at=command.at,
        actor=command.actor,
        request=command.request,
        person=person_id,
        members=tuple(member.id for member in person),
        scope=command.scope,
    )
    return Decision(FoldOutcome.CHANGED, tuple(person), (*erasures, request))


def _restore(
    command: Restore, at: tuple[int, int], parties: list[Membership]
) -> Decision:
    """All members or none: each must still be where the delete left it."""
    head, members = parties[0], tuple(member.id for member in parties)
    for member in parties:
        deleted_again = member.erase != command.iver
        rejoined = (member.root, member.members) != (member.id, (member.id,))
        if deleted_again or rejoined:
            reason = "deleted_again" if deleted_again else "belongs_to_another"
            head.trigger(RestoreRefused, at, peer=member.id, reason=reason)
            return Decision(FoldOutcome.REFUSED, (head,))
    for member, before in zip(parties, command.members, strict=True):
        member.trigger(
            PersonRestored,
            at,
            root=head.id,
            members=members if member is head else (),
            identified=before.identified or member.identified,
            erase=before.erase,
            erased_at=before.erased_at,
            peer=head.id,
        )
    revivals = tuple(
        Revive(
            id=uuid5(command.id, member.hex),
            project=command.project,
            at=command.at,
            actor=command.actor,
            fragment=member,
            iver=command.iver,
        )
        for member in members
    )
    return Decision(FoldOutcome.CHANGED, tuple(parties), revivals)


def _distinct(*memberships: Membership) -> tuple[Membership, ...]:
    return tuple({membership.id: membership for membership in memberships}.values())
