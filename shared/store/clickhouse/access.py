"""Projects and keys in the store. Never keeps a key in clear: only its SHA-256 (256 random bits
need no slow hash)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec

from shared.domain.errors import NotFound
from shared.domain.ids import NAMESPACE
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load

_QUERIES = Path(__file__).with_name("access.sql")

UTC = "UTC"
"""The zone of a project that has none of its own."""

SCOPES = ("person:read", "person:write", "activity_log:read", "*")


class ProjectRow(msgspec.Struct, frozen=True):
    """One row of `projects`."""

    project: int
    name: str
    token: str
    zone: str
    recordings: bool = False
    delete_everything: bool = False
    merge_dangerously: bool = True
    server_only: tuple[str, ...] = ()


class CapturedProperty(NamedTuple):
    """A property of a fragment that the public token set last."""

    fragment: UUID
    key: str
    at: int
    """Microseconds."""


class KeyRow(msgspec.Struct, frozen=True):
    """One row of `api_keys`; `projects` empty: all; `expires_at` in microseconds, 0 for never."""

    id: UUID
    name: str
    hash: str
    scopes: list[str]
    projects: list[int]
    expires_at: int
    revoked: bool


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


async def list_projects(store: Store) -> list[ProjectRow]:
    rows = await store.rows(load(_QUERIES)["projects"])
    return [
        ProjectRow(
            project,
            name,
            token,
            zone,
            bool(recordings),
            bool(everything),
            bool(dangerously),
            tuple(server_only),
        )
        for (
            project,
            name,
            token,
            zone,
            recordings,
            everything,
            dangerously,
            server_only,
        ) in rows
    ]


async def list_keys(store: Store) -> list[KeyRow]:
    """All keys, revoked ones too."""
    return [KeyRow(*row) for row in await store.rows(load(_QUERIES)["keys"])]


async def create_project(
    store: Store, name: str, token: str, now_us: int, zone: str = UTC, **switches: Any
) -> ProjectRow:
    """A project with the next free integer; `switches` are `recordings` and `delete_everything`."""
    projects = await list_projects(store)
    row = ProjectRow(
        max((project.project for project in projects), default=0) + 1,
        name,
        token,
        zone,
        **switches,
    )
    await _write_project(store, row, now_us)
    return row


async def set_recordings(
    store: Store, project: int, on: bool, now_us: int
) -> ProjectRow:
    """Whether a project's SDKs are told to record sessions; NotFound when there is no such
    project."""
    return await _set(store, project, now_us, recordings=on)


async def set_delete_everything(
    store: Store, project: int, on: bool, now_us: int
) -> ProjectRow:
    """Whether a DELETE covers captured events and recordings whatever it asks for; NotFound as
    above."""
    return await _set(store, project, now_us, delete_everything=on)


async def set_zone(store: Store, project: int, zone: str, now_us: int) -> ProjectRow:
    """The time zone of a project's dates; NotFound as above."""
    return await _set(store, project, now_us, zone=zone)


async def set_protection(
    store: Store,
    project: int,
    now_us: int,
    *,
    merge_dangerously: bool | None = None,
    server_only: Sequence[str] | None = None,
) -> ProjectRow:
    """What the public token may do; None leaves a setting as it is. NotFound as above."""
    settings: dict[str, Any] = {}
    if merge_dangerously is not None:
        settings["merge_dangerously"] = merge_dangerously
    if server_only is not None:
        settings["server_only"] = tuple(sorted(set(server_only)))
    return await _set(store, project, now_us, **settings)


async def set_by_capture(
    store: Store, project: int, names: Sequence[str], limit: int
) -> list[CapturedProperty]:
    """Properties of these names that the public token set last."""
    rows = await store.rows(
        load(_QUERIES)["set_by_capture"],
        project=project,
        names=list(names),
        limit=limit,
    )
    return [CapturedProperty._make(row) for row in rows]


async def _set(store: Store, project: int, now_us: int, **settings: Any) -> ProjectRow:
    for row in await list_projects(store):
        if row.project == project:
            changed = msgspec.structs.replace(row, **settings)
            if changed != row:
                await _write_project(store, changed, now_us)
            return changed
    raise NotFound("No such project.")


async def create_key(store: Store, plain: str, row: KeyRow, now_us: int) -> KeyRow:
    """Keep a key by its hash."""
    hashed = msgspec.structs.replace(row, hash=hash_of(plain))
    await _write_key(store, hashed, now_us)
    return hashed


async def revoke_key(store: Store, key: str, now_us: int) -> KeyRow:
    """Revoke a key by its text or its id; NotFound when there is none."""
    for row in await list_keys(store):
        if row.hash == hash_of(key) or str(row.id) == key:
            revoked = msgspec.structs.replace(row, revoked=True)
            await _write_key(store, revoked, now_us)
            return revoked
    raise NotFound("No such key.")


async def ensure_bootstrap(
    store: Store, key: str, token: str, now: Callable[[], int]
) -> None:
    """Project 1 and the bootstrap key, when the store has no key yet; safe when two processes do it
    at once."""
    if await list_keys(store):
        return
    await _write_project(store, ProjectRow(1, "Default project", token, UTC), now())
    identity = uuid5(NAMESPACE, "bootstrap key")
    await create_key(
        store, key, KeyRow(identity, "bootstrap", "", ["*"], [], 0, False), now()
    )


async def _write_project(store: Store, row: ProjectRow, now_us: int) -> None:
    ((newest,),) = await store.rows(
        load(_QUERIES)["newest_project"], project=row.project
    )
    columns: dict[str, Sequence[object]] = {
        "project": [row.project],
        "version": [max(now_us, newest + 1)],
        "name": [row.name],
        "token": [row.token],
        "zone": [row.zone],
        "recordings": [int(row.recordings)],
        "delete_everything": [int(row.delete_everything)],
        "merge_dangerously": [int(row.merge_dangerously)],
        "server_only": [list(row.server_only)],
    }
    await store.insert("projects", columns)


async def _write_key(store: Store, row: KeyRow, now_us: int) -> None:
    ((newest,),) = await store.rows(load(_QUERIES)["newest_key"], key=row.id)
    columns: dict[str, Sequence[object]] = {
        "id": [row.id],
        "version": [
            max(now_us, newest + 1)
        ],  # a clock that was ahead must not outlive a revocation
        "name": [row.name],
        "hash": [row.hash],
        "scopes": [row.scopes],
        "projects": [row.projects],
        "expires_at": [row.expires_at],
        "revoked": [int(row.revoked)],
    }
    await store.insert("api_keys", columns)
