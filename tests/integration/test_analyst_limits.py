"""An analyst's limits, and who else may log in: nobody lifts what the profile says, by HTTP, natively or in a query."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import pytest

from services.engine.config import CLOSED_FUNCTIONS, LOOPBACK, SESSION, users
from shared.store.clickhouse.roles import ANALYST, ANALYST_MAY_SET, ROLES
from tests.support.analyst import CONSTRAINT, PEOPLE, READONLY, TOO_MANY_SESSIONS, Asker
from tests.support.engine import EngineProcess

REFUSED = frozenset((READONLY, CONSTRAINT, 392, 36))
"""Also: may never be changed by a query (allow_...), and no value for this setting."""

LIFTED = {name: limit.maximum + 1 for name, limit in ANALYST.limits.items() if limit.maximum is not None}
UNLIMITED = dict.fromkeys((name for name, limit in ANALYST.limits.items() if limit.maximum is not None), 0)

DANGEROUS = {
    # hidden and old rows
    "apply_deleted_mask": 0, "apply_patch_parts": 0, "use_query_cache": 1, "apply_mutations_on_fly": 1, "final": 1,
    "asterisk_include_virtual_columns": 1, "use_skip_indexes_if_final": 0, "force_optimize_projection": 1,
    "additional_result_filter": "1", "ignore_data_skipping_indices": "x", "optimize_move_to_prewhere_if_final": 1,
    # memory, threads and time
    "max_untracked_memory": 10**10, "use_concurrency_control": 1, "max_final_threads": 64, "max_insert_threads": 64,
    "max_streams_to_max_threads_ratio": 10**6, "max_threads_for_indexes": 64, "max_parsing_threads": 64,
    "max_memory_usage_for_user": 0, "memory_tracker_fault_probability": 1, "max_concurrent_queries_for_user": 0,
    "max_sessions_for_user": 0, "max_temporary_data_on_disk_size_for_user": 0, "query_profiler_cpu_time_period_ns": 1,
    "priority": 1, "os_threads_nice_value_query": 0, "workload": "everything", "reserve_memory": 10**9,
    "function_sleep_max_microseconds_per_block": 0, "max_parser_depth": 10**6, "max_query_size": 10**9,
    "max_recursive_cte_evaluation_depth": 10**6, "run_query_in_background": 1, "enable_streaming_queries": 1,
    "ast_fuzzer_runs": 100, "cancel_http_readonly_queries_on_client_close": 0, "reject_expensive_hyperscan_regexps": 0,
    # files, the network, code that is not finished
    "output_format_schema": "x", "format_schema": "x", "format_schema_source": "query", "format_template_row": "x",
    "allow_introspection_functions": 1, "allow_python_table_function": 1, "allow_experimental_eval_table_function": 1,
    "allow_fuzz_query_functions": 1, "allow_get_client_http_header": 1, "dialect": "kusto", "compatibility": "21.1",
    "allow_ddl": 1, "readonly": 0, "send_logs_level": "trace", "log_queries": 0, "implicit_select": 1,
    "ai_function_allow_insecure_endpoint": 1, "http_response_headers": "{'a':'b'}",
}  # fmt: skip
"""Values that would show what is hidden, lift a limit, or reach beyond the store."""


def written(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "\\'") + "'"


@pytest.mark.parametrize("name, value", [*LIFTED.items(), *UNLIMITED.items(), *DANGEROUS.items()])
def test_no_setting_that_limits_or_opens_anything_can_be_changed(analyst: Asker, name: str, value: str | int) -> None:
    query = f"SELECT count() FROM property_changes SETTINGS {name} = {written(value)}"
    codes = (
        analyst.ask("SELECT 1", **{name: value}).code,
        analyst.ask(query).code,
        analyst.ask(f"SET {name} = {written(value)}").code,
        analyst.ask(f"EXPLAIN {query}").code,
        analyst.native("SELECT 1", **{name: value}),
        analyst.native(query),
    )
    assert set(codes) <= REFUSED, (name, codes)


def test_every_other_setting_that_is_a_switch_is_refused_too(analyst: Asker) -> None:
    """Those of the next version as well."""
    found = analyst.ask("SELECT name, value FROM system.settings WHERE type = 'Bool' AND alias_for = ''").rows
    assert len(found) > 500
    switched = {name: analyst.ask("SELECT 1", **{name: int(value == "0")}).code for name, value in found}
    assert {name for name, code in switched.items() if code not in REFUSED} <= set(ANALYST_MAY_SET)


def test_settings_of_the_list_can_be_changed(analyst: Asker, owner: Asker) -> None:
    own = {name: value for name, value, *_ in owner.ask("SELECT name, value FROM system.settings").rows}
    assert set(ANALYST_MAY_SET) | ANALYST.limits.keys() <= own.keys()
    fixed = analyst.names("SELECT name FROM system.settings WHERE readonly = 0")
    within = {name for name, limit in ANALYST.limits.items() if limit.maximum is not None}
    assert within | set(ANALYST_MAY_SET) <= set(fixed)
    assert analyst.ask("SELECT 1", join_use_nulls=1, max_execution_time=300, max_result_rows=10).code == 0


@pytest.mark.parametrize("name", sorted(LIFTED))
def test_a_subquery_lifts_no_limit(analyst: Asker, name: str) -> None:
    most = ANALYST.limits[name].maximum
    assert most is not None
    query = f"SELECT * FROM (SELECT toUInt64(getSetting('{name}')) SETTINGS {name} = {most + 1})"
    assert int(analyst.ask(query).text) <= most


def test_limits_hold_through_the_views_of_another_user(analyst: Asker) -> None:
    """A view reads with the rights of who made it, and with the limits of who asks."""
    # Not the pipeline's width: FINAL beside a join has a stream for each part, and one thread runs them all.
    assert analyst.ask("SELECT getSetting('max_threads') FROM (SELECT count() FROM property_changes)").text == "1\n"
    crossed = "SELECT count() FROM property_changes, " + ", ".join(f"property_changes AS t{i}" for i in range(12))
    assert analyst.ask(f"{crossed} WHERE NOT ignore(*)", max_execution_time=1).code == 159
    many = "SELECT groupArray(number) FROM property_changes, numbers(100000000)"
    assert analyst.ask(many, joined_subquery_requires_alias=0).code == 241


@pytest.mark.parametrize("table", ["timeline", "personlog.timeline"])
def test_a_filter_of_grafana_reaches_the_views_only(analyst: Asker, table: str) -> None:
    count = "SELECT count() FROM property_changes"
    spied = analyst.ask(count, additional_table_filters=f"{{'{table}': 'throwIf(1)'}}")
    assert spied.text == f"{PEOPLE - 1}\n"
    view = table.replace("timeline", "property_changes")
    kept = analyst.ask(count, additional_table_filters=f"{{'{view}': 'after = \\'\"none\"\\''}}")
    assert kept.text == "0\n"


def test_a_query_that_recurses_ends(analyst: Asker) -> None:
    """With slots of the processor shared out, it waited for itself for ever."""
    recursive = "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM x) SELECT count() FROM x"
    assert analyst.ask(recursive, max_execution_time=30).code in (306, 159)
    assert analyst.ask("SELECT 1").text == "1\n"


@pytest.mark.parametrize("statement", ["SELECT 1", "SHOW GRANTS", "SYSTEM STOP LISTEN TCP", "KILL QUERY WHERE 1 ASYNC"])
def test_nobody_is_default(engine: EngineProcess, owner: Asker, statement: str) -> None:
    """The library's session logs in as `default`, which can have no password; it takes the only session."""
    default = Asker(engine, "default", "")
    assert default.ask(statement).code == TOO_MANY_SESSIONS
    assert default.ask(statement, session_id="x").code == TOO_MANY_SESSIONS
    assert default.native(statement) == TOO_MANY_SESSIONS
    assert owner.ask("SELECT 1").text == "1\n"


