"""Replay: a fragment and its identity from the facts that made them, now or at a moment. Pure;
never a second fold.

The cut of a moment is a stamp, the order across fragments: facts up to it are applied, later ones
are not. An erasure is applied whenever it came, so what is erased now never comes back through a
read of the past; one that was taken back is left out, as if it had never been. An import counts at
its own time.
"""

from __future__ import annotations

from uuid import UUID

from shared.domain.person.fragment import Fragment
from shared.domain.person.fragment_events import (
    FragmentChanged,
    FragmentErased,
    FragmentEvent,
)
from shared.domain.person.identity import Membership
from shared.domain.person.identity_events import MembershipEvent, PersonDeleted
from shared.domain.purged import at_moment

FOREVER = 2**63 - 1
"""A stamp above every other: no cut."""

ENDS = (FragmentErased.TOPIC, PersonDeleted.TOPIC)
"""Topics of the facts that end a life; they stay when it is erased."""


class Replay:
    """One fragment and its identity at the stamp `until` (microseconds), replayed in the order of
    their versions.

    `undone` are the identity versions of the deletes that were taken back, for facts that still
    have them; reads leave these out already (lives.sql).
    """

    def __init__(
        self,
        project: int,
        fragment: UUID,
        until: int = FOREVER,
        undone: frozenset[int] = frozenset(),
    ) -> None:
        self.fragment = Fragment(project, fragment)
        self.membership = Membership(project, fragment)
        self._until, self._undone = until, undone
        self._birth: FragmentChanged | None = None

    def apply(self, event: FragmentEvent | MembershipEvent) -> None:
        """Apply one fact if it counts at the moment."""
        if isinstance(event, MembershipEvent):
            if event.timestamp <= self._until or isinstance(event, PersonDeleted):
                event.mutate(self.membership)
        elif isinstance(event, FragmentErased):
            if event.iver not in self._undone:
                event.mutate(self.fragment)
                self._birth = None
        elif event.timestamp <= self._until:
            at_moment(event, self._until).mutate(self.fragment)
            self._bear()
        elif isinstance(event, FragmentChanged) and event.created_at:
            self._birth = event

    def _bear(self) -> None:
        """An import may reach further back than the fragment's birth: it is that fragment all the
        same."""
        if self._birth is not None and not self.fragment.alive:
            self.fragment.distinct_id, self.fragment.number = (
                self._birth.distinct_id,
                self._birth.number,
            )
            self.fragment.created_at = self._birth.created_at


def members_of(fragment: Membership, root: Membership) -> tuple[UUID, ...]:
    """The person's fragments; the fragment alone where its root's memberships were erased."""
    return root.members if fragment.id in root.members else (fragment.id,)
