"""What a run must reach: for every fragment, where the life that is to be erased ends. Pure: never
asks the store.

A fragment may live again after its erasure, so rows are told apart by the fragment's own erase
record and never by time: rows of its commands partition below the version of that record, rows of
identity up to the delete's version. Those two facts (`fragment.erased`, `person.deleted`) hold no
text and stay: they are the tombstone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from shared.domain.deletion import DeletionRequest
from shared.domain.person.fragment_events import FragmentErased
from shared.domain.person.identity_events import PersonDeleted
from shared.domain.purged import Cut
from shared.store.purging import text_of
from shared.store.targets import FRAGMENTS_MAX


class Tombstone(NamedTuple):
    """A timeline row of one of the two topics that stay. `erase` is the identity version; `at`
    microseconds."""

    fragment: UUID
    topic: str
    version: int
    erase: int
    at: int


@dataclass(slots=True, kw_only=True)
class Boundary:
    """How far a fragment is to be erased, by kind of row; 0 is not at all."""

    project: int
    iver: int = (
        0  # identity version of the delete: older rows of identity and of `fragments`
    )
    life: int = 0  # version of the erase record: older rows of the timeline
    captured: int = 0  # the same, for captured events of an erased person
    captured_at: int = -1  # receive time, for captured events of a person who stays
    recorded: int = 0  # the same two, for recordings
    recorded_at: int = -1

    def widen(self, other: Boundary) -> None:
        """Two requests may name one fragment: each limit is the further one."""
        for limit in fields(self):
            if limit.name != "project":
                setattr(
                    self,
                    limit.name,
                    max(getattr(self, limit.name), getattr(other, limit.name)),
                )


CutsByFragment = Mapping[UUID, list[Cut]]
"""What a request purges, by fragment."""


@dataclass(slots=True, kw_only=True)
class Plan:
    """The requests that a run can work on, and the reach of all of them together."""

    requests: list[DeletionRequest] = field(default_factory=list)
    waiting: list[DeletionRequest] = field(default_factory=list)
    boundaries: dict[UUID, Boundary] = field(default_factory=dict)
    purges: Mapping[UUID, CutsByFragment] = field(default_factory=dict)

    def members(self, request: DeletionRequest) -> Iterable[UUID]:
        """Whose rows are the request's."""
        return self.purges[request.id] if request.scope.purge else request.members

    def purge_statements(self) -> Iterator[dict[str, Any]]:
        """The parameters of each statement that a target of purges needs."""
        cuts: dict[UUID, list[Cut]] = {}
        projects: dict[UUID, int] = {}
        for request in self.requests:
            for fragment, fragment_cuts in self.purges.get(request.id, {}).items():
                cuts.setdefault(fragment, []).extend(fragment_cuts)
                projects[fragment] = request.project
        everyone = sorted(cuts)
        for start in range(0, len(everyone), FRAGMENTS_MAX):
            chunk = everyone[start : start + FRAGMENTS_MAX]
            yield {
                "projects": sorted({projects[fragment] for fragment in chunk}),
                "fragments": chunk,
                "cuts": [text_of(cuts[fragment]) for fragment in chunk],
            }

    def statements(self) -> Iterator[dict[str, Any]]:
        """The parameters of each statement that a target needs."""
        everyone = list(self.boundaries.items())
        for start in range(0, len(everyone), FRAGMENTS_MAX):
            chunk = everyone[start : start + FRAGMENTS_MAX]
            columns: dict[str, Any] = {
                limit.name: [getattr(boundary, limit.name) for _, boundary in chunk]
                for limit in fields(Boundary)
            }
            projects = sorted(set(columns.pop("project")))
            yield {
                "projects": projects,
                "fragments": [fragment for fragment, _ in chunk],
                **columns,
            }


def plan(
    requests: Iterable[DeletionRequest],
    tombstones: Sequence[Tombstone],
    erased: Mapping[UUID, int],
    *,
    projected: bool,
    cancelling: Iterable[DeletionRequest] = (),
    purges: Mapping[UUID, CutsByFragment] = MappingProxyType({}),
) -> Plan:
    """Sort out who is ready. `erased` is what each fragment's row says; `projected`: the projector
    has passed all that the log held when the run began, without which captured events received
    before the cut-off may still arrive. `purges` are those of the requests whose commands have all
    been folded.

    Who shares a member with a request that is being cancelled waits: of a restore that came before
    its own delete, it would erase the outcome, which the deleter has not read yet.
    """
    restoring = {member for request in cancelling for member in request.members}
    ends: dict[UUID, list[Tombstone]] = {}
    for tombstone in tombstones:
        ends.setdefault(tombstone.fragment, []).append(tombstone)
    result = Plan(purges=purges)
    for request in requests:
        if request.scope.purge:
            (result.requests if request.id in purges else result.waiting).append(
                request
            )
            continue
        reach = {
            member: _boundary(request, member, ends.get(member, ()), erased)
            for member in request.members
        }
        late = not projected and (request.scope.events or request.scope.recordings)
        if late or None in reach.values() or not restoring.isdisjoint(request.members):
            result.waiting.append(request)
            continue
        result.requests.append(request)
        for member, boundary in reach.items():
            if boundary is not None:
                result.boundaries.setdefault(
                    member, Boundary(project=request.project)
                ).widen(boundary)
    return result


def delete_of(request: DeletionRequest, ends: Iterable[Tombstone]) -> int:
    """The identity version of the delete that made a request, by a member's tombstones; 0 when it
    is not there."""
    deletes = (
        end
        for end in ends
        if end.topic == PersonDeleted.TOPIC and end.at == request.cutoff
    )
    return max((end.version for end in deletes), default=0)


def _boundary(
    request: DeletionRequest,
    member: UUID,
    ends: Iterable[Tombstone],
    erased: Mapping[UUID, int],
) -> Boundary | None:
    """None while the erase record of a deleted member is not applied."""
    boundary, scope = Boundary(project=request.project), request.scope
    if not scope.profile:
        boundary.captured_at = request.cutoff if scope.events else -1
        boundary.recorded_at = request.cutoff if scope.recordings else -1
        return boundary
    iver = delete_of(request, ends)
    lives = [
        end.version
        for end in ends
        if end.topic == FragmentErased.TOPIC and end.erase >= iver
    ]
    if not iver or not lives or erased.get(member, 0) < iver:
        return None
    boundary.iver, boundary.life = iver, min(lives)
    boundary.captured = boundary.life if scope.events else 0
    boundary.recorded = boundary.life if scope.recordings else 0
    return boundary
