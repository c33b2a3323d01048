"""What an analyst may ask, and that it is all: every table function, table engine, system table and kind of statement.

A new version of ClickHouse brings new ones: they fail here until somebody has looked at them.
"""

from __future__ import annotations

import re

import pytest

from shared.store.clickhouse.roles import ANALYST_VIEWS
from tests.support.analyst import ACCESS_DENIED, HIDDEN, PEOPLE, READONLY, SECRET, Answer, Asker, refused_statements

BY_RIGHT = frozenset((ACCESS_DENIED, READONLY))

HARMLESS_FUNCTIONS = {
    "SQLStandardValues": ("(VALUES (1))", "the same as values()"),
    "fuzzJSON": ("fuzzJSON('{}') LIMIT 1", "random JSON, made from its argument"),
    "fuzzQuery": ("fuzzQuery('SELECT 1', 100, 1) LIMIT 1", "random text that is never run"),
    "generateRandom": ("generateRandom('a Int8') LIMIT 1", "random rows"),
    "generateSeries": ("generateSeries(1, 2)", "numbers"),
    "generate_series": ("generate_series(1, 2)", "numbers"),
    "merge": ("merge('personlog', '^holders$')", "reads several tables, of those that one may read"),
    "null": ("null('a Int8')", "nothing"),
    "numbers": ("numbers(1)", "numbers"),
    "numbers_mt": ("numbers_mt(1)", "numbers"),
    "primes": ("primes(1)", "numbers"),
    "values": ("values('a Int8', 1)", "its arguments"),
    "view": ("view(SELECT 1)", "a subquery by another name"),
    "viewIfPermitted": ("viewIfPermitted(SELECT project FROM timeline ELSE null('a Int8'))", "the other"),
}
"""Table functions that an analyst may use: none reaches a table of others, a file or the network."""

CLUSTER = "'c', 'http://a.b.c/d', 'TSV', 'a Int8'"
OTHER_FUNCTIONS: dict[str, tuple[str, int]] = {
    "arrowstream": ("'x'", 47),  # there is none to be found by any name: our process registers none
    "cluster": ("'c', personlog.timeline", 701),  # there is no cluster
    "clusterAllReplicas": ("'c', personlog.timeline", 701),
    "eval": ("'SELECT 1'", 344),  # of a setting that the analyst may not change
    "input": ("'a Int8'", 477),  # belongs into an INSERT
    "python": ("'x'", 446),  # of a setting that nobody may change; it would end the process
    "mergeTreeProjection": ("'personlog', 'timeline', 'p'", 582),  # there is no projection
    "prometheusQuery": ("'personlog', 'timeline', 'x', 0", 727),  # there is no TimeSeries table
    "prometheusQueryRange": ("'personlog', 'timeline', 'x', 0, 1, 1", 727),
    "timeSeriesSelector": ("'personlog', 'timeline', 'x', 0, 1", 727),
    **{f"timeSeries{part}": ("'personlog', 'timeline'", 727)
       for part in ("Data", "MetricFamilies", "Metrics", "Samples", "Tags")},
    **{f"{source}Cluster": (CLUSTER, 701)
       for source in ("azureBlobStorage", "deltaLakeAzure", "deltaLake", "deltaLakeS3", "file", "hdfs", "hudi",
                      "iceberg", "icebergAzure", "icebergHDFS", "icebergLocal", "icebergS3", "paimonAzure", "paimon",
                      "paimonHDFS", "paimonS3", "s3", "url")},
}  # fmt: skip
"""Table functions that are refused for another reason than a missing right, which comes first."""

