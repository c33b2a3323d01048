"""Facts about a fragment's identity: to which person it belongs since when, and why. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

import msgspec

from shared.domain.ids import check_order

if TYPE_CHECKING:
    from shared.domain.person.identity import Membership

_NOBODY = UUID(int=0)


class MembershipEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact about one fragment's identity; it carries the whole identity after it.

    So the last one of a fragment, up to any moment, is that fragment's identity at that moment.
    """

    TOPIC: ClassVar[str]
    originator_id: UUID
    originator_version: int
    timestamp: int
    root: UUID
    members: tuple[UUID, ...]
    identified: bool
    erase: int
    erased_at: int = 0
    peer: UUID = _NOBODY
    reason: str = ""

    def mutate(self, membership: Membership) -> None:
        """Apply to the membership. Versions are log offsets, so they rise, with gaps. Raises
        ValueError."""
        check_order(
            self.originator_id,
            self.originator_version,
            membership.id,
            membership.version,
        )
        membership.root = self.root
        membership.members = self.members
        membership.identified = self.identified
        membership.erase = self.erase
        membership.erased_at = self.erased_at
        membership.stamp = self.timestamp
        membership.version = self.originator_version


class PersonMerged(MembershipEvent, frozen=True, kw_only=True):
    """On the survivor's root: `peer`'s person was absorbed."""

    TOPIC = "person.merged"


class FragmentJoined(MembershipEvent, frozen=True, kw_only=True):
    """On every absorbed fragment: it belongs to `root` now; `peer` was its root before."""

    TOPIC = "person.joined"


class FragmentIdentified(MembershipEvent, frozen=True, kw_only=True):
    """On a fragment that is not its person's root: it was named by an $identify."""

    TOPIC = "person.identified"


class MergeRefused(MembershipEvent, frozen=True, kw_only=True):
    """On the roots of both persons: `peer` is the other one, `reason` says why."""

    TOPIC = "person.merge_refused"


class PersonSplit(MembershipEvent, frozen=True, kw_only=True):
    """On the root of the person that remains: others have left."""

    TOPIC = "person.split"


class FragmentLeft(MembershipEvent, frozen=True, kw_only=True):
    """On every fragment that left `peer`: it is a person of its own."""

    TOPIC = "person.left"


class FragmentRerooted(MembershipEvent, frozen=True, kw_only=True):
    """On a remaining member whose root left: it belongs to `root` now."""

    TOPIC = "person.rerooted"


class SplitRefused(MembershipEvent, frozen=True, kw_only=True):
    """On the addressed person's root: the split named nobody who could leave."""

    TOPIC = "person.split_refused"


class CommandRefused(MembershipEvent, frozen=True, kw_only=True):
    """On the addressed fragment: its Idempotency-Key came before with another request."""

    TOPIC = "person.refused"


class PersonDeleted(MembershipEvent, frozen=True, kw_only=True):
    """On every member of a deleted person: whatever it held before `erase` is to be erased; `scope`
    says what else."""

    TOPIC = "person.deleted"
    scope: str = ""


class PersonRestored(MembershipEvent, frozen=True, kw_only=True):
    """On every member of a person whose delete was taken back: its identity is what it was
    before."""

    TOPIC = "person.restored"


class RestoreRefused(MembershipEvent, frozen=True, kw_only=True):
    """On the fragment that a restore addressed: `reason` says why nobody was restored, `peer`
    because of whom."""

    TOPIC = "person.restore_refused"
