"""The deletion request: what was asked for, and how far its erasure has come. Never deletes a row,
reads no clock.

pending ── hide ──▶ hidden ── erase ──▶ erasing (i of n) ── verify ──▶ verified
     │   ▲                └────────────┬───────┘
     │   └ refused ┐                 failed ── retry ──▶ pending
     ├─▶ cancelling ─┐
     └───────────────┴─▶ cancelled

Hiding is announced before it is done (`begin`), and from then on a request cannot be cancelled: a
crash half-way leaves rows hidden that nobody may promise back. A request that includes the profile
is `cancelling`, and closed for runs, until the person is restored; the restore may be refused, and
then the request goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec
from eventsourcing.domain import Aggregate, event

from shared.domain.commands import RequestDeletion, Scope
from shared.domain.errors import Corrupt, NewerVersion, Rejected

RequestState = Literal[
    "pending", "hidden", "erasing", "verified", "cancelling", "cancelled", "failed"
]
NEWER = "A newer version wrote this; upgrade the deleter first."

OPEN: tuple[RequestState, ...] = (
    "pending",
    "hidden",
    "erasing",
    "failed",
    "cancelling",
)
"""States in which there is still something to do. No run works on what is being cancelled."""

RowCounts = dict[str, int]
"""Rows by target."""

Partitions = dict[str, dict[str, int]]
"""Rows by target and partition."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DeletionRequest(Aggregate):
    """One request. `cutoff` is its server time; `members` were frozen then; `plan` names the last
    run that hid it."""

    TOPIC = "personlog.deletion"

    class Event(Aggregate.Event):
        TOPIC = "personlog.deletion.event"

    class Requested(Event, Aggregate.Created):
        TOPIC = "deletion.requested"
        project: int
        person: UUID
        members: tuple[UUID, ...]
        scope: Scope
        actor: str

    class HidingBegan(Event):
        TOPIC = "deletion.hiding_began"
        plan: UUID

    class Hidden(Event):
        TOPIC = "deletion.hidden"
        counts: RowCounts
        partitions: Partitions

    class Erasing(Event):
        TOPIC = "deletion.erasing"
        done: int
        of: int

    class Verified(Event):
        TOPIC = "deletion.verified"
        counts: RowCounts

    class Cancelling(Event):
        TOPIC = "deletion.cancelling"
        actor: str

    class CancelRefused(Event):
        TOPIC = "deletion.cancel_refused"
        reason: str

    class Cancelled(Event):
        TOPIC = "deletion.cancelled"
        actor: str

    class Failed(Event):
        TOPIC = "deletion.failed"
        reason: str

    class Retried(Event):
        TOPIC = "deletion.retried"

    @event(Requested)
    def __init__(
        self,
        *,
        id: UUID,  # noqa: A002  # the library's name for it
        timestamp: datetime,
        project: int,
        person: UUID,
        members: tuple[UUID, ...],
        scope: Scope,
        actor: str,
    ) -> None:
        self.project, self.person, self.members = project, person, members
        self.scope, self.actor = scope, actor
        self.state: RequestState = "pending"
        self.plan: UUID | None = None
        self.hidden: RowCounts = {}
        self.partitions: Partitions = {}
        self.remaining: RowCounts = {}
        self.partition: tuple[int, int] | None = None
        self.reason = ""
        self.canceller, self.cancels, self.refusal = "", 0, ""
        self.history: list[dict[str, Any]] = []

    @classmethod
    def of(cls, command: RequestDeletion) -> DeletionRequest:
        """The request that a command of the log asks for."""
        return cls(
            id=command.request,
            timestamp=_time(command.at),
            project=command.project,
            person=command.person,
            members=command.members,
            scope=command.scope,
            actor=command.actor,
        )

    @property
    def cutoff(self) -> int:
        """What the server received later is not meant; microseconds."""
        return _us(self.created_on)

    @property
    def updated_at(self) -> int:
        return _us(self.modified_on)

    @property
    def cancellable(self) -> bool:
        return self.state == "pending" and self.plan is None and not self.scope.purge

    def begin(self, plan: UUID, at: int) -> None:
        """A run is about to hide the rows."""
        self._require("pending")
        self._begun(timestamp=_time(at), plan=plan)

    def hide(self, counts: RowCounts, partitions: Partitions, at: int) -> None:
        """The rows are hidden: so many by target, and where."""
        self._require("pending")
        if self.plan is None:
            raise Rejected("Hiding must be announced before it is done.")
        self._hid(timestamp=_time(at), counts=counts, partitions=partitions)

    def erase(self, done: int, of: int, at: int) -> None:
        """So many of the run's partitions are rewritten."""
        self._require("hidden", "erasing")
        if not 0 <= done <= of:
            raise Rejected(f"There is no partition {done} of {of}.")
        self._erased(timestamp=_time(at), done=done, of=of)

    def verify(self, counts: RowCounts, at: int) -> None:
        """The rows were counted through the mask: there are none. An empty count is no count."""
        self._require("hidden", "erasing")
        if not counts or any(counts.values()):
            raise Rejected("Only a count of zero for every target verifies an erasure.")
        self._verified(timestamp=_time(at), counts=counts)

    def cancel(self, actor: str, at: int) -> None:
        """Take the request back: at once where nobody has to be restored."""
        if not self.cancellable:
            why = "A purge is done at once" if self.scope.purge else "Hiding has begun"
            raise Rejected(
                f"{why}: the request is {self.state} and cannot be cancelled."
            )
        if self.scope.profile:
            self._cancelling(timestamp=_time(at), actor=actor)
        else:
            self._cancelled(timestamp=_time(at), actor=actor)

    def restored(self, at: int) -> None:
        """The person is back, whole."""
        self._require("cancelling")
        self._cancelled(timestamp=_time(at), actor=self.canceller)

    def refuse(self, reason: str, at: int) -> None:
        """The person cannot be given back: the request goes on."""
        self._require("cancelling")
        self._refused(timestamp=_time(at), reason=reason)

    def fail(self, reason: str, at: int) -> None:
        self._require("pending", "hidden", "erasing")
        self._failed(timestamp=_time(at), reason=reason)

    def retry(self, at: int) -> None:
        """Start again from hiding, which is harmless to repeat."""
        self._require("failed")
        self._retried(timestamp=_time(at))

    def document(self, window: str | None) -> bytes:
        """The ledger's JSON: what readers are shown, and the history that `load` replays.

        `window` is when the next run may work on it.
        """
        self.history.extend(_recorded(fact) for fact in self.collect_events())
        phases = {
            target: {"hidden": rows}
            | (
                {"remaining": self.remaining[target]}
                if target in self.remaining
                else {}
            )
            for target, rows in self.hidden.items()
        }
        return msgspec.json.encode(
            {
                "phases": phases,
                "partition": None
                if self.partition is None
                else {"done": self.partition[0], "of": self.partition[1]},
                "reason": self.reason,
                "cancels": {"count": self.cancels, "refusal": self.refusal},
                "window": window
                if self.state in OPEN and self.state != "cancelling"
                else None,
                "history": self.history,
            }
        )

    @event(HidingBegan)
    def _begun(self, timestamp: datetime, plan: UUID) -> None:
        self.plan = plan

    @event(Hidden)
    def _hid(
        self, timestamp: datetime, counts: RowCounts, partitions: Partitions
    ) -> None:
        self.state, self.hidden, self.partitions, self.remaining = (
            "hidden",
            counts,
            partitions,
            {},
        )

    @event(Erasing)
    def _erased(self, timestamp: datetime, done: int, of: int) -> None:
        self.state, self.partition = "erasing", (done, of)

    @event(Verified)
    def _verified(self, timestamp: datetime, counts: RowCounts) -> None:
        self.state, self.remaining, self.reason = "verified", counts, ""

    @event(Cancelling)
    def _cancelling(self, timestamp: datetime, actor: str) -> None:
        self.state, self.canceller, self.refusal = "cancelling", actor, ""
        self.cancels += 1

    @event(CancelRefused)
    def _refused(self, timestamp: datetime, reason: str) -> None:
        self.state, self.refusal = "pending", reason

    @event(Cancelled)
    def _cancelled(self, timestamp: datetime, actor: str) -> None:
        self.state = "cancelled"

    @event(Failed)
    def _failed(self, timestamp: datetime, reason: str) -> None:
        self.state, self.reason = "failed", reason

    @event(Retried)
    def _retried(self, timestamp: datetime) -> None:
        self.state, self.partition = "pending", None

    def _require(self, *states: RequestState) -> None:
        if self.state not in states:
            raise Rejected(f"The request is {self.state}, not {' or '.join(states)}.")