ARGUMENTS = {
    "bigquery": "personlog, timeline",
    "dictionary": "'x'",
    "executable": "'x.sh', 'TSV', 'a Int8'",
    "file": "'/etc/passwd', 'LineAsString'",
    "filesystem": "'/etc'",
    "format": "TSV, 'a Int8', '1'",
    "hdfs": "'hdfs://a:1/b', 'TSV', 'a Int8'",
    "icebergHDFS": "'hdfs://a:1/b', 'Parquet', 'a Int8'",
    "jdbc": "'jdbc:x', 'a', 'b'",
    "loop": "personlog.timeline",
    "mergeTreeAnalyzeIndexes": "'personlog', 'timeline'",
    "mergeTreeAnalyzeIndexesUUID": "'{uuid}'",
    "mergeTreeCodecBlockCounts": "'personlog', 'timeline'",
    "mergeTreeIndex": "'personlog', 'timeline'",
    "mergeTreeTextIndex": "'personlog', 'timeline', 'i'",
    "mongodb": "'127.0.0.1:1', 'd', 't', 'u', 'p', 'a Int8'",
    "mysql": "'127.0.0.1:1', 'd', 't', 'u', 'p'",
    "odbc": "'DSN=x', 'a', 'b'",
    "paimonHDFS": "'hdfs://a:1/b', 'Parquet', 'a Int8'",
    "postgresql": "'127.0.0.1:1', 'd', 't', 'u', 'p'",
    "redis": "'127.0.0.1:1', 'k', 'k String, v String'",
    "remote": "'127.0.0.1:1', 'personlog', 'timeline'",
    "remoteSecure": "'127.0.0.1:1', 'personlog', 'timeline'",
    "sqlite": "'x.db', 't'",
    "viewExplain": "'EXPLAIN', '', (SELECT 1)",
    "ytsaurus": "'http://127.0.0.1:1', '//x', 'y', 'a Int8'",
    "zeros": "1",
    "zeros_mt": "1",
    **dict.fromkeys(("azureBlobStorage", "deltaLakeAzure", "icebergAzure", "paimonAzure"),
                    "'DefaultEndpointsProtocol=https;AccountName=a;AccountKey=YQ==', 'c', 'b', 'TSV'"),
    **dict.fromkeys(("deltaLakeLocal", "icebergLocal", "paimonLocal"), "'/tmp', 'Parquet', 'a Int8'"),
    **dict.fromkeys(("cosn", "deltaLake", "deltaLakeS3", "gcs", "hudi", "iceberg", "icebergS3", "oss", "paimon",
                     "paimonS3", "s3", "url"), "'http://bucket.s3.amazonaws.com/d', 'Parquet', 'a Int8'"),
}  # fmt: skip
"""What the others are called with, so that the missing right is what refuses them."""

OPEN_TABLES = {
    # What ClickHouse is: words of its language, the same everywhere.
    "aggregate_function_combinators", "collations", "contributors", "data_type_families", "database_engines",
    "dictionary_layouts", "disk_types", "formats", "functions", "licenses", "one", "privileges", "table_engines",
    "table_functions", "time_zones",
    # What is one's own: views, settings, roles (none), the quota, and names for completing what one types.
    "columns", "completions", "current_roles", "databases", "enabled_roles", "quota_usage", "settings", "tables",
    "user_query_log",
}  # fmt: skip
"""Tables of `system` that an analyst can read; ClickHouse lets everybody, or clients need them."""

OTHERWISE_REFUSED = {
    "SELECT 1 INTO OUTFILE '/tmp/personlog_out'": 358,
    "GRANT CURRENT GRANTS ON *.* TO analyst": 495,
    "GRANT migrator TO analyst": 511,
    "SET ROLE migrator": 511,
    "EXECUTE AS migrator": 344,
    "EXECUTE AS migrator SELECT * FROM timeline": 344,
    "COPY holders TO STDOUT": 78,
    "CHECK TABLE holders": 48,
    "BEGIN TRANSACTION": 48,
    "SELECT getClientHTTPHeader('x')": 446,
    "SELECT fuzzQuery('SELECT 1')": 344,
    "SELECT flameGraph([1])": 446,
    "SELECT file('/etc/passwd')": 395,
    "SELECT dictGet('x', 'a', 1)": 36,
    "SELECT joinGet('personlog.timeline', 'project', 1)": 43,
    "SELECT aiGenerate('x')": 36,
    "SELECT _part FROM holders": 47,
    "SELECT _part_offset FROM holders": 47,
    "SELECT _row_exists FROM holders": 47,
    "SELECT _block_number FROM holders": 47,
    "SELECT distinct_id FROM property_changes": 47,
    "SELECT * FROM property_changes PREWHERE project = 1": 182,
    "SYSTEM RELOAD CONFIG": 1,
    "SYSTEM SYNC TRANSACTION LOG": 48,
    "SYSTEM REPLICA READY": 344,
    "SYSTEM REPLICA UNREADY": 344,
    "SYSTEM JEMALLOC ENABLE PROFILE": 344,
}
"""Statements that something else than a missing right refuses, and with which code."""

