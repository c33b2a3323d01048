"""The engine as strangers meet it: unmodified clients, curl, SIGTERM, kill -9. Never goes through our own client."""

from __future__ import annotations

import gzip
import re
import socket
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from services.engine import library
from services.engine.config import MERGE_THREADS
from shared.runtime.settings import SettingsError
from tests.support.engine import PASSWORD, USER, EngineProcess
from tests.support.processes import ROOT, free_port, wait_for

HOSTILE = ["", "it's", "\\", "\\N", "\n\t\r\0", "'; DROP TABLE t; --", "{a:String}", '`"%s', "😀\u202e", "x" * 20_000]


@pytest.fixture(scope="module")
def client(engine: EngineProcess) -> Iterator[Any]:
    client = clickhouse_connect.get_client(host="127.0.0.1", port=engine.port, username=USER, password=PASSWORD)
    client.command("CREATE DATABASE IF NOT EXISTS strangers")
    client.command("CREATE OR REPLACE TABLE strangers.t (id UInt64, text String, uuid UUID)"
                   " ENGINE = MergeTree ORDER BY id")  # fmt: skip
    yield client
    client.close()


def curl(engine: EngineProcess, query: str, body: bytes | None = None, **headers: str) -> tuple[int, str, Any]:
    """One request, as curl would send it: a body makes it a POST."""
    key = PASSWORD.encode().decode("latin-1")  # urllib sends latin-1, so these are the bytes of UTF-8
    headers = {"X-ClickHouse-User": USER, "X-ClickHouse-Key": key} | headers
    request = urllib.request.Request(f"{engine.address}/?{query}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(errors="replace"), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace"), error.headers


def test_an_unmodified_client_inserts_and_reads(client: Any) -> None:
    rows = [[i, text, uuid4()] for i, text in enumerate(HOSTILE)]
    summary = client.insert("strangers.t", rows, column_names=["id", "text", "uuid"])  # as lz4, the client's default
    assert summary.written_rows == len(rows)
    assert [list(row) for row in client.query("SELECT * FROM strangers.t ORDER BY id").result_rows] == rows


async def test_an_unmodified_async_client_inserts_and_reads(engine: EngineProcess, client: Any) -> None:
    client.command("CREATE OR REPLACE TABLE strangers.a (id UInt64) ENGINE = MergeTree ORDER BY id")
    async with await clickhouse_connect.get_async_client(
        host="127.0.0.1", port=engine.port, username=USER, password=PASSWORD, database="strangers", compress="zstd"
    ) as peer:
        await peer.insert("a", [[1], [2]], column_names=["id"])
        assert (await peer.query("SELECT sum(id) FROM a")).result_rows == [(3,)]
        with pytest.raises(DatabaseError):
            await peer.query("SELECT * FROM strangers.nowhere")


