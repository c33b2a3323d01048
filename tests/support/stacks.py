"""One running stack per worker, and a project of its own on it for each module of tests.

A module whose tests only need a fresh name or a fresh project takes the fixture `stack`. One that runs deletions takes
`erasing_stack`: `personlog deletions run` carries out what every project has asked for, so that the requests which
other modules leave open would make each run longer. Whoever kills a process, needs settings or looks at the whole
store has a stack of its own (`processes.running`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar
from uuid import uuid4

import pytest

from shared.store.clickhouse.access import KeyRow, create_key, create_project, ensure_bootstrap
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from tests.support import api
from tests.support.engine import EngineProcess
from tests.support.processes import TOKEN, Stack, running, wait_for

PROJECTS_AHEAD = 24
"""Projects made at once: the API hears of new ones every two seconds, so few modules should wait for that."""

KNOWN_SECONDS_MAX = 30.0
ACTOR = "bootstrap"
"""The name of every project's key, as of the first key of a store."""

NEVER = {"PERSONLOG_WINDOW": "0 0 29 2 *", "PERSONLOG_WINDOW_HOURS": "1"}
"""No deletion window opens while tests look at what is pending."""

Made = TypeVar("Made")


class Projects:
    """Fresh projects on one stack. Not thread-safe."""

    def __init__(self, stack: Stack) -> None:
        self.first = stack
        self.second, *self._ahead = make_projects(stack, PROJECTS_AHEAD)

    def fresh(self) -> Stack:
        """The stack as a project that nobody has used, with a key for this project only."""
        if not self._ahead:
            self._ahead = make_projects(self.first, PROJECTS_AHEAD)
        return self._ahead.pop(0)


def make_projects(stack: Stack, count: int) -> list[Stack]:
    """Make projects, each with a key of its own, and wait until the API knows them."""

    async def make(store: Store) -> list[Stack]:
        made = []
        for _ in range(count):
            token = f"phc_{secrets.token_urlsafe(32)}"
            row = await create_project(store, "of a test", token, _now_us())
            made.append(stack.as_project(row.project, token, await _key(store, "*", [row.project])))
        return made

    projects = _with_store(stack, make)
    last = projects[-1]
    wait_for(lambda: last.persons("/?limit=1").status == 200, KNOWN_SECONDS_MAX, "the API to know the projects")
    return projects


def make_keys(stack: Stack, *grants: tuple[str, Sequence[int]]) -> list[str]:
    """Make a key for each (scopes, projects), and wait until the API knows them."""

    async def make(store: Store) -> list[str]:
        return [await _key(store, scopes, projects) for scopes, projects in grants]

    keys = _with_store(stack, make)
    wait_for(
        lambda: stack.ask("GET", "/api/person/", key=keys[-1]).status != 401, KNOWN_SECONDS_MAX, "the keys to be known"
    )
    return keys


async def _key(store: Store, scopes: str, projects: Sequence[int]) -> str:
    plain = f"phx_{secrets.token_urlsafe(32)}"
    row = KeyRow(uuid4(), ACTOR, "", scopes.split(","), [*projects], 0, False)
    await create_key(store, plain, row, _now_us())
    return plain


def _with_store(stack: Stack, act: Callable[[Store], Awaitable[Made]]) -> Made:
    async def acted() -> Made:
        store = await Store.connect(stack.engine_url())
        try:
            return await act(store)
        finally:
            await store.close()

    return asyncio.run(acted())


def _now_us() -> int:
    return time.time_ns() // 1_000


@pytest.fixture(scope="session")
def migrated_url(engine: EngineProcess) -> str:
    """A database with its tables and first keys, for `api.serving` of tests that project nothing and change no project.

    The project 2 has the token of `processes`, with which SDKs were recorded.
    """
    url = engine.url("migrated")

    async def make() -> None:
        store = await Store.connect(url)
        await migrate(store)
        await ensure_bootstrap(store, api.PERSONAL_KEY, api.TOKEN, lambda: api.NOW)
        await create_project(store, "of the recorded requests", TOKEN, api.NOW)
        await store.close()

    asyncio.run(make())
    return url


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Projects]:
    """Projects on the stack that all share."""
    with running(tmp_path_factory.mktemp("shared") / "data", **NEVER) as stack:
        yield Projects(stack)


@pytest.fixture(scope="session")
def erasing_projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Projects]:
    """Projects on the stack that those share who run deletions."""
    with running(tmp_path_factory.mktemp("erasing") / "data", **NEVER) as stack:
        yield Projects(stack)


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that only this module has: its processes may be killed, its tables spoilt."""
    with running(tmp_path_factory.mktemp("own") / "data") as stack:
        yield stack


@pytest.fixture(scope="module")
def stack(projects: Projects) -> Stack:
    """The shared stack as a project that only this module uses."""
    return projects.fresh()


@pytest.fixture(scope="module")
def erasing_stack(erasing_projects: Projects) -> Stack:
    """As `stack`, for a module that runs deletions."""
    return erasing_projects.fresh()