WITHOUT_EFFECT = (
    *(f"SYSTEM {verb} {what}"
      for verb in ("STOP", "START")
      for what in ("MERGES", "TTL MERGES", "MOVES", "FETCHES", "REPLICATED SENDS", "REPLICATION QUEUES",
                   "PULLING REPLICATION LOG", "CLEANUP", "VIEWS", "ALL BACKGROUND")),
    "SYSTEM START DISTRIBUTED SENDS", "SYSTEM RESTART REPLICAS", "SYSTEM PAUSE VIEWS", "SYSTEM PAUSE ALL BACKGROUND",
    "SYSTEM CANCEL ALL BACKGROUND", "SYSTEM REFRESH ALL BACKGROUND", "SYSTEM DROP DATABASE REPLICA 'x'",
    "SYSTEM RELOAD DELTA KERNEL TRACING ERROR", "SET ROLE NONE", "SET ROLE ALL", "USE personlog",
    "SELECT logTrace('x')",
)  # fmt: skip
"""Statements that are not refused and do nothing: SYSTEM acts on tables that one has the right for, here none."""

SYSTEM_KINDS_ABSENT = re.compile(
    "UNKNOWN|END|.*DISTRIBUTED CACHE|DROP CATALOG REPLICA|JEMALLOC DISABLE PROFILE|(START|STOP) REPLICATED DDL QUERIES"
    "|FLUSH OBJECT STORAGE QUEUE|INSTRUMENT (ADD|REMOVE)"
    "|(START|STOP) (VIRTUAL PARTS UPDATE|REDUCE BLOCKING PARTS)|UNLOCK SNAPSHOT|SYNC DATABASE REPLICA|PAUSE"
)
"""Kinds of SYSTEM that this build only parses, or that need what we do not have."""


def test_every_table_function_is_refused_but_a_named_list(analyst: Asker, owner: Asker) -> None:
    names = owner.names("SELECT name FROM system.table_functions")
    known = HARMLESS_FUNCTIONS.keys() | OTHER_FUNCTIONS.keys() | ARGUMENTS.keys()
    assert set(names) - known == set(), "new table functions: may an analyst use them?"
    (uuid,) = owner.names("SELECT uuid FROM system.tables WHERE database = 'personlog' AND name = 'timeline'")
    for name in sorted(set(names) - HARMLESS_FUNCTIONS.keys()):
        arguments, code = OTHER_FUNCTIONS.get(name, (ARGUMENTS.get(name, ""), 0))
        answer = analyst.ask(f"SELECT * FROM {name}({arguments.replace('{uuid}', uuid)}) LIMIT 1")
        assert answer.code == code if code else answer.code in BY_RIGHT, (name, answer)
    for name, (call, _) in HARMLESS_FUNCTIONS.items():
        assert analyst.ask(f"SELECT * FROM {call}").code == 0, name


@pytest.mark.parametrize("call", ["merge('personlog', '^timeline$')", "merge('system', '^processes$')",
                                  "view(SELECT * FROM timeline)", "merge('personlog', '^api_keys$')"])  # fmt: skip
