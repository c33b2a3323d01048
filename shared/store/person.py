"""A person as it is read: fragment rows and identity rows put together. Never asks the store.

The API reads persons with it, and the projector feeds the search table with the very same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import orjson

from shared.domain.ids import is_anonymous
from shared.domain.person.fragment import Fragment
from shared.domain.person.view import (
    MERGED_BYTES_MAX,
    Member,
    counted,
    merged_properties,
    ordered_distinct_ids,
)
from shared.store.clickhouse.queries import load as load_queries

PERSON_QUERIES = load_queries(Path(__file__).with_suffix(".sql"))
"""`fragments` and `identities`: the rows that a person is put together from, in the shape that is
known here."""

ROW_BYTES_WHOLE = 16_384
"""A larger row is read in two steps: first without its texts, and with them if its person shows
them. Of thousands of rows read together so much is held at most of each."""

ROW_BYTES_ANY = 2**63 - 1

EMAIL_NAMES = ("email", "Email", "$email")
"""Properties that an address is kept under."""

DISPLAY_NAMES = (*EMAIL_NAMES, "name", "username")
"""A person's name is the first of these properties that is truthy."""


class FragmentRow(NamedTuple):
    """A row of the query `fragments`. Times in microseconds; the texts are empty in a row that came
    without them."""

    project: int
    fragment: UUID
    version: int
    distinct_id: str
    number: int
    created_at: int
    effect: int
    stamp: int
    erased: int
    seen_at: int
    properties: str
    cells: str
    size: int


class IdentityRow(NamedTuple):
    """A row of the query `identities`."""

    project: int
    fragment: UUID
    version: int
    root: UUID
    members: Sequence[UUID]
    identified: int
    erase: int
    stamp: int


class Person(msgspec.Struct, kw_only=True):
    """The merged view of one person, as readers see it. Times in microseconds, 0 for never."""

    project: int
    uuid: UUID
    number: int
    distinct_ids: list[str]
    properties: dict[str, Any] | orjson.Fragment
    created_at: int
    seen_at: int
    identified: bool
    members: list[Member]
    etag: str = ""

    def document(self) -> dict[str, Any]:
        """The properties as values."""
        if isinstance(self.properties, orjson.Fragment):
            return orjson.loads(self.members[0].properties)  # type: ignore[no-any-return]  # stored by us
        return self.properties

    def to_json(self) -> dict[str, Any]:
        """The body that clients see (docs/contract.md §2)."""
        left_out = sum(member.left_out for member in self.members)
        return {
            "id": self.number,
            "name": self.name(),
            "distinct_ids": self.distinct_ids,
            "properties": self.properties,
            "created_at": iso(self.created_at),
            "uuid": str(self.uuid),
            "last_seen_at": iso(self.seen_at) if self.seen_at else None,
            "is_identified": self.identified,
            **({"properties_left_out": {"distinct_ids": left_out}} if left_out else {}),
        }

    def name(self) -> str:
        document = self.document()
        for key in DISPLAY_NAMES:
            if document.get(key):
                value = document[key]
                return value if isinstance(value, str) else orjson.dumps(value).decode()
        ids = sorted(self.distinct_ids, key=is_anonymous)
        return ids[0] if ids else str(self.number)


