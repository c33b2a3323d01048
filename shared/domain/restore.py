"""A closed life: the fragment that its facts make once an erasure is taken back. Pure: never loads
a fact."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.domain.person.fragment import HOUR_US, Fragment
from shared.domain.person.fragment_events import (
    FragmentErased,
    FragmentEvent,
    FragmentPurged,
    FragmentRestored,
)
from shared.domain.person.replay import Replay
from shared.domain.purged import cuts_of, without


class ClosedLife:
    """The life that the delete of identity version `iver` closed, replayed in the order of
    versions.

    `ends` are the fragment's erasures, what was taken back of them and its purges, up to the
    command that takes back this one. What was sent since the erasure joins the life; what was
    purged is left out. Facts before `since`, the last erasure that stands, are of a former life and
    need not be replayed; nor need anything be there of them, for a window may have erased them.
    """

    def __init__(
        self, project: int, fragment: UUID, iver: int, ends: Sequence[FragmentEvent]
    ) -> None:
        taken_back = frozenset(
            {iver, *(end.iver for end in ends if isinstance(end, FragmentRestored))}
        )
        standing = [
            end
            for end in ends
            if isinstance(end, FragmentErased) and end.iver not in taken_back
        ]
        self._replay = Replay(project, fragment, undone=taken_back)
        self._cuts = cuts_of(end for end in ends if isinstance(end, FragmentPurged))
        self.since = max((end.originator_version for end in standing), default=0)

    @property
    def fragment(self) -> Fragment:
        return self._replay.fragment

    def replay(self, event: FragmentEvent) -> None:
        """Apply one fact from `since` on, the one at `since` included."""
        self._replay.apply(without(event, self._cuts))

    def observe_event(self, timestamp: int) -> None:
        """The newest captured event of the life; no fact says when somebody was last seen."""
        self.fragment.seen_at = max(
            self.fragment.seen_at, timestamp // HOUR_US * HOUR_US
        )
