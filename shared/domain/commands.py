"""Everything personlog can be told: one tagged union, as it lies in the log. Never decides
anything.

Times are microseconds since the epoch, UTC. `at` is the API's receive time plus the index within
the request. Which topic and partition a command goes to is said here once, by `route`.

Records outlive versions of this code, and while it is upgraded older and newer processes read one
log. A reader that does not understand a record must not skip it: it stops there, and whoever is
upgraded goes on. It knows by the `op`, which it does not have, or by `v`, which is above its own.
So the rule for changing a command:

- a new field with a default that a reader may ignore and still do right: nothing else, for readers
  ignore it;
- anything else (a field that changes what is done, a field without a default, another meaning): the
  command's next
  format in FORMATS, and readers go on taking every one before it;
- a new command: a new `op`. No op is ever used again for something else;
- `op`, `v`, `id`, `project` and `at` stay as they are, for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args
from uuid import UUID

import msgspec

from shared.domain.errors import BadRecord, NewerVersion
from shared.domain.ids import COMMANDS, DELETIONS, IDENTITY, partition_of

PropertyMap = dict[str, Any]
MergeMode = Literal["identify", "alias", "dangerous", "operator"]


class Envelope(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="op"
):
    """What every command carries. `v` is its format, written by `encode`; `id` a uuid7 minted by
    the API; `key` a hash of the Idempotency-Key, `digest` one of what the request asked for: the
    same key with another digest is refused. `replayed` is a dead letter's, sent again: it counts at
    its `at`, and not at all if that lies before a deletion."""

    v: int = 1
    id: UUID
    key: int = 0
    digest: int = 0
    project: int
    at: int
    actor: str = ""
    replayed: bool = False


class Capture(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="capture"):
    """A captured event, with what it says of the person of `distinct_id`.

    `lifted` are properties copied from the event by rule: equal values are no effect. `person` is
    False for an event without person processing. `historical` events carry their own time into the
    stamp. `repairs` say what had to be changed of the event as it was sent: kind, a blank, field.
    """

    fragment: UUID
    distinct_id: str
    uuid: UUID
    event: str
    timestamp: int
    properties: msgspec.Raw = msgspec.Raw(b"{}")
    set: PropertyMap = {}
    lifted: PropertyMap = {}
    set_once: PropertyMap = {}
    unset: tuple[str, ...] = ()
    person: bool = True
    historical: bool = False
    repairs: tuple[str, ...] = ()


class Write(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="write"):
    """A change of one fragment by REST, or the empty write before a merge, which only gives birth.

    `expect` is the version of the fragment's last effect that the client saw (If-Match). `since` is
    the time of the imported event that asks for the merge. `iver` is of a birth that the identity
    fold asks for: the identity version of the delete that it follows; once a later one has erased,
    it is nothing.
    """

    fragment: UUID
    distinct_id: str = ""
    set: PropertyMap = {}
    set_once: PropertyMap = {}
    unset: tuple[str, ...] = ()
    expect: int | None = None
    since: int = 0
    iver: int = 0
    reason: str = ""


class Erase(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="erase"):
    """Forget a fragment. `iver` is the identity version of the delete that asks for it."""

    fragment: UUID
    iver: int


class Revive(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="revive"):
    """Open the life again that the delete of identity version `iver` closed: its erasure was taken
    back."""

    fragment: UUID
    iver: int


class Purge(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="purge"):
    """Forget what a fragment had under some names up to the stamp `before`, past included.
    `request` is the deletion request that asks for it."""

    fragment: UUID
    names: tuple[str, ...]
    before: int
    request: UUID


class RecordBlock(
    Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="record"
):
    """A block of a recording: the snapshots of one captured event, `length` bytes of `object` from
    `start` on.

    It lies in the log before the object is written, so no object is ever without a row that names
    it. It tells nothing of the fragment, whose distinct id it was sent with: that neither changes
    nor is born.
    """

    fragment: UUID
    uuid: UUID
    session: str
    window: str
    object: str
    start: int
    length: int
    started_at: int
    ended_at: int


class MergePersons(
    Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="merge"
):
    """Make one person of two: that of `into` survives, that of `source` is absorbed.

    `since` is the time of the imported event that asks for it. `into_erase` and `source_erase` are
    the identity versions of the deletes behind the lives that the API saw, 0 for first lives; None
    when it did not look.
    """

    into: UUID
    source: UUID
    into_id: str | None = None
    source_id: str | None = None
    mode: MergeMode
    since: int = 0
    into_erase: int | None = None
    source_erase: int | None = None


class SplitPerson(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="split"):
    """Move fragments out of the person that holds `person`: all but `keep`, or those of `leave`."""

    person: UUID
    keep: UUID | None = None
    leave: tuple[UUID, ...] = ()


SCOPES = ("profile", "events", "recordings")


class Scope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a deletion request covers: kinds of data, or one property's values and nothing else."""

    profile: bool = False
    events: bool = False
    recordings: bool = False
    purge: str = ""

    def __str__(self) -> str:
        """As the timeline keeps it: the names of what is covered."""
        return " ".join(name for name in SCOPES if getattr(self, name))

    @property
    def stays(self) -> list[str]:
        """The names of what is not covered."""
        return [name for name in SCOPES if not getattr(self, name)]