def test_a_harmless_table_function_reaches_no_table_of_others(analyst: Asker, call: str) -> None:
    answer = analyst.ask(f"SELECT * FROM {call}")
    assert answer.code in (*BY_RIGHT, 636), answer  # 636: it sees no table of such a name


def test_no_table_of_any_engine_can_be_made(analyst: Asker, owner: Asker) -> None:
    for engine in owner.names("SELECT name FROM system.table_engines"):
        for kind in ("TABLE", "TEMPORARY TABLE"):
            answer = analyst.ask(f"CREATE {kind} x (a Int8) ENGINE = {engine}")
            assert answer.code in BY_RIGHT, (engine, answer)
    for engine in owner.names("SELECT name FROM system.database_engines"):
        assert analyst.ask(f"CREATE DATABASE x ENGINE = {engine}").code in BY_RIGHT, engine


def test_every_kind_of_statement_is_refused_but_a_named_list(analyst: Asker) -> None:
    for statement in refused_statements():
        answer = analyst.ask(statement)
        assert answer.code in BY_RIGHT, (statement, answer)
    for statement, code in OTHERWISE_REFUSED.items():
        answer = analyst.ask(statement)
        assert answer.code == code, (statement, answer)


def test_every_kind_of_system_statement_is_known(analyst: Asker) -> None:
    expected = re.search(r"Expected one of: (.*)\. \(SYNTAX_ERROR\)", analyst.ask("SYSTEM nonsense").text)
    assert expected is not None
    known = " ".join((*refused_statements(), *OTHERWISE_REFUSED, *WITHOUT_EFFECT))
    new = [kind for kind in expected[1].split(", ") if f"SYSTEM {kind}" not in known]
    assert [kind for kind in new if not SYSTEM_KINDS_ABSENT.fullmatch(kind)] == []


def test_statements_that_are_not_refused_change_nothing(analyst: Asker, owner: Asker) -> None:
    for statement in WITHOUT_EFFECT:
        assert analyst.ask(statement).code == 0, statement
    for turn in range(3):
        assert owner.ask(f"INSERT INTO numbers (project) VALUES ({900 + turn})").code == 0
    assert owner.ask("OPTIMIZE TABLE numbers FINAL").code == 0  # 236 where merges are stopped
    assert owner.ask("ALTER TABLE numbers DELETE WHERE project >= 900 SETTINGS mutations_sync = 2").code == 0
    assert owner.ask("SELECT count() FROM numbers WHERE project >= 900").text == "0\n"


def test_every_system_table_is_refused_but_a_named_list(analyst: Asker, owner: Asker) -> None:
    tables = owner.names("SELECT database || '.' || name FROM system.tables WHERE database ILIKE 'information_schema'")
    for table in (*tables, *(f"system.{name}" for name in owner.names("SHOW TABLES FROM system"))):
        answer = analyst.ask(f"SELECT * FROM {table} LIMIT 1")
        if table.removeprefix("system.") in OPEN_TABLES:
            assert answer.code == 0, table
        else:
            assert answer.code in BY_RIGHT, table


def test_open_system_tables_tell_of_nothing_but_the_analysts_own(analyst: Asker, owner: Asker) -> None:
    raw = set(owner.names("SHOW TABLES FROM personlog")) - set(ANALYST_VIEWS)
    columns = set(owner.names("SELECT name FROM system.columns WHERE database = 'personlog'"))
    columns -= set(owner.names(f"SELECT name FROM system.columns WHERE table IN {ANALYST_VIEWS}"))
    assert analyst.names("SELECT name FROM system.tables") == sorted(ANALYST_VIEWS)
    assert set(analyst.names("SELECT DISTINCT table FROM system.columns")) <= set(ANALYST_VIEWS)
    assert analyst.names("SELECT name FROM system.databases") == ["personlog"]
    completions = "SELECT DISTINCT word FROM system.completions WHERE context IN ('table', 'column')"
    assert set(analyst.names(completions)) & ((raw | columns) - set(ANALYST_VIEWS)) == set()
    assert analyst.ask("SELECT count() FROM system.tables WHERE total_rows > 0 OR total_bytes > 0").text == "0\n"
    assert analyst.ask("SELECT count() FROM system.user_query_log").text == "0\n"
    assert analyst.ask("SELECT DISTINCT quota_key FROM system.quota_usage").text == "analyst\n"