def iso(microseconds: int) -> str:
    """ISO 8601 in UTC with Z, microseconds when they are not zero."""
    return (
        datetime.fromtimestamp(microseconds // 1_000_000, UTC)
        .replace(microsecond=microseconds % 1_000_000)
        .isoformat()
        .replace("+00:00", "Z")
    )


MemberRows = tuple[UUID, FragmentRow | None, IdentityRow | None]
"""A member, its row, and that of its identity, as far as there are any."""


def root_of(fragment: UUID, identity: IdentityRow | None) -> UUID:
    """Of the person that holds a fragment; one that was never merged has no identity row."""
    return fragment if identity is None else identity.root


def group_of(root: UUID, identity: IdentityRow | None) -> Sequence[UUID]:
    """The members of a root."""
    members: Sequence[UUID] = () if identity is None else identity.members
    return members or (root,)


def person_of(project: int, root: UUID, group: Sequence[MemberRows]) -> Person | None:
    """The person of a root's members, the root among them."""
    version = next(
        (
            identity.version
            for fragment, _, identity in group
            if identity and fragment == root
        ),
        0,
    )
    return assemble(project, root, _members(group), version)


def is_cut(row: FragmentRow) -> bool:
    """Whether a row came without its texts, for its size."""
    return not row.properties and row.size > 0


def unread_of(group: Sequence[MemberRows]) -> list[UUID]:
    """The members that a person of them shows, and whose rows came without their texts."""
    if not any(row is not None and is_cut(row) for _, row, _ in group):  # nearly always
        return []
    visible = counted((member.size, member.fragment) for member in living_of(group))
    return [
        fragment
        for fragment, row, _ in group
        if row is not None and is_cut(row) and fragment in visible
    ]


def living_of(group: Iterable[MemberRows]) -> list[Member]:
    """The members that a person of them would have; none, no person."""
    return [member for member in _members(group) if member.living]


def assemble(
    project: int, root: UUID, group: Iterable[Member], version: int = 0
) -> Person | None:
    """The person of these members, or None when none of them lives. `version` is the root's
    identity version."""
    members = [member for member in group if member.living]
    if not members:
        return None
    _leave_out(members)
    if len(members) == 1 and not members[0].left_out:
        properties: dict[str, Any] | orjson.Fragment = orjson.Fragment(
            members[0].properties
        )
    else:
        properties = merged_properties(cells_of(members))
    head = next((member for member in members if member.fragment == root), members[0])
    return Person(
        project=project,
        uuid=root,
        number=head.number,
        distinct_ids=ordered_distinct_ids(member.distinct_id for member in members),
        properties=properties,
        created_at=min(member.created_at for member in members),
        seen_at=max(member.seen_at for member in members),
        identified=any(member.identified for member in members),
        members=members,
        etag=f'"{version:x}-{"-".join(f"{member.effect:x}" for member in members)}"',
    )


def _leave_out(members: Sequence[Member]) -> None:
    """Mark whose properties the person has no room for; or whose texts nobody has read, who wanted
    no properties."""
    whole = (
        sum([member.size for member in members]) <= MERGED_BYTES_MAX
    )  # nearly always
    visible = (
        () if whole else counted((member.size, member.fragment) for member in members)
    )
    for member in members:
        member.left_out = not member.properties or not (
            whole or member.fragment in visible
        )


def cells_of(
    members: Iterable[Member],
) -> list[tuple[UUID, dict[str, Any], dict[str, Any]]]:
    """(fragment, cells, properties) of the members that a person shows, as the merged view takes
    them."""
    return [
        (member.fragment, orjson.loads(member.cells), orjson.loads(member.properties))
        for member in members
        if not member.left_out
    ]


def size_of(fragment: Fragment) -> int:
    """How many bytes of properties and cells its row has."""
    return len(orjson.dumps(fragment.properties)) + len(orjson.dumps(fragment.cells))


def shown_of(
    fragments: Iterable[Fragment], sizes: Mapping[UUID, int]
) -> dict[str, Any]:
    """The properties of a person of these living fragments."""
    group = list(fragments)
    visible = counted((sizes[fragment.id], fragment.id) for fragment in group)
    return merged_properties(
        (fragment.id, fragment.cells, fragment.properties)
        for fragment in group
        if fragment.id in visible
    )


def _members(group: Iterable[MemberRows]) -> Iterator[Member]:
    return (
        _member(fragment, row, identity)
        for fragment, row, identity in group
        if row is not None
    )


def _member(fragment: UUID, row: FragmentRow, identity: IdentityRow | None) -> Member:
    return Member(
        fragment=fragment,
        distinct_id=row.distinct_id,
        number=row.number,
        created_at=row.created_at,
        effect=row.effect,
        erased=row.erased,
        seen_at=row.seen_at,
        properties=row.properties,
        cells=row.cells,
        root=identity.root if identity else fragment,
        identified=bool(identity.identified) if identity else False,
        erase=identity.erase if identity else 0,
        size=row.size,
    )