class Delete(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="delete"):
    """Delete the person that holds `person`. `request` is the id of the deletion request it
    makes."""

    person: UUID
    request: UUID
    scope: Scope = Scope(profile=True)


class Restored(msgspec.Struct, frozen=True, array_like=True):
    """A member of a deleted person, with its identity as it was before the delete."""

    fragment: UUID
    identified: bool
    erase: int
    erased_at: int


class Restore(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="restore"):
    """Take the delete of identity version `iver` back: `members`, the root first, are one person
    again.

    The deleter sends it for a request that is being cancelled, having read from the timeline what
    was before: a delete leaves nothing of that on the memberships.
    """

    person: UUID
    request: UUID
    iver: int
    members: tuple[Restored, ...]


class RequestDeletion(
    Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="request"
):
    """A deletion request for the ledger: the frozen members of one person, and the cut-off `at`. A
    purge for all persons of a project has no members."""

    request: UUID
    person: UUID
    members: tuple[UUID, ...]
    scope: Scope


class Cancel(Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="cancel"):
    """Take a deletion request back."""

    request: UUID


Command = (
    Capture
    | Write
    | Erase
    | Revive
    | Purge
    | RecordBlock
    | MergePersons
    | SplitPerson
    | Delete
    | Restore
    | RequestDeletion
    | Cancel
)
FragmentCommand = Capture | Write | Erase | Revive | Purge
IdentityCommand = MergePersons | SplitPerson | Delete | Restore
DeletionCommand = RequestDeletion | Cancel

FORMATS: dict[type[Command], int] = {}
"""The format that this code writes of a command, and the highest that it reads, where that is not
1."""

REPLAYED = 2
"""The least format of a command that says `replayed`, of whatever kind: a reader that does not know
the word would fold it as of now. Of a kind's own formats the next is 3."""


class _Head(msgspec.Struct):
    """What every record has, of whatever version."""

    op: str
    id: UUID
    project: int
    at: int
    v: int = 1
    replayed: bool = False


class CommandDecoder:
    """Decodes the commands of one version: of these kinds, in formats up to these."""

    def __init__(self, kinds: Any, formats: Mapping[type[Command], int]) -> None:
        classes: tuple[type[Command], ...] = get_args(kinds)
        self._decoder = msgspec.json.Decoder(kinds)
        self._head = msgspec.json.Decoder(_Head)
        self._ops = {
            str(kind.__struct_config__.tag): formats.get(kind, 1) for kind in classes
        }

    def decode(self, value: bytes) -> Command:
        """The command of a record's value; NewerVersion if a later version wrote it, BadRecord if
        it is none."""
        try:
            command: Command = self._decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if self._is_newer(value):
                raise NewerVersion from error
            raise BadRecord(f"Not a command: {error}") from error
        if command.v != 1 and self._is_newer(value):
            raise NewerVersion
        return command

    def _is_newer(self, value: bytes) -> bool:
        try:
            head = self._head.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        newest = self._ops.get(head.op, 0)
        return head.v > (max(newest, REPLAYED) if newest and head.replayed else newest)


_encoder = msgspec.json.Encoder()
decode = CommandDecoder(Command, FORMATS).decode


def encode(command: Command) -> bytes:
    """The command as a record's value: JSON, defaults left out."""
    if FORMATS or command.replayed:
        written = FORMATS.get(type(command), 1)
        written = max(written, REPLAYED) if command.replayed else written
        if command.v != written:
            command = msgspec.structs.replace(command, v=written)
    return _encoder.encode(command)


def route(command: Command, partitions: dict[str, int]) -> tuple[str, int, bytes]:
    """(topic, partition, record key): a fragment's commands and a project's identity have one order
    each."""
    if isinstance(command, FragmentCommand | RecordBlock):
        return (
            COMMANDS,
            partition_of(command.fragment, partitions[COMMANDS]),
            command.fragment.bytes,
        )
    topic = IDENTITY if isinstance(command, IdentityCommand) else DELETIONS
    return topic, command.project % partitions[topic], str(command.project).encode()


def first_known_at(command: Capture | Write, since: int) -> int:
    """The time from which a command shows its fragment to exist: of an event its own, where that is
    before it came; of a write `since`, the time of an import, or 0."""
    if isinstance(command, Write):
        return since
    return min(since or command.at, max(command.timestamp, 1))


def imported_at(command: Capture | Write) -> int:
    """The time that an import brings with it, or that a replayed command was received at; 0 for
    what is of now."""
    if isinstance(command, Write):
        if command.since:
            return command.since
    elif command.historical:
        return max(command.timestamp, 1)
    return command.at if command.replayed else 0