FILES = (
    "SELECT file('{path}')", "SELECT file('{path}', 'x')", "SELECT `file`('{path}')", "SELECT * APPLY file FROM ({a})",
    "SELECT * APPLY(x -> file(x)) FROM ({a})", "SELECT COLUMNS('a') APPLY(file) FROM ({a})",
    "SELECT * REPLACE(file(a) AS a) FROM ({a})", "SELECT arrayMap(file, ['{path}'])",
    "SELECT arrayMap(x -> file(x), ['{path}'])", "WITH (x -> file(x)) AS f SELECT f('{path}')",
    "SELECT mapApply((k, v) -> (k, file(v)), map('a', '{path}'))", "SELECT groupArray(file('{path}'))",
    "SELECT 1 ORDER BY file('{path}')", "SELECT 1 GROUP BY file('{path}')", "SELECT 1 LIMIT length(file('{path}'))",
    "SELECT 1 AS a, '' AS b ORDER BY a WITH FILL TO 3 INTERPOLATE (b AS file('{path}'))",
    "SELECT * FROM numbers(length(file('{path}')))",
    "SELECT * FROM view(SELECT file('{path}'))", "SELECT * FROM changes_of(key = (SELECT file('{path}')))",
    "SELECT file('{path}') FROM holders", "SELECT initializeAggregation('groupArray', file('{path}'))",
)  # fmt: skip


@pytest.mark.parametrize("user", ["analyst", "owner"])
def test_no_query_reads_a_file(user: str, request: pytest.FixtureRequest, owner: Asker) -> None:
    """The function `file` is ClickHouse's own and asks for no right, in the library."""
    asker: Asker = request.getfixturevalue(user)
    for form in FILES:
        answer = asker.ask(form.format(path="/etc/hostname", a="SELECT '/etc/hostname' AS a"))
        assert answer.code != 0, (form, answer)


def test_what_the_views_show_is_all_that_is_visible(analyst: Asker) -> None:
    visible = PEOPLE - 1
    assert analyst.ask("SELECT count() FROM property_changes").text == f"{visible}\n"
    assert analyst.ask("SELECT count() FROM changes_of(key = 'plan')").text == f"{visible}\n"
    assert analyst.ask("SELECT count() FROM holders").text == "1\n"


@pytest.mark.parametrize("query", [
    "SELECT countIf(throwIf(after LIKE '%{secret}%')) FROM {view}",
    "SELECT countIf(fragment = '{hidden}' OR after LIKE '%{secret}%') FROM {view}",
    "SELECT count() FROM {view} WHERE throwIf(fragment = '{hidden}')",
    "SELECT count() FROM {view} WHERE throwIf(after LIKE '%{secret}%')",
    "SELECT count() FROM (SELECT * FROM {view} SETTINGS apply_deleted_mask = 0) WHERE fragment = '{hidden}'",
    "SELECT count() FROM view(SELECT * FROM {view} SETTINGS apply_deleted_mask = 0) WHERE fragment = '{hidden}'",
    "SELECT (SELECT countIf(fragment = '{hidden}') FROM {view} SETTINGS apply_deleted_mask = 0)",
    "WITH x AS (SELECT * FROM {view} SETTINGS apply_deleted_mask = 0) SELECT countIf(fragment = '{hidden}') FROM x",
])  # fmt: skip
@pytest.mark.parametrize("view", ["property_changes", "changes_of(key = 'plan')"])
def test_hidden_rows_are_seen_by_no_condition_that_is_pushed_into_a_view(
    analyst: Asker, view: str, query: str
) -> None:
    assert analyst.ask(query.format(view=view, secret=SECRET, hidden=HIDDEN)) == Answer(0, "0\n")
