"""Who may do what in ClickHouse: the users that the services, the operator and the analysts log in
as.

The embedded engine is started with them; for a ClickHouse server `personlog grants` prints them as
SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shared.store.clickhouse.queries import load

WORKLOADS = Path(__file__).with_name("workloads.sql")

DATABASE = "personlog"
"""The embedded engine's; a server's is named by PERSONLOG_CLICKHOUSE."""

ANALYST_VIEWS = ("property_changes", "changes_of", "holders", "persons", "events")
"""All that an analyst reads; each is a view with its definer's rights, so that the tables stay
closed."""

ERASED = ("search", "captured_events", "fragments", "recording_blocks", "timeline")
"""The tables that erasing rewrites, as in `targets.py`; a test compares them."""

ANALYST_SECONDS_MAX, ANALYST_BYTES_MAX = 300, 1 << 30
"""Of one query of an analyst: time, and memory in the engine."""

ANALYST_QUERIES_MAX = 10
"""That an analyst may have at once; past it code 202, or 745 while they wait: one of the workload
`analysts` runs at a time."""

ANALYST_SPILL_BYTES_MAX = 8 << 30
"""On the disk, for sorting what does not fit into memory; all of an analyst's queries together."""

ANALYST_SESSIONS_MAX = 100
"""Native connections and HTTP sessions with an id, which cost memory as long as they are open."""

ANALYST_SPARED_BYTES_MIN = 1 << 30
"""Of the disk, never used for spilling: inserts need it."""

ANALYST_MAY_SET = (
    # What clients send by themselves: JDBC, Grafana, Metabase, Tableau, clickhouse-connect,
    # `/play`.
    "max_result_rows",
    "result_overflow_mode",
    "timeout_overflow_mode",
    "select_sequential_consistency",
    "log_comment",
    "additional_table_filters",
    "extremes",
    "limit",
    "offset",
    "date_time_input_format",
    "date_time_output_format",
    "session_timezone",
    "enable_http_compression",
    "http_zlib_compression_level",
    "network_compression_method",
    "add_http_cors_header",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "low_cardinality_allow_in_native_format",
    "output_format_native_write_json_as_string",
    "output_format_binary_write_json_as_string",
    "input_format_binary_read_json_as_string",
    "output_format_arrow_string_as_string",
    "output_format_arrow_low_cardinality_as_dictionary",
    # What answers look like.
    "output_format_json_quote_64bit_integers",
    "output_format_json_quote_denormals",
    "output_format_json_quote_decimals",
    "output_format_json_escape_forward_slashes",
    "output_format_json_named_tuples_as_objects",
    "output_format_json_array_of_rows",
    "output_format_write_statistics",
    "output_format_csv_crlf_end_of_line",
    "format_csv_delimiter",
    "output_format_decimal_trailing_zeros",
    "output_format_pretty_max_rows",
    "output_format_pretty_max_value_width",
    "output_format_pretty_color",
    "output_format_pretty_row_numbers",
    "output_format_parquet_compression_method",
    # What queries mean, and when they give up or spill.
    "join_use_nulls",
    "join_algorithm",
    "group_by_use_nulls",
    "aggregate_functions_null_for_empty",
    "union_default_mode",
    "transform_null_in",
    "cast_keep_nullable",
    "prefer_column_name_to_alias",
    "joined_subquery_requires_alias",
    "enable_positional_arguments",
    "max_rows_to_read",
    "max_bytes_to_read",
    "read_overflow_mode",
    "max_rows_to_group_by",
    "group_by_overflow_mode",
    "max_bytes_before_external_group_by",
    "max_bytes_before_external_sort",
)
"""There are 1,800 settings, and new ones with each version: one shows hidden rows, one writes a
file (output_format_schema), one lifts a limit (max_untracked_memory), one lets a query run on in
the background. So a name that is not here is refused."""

SETTINGS = {
    "max_threads": "2",  # one thread is as fast up to 64 ids and 20 % slower at 256
    # the library's own default takes any word for a SELECT; a server does not
    "implicit_select": "0",
    "allow_introspection_functions": "0",
    # its buffers and threads cost more than small answers do
    "output_format_parallel_formatting": "0",
    "input_format_parallel_parsing": "0",
    "max_execution_time": "600",  # a bound for clients that send none
    "async_insert": "0",
    # python('x') ends the process: it needs a thread of Python's
    "allow_python_table_function": "0",
}
"""Of every user of the embedded engine. A server has its own; what has to be is sent with each
query."""

