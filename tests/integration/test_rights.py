"""What each user of the engine may do: what it needs (all other tests run with that), and nothing of the others'."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.store.clickhouse.queries import load
from shared.store.clickhouse.roles import ANALYST, API, DELETER, ERASED, MIGRATOR, ROLES, SERVICES, WRITER, Role, as_sql
from shared.store.targets import TABLES
from tests.support.analyst import ACCESS_DENIED, Asker
from tests.support.engine import EngineProcess
from tests.support.processes import ROOT, wait_for

DOCUMENT = ROOT / "docs/clickhouse.md"

NOBODYS = (
    "DROP DATABASE personlog", "DETACH TABLE timeline", "CREATE DATABASE other",
    "CREATE TABLE other.x (a Int8) ENGINE = Log",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')", "SELECT * FROM url('http://127.0.0.1:1/', 'TSV', 'a Int8')",
    "INSERT INTO FUNCTION file('x', 'TSV', 'a Int8') SELECT 1",
    "SELECT * FROM remote('127.0.0.1:1', 'personlog', 'timeline')",
    "CREATE TABLE x (a Int8) ENGINE = File(TSV)", "CREATE TEMPORARY TABLE x (a Int8)", "CREATE FUNCTION x AS (a) -> a",
    "CREATE USER x", "GRANT SELECT ON *.* TO analyst", "ALTER USER analyst SETTINGS readonly = 0", "CREATE ROLE x",
    "SYSTEM STOP LISTEN TCP", "SYSTEM STOP MERGES timeline", "SYSTEM SHUTDOWN",
    "SYSTEM DROP MARK CACHE", "CREATE WORKLOAD x IN everything", "DROP WORKLOAD analysts", "DROP RESOURCE slots",
    "BACKUP DATABASE personlog TO File('x')", "RESTORE TABLE personlog.timeline FROM File('x')",
    "SELECT * FROM other.t", "SELECT * FROM system.users", "SELECT * FROM system.stack_trace", "SHOW ACCESS",
    "INSERT INTO other.t VALUES (1)",
    "DROP FUNCTION file", "DROP TABLE other.t", "ALTER TABLE other.t DELETE WHERE 1", "TRUNCATE TABLE other.t",
)  # fmt: skip
"""Statements that only the owner may run."""

NOT_TO_READERS = (
    "INSERT INTO timeline (project) VALUES (1)", "ALTER TABLE timeline DELETE WHERE 1", "DELETE FROM timeline WHERE 1",
    "ALTER TABLE timeline UPDATE source = '' WHERE 1", "INSERT INTO api_keys SELECT * FROM api_keys",
)  # fmt: skip
NOT_TO_SERVICES = (
    "DROP TABLE timeline", "TRUNCATE TABLE timeline", "ALTER TABLE timeline DROP COLUMN source",
    "OPTIMIZE TABLE timeline",
    "ALTER TABLE timeline MODIFY TTL at + toIntervalDay(1)", "RENAME TABLE timeline TO x", "DROP VIEW holders",
    "CREATE TABLE x (a Int8) ENGINE = MergeTree ORDER BY a", "EXCHANGE TABLES timeline AND search",
    "CREATE OR REPLACE VIEW holders AS SELECT 1", "INSERT INTO projects SELECT * FROM projects",
    "INSERT INTO api_keys SELECT * FROM api_keys", "INSERT INTO migrations SELECT * FROM migrations",
    "ALTER TABLE projects DELETE WHERE 1", "ALTER TABLE api_keys DELETE WHERE 1",
    "ALTER TABLE receipts DELETE WHERE 1", "ALTER TABLE deletion_requests UPDATE document = '' WHERE 1",
    "ALTER TABLE identity DELETE WHERE 1",
)  # fmt: skip
REFUSED = {
    API.name: (
        *NOT_TO_SERVICES, *NOT_TO_READERS, "INSERT INTO receipts SELECT * FROM receipts",
        "SELECT * FROM system.processes",
    ),
    WRITER.name: (
        *NOT_TO_SERVICES, *NOT_TO_READERS[1:], "INSERT INTO deletion_requests SELECT * FROM deletion_requests",
        "INSERT INTO receipts SELECT * FROM receipts", "SELECT * FROM system.parts", "SELECT * FROM system.processes",
    ),
    DELETER.name: (
        *NOT_TO_SERVICES, NOT_TO_READERS[0], "INSERT INTO fragments (project) VALUES (1)",
        "SELECT * FROM system.processes",
    ),
    MIGRATOR.name: ("CREATE TABLE x (a Int8) ENGINE = Memory", "CREATE TABLE x (a Int8) ENGINE = URL('http://a', TSV)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def other(owner: Asker) -> None:
    """A database of somebody else."""
    for statement in ("CREATE DATABASE IF NOT EXISTS other", "CREATE TABLE IF NOT EXISTS other.t (a Int8)"
                      " ENGINE = MergeTree ORDER BY a"):  # fmt: skip
        assert owner.ask(statement).code == 0


@pytest.mark.parametrize("role", SERVICES, ids=lambda role: role.name)
def test_a_service_is_refused_what_is_not_its_own(engine: EngineProcess, other: None, role: Role) -> None:
    asker = Asker(engine, role.name)
    for statement in (*NOBODYS, *REFUSED[role.name]):
        if role is MIGRATOR and statement == "DETACH TABLE timeline":
            continue  # it may drop tables, and so detach them
        answer = asker.ask(statement)
        assert answer.code == ACCESS_DENIED, (statement, answer)
    assert set(asker.names("SHOW DATABASES")) <= {"personlog", "system"}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_nobody_ends_the_queries_of_others(engine: EngineProcess, owner: Asker, role: Role) -> None:
    asker = Asker(engine, role.name)
    long = "SELECT sleepEachRow(0.05) FROM numbers(600) SETTINGS max_block_size = 1"  # half a minute; a KILL ends it
    thread = threading.Thread(target=owner.ask, args=(long,), kwargs={"query_id": f"of-owner-{role.name}"})
    thread.start()
    running = f"SELECT count() FROM system.processes WHERE query_id = 'of-owner-{role.name}'"
    wait_for(lambda: owner.ask(running).text == "1\n", 30, "the query to run")
    kill = f"KILL QUERY WHERE query_id = 'of-owner-{role.name}'"
    assert asker.ask(kill).code == ACCESS_DENIED
    assert owner.ask(running).text == "1\n"
    owner.ask(kill)
    thread.join()


def test_only_what_is_erased_may_be_rewritten_by_the_deleter() -> None:
    assert set(ERASED) == set(TABLES)


def test_an_insert_of_the_writer_is_seen_by_a_rebuild(engine: EngineProcess, owner: Asker) -> None:
    """A rebuild waits for the INSERTs that began before its hold, and they are another user's."""
    inserting = load(ROOT / "services/projector/rebuild/rebuild.sql")["inserting"].sql
    migrator = Asker(engine, MIGRATOR.name)
    rows = "SELECT 99, generateUUIDv4(), sleepEachRow(1) FROM numbers(3)"
    slow = f"INSERT INTO fragments (project, fragment, version) {rows}"
    thread = threading.Thread(target=Asker(engine, WRITER.name).ask, args=(slow,))
    thread.start()
    wait_for(lambda: migrator.ask(inserting).text == "1\n", 30, "the INSERT to be seen")
    thread.join()
    assert migrator.ask(inserting).text == "0\n"


