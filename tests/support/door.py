"""What the API sees of two persons before it sends a merge by REST, on the simulator's tables. Never sends anything."""

from __future__ import annotations

from uuid import UUID

import msgspec

from services.projector.tables.memory import MemoryTables
from services.projector.tables.rows import fragment_of, membership_of
from shared.domain.commands import MergePersons
from shared.domain.ids import COMMANDS, IDENTITY
from shared.domain.person.fragment import Fragment
from shared.domain.person.identity import Membership


def let_in(tables: MemoryTables, command: MergePersons) -> MergePersons | None:
    """The merge with the deletes that the API knows of; None when it finds nobody: 404."""
    into, source = (_erase_of(tables, command.project, one) for one in (command.into, command.source))
    if into is None or source is None:
        return None
    return msgspec.structs.replace(command, into_erase=into, source_erase=source)


def _erase_of(tables: MemoryTables, project: int, fragment: UUID) -> int | None:
    named = _membership(tables, project, fragment)
    root = _membership(tables, project, named.root)
    if _living(tables, project, named):
        return _fragment(tables, project, fragment).erased
    if any(_living(tables, project, _membership(tables, project, one)) for one in root.members):
        return named.erase
    return None


def _living(tables: MemoryTables, project: int, membership: Membership) -> bool:
    fragment = _fragment(tables, project, membership.id)
    return fragment.alive and fragment.erased >= membership.erase


def _membership(tables: MemoryTables, project: int, fragment: UUID) -> Membership:
    row = tables.state[IDENTITY].get((project, fragment))
    return Membership(project, fragment) if row is None else membership_of(row)


def _fragment(tables: MemoryTables, project: int, fragment: UUID) -> Fragment:
    row = tables.state[COMMANDS].get((project, fragment))
    return Fragment(project, fragment) if row is None else fragment_of(row)
