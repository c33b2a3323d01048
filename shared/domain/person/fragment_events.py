"""Facts about a fragment: what the timeline keeps of it, and what every replay applies. Pure.

Whatever changes a fragment for good is one of these; `fragment` decides which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import msgspec

from shared.domain.ids import check_order
from shared.domain.operations import UNWEIGHED, LeftOut, Weight
from shared.domain.person.cells import (
    ONCE,
    Operations,
    apply,
    bury,
    once_above,
)

if TYPE_CHECKING:
    from shared.domain.person.fragment import Fragment


class FragmentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact about a fragment: what the timeline keeps, and what every replay applies."""

    TOPIC: ClassVar[str]
    originator_id: UUID
    originator_version: int
    timestamp: int

    def mutate(self, fragment: Fragment) -> None:
        """Apply to the fragment. Versions are log offsets, so they rise, with gaps. Raises
        ValueError."""
        check_order(
            self.originator_id, self.originator_version, fragment.id, fragment.version
        )
        self.apply(fragment)
        fragment.version = self.originator_version

    def apply(self, fragment: Fragment) -> None:
        raise NotImplementedError


class FragmentChanged(FragmentEvent, frozen=True, kw_only=True):
    """Cells changed, or the fragment was born (`number` and `created_at` are then set), or both. An
    import that is older than the birth is the birth from then on. A birth after an erasure that was
    taken back is none.

    `values[i]` is the value of the operation `kinds[i]` on `names[i]`; `before[i]` what showed
    before it, with UNSET for nothing. `timestamp` is the stamp of the changed cells. `left_out` is
    what there was no room for.
    """

    TOPIC = "fragment.changed"
    names: tuple[str, ...]
    kinds: tuple[int, ...]
    values: tuple[Any, ...]
    before: tuple[Any, ...]
    distinct_id: str = ""
    number: int = 0
    created_at: int = 0
    left_out: LeftOut | None = None

    @property
    def operations(self) -> Operations:
        """What took effect, as the operations that do it again."""
        done = zip(self.names, self.kinds, self.values, strict=True)
        return [(kind, {name: value}) for name, kind, value in done]

    def apply(self, fragment: Fragment) -> None:
        if self.created_at and not 0 < fragment.created_at <= self.created_at:
            fragment.bear(self.distinct_id, self.number, self.created_at)
        apply(fragment.cells, fragment.properties, self.operations, self.timestamp)
        fragment.stamp = max(fragment.stamp, self.timestamp)
        fragment.effect = self.originator_version


class FragmentErased(FragmentEvent, frozen=True, kw_only=True):
    """Every cell and the distinct id are gone. The number stays: an id keeps its integer for ever.

    It is all that stays of the lives before it, so it carries the number and a stamp that is not
    below theirs. `at` is the command's time: imports of what happened before it are dropped.
    """

    TOPIC = "fragment.erased"
    iver: int
    at: int
    number: int = 0

    def apply(self, fragment: Fragment) -> None:
        fragment.cells, fragment.properties, fragment.weight = {}, {}, Weight()
        fragment.distinct_id, fragment.created_at, fragment.seen_at = "", 0, 0
        fragment.erased, fragment.erased_at, fragment.restored = self.iver, self.at, 0
        fragment.purged = {}
        fragment.number = self.number or fragment.number
        fragment.stamp = max(fragment.stamp, self.timestamp)
        fragment.effect = self.originator_version


class FragmentRestored(FragmentEvent, frozen=True, kw_only=True):
    """The erasure that the delete `iver` asked for was taken back: a replay leaves that one out.

    `restored` never falls: of two deletes the later may be taken back first, and neither's late
    erase record may count.
    """

    TOPIC = "fragment.restored"
    iver: int

    def apply(self, fragment: Fragment) -> None:
        fragment.restored = max(fragment.restored, self.iver)
        fragment.stamp = max(fragment.stamp, self.timestamp)
        fragment.effect = self.originator_version


class FragmentPurged(FragmentEvent, frozen=True, kw_only=True):
    """What was set under `names` up to the stamp `timestamp` is gone, and a tombstone stays:
    imports of before count no more. What was set later stays.

    `kinds[i]` says what remains above the tombstone: ONCE for a set_once of after the cut-off,
    UNSET for none. `remains[i]` says which, stamp and value, for the facts that stay do not tell
    it: an import that is purged may have replaced a later set_once. It counts in the life that the
    erasure `iver` began; in a closed life that is given back, and where it is None though the kind
    is ONCE (the name had no cell), what those facts make counts.
    """

    TOPIC = "fragment.purged"
    names: tuple[str, ...]
    kinds: tuple[int, ...]
    remains: tuple[tuple[int, Any] | None, ...]
    request: UUID
    iver: int = 0

    def apply(self, fragment: Fragment) -> None:
        cells, properties, stamp = fragment.cells, fragment.properties, self.timestamp
        for name, kind, once in zip(self.names, self.kinds, self.remains, strict=True):
            fragment.purged[name] = max(stamp, fragment.purged.get(name, 0))
            if not fragment.alive:
                continue
            if kind == ONCE and (once is None or self.iver != fragment.erased):
                once = once_above(cells, properties, name, stamp)
            bury(cells, properties, name, stamp, once)
        fragment.weight = Weight(UNWEIGHED)
        fragment.stamp = max(fragment.stamp, stamp)
        fragment.effect = self.originator_version


class WriteRefused(FragmentEvent, frozen=True, kw_only=True):
    """A conditional write came too late; nothing changed."""

    TOPIC = "fragment.write_refused"
    reason: str

    def apply(self, fragment: Fragment) -> None:
        """A refusal leaves the fragment as it is."""


class PropertiesLeftOut(FragmentEvent, frozen=True, kw_only=True):
    """There was no room for anything that the command asked for; nothing changed."""

    TOPIC = "fragment.left_out"
    left_out: LeftOut

    def apply(self, fragment: Fragment) -> None:
        """What is left out leaves the fragment as it is."""
