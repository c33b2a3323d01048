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


def surviving(
    names: Sequence[str], stamp: int, version: int, cuts: Collection[Cut]
) -> list[tuple[int, bool]]:
    """Of a fact with this stamp and version: the places of the operations that stay, and whether
    each still says what its name showed before."""
    later = [cut for cut in cuts if cut.version > version]
    erased_names = {cut.name for cut in later if cut.stamp >= stamp}
    silent = {cut.name for cut in later}
    return [
        (place, name not in silent)
        for place, name in enumerate(names)
        if name not in erased_names
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
        once and once[0] > until for once in event.remains
    ):
        return event
    return msgspec.structs.replace(
        event,
        remains=tuple(
            once if once and once[0] <= until else None for once in event.remains
        ),
    )


def _changed_without(event: FragmentChanged, cuts: Collection[Cut]) -> FragmentChanged:
    places = surviving(event.names, event.timestamp, event.originator_version, cuts)
    if len(places) == len(event.names) and all(says for _, says in places):
        return event
    return msgspec.structs.replace(
        event,
        names=tuple(event.names[place] for place, _ in places),
        kinds=tuple(event.kinds[place] for place, _ in places),
        values=tuple(event.values[place] for place, _ in places),
        before=tuple(
            event.before[place] if says else msgspec.UNSET
            for place, says in places
            if event.before
        ),
    )


def _purged_without(event: FragmentPurged, cuts: Collection[Cut]) -> FragmentPurged:
    later = [cut for cut in cuts if cut.version > event.originator_version]
    cut_off = [
        once is not None
        and any(cut.name == name and cut.stamp >= once[0] for cut in later)
        for name, once in zip(event.names, event.remains, strict=True)
    ]
    if not any(cut_off):
        return event
    return msgspec.structs.replace(
        event,
        kinds=tuple(
            UNSET if is_cut else kind
            for kind, is_cut in zip(event.kinds, cut_off, strict=True)
        ),
        remains=tuple(
            None if is_cut else once
            for once, is_cut in zip(event.remains, cut_off, strict=True)
        ),
    )


def stripped(properties: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The properties of a captured event without what they say of these names: in `$set` and
    `$set_once`, and of a lifted one the event's own."""
    remainder = {
        key: value
        for key, value in properties.items()
        if key not in names or key not in LIFTED
    }
    for place in _PLACES:
        if isinstance(
            inner := remainder.get(place), dict
        ) and not inner.keys().isdisjoint(names):
            remainder[place] = {
                key: value for key, value in inner.items() if key not in names
            }
    return remainder
