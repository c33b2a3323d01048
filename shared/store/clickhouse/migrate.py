"""Migrations: numbered .sql files, each applied once, in order. Never edits what it has applied.

Two processes may start at once and both apply a file: each statement must therefore be harmless
when it runs twice (IF NOT EXISTS, IF EXISTS, OR REPLACE, and so on), which a test demands.
ClickHouse has no transaction around DDL, so a file that stopped half-way is simply run again from
its start.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from shared.domain.errors import Corrupt
from shared.domain.person.lifted import PERSONAL
from shared.runtime.settings import SettingsError
from shared.store import purged
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load
from shared.store.lives import load_with_lives

MIGRATIONS = Path(__file__).parent / "migrations"
QUERIES = Path(__file__).parent / "migrate.sql"
VIEWS = Path(__file__).parent / "views.sql"

_PERSONAL = "[" + ", ".join(f"'{name}'" for name in PERSONAL) + "]"
"""As an array of SQL; the names are ours."""

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """Cut at every `;` that ends a line; a comment's is none."""
        statements: list[str] = []
        lines: list[str] = []
        for line in self.sql.splitlines():
            code = line.partition("--")[0].rstrip()
            lines.append(code.removesuffix(";"))
            if code.endswith(";"):
                statements.append("\n".join(filter(None, lines)))
                lines = []
        if any(lines):
            raise Corrupt(
                f"migration {self.name}: the last statement does not end with `;`"
            )
        return statements


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where the store stands."""

    applied: tuple[str, ...]
    pending: tuple[Migration, ...]


def migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """The migrations in the folder, in order; Corrupt if a number is missing or doubled."""
    ordered = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise Corrupt(f"{path.name} is not named like 0001_tables.sql")
        ordered.append(
            Migration(number=int(match[1]), name=path.stem, sql=path.read_text("utf-8"))
        )
    if [migration.number for migration in ordered] != list(range(1, len(ordered) + 1)):
        raise Corrupt(
            f"the migrations in {folder} are not numbered 1 to {len(ordered)} without a gap"
        )
    return ordered


async def migrate(store: Store, folder: Path = MIGRATIONS) -> list[str]:
    """Make the database if it is missing, apply what is missing, make the views; the names of what
    was applied."""
    await store.create_database()
    await store.command(load(QUERIES)["create_migrations"])
    pending = (await status(store, folder)).pending
    for migration in pending:
        for statement in migration.statements:
            await store.command(statement)
        await store.insert(
            "migrations",
            {
                "number": [migration.number],
                "name": [migration.name],
                "checksum": [migration.checksum],
            },
        )
    if folder == MIGRATIONS:
        for view in load_with_lives(VIEWS).values():
            await store.command(
                view.filled(impersonal=purged.without(_PERSONAL, "whole"))
            )
    await store.learn_columns()
    return [migration.name for migration in pending]


async def check_migrated(store: Store) -> None:
    """SettingsError when migrations are missing: nothing would be found there, or in other
    columns."""
    pending = (await status(store)).pending
    if pending:
        names = ", ".join(migration.name for migration in pending)
        raise SettingsError(
            f"the store lacks {len(pending)} migrations ({names}); run personlog migrate"
        )


async def status(store: Store, folder: Path = MIGRATIONS) -> Status:
    """What is applied and what is missing; Corrupt if an applied file was changed since, or is
    gone."""
    expected = migrations(folder)
    await store.learn_columns()
    if not store.has_table("migrations"):
        return Status(applied=(), pending=tuple(expected))
    applied = await store.rows(load(QUERIES)["applied_migrations"])
    if [number for number, _, _ in applied] != list(range(1, len(applied) + 1)) or len(
        applied
    ) > len(expected):
        names = ", ".join(name for _, name, _ in applied)
        raise Corrupt(
            f"the store has migrations that this version does not know, or a gap: {names}"
        )
    for migration, (_, name, checksum) in zip(expected, applied, strict=False):
        if migration.checksum != checksum:
            raise Corrupt(
                f"migration {name} was changed after it was applied; write a new one instead"
            )
    return Status(
        applied=tuple(name for _, name, _ in applied),
        pending=tuple(expected[len(applied) :]),
    )