_EVENTS: Mapping[
    str, type[Any]
] = {  # what is told in another way than before gets a topic of its own
    fact.TOPIC: fact
    for fact in (
        DeletionRequest.Requested,
        DeletionRequest.HidingBegan,
        DeletionRequest.Hidden,
        DeletionRequest.Erasing,
        DeletionRequest.Verified,
        DeletionRequest.Cancelling,
        DeletionRequest.CancelRefused,
        DeletionRequest.Cancelled,
        DeletionRequest.Failed,
        DeletionRequest.Retried,
    )
}


def load(request: UUID, document: bytes | str) -> DeletionRequest:
    """The request that a document's history makes when replayed; NewerVersion when a later version
    wrote some of it, Corrupt when it makes none."""
    try:
        history = msgspec.json.decode(document)["history"]
        loaded: DeletionRequest | None = None
        for version, record in enumerate(history, 1):
            loaded = _fact(request, version, record).mutate(loaded)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise Corrupt(
            f"The history of deletion request {request} cannot be read: {error}"
        ) from error
    if loaded is None:
        raise Corrupt(f"Deletion request {request} has no history.")
    loaded.history = history
    return loaded


def _recorded(fact: Any) -> dict[str, Any]:
    """An event as the ledger gives it back, without what its place there says already: request id
    and version."""
    fields = {
        name: value
        for name, value in vars(fact).items()
        if not name.startswith("originator_")
    }
    record: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode({"topic": fact.TOPIC} | fields)
    )
    return record


def _fact(request: UUID, version: int, record: dict[str, Any]) -> Any:
    kind = _EVENTS.get(record["topic"])
    if kind is None:
        raise NewerVersion(NEWER)
    fields = record | {"originator_id": request, "originator_version": version}
    if kind is DeletionRequest.Requested:
        fields["originator_topic"] = DeletionRequest.TOPIC
    if kind is DeletionRequest.Hidden:
        fields.setdefault("partitions", {})  # events of before they were kept
    fields["timestamp"] = datetime.fromisoformat(record["timestamp"])
    return msgspec.convert(fields, kind)


def _time(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
