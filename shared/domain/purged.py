"""What a purge takes from the past: the one rule for facts and for captured events. Pure; SQL has
it in purged.sql.

A purge of a name with the cut-off `stamp`, folded at `version`, takes from every fact that was
folded before it the operations on the name that were stamped at or before the cut-off, and the
set_once that an earlier purge had left if that was stamped so; and what the name showed before,
from all of them: a later value may have replaced a purged one. Facts that were folded after it have
nothing of the kind. Every replay leaves this out, whether or not a window has taken it from the
timeline, so that it gives the same on both sides of the window.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from shared.domain.person.cells import UNSET
from shared.domain.person.fragment_events import (
    FragmentChanged,
    FragmentEvent,
    FragmentPurged,
)
from shared.domain.person.lifted import LIFTED

_PLACES = ("$set", "$set_once")


class Cut(NamedTuple):
    """A name, the stamp up to which its values are gone, and the version of the fact that says
    so."""

    name: str
    stamp: int
    version: int


def cuts_of(facts: Iterable[FragmentPurged]) -> list[Cut]:
    """The cuts of one fragment's facts."""
    return [
        Cut(name, fact.timestamp, fact.originator_version)
        for fact in facts
        for name in fact.names
    ]


def left(
    names: Sequence[str], stamp: int, version: int, cuts: Collection[Cut]
) -> list[tuple[int, bool]]:
    """Of a fact with this stamp and version: the places of the operations that stay, and whether
    each still says what its name showed before."""
    later = [cut for cut in cuts if cut.version > version]
    gone = {cut.name for cut in later if cut.stamp >= stamp}
    silent = {cut.name for cut in later}
    return [
        (place, name not in silent)
        for place, name in enumerate(names)
        if name not in gone
    ]


def without(event: FragmentEvent, cuts: Collection[Cut]) -> FragmentEvent:
    """The fact as it is once these cuts were made. One that was loaded without `before` stays
    so."""
    if isinstance(event, FragmentChanged):
        return _changed_without(event, cuts)
    return _purged_without(event, cuts) if isinstance(event, FragmentPurged) else event


def at_moment(event: FragmentEvent, until: int) -> FragmentEvent:
    """The fact as it counts at the stamp `until`: what a purge left counts from its own stamp
    on."""
    if not isinstance(event, FragmentPurged) or not any(
        one and one[0] > until for one in event.left
    ):
        return event
    return msgspec.structs.replace(
        event,
        left=tuple(one if one and one[0] <= until else None for one in event.left),
    )


def _changed_without(event: FragmentChanged, cuts: Collection[Cut]) -> FragmentChanged:
    kept = left(event.names, event.timestamp, event.originator_version, cuts)
    if len(kept) == len(event.names) and all(says for _, says in kept):
        return event
    return msgspec.structs.replace(
        event,
        names=tuple(event.names[place] for place, _ in kept),
        kinds=tuple(event.kinds[place] for place, _ in kept),
        values=tuple(event.values[place] for place, _ in kept),
        before=tuple(
            event.before[place] if says else msgspec.UNSET
            for place, says in kept
            if event.before
        ),
    )


def _purged_without(event: FragmentPurged, cuts: Collection[Cut]) -> FragmentPurged:
    later = [cut for cut in cuts if cut.version > event.originator_version]
    gone = [
        one is not None
        and any(cut.name == name and cut.stamp >= one[0] for cut in later)
        for name, one in zip(event.names, event.left, strict=True)
    ]
    if not any(gone):
        return event
    return msgspec.structs.replace(
        event,
        kinds=tuple(
            UNSET if taken else kind
            for kind, taken in zip(event.kinds, gone, strict=True)
        ),
        left=tuple(
            None if taken else one for one, taken in zip(event.left, gone, strict=True)
        ),
    )


def stripped(properties: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The properties of a captured event without what they say of these names: in `$set` and
    `$set_once`, and of a lifted one the event's own."""
    found = {
        key: value
        for key, value in properties.items()
        if key not in names or key not in LIFTED
    }
    for place in _PLACES:
        if isinstance(held := found.get(place), dict) and not held.keys().isdisjoint(
            names
        ):
            found[place] = {
                key: value for key, value in held.items() if key not in names
            }
    return found