def granted(text: str) -> dict[str, set[str]]:
    """Rights by user, single ones, whatever the order and the grouping."""
    found: dict[str, set[str]] = {}
    for rights, place, user in re.findall(r"^GRANT (.+) ON (\S+) TO (\w+);?$", text.replace("`", ""), re.MULTILINE):
        found.setdefault(user, set()).update(f"{right.strip()} ON {place}" for right in rights.split(","))
    return found


def test_the_printed_rights_are_those_of_the_embedded_engine(engine: EngineProcess, owner: Asker) -> None:
    shown = "".join(Asker(engine, role.name).ask("SHOW GRANTS").text for role in ROLES)
    assert granted(as_sql()).keys() == {role.name for role in ROLES}
    assert granted(as_sql()) == granted(shown)


def test_the_printed_limits_are_those_of_the_embedded_engine(engine: EngineProcess) -> None:
    analyst = Asker(engine, ANALYST.name)
    rows = analyst.ask("SELECT name, value, min, max, readonly FROM system.settings").rows
    settings = {name: (value, least, most, fixed == "1") for name, value, least, most, fixed in rows}
    text = as_sql().partition("ALTER USER analyst SETTINGS")[2]
    line = r"^    (\w+)(?: = '?(\w+)'?)?(?: MIN (\d+) MAX (\d+))?( CONST| CHANGEABLE_IN_READONLY)"
    lines = re.findall(line, text, re.MULTILINE)
    assert len(lines) == len(ANALYST.limits) + len(ANALYST.may_set or ())
    for name, value, least, most, how in lines:
        of_engine = settings[name]
        assert of_engine[3] == (how == " CONST"), name
        assert value in ("", of_engine[0]), name
        assert (least or "\\N", most or "\\N") == of_engine[1:3], name


def test_a_server_understands_every_printed_statement(owner: Asker) -> None:
    statements = [statement for statement in as_sql("p_1").split(";\n") if statement.strip()]
    assert len(statements) > 30
    for statement in statements:
        quoted = statement.rstrip(";").replace("\\", "\\\\").replace("'", "\\'")
        assert owner.ask(f"SELECT formatQuery('{quoted}')").code == 0, statement
    assert "personlog." not in as_sql("p_1")


def test_the_document_has_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "services.cli", "grants"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed.strip() == as_sql().strip()
    assert f"```sql\n{printed.strip()}\n```" in Path(DOCUMENT).read_text("utf-8")
