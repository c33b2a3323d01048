"""Whoever asks the engine as strangers do, by HTTP and by the native protocol, and rows for an analyst to find."""

from __future__ import annotations

import asyncio
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import Error

from shared.runtime.settings import OWNER
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import migrate
from shared.store.clickhouse.roles import ANALYST, DATABASE, MIGRATOR
from tests.support.engine import EngineProcess

REFUSED_SQL = Path(__file__).with_name("refused.sql")

ACCESS_DENIED, READONLY, CONSTRAINT, TOO_MANY_SESSIONS = 497, 164, 452, 700

SECRET, HIDDEN = "found-by-nobody", "00000000-0000-0000-0000-000000000003"
"""A value that only a hidden person has; who that is."""

PEOPLE = 5
"""In the timeline, the hidden one among them."""

_FILL = f"""
INSERT INTO timeline (project, fragment, version, topic, at, stamp, command, source, keys, kinds, before, after)
SELECT 1, toUUID('00000000-0000-0000-0000-00000000000' || toString(number)), 1, 'fragment.changed',
    fromUnixTimestamp64Micro(toInt64(1767225600000000)), 1767225600000000 + number, generateUUIDv4(number), 'seen',
    ['plan'], [1], [''], [if(number = 3, '"{SECRET}"', '"pro"')]
FROM numbers({PEOPLE})"""
_HIDE = f"DELETE FROM timeline WHERE fragment = '{HIDDEN}'"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `code` is 0 where nothing was refused."""

    code: int
    text: str

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.text.splitlines()]


class Asker:
    """A user of the engine."""

    def __init__(self, engine: EngineProcess, user: str, password: str | None = None) -> None:
        self._engine, self.user = engine, user
        self._password = engine.passwords.get(user, "") if password is None else password

    def ask(self, sql: str, **params: str | int) -> Answer:
        """By HTTP. The answer comes whole or not at all, so that its status is the outcome."""
        query = urllib.parse.urlencode({"database": DATABASE, "wait_end_of_query": 1} | params)
        headers = {"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self._password.encode().decode("latin-1")}
        request = urllib.request.Request(f"{self._engine.address}/?{query}", sql.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return Answer(0, answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(int(error.headers["X-ClickHouse-Exception-Code"]), error.read().decode(errors="replace"))

    def native(self, sql: str, **settings: str | int) -> int:
        """The code of an answer by the native protocol, where settings are sent beside the query."""
        with self.client() as client:
            try:
                client.execute(sql, settings=settings)
            except Error as error:
                return int(error.code)
        return 0

    def client(self) -> Client:
        return Client("127.0.0.1", self._engine.native_port, DATABASE, self.user, self._password)

    def names(self, sql: str) -> list[str]:
        answer = self.ask(sql)
        assert answer.code == 0, answer.text
        return [row[0] for row in answer.rows]


@pytest.fixture(scope="session")
def owner(engine: EngineProcess) -> Asker:
    """The owner of the database that analysts may see, with a hidden person and one that was merged in it."""
    asyncio.run(_migrate(engine))
    owner = Asker(engine, OWNER)
    fragment, root = ("toUUID('00000000-0000-0000-0000-00000000000" + number + "')" for number in "10")
    merge = f"INSERT INTO identity (project, fragment, version, root) SELECT 1, {fragment}, 1, {root}"
    for statement in ("TRUNCATE TABLE timeline", "TRUNCATE TABLE identity", _FILL, _HIDE, merge):
        assert owner.ask(statement).code == 0
    return owner


@pytest.fixture
def analyst(owner: Asker, engine: EngineProcess) -> Asker:
    return Asker(engine, ANALYST.name)


def refused_statements() -> list[str]:
    lines = REFUSED_SQL.read_text("utf-8").splitlines()
    return [line for line in lines if line and not re.match("--", line)]


async def _migrate(engine: EngineProcess) -> None:
    store = await Store.connect(engine.url(DATABASE, MIGRATOR.name))
    await migrate(store)
    await store.close()
