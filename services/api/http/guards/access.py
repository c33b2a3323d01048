"""The living projects, tokens and keys, polled from the store. Never keeps a key in clear."""

from __future__ import annotations

import asyncio
import hashlib
from uuid import UUID

import msgspec

from shared.domain.errors import PersonlogError
from shared.runtime.clock import Clock
from shared.store.clickhouse import access as tables
from shared.store.clickhouse.client import Store

POLL_SECONDS = 2.0
"""How often keys and projects are read again; a revocation must take effect within 10 s."""


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant. `zone` is the time zone of its dates; `recordings`: whether its SDKs are told to
    record sessions; `delete_everything`: whether a DELETE covers captured events and recordings
    whatever it asks for."""

    id: int
    name: str
    token: str
    zone: str = tables.UTC
    recordings: bool = False
    delete_everything: bool = False
    merge_dangerously: bool = True
    """Whether the public token may merge identified persons."""

    server_only: frozenset[str] = frozenset()
    """Properties that the public token may not change."""


class PersonalKey(msgspec.Struct, frozen=True, kw_only=True):
    """A personal key. `projects` empty means all; `expires_at` in microseconds, 0 for never."""

    id: UUID
    name: str
    scopes: frozenset[str]
    projects: frozenset[int]
    expires_at: int
    actor: str
    """Who writes, as the timeline keeps it: the key's id, which is no secret and no personal
    datum."""


class Access:
    """The living projects and keys, as of the last poll."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._projects: dict[int, Project] = {}
        self._tokens: dict[str, Project] = {}
        self._keys: dict[str, PersonalKey] = {}
        self._names: dict[str, str] = {}
        self._poller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.refresh()
        self._poller = asyncio.create_task(self._poll(), name="access")

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def refresh(self) -> None:
        """Read projects and keys now."""
        projects = [
            Project(
                id=row.project,
                name=row.name,
                token=row.token,
                zone=row.zone or tables.UTC,
                recordings=row.recordings,
                delete_everything=row.delete_everything,
                merge_dangerously=row.merge_dangerously,
                server_only=frozenset(row.server_only),
            )
            for row in await tables.list_projects(self._store)
        ]
        keys = await tables.list_keys(self._store)
        self._projects = {project.id: project for project in projects}
        self._tokens = {project.token: project for project in projects}
        self._names = {_actor(row.id): row.name for row in keys}
        self._keys = {
            row.hash: PersonalKey(
                id=row.id,
                name=row.name,
                scopes=frozenset(row.scopes),
                projects=frozenset(row.projects),
                expires_at=row.expires_at,
                actor=_actor(row.id),
            )
            for row in keys
            if not row.revoked
        }

    def project(self, project: int) -> Project | None:
        return self._projects.get(project)

    def by_token(self, token: str) -> Project | None:
        return self._tokens.get(token)

    def name_of(self, actor: str) -> str:
        """How activity names an actor: by its key's name, revoked ones too."""
        return self._names.get(actor, actor)

    def key(self, plain: str) -> PersonalKey | None:
        """The living key with this text."""
        key = self._keys.get(
            hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
        )
        if key is None or (key.expires_at and key.expires_at <= self._clock.now_us()):
            return None
        return key

    def projects(self) -> list[Project]:
        """All projects, the lowest first."""
        return [self._projects[number] for number in sorted(self._projects)]

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except (
                PersonlogError
            ):  # keys stay as they were, and reads say by themselves what is wrong
                continue  # whatever it was: a poll that ended would never hear of a revocation


def _actor(key: UUID) -> str:
    return f"key:{key}"