@pytest.mark.parametrize("path", ["webterminal", "webterminal/", "webterminal?user=analyst"])
def test_there_is_no_terminal_in_the_browser(engine: EngineProcess, path: str) -> None:
    """Its sessions begin without the values of the user's profile, so that an analyst's would not be limited."""
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": engine.address}  # fmt: skip
    for sent in ({}, headers):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{engine.address}/{path}", headers=sent), timeout=20)
        assert refused.value.code == 403
        refused.value.close()


def test_every_user_is_of_this_machine_and_has_a_password() -> None:
    text = users({role.name: f"of {role.name}" for role in ROLES} | {"personlog": "p", "warden": "w"}).decode()
    found = re.search("<users>(.*)</users>", text, re.DOTALL)
    assert found is not None
    accounts = re.findall(r"\n    <(\w+)>\n(.*?)\n    </\1>", found[1], re.DOTALL)
    assert {name for name, _ in accounts} == {"default", "warden", "personlog", *(role.name for role in ROLES)}
    for name, account in accounts:
        assert re.findall("<ip>(.*)</ip>", account) == list(LOOPBACK)
        assert ("<password_sha256_hex>" in account) == (name != "default")
    assert SESSION.limits["max_sessions_for_user"].value == 1


def test_functions_that_are_closed_are_made_anew_at_each_start(engine: EngineProcess, owner: Asker) -> None:
    files = {path.name: path.read_text() for path in (engine.data / "engine" / "user_defined").iterdir()}
    for name, definition in CLOSED_FUNCTIONS.items():
        assert files[f"function_{name}.sql"] == f"CREATE FUNCTION {name} AS {definition}\n"