FIXED = ("allow_python_table_function",)
"""Of SETTINGS, those that nobody may change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A setting of a role: its value, and how far a client may change it; not at all without
    `maximum`.

    For a role that may set nothing else (`may_set`) these are exceptions; for others, limits.
    """

    value: int | str
    minimum: int = 0
    maximum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A user of the engine. `{db}` in the grants stands for the database."""

    name: str
    does: str
    grants: tuple[str, ...]
    limits: dict[str, Limit] = field(default_factory=dict)
    may_set: tuple[str, ...] | None = None
    """Of a role that only reads: the settings that it may change at will; all others only within
    `limits`."""


API = Role(
    name="api",
    does="Reads for the API. It writes nothing: commands go to the log.",
    grants=("SELECT ON {db}.*", "SELECT ON system.columns", "SELECT ON system.parts"),
)

WRITER = Role(
    name="writer",
    does="The projector: reads and inserts.",
    grants=(
        "SELECT ON {db}.*",
        *(f"INSERT ON {{db}}.{table}" for table in (*ERASED, "identity", "numbers")),
        "SELECT ON system.columns",
    ),
)

DELETER = Role(
    name="deleter",
    does="Hides, erases and verifies; keeps the ledger and the receipts.",
    grants=(
        "SELECT ON {db}.*",
        *(
            f"INSERT ON {{db}}.{table}"
            for table in ("deletion_requests", "deletion_positions", "receipts")
        ),
        *(f"ALTER DELETE, ALTER UPDATE ON {{db}}.{table}" for table in ERASED),
        *(
            f"SELECT ON system.{table}"
            for table in (
                "columns",
                "parts",
                "detached_parts",
                "tables",
                "mutations",
                "metrics",
                "replicas",
                "disks",
            )
        ),
    ),
)

MIGRATOR = Role(
    name="migrator",
    does="Makes and alters tables and views, rebuilds, keeps projects and keys."
    " Owns the analysts' views.",
    grants=(
        "SELECT, INSERT, ALTER TABLE, ALTER VIEW, CREATE DATABASE, CREATE TABLE, CREATE VIEW,"
        " DROP TABLE, DROP VIEW, OPTIMIZE ON {db}.*",
        "TABLE ENGINE ON MergeTree",
        "TABLE ENGINE ON ReplacingMergeTree",
        *(
            f"SELECT ON system.{table}"
            for table in ("columns", "parts", "tables", "mutations", "processes")
        ),
    ),
)

ANALYST = Role(
    name="analyst",
    does="Asks the analysts' views, and nothing else.",
    grants=tuple(f"SELECT ON {{db}}.{view}" for view in ANALYST_VIEWS),
    may_set=ANALYST_MAY_SET,
    limits={
        "readonly": Limit(value=1),
        "max_execution_time": Limit(value=60, minimum=1, maximum=ANALYST_SECONDS_MAX),
        "max_memory_usage": Limit(
            value=ANALYST_BYTES_MAX, minimum=1, maximum=ANALYST_BYTES_MAX
        ),
        "max_result_bytes": Limit(
            value=ANALYST_BYTES_MAX, minimum=1, maximum=ANALYST_BYTES_MAX
        ),
        "max_threads": Limit(value=1, minimum=1, maximum=1),
        # It is one thread and one query at a time anyway. Of slots shared out, WITH RECURSIVE waits
        # for its own.
        "use_concurrency_control": Limit(value=0),
        "max_block_size": Limit(value=65_409, minimum=1, maximum=1_048_576),
        "max_concurrent_queries_for_user": Limit(value=ANALYST_QUERIES_MAX),
        "max_sessions_for_user": Limit(value=ANALYST_SESSIONS_MAX),
        "max_memory_usage_for_user": Limit(value=2 * ANALYST_BYTES_MAX),
        "max_temporary_data_on_disk_size_for_user": Limit(
            value=ANALYST_SPILL_BYTES_MAX
        ),
        "min_free_disk_space_for_temporary_data": Limit(value=ANALYST_SPARED_BYTES_MIN),
        "cancel_http_readonly_queries_on_client_close": Limit(value=1),
        "do_not_merge_across_partitions_select_final": Limit(
            value=1
        ),  # the views say it, and may not set it either
        "apply_deleted_mask": Limit(
            value=1
        ),  # 0 would show rows that are hidden and not erased yet
        "use_query_cache": Limit(
            value=0
        ),  # it would go on answering with rows that were erased since
        "allow_ddl": Limit(value=0),
        "os_threads_nice_value_query": Limit(
            value=19
        ),  # where the engine may (CAP_SYS_NICE)
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
            settings = [
                _limited(name, limit, role) for name, limit in role.limits.items()
            ]
            if role.may_set is not None:
                settings += [f"{name} CHANGEABLE_IN_READONLY" for name in role.may_set]
            yield f"ALTER USER {role.name} SETTINGS\n    " + ",\n    ".join(settings)


def _limited(name: str, limit: Limit, role: Role) -> str:
    value = f"'{limit.value}'" if isinstance(limit.value, str) else limit.value
    if limit.maximum is None:
        return f"{name} = {value} CONST"
    range_ = f"{name} = {value} MIN {limit.minimum} MAX {limit.maximum}"
    return range_ if role.may_set is None else f"{range_} CHANGEABLE_IN_READONLY"