@pytest.mark.parametrize("settings", ["", "SETTINGS async_insert = 0 "])
def test_rows_that_the_engine_refuses_after_parsing_are_refused_to_the_client(
    engine: EngineProcess, client: Any, settings: str
) -> None:
    client.command("CREATE OR REPLACE TABLE strangers.picky (id UInt64, CONSTRAINT small CHECK id < 10)"
                   " ENGINE = MergeTree ORDER BY id SETTINGS parts_to_throw_insert = 2")  # fmt: skip
    client.command("SYSTEM STOP MERGES strangers.picky")
    insert = f"INSERT INTO strangers.picky (id) {settings}FORMAT TSV\n".encode()
    assert curl(engine, "", insert + b"1\n")[0] == 200
    status, text, _ = curl(engine, "", insert + b"2\n11\n")
    assert (status, "VIOLATED_CONSTRAINT" in text) == (500, True)
    assert curl(engine, "", insert + b"3\n")[0] == 200
    status, text, _ = curl(engine, "", insert + b"4\n")
    assert (status, "TOO_MANY_PARTS" in text) == (500, True)
    assert client.query("SELECT groupArray(id) FROM (SELECT id FROM strangers.picky ORDER BY id)").result_rows == [
        ([1, 3],)
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_unchanged_as_a_parameter(client: Any, text: str) -> None:
    assert client.query("SELECT {text:String}", parameters={"text": text}).result_rows == [(text,)]


def test_an_error_carries_the_code_and_the_name(client: Any, engine: EngineProcess) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query("SELECT * FROM strangers.nowhere")
    assert (caught.value.code, caught.value.name) == (60, "UNKNOWN_TABLE")
    status, text, headers = curl(engine, "", b"SELEC 1")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (400, "62")
    assert text.startswith("Code: 62. DB::Exception: Syntax error")


@pytest.mark.parametrize("name, key", [(USER, "wrong"), ("stranger", PASSWORD), (USER, "")])
def test_a_wrong_password_is_refused(engine: EngineProcess, name: str, key: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        clickhouse_connect.get_client(host="127.0.0.1", port=engine.port, username=name, password=key)
    assert caught.value.code == 516
    query = urllib.parse.urlencode({"user": name, "password": key, "query": "SELECT 1"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{engine.address}/?{query}", timeout=5)
    assert refused.value.code == 403
    refused.value.close()


def test_the_password_may_come_in_the_url(engine: EngineProcess) -> None:
    query = urllib.parse.urlencode({"user": USER, "password": PASSWORD, "query": "SELECT 1"})
    with urllib.request.urlopen(f"{engine.address}/?{query}", timeout=5) as answer:
        assert answer.read() == b"1\n"


def test_curl_may_put_the_query_in_the_url_the_body_or_both(engine: EngineProcess, client: Any) -> None:
    assert curl(engine, "query=SELECT%201")[1] == "1\n"
    assert curl(engine, "default_format=JSONEachRow&param_a=x", b"SELECT {a:String} AS a")[1] == '{"a":"x"}\n'
    assert curl(engine, "database=strangers&query=SELECT%20currentDatabase()", b"FORMAT CSV")[1] == '"strangers"\n'
    client.command("CREATE OR REPLACE TABLE strangers.c (a UInt8, `b FORMAT c` String) ENGINE = Memory")
    insert = urllib.parse.quote("INSERT INTO strangers.c (a, `b FORMAT c`) FORMAT CSV")
    assert curl(engine, f"query={insert}", b"1,x\n2,y\n")[0] == 200
    assert curl(engine, "", b"INSERT INTO strangers.c VALUES (3, 'z')")[0] == 200
    zipped = gzip.compress(b"INSERT INTO strangers.c SELECT 4, 'FORMAT CSV'")
    assert curl(engine, "", zipped, **{"Content-Encoding": "gzip"})[0] == 200
    assert client.query("SELECT count() FROM strangers.c").result_rows == [(4,)]


def test_what_is_no_statement_is_said(engine: EngineProcess) -> None:
    assert "Multi-statements are not allowed" in curl(engine, "", b"SELECT 1; SELECT 2")[1]
    assert "Unknown compression method" in curl(engine, "", b"SELECT 1", **{"Content-Encoding": "x-own"})[1]
    assert "UNKNOWN_SETTING" in curl(engine, "no_such_setting=1", b"SELECT 1")[1]


@pytest.mark.parametrize("body", [b"SELECT \xff", b"INSERT INTO `\xff` FORMAT CSV\n1", b"(" * 5000])
def test_nonsense_is_answered_with_an_error_of_the_engine(engine: EngineProcess, body: bytes) -> None:
    status, _, headers = curl(engine, "", body)
    assert status >= 400 and int(headers["X-ClickHouse-Exception-Code"]) > 0


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE strangers.w (a UInt8) ENGINE = Memory",
        "INSERT INTO strangers.t (id) VALUES (1)",
        "INSERT INTO strangers.t (id) FORMAT CSV\n1\n",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    ],
)
def test_readonly_refuses_writes_files_and_urls(engine: EngineProcess, client: Any, statement: str) -> None:
    status, text, headers = curl(engine, "readonly=1&max_execution_time=5", statement.encode())
    assert status >= 400 and headers["X-ClickHouse-Exception-Code"] == "164", text


@pytest.mark.parametrize("readonly", ["readonly=0", "readonly=1"])
@pytest.mark.parametrize("words", ["INTO OUTFILE", "into/**/outfile"])
def test_no_query_writes_a_local_file(engine: EngineProcess, tmp_path: Path, readonly: str, words: str) -> None:
    statement = f"SELECT 1 {words} '{tmp_path}/out'"
    assert curl(engine, readonly, statement.encode())[2]["X-ClickHouse-Exception-Code"] == "358"
    assert not (tmp_path / "out").exists()


def test_a_link_does_not_write(engine: EngineProcess, client: Any) -> None:
    insert = urllib.parse.quote("INSERT INTO strangers.t (id) VALUES (1)")
    assert curl(engine, f"query={insert}")[2]["X-ClickHouse-Exception-Code"] == "164"
    assert client.query("SELECT count() FROM strangers.t WHERE id = 1 AND text = ''").result_rows == [(0,)]


def test_limits_sent_with_a_query_are_honoured(engine: EngineProcess) -> None:
    answer = curl(engine, "max_execution_time=1", b"SELECT sum(cityHash64(number)) FROM numbers(1000000000000)")
    assert answer[2]["X-ClickHouse-Exception-Code"] == "159"
    answer = curl(engine, "max_memory_usage=1000000", b"SELECT groupArray(number) FROM numbers(10000000)")
    assert answer[2]["X-ClickHouse-Exception-Code"] == "241"


def test_settings_and_databases_never_reach_the_next_request(engine: EngineProcess) -> None:
    ask = b"SELECT getSetting('max_block_size') = 7, currentDatabase()"
    for _ in range(4):
        assert curl(engine, "max_block_size=7&database=system", ask)[1] == "1\tsystem\n"
        curl(engine, "", b"SET max_block_size = 7")
        curl(engine, "", b"USE system")
        assert curl(engine, "", ask)[1] == "0\tdefault\n"


def test_settings_of_the_engine_are_the_rendered_ones(client: Any) -> None:
    """Merges give way, sleep little and clean up at once; these are what erasure's times and readers' calm rest on."""
    names = {
        "background_pool_size": str(MERGE_THREADS),
        "os_threads_nice_value_merge_mutate": "19",
        "mark_cache_size": "134217728",
        "index_mark_cache_size": "16777216",
    }
    found = client.query(
        "SELECT name, value FROM system.server_settings WHERE name IN {names:Array(String)}",
        parameters={"names": list(names)},
    ).result_rows
    assert dict(found) == names
    cleanup = {"cleanup_delay_period": "1", "max_cleanup_delay_period": "2", "cleanup_delay_period_random_add": "0"}
    found = client.query(
        "SELECT name, value FROM system.merge_tree_settings WHERE name IN {names:Array(String)}",
        parameters={"names": list(cleanup)},
    ).result_rows
    assert dict(found) == cleanup


def test_the_operators_pages_are_served(engine: EngineProcess) -> None:
    for path, text in (("livez", "ok\n"), ("readyz", "ok\n"), ("ping", "Ok.\n"), ("version", '{"version":')):
        with urllib.request.urlopen(f"{engine.address}/{path}", timeout=20) as answer:
            assert answer.status == 200 and answer.read().decode().startswith(text), path
    with urllib.request.urlopen(f"{engine.address}/metrics", timeout=20) as answer:
        assert b"ClickHouseMetrics_Query" in answer.read()
    with urllib.request.urlopen(f"{engine.address}/play", timeout=20) as answer:
        assert b"<html" in answer.read()


def test_the_files_of_the_engine_hold_no_password(engine: EngineProcess) -> None:
    home = engine.data / "run" / "engine"
    for name in ("config.xml", "users.xml"):
        text = (home / name).read_text()
        assert [password for password in engine.passwords.values() if password in text] == []
        assert (home / name).stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700


def refused(process: EngineProcess) -> str:
    """The one line that a start ended with, by exit code 2."""
    _, errors = (child := process.spawn()).communicate(timeout=60)
    assert child.returncode == 2
    assert errors.count("\n") == 1, errors
    return errors


def test_a_second_engine_on_one_folder_is_refused_with_one_line(engine: EngineProcess) -> None:
    assert f"{engine.data / 'engine'} is open in another engine process" in refused(EngineProcess(engine.data))
    assert curl(engine, "", b"SELECT 1")[1] == "1\n"


def test_a_taken_port_is_refused_with_one_line(engine: EngineProcess, tmp_path: Path) -> None:
    assert f"port {engine.port} for the engine is taken" in refused(EngineProcess(tmp_path / "data", engine.port))


def test_the_native_protocol_takes_the_next_free_port(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        engine = EngineProcess(tmp_path / "data", port).start()
        try:
            assert port + 1 < engine.native_port <= port + 100
            socket.create_connection(("127.0.0.1", engine.native_port), timeout=20).close()
        finally:
            engine.stop()


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library.check_version()
    monkeypatch.setattr(library, "VERSION", "26.8.0")
    with pytest.raises(SettingsError, match=r"needs 26\.8\.0"):
        library.check_version()
    monkeypatch.setattr(library, "DISTRIBUTION", "chdb-core-of-nobody")
    with pytest.raises(SettingsError, match="install"):
        library.check_version()


def test_the_pinned_version_is_the_one_that_is_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["embedded"] == [f"{library.DISTRIBUTION}=={library.VERSION}"]


def test_the_library_has_the_call_that_serves() -> None:
    """In a process of its own: the library is loaded by nobody else."""
    program = (
        "from chdb import _chdb; import inspect; text = _chdb.query.__doc__;"
        " assert 'queryStr: str' in text and 'path: str' in text, text; _chdb.set_signal_handlers_enabled(0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd="/")


def running(engine: EngineProcess, text: str) -> bool:
    ask = f"SELECT count() FROM system.processes WHERE query LIKE '%{text}%' AND query NOT LIKE '%processes%'"
    return curl(engine, "", ask.encode())[1] == "1\n"


def test_the_servers_do_not_end_with_their_keeper_after_days(engine: EngineProcess) -> None:
    rows = curl(engine, "", b"SELECT query FROM system.processes WHERE user = ''")[1]
    seconds = int(re.search(r"numbers\((\d+)\)", rows)[1])  # type: ignore[index]  # it runs
    assert seconds / 86_400 > 365_000  # a thousand years


def test_a_stop_lets_queries_end_and_tells_those_that_it_ends(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path / "data").start()
    answers: dict[str, Any] = {}

    def ask(name: str, query: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({name: curl(engine, "", query.encode())}))
        thread.start()
        wait_for(lambda: running(engine, name), 30, f"the {name} query to run")
        return thread

    try:
        threads = [
            ask("short", "SELECT 'short', sleepEachRow(0.1) FROM numbers(15) SETTINGS max_block_size = 1"),
            ask("endless", "SELECT 'endless', max(cityHash64(number)) FROM numbers(1e15)"),
        ]
        process = engine.process
        engine.stop()
        assert process is not None and process.returncode == 0
        for thread in threads:
            thread.join(timeout=30)
    finally:
        engine.stop()
    assert answers["short"][0] == 200 and answers["short"][1].count("\n") == 15
    assert answers["endless"][2]["X-ClickHouse-Exception-Code"] == "394"


@pytest.mark.fault
def test_kill_9_loses_no_acknowledged_insert(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path / "data").start()
    try:
        curl(engine, "", b"CREATE TABLE t (id UInt64, text String) ENGINE = MergeTree ORDER BY id")
        acknowledged = 0
        for _ in range(3):
            for _ in range(20):
                body = "\n".join(f"{i},{'x' * 100}" for i in range(acknowledged, acknowledged + 100))
                assert curl(engine, "", f"INSERT INTO t FORMAT CSV\n{body}\n".encode())[0] == 200
                acknowledged += 100
            engine.kill()
            engine.start()
            assert curl(engine, "", b"SELECT count(), uniqExact(id) FROM t")[1] == f"{acknowledged}\t{acknowledged}\n"
    finally:
        engine.stop()
