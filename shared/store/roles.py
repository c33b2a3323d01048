"""Who may do what in ClickHouse: the users that the services, the operator and the analysts log in as.

The embedded engine is started with them; for a ClickHouse server `personlog grants` prints them as SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shared.store.queries import load

WORKLOADS = Path(__file__).with_name("workloads.sql")

DATABASE = "personlog"
"""The embedded engine's; a server's is named by PERSONLOG_CLICKHOUSE."""

OWNER = "personlog"
"""The operator: every right, raw tables too. Services use it only where no other user was made."""

ANALYST_VIEWS = ("property_changes", "changes_of", "holders")
"""All that an analyst reads; each is a view with its definer's rights, so that the tables stay closed."""

ANALYST_SECONDS_MAX, ANALYST_BYTES_MAX = 300, 1 << 30
"""Of one query of an analyst: time, and memory in the engine."""

ANALYST_QUERIES_MAX = 10
"""That an analyst may have at once; past it code 202. One runs at a time, the others wait."""

ANALYST_SPILL_BYTES_MAX = 8 << 30
"""On the disk, for sorting what does not fit into memory; all of an analyst's queries together."""

SETTINGS = {
    "max_threads": "2",  # one thread is as fast up to 64 ids and 20 % slower at 256
    "implicit_select": "0",  # the library's own default takes any word for a SELECT; a server does not
    "allow_introspection_functions": "0",
    "output_format_parallel_formatting": "0",  # its buffers and threads cost more than small answers do
    "input_format_parallel_parsing": "0",
    "max_execution_time": "600",  # a bound for clients that send none
    "async_insert": "0",
}
"""Of every user of the embedded engine. A server has its own; what has to be is sent with each query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A setting of a role: its value, and how far a client may change it; not at all without `most`."""

    value: int | str
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A user of the engine. `{db}` in the grants stands for the database."""

    name: str
    does: str
    grants: tuple[str, ...]
    limits: dict[str, Limit] = field(default_factory=dict)
    readonly: bool = False


API = Role(
    name="api",
    does="Reads for the API. It writes nothing: commands go to the log.",
    grants=("SELECT ON {db}.*", "SELECT ON system.columns", "SELECT ON system.parts"),
)

WRITER = Role(
    name="writer",
    does="The projector: reads and inserts.",
    grants=("SELECT, INSERT ON {db}.*", "SELECT ON system.columns"),
)

DELETER = Role(
    name="deleter",
    does="Hides, erases and verifies; keeps the ledger and the receipts.",
    grants=(
        "SELECT, INSERT, ALTER DELETE, ALTER UPDATE ON {db}.*",
        *(
            f"SELECT ON system.{table}"
            for table in ("columns", "parts", "detached_parts", "tables", "mutations", "metrics", "replicas", "disks")
        ),
    ),
)

MIGRATOR = Role(
    name="migrator",
    does="Makes and alters tables and views, rebuilds, keeps projects and keys. Owns the analysts' views.",
    grants=(
        "SELECT, INSERT, ALTER TABLE, ALTER VIEW, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW,"
        " OPTIMIZE ON {db}.*",
        "TABLE ENGINE ON MergeTree",
        "TABLE ENGINE ON ReplacingMergeTree",
        *(f"SELECT ON system.{table}" for table in ("columns", "parts", "tables", "mutations", "processes")),
    ),
)

ANALYST = Role(
    name="analyst",
    does="Asks the analysts' views, and nothing else.",
    grants=tuple(f"SELECT ON {{db}}.{view}" for view in ANALYST_VIEWS),
    readonly=True,
    limits={
        "max_execution_time": Limit(value=60, least=1, most=ANALYST_SECONDS_MAX),
        "max_memory_usage": Limit(value=ANALYST_BYTES_MAX, least=1, most=ANALYST_BYTES_MAX),
        "max_threads": Limit(value=1, least=1, most=1),
        "max_result_bytes": Limit(value=ANALYST_BYTES_MAX, least=1, most=ANALYST_BYTES_MAX),
        "max_concurrent_queries_for_user": Limit(value=ANALYST_QUERIES_MAX),
        "max_memory_usage_for_user": Limit(value=2 * ANALYST_BYTES_MAX),
        "max_temporary_data_on_disk_size_for_user": Limit(value=ANALYST_SPILL_BYTES_MAX),
        "apply_deleted_mask": Limit(value=1),  # 0 would show rows that are hidden and not erased yet
        "use_query_cache": Limit(value=0),  # it would go on answering with rows that were erased since
        "allow_ddl": Limit(value=0),
        "os_threads_nice_value_query": Limit(value=19),  # where the engine may (CAP_SYS_NICE)
        "priority": Limit(value=0),
        "workload": Limit(value="analysts"),
    },
)

SERVICES = (API, WRITER, DELETER, MIGRATOR)
ROLES = (*SERVICES, ANALYST)


def as_sql(database: str = DATABASE) -> str:
    """The same users and workloads for a ClickHouse server, with places for passwords."""
    return "\n".join(f"{statement};" for statement in _statements(database))


def _statements(database: str) -> Iterator[str]:
    for query in load(WORKLOADS).values():
        yield query.sql
    for role in ROLES:
        password = f"IDENTIFIED WITH sha256_password BY '{{{role.name} password}}'"
        yield f"-- {role.does}\nCREATE USER IF NOT EXISTS {role.name} {password}"
        for grant in role.grants:
            yield f"GRANT {grant.format(db=database)} TO {role.name}"
        if role.limits:
            settings = ["readonly = 2"] if role.readonly else []
            settings += [_limited(name, limit) for name, limit in role.limits.items()]
            yield f"ALTER USER {role.name} SETTINGS\n    " + ",\n    ".join(settings)


def _limited(name: str, limit: Limit) -> str:
    value = f"'{limit.value}'" if isinstance(limit.value, str) else limit.value
    return f"{name} = {value} " + ("CONST" if limit.most is None else f"MIN {limit.least} MAX {limit.most}")
