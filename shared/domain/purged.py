"""What a purge takes from the past: the one rule for facts and for captured events. Pure; SQL has it in purged.sql.

A purge of a name with the cut-off `stamp`, folded at `version`, takes from every fact that was folded before it the
operations on the name that were stamped at or before the cut-off; and what the name showed before, from all of them: a
later value may have replaced a purged one. Facts that were folded after it have nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from shared.domain.fragment import FragmentChanged, FragmentPurged
from shared.domain.lifted import LIFTED

_PLACES = ("$set", "$set_once")


class Cut(NamedTuple):
    """A name, the stamp up to which its values are gone, and the version of the fact that says so."""

    name: str
    stamp: int
    version: int


def cuts_of(facts: Iterable[FragmentPurged]) -> list[Cut]:
    """The cuts of one fragment's facts."""
    return [Cut(name, fact.timestamp, fact.originator_version) for fact in facts for name in fact.names]


def left(names: Sequence[str], stamp: int, version: int, cuts: Collection[Cut]) -> list[tuple[int, bool]]:
    """Of a fact with this stamp and version: the places of the operations that stay, and whether each still says what
    its name showed before."""
    later = [cut for cut in cuts if cut.version > version]
    gone = {cut.name for cut in later if cut.stamp >= stamp}
    silent = {cut.name for cut in later}
    return [(place, name not in silent) for place, name in enumerate(names) if name not in gone]


def without(event: FragmentChanged, cuts: Collection[Cut]) -> FragmentChanged:
    """The event as it is once these cuts were made."""
    kept = left(event.names, event.timestamp, event.originator_version, cuts)
    if len(kept) == len(event.names) and all(says for _, says in kept):
        return event
    return msgspec.structs.replace(
        event,
        names=tuple(event.names[place] for place, _ in kept),
        kinds=tuple(event.kinds[place] for place, _ in kept),
        values=tuple(event.values[place] for place, _ in kept),
        before=tuple(event.before[place] if says else msgspec.UNSET for place, says in kept),
    )


def stripped(properties: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The properties of a captured event without what they say of these names: in `$set` and `$set_once`, and of a
    lifted one the event's own."""
    found = {key: value for key, value in properties.items() if key not in names or key not in LIFTED}
    for place in _PLACES:
        if isinstance(held := found.get(place), dict) and not held.keys().isdisjoint(names):
            found[place] = {key: value for key, value in held.items() if key not in names}
    return found
