"""As of: a fragment as it was at a moment, by the events that made it what it is. Pure; never a second rule.

The cut is a stamp, the order across fragments: facts up to it are applied, later ones are not. An erasure is applied
whenever it came, so what is erased now never comes back through a read of the past. An import counts at its own time.
"""

from __future__ import annotations

from uuid import UUID

from shared.domain.fragment import Fragment, FragmentChanged, FragmentErased, FragmentEvent
from shared.domain.identity import Membership, MembershipEvent, PersonDeleted


class Past:
    """One fragment and its identity at the stamp `until` (microseconds), replayed in the order of their versions."""

    def __init__(self, project: int, fragment: UUID, until: int) -> None:
        self.fragment = Fragment.blank(project, fragment)
        self.membership = Membership.alone(project, fragment)
        self._until = until
        self._birth: FragmentChanged | None = None

    def replay(self, event: FragmentEvent | MembershipEvent) -> None:
        """Apply one event if it counts at the moment."""
        if isinstance(event, MembershipEvent):
            if event.timestamp <= self._until or isinstance(event, PersonDeleted):
                event.mutate(self.membership)
        elif isinstance(event, FragmentErased):
            event.mutate(self.fragment)
            self._birth = None
        elif event.timestamp <= self._until:
            event.mutate(self.fragment)
            self._bear()
        elif isinstance(event, FragmentChanged) and event.created_at:
            self._birth = event

    def _bear(self) -> None:
        """An import may reach further back than the fragment's birth: it is that fragment all the same."""
        if self._birth is not None and not self.fragment.alive:
            self.fragment.distinct_id, self.fragment.number = self._birth.distinct_id, self._birth.number
            self.fragment.created_at = self._birth.created_at


def members_of(fragment: Membership, root: Membership) -> tuple[UUID, ...]:
    """The person's fragments; the fragment alone where its root's memberships were erased."""
    return root.members if fragment.id in root.members else (fragment.id,)
