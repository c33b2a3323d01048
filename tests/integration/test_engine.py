"""The engine host as strangers meet it: unmodified clients, curl, kill -9. Never goes through our own client."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped]  # it ships no types
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from shared.store import engine as host
from shared.store.protocol import BODY_BYTES_MAX, EngineError
from tests.support.engine import PASSWORD, USER, EngineProcess

HOSTILE = ["", "it's", "\\", "\\N", "\n\t\r\0", "'; DROP TABLE t; --", "{a:String}", '`"%s', "😀\u202e", "x" * 20_000]


@pytest.fixture(scope="module")
def client(engine: EngineProcess) -> Iterator[Any]:
    client = clickhouse_connect.get_client(host="127.0.0.1", port=engine.port, username=USER, password=PASSWORD)
    client.command("CREATE DATABASE IF NOT EXISTS strangers")
    client.command("CREATE TABLE strangers.t (id UInt64, text String, uuid UUID) ENGINE = MergeTree ORDER BY id")
    yield client
    client.close()


def curl(engine: EngineProcess, query: str, body: bytes | None = None, **headers: str) -> tuple[int, str, Any]:
    """One request, as curl would send it: a body makes it a POST."""
    key = PASSWORD.encode().decode("latin-1")  # urllib sends latin-1, so these are the bytes of UTF-8
    headers = {"X-ClickHouse-User": USER, "X-ClickHouse-Key": key} | headers
    request = urllib.request.Request(f"{engine.address}/?{query}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_an_unmodified_client_inserts_and_reads(client: Any) -> None:
    rows = [[i, text, uuid4()] for i, text in enumerate(HOSTILE)]
    summary = client.insert("strangers.t", rows, column_names=["id", "text", "uuid"])  # as lz4, the client's default
    assert summary.written_rows == len(rows)
    assert [list(row) for row in client.query("SELECT * FROM strangers.t ORDER BY id").result_rows] == rows


async def test_an_unmodified_async_client_inserts_and_reads(engine: EngineProcess, client: Any) -> None:
    client.command("CREATE TABLE strangers.a (id UInt64) ENGINE = MergeTree ORDER BY id")
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
    """chDB's streaming insert says "1 row written" for each of these, and the rows are gone."""
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


def test_ten_thousand_ids_fit_in_a_parameter(client: Any) -> None:
    ids = [UUID(int=i) for i in range(10_000)]
    query = "SELECT length({ids:Array(UUID)}), {ids:Array(UUID)}[10000]"
    assert client.query(query, parameters={"ids": ids}).result_rows == [(10_000, ids[-1])]


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
    assert refused.value.code == 401
    refused.value.close()


def test_the_password_may_come_in_the_url(engine: EngineProcess) -> None:
    query = urllib.parse.urlencode({"user": USER, "password": PASSWORD, "query": "SELECT 1"})
    with urllib.request.urlopen(f"{engine.address}/?{query}", timeout=5) as answer:
        assert answer.read() == b"1\n"


def test_curl_may_put_the_query_in_the_url_the_body_or_both(engine: EngineProcess, client: Any) -> None:
    assert curl(engine, "query=SELECT%201")[1] == "1\n"
    assert curl(engine, "default_format=JSONEachRow&param_a=x", b"SELECT {a:String} AS a")[1] == '{"a":"x"}\n'
    assert curl(engine, "database=strangers&query=SELECT%20currentDatabase()", b"FORMAT CSV")[1] == '"strangers"\n'
    client.command("CREATE TABLE strangers.c (a UInt8, `b FORMAT c` String) ENGINE = Memory")
    insert = urllib.parse.quote("INSERT INTO strangers.c (a, `b FORMAT c`) FORMAT CSV")
    assert curl(engine, f"query={insert}", b"1,x\n2,y\n")[0] == 200
    assert curl(engine, "", b"INSERT INTO strangers.c VALUES (3, 'z')")[0] == 200
    zipped = gzip.compress(b"INSERT INTO strangers.c SELECT 4, 'FORMAT CSV'")
    assert curl(engine, "", zipped, **{"Content-Encoding": "gzip"})[0] == 200
    assert client.query("SELECT count() FROM strangers.c").result_rows == [(4,)]


def test_what_the_host_cannot_do_is_said(engine: EngineProcess) -> None:
    assert "multi-statements" in curl(engine, "", b"SELECT 1; SELECT 2")[1]
    assert "Content-Encoding" in curl(engine, "compress=1", b"SELECT 1")[1]
    assert "compression method x-own" in curl(engine, "", b"SELECT 1", **{"Content-Encoding": "x-own"})[1]
    assert "UNKNOWN_SETTING" in curl(engine, "no_such_setting=1", b"SELECT 1")[1]
    assert "Unknown setting" in curl(engine, "a%3D1%2Cb=1", b"SELECT 1")[1]


def test_a_body_that_inflates_past_the_limit_is_refused(engine: EngineProcess) -> None:
    bomb = lz4.frame.compress(bytes(BODY_BYTES_MAX + 1))
    status, _, headers = curl(engine, "", bomb, **{"Content-Encoding": "lz4"})
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (413, "396")
    status, _, headers = curl(engine, "", gzip.compress(bytes(BODY_BYTES_MAX + 1), 1), **{"Content-Encoding": "gzip"})
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (413, "396")
    assert "cut off" in curl(engine, "", bomb[:1000], **{"Content-Encoding": "lz4"})[1]


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
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "164"), text


@pytest.mark.parametrize("readonly", ["readonly=0", "readonly=1"])
@pytest.mark.parametrize("words", ["INTO OUTFILE", "into/**/outfile"])
def test_no_query_writes_a_local_file(engine: EngineProcess, tmp_path: Path, readonly: str, words: str) -> None:
    statement = f"SELECT 1 {words} '{tmp_path}/out'"
    assert curl(engine, readonly, statement.encode())[2]["X-ClickHouse-Exception-Code"] == "358"
    assert not (tmp_path / "out").exists()


def test_a_link_does_not_write(engine: EngineProcess, client: Any) -> None:
    insert = urllib.parse.quote("INSERT INTO strangers.t (id) VALUES (1)")
    assert curl(engine, f"readonly=0&query={insert}")[0] == 403


def test_limits_sent_with_a_query_are_honoured(engine: EngineProcess) -> None:
    began = time.monotonic()
    answer = curl(engine, "max_execution_time=1", b"SELECT sum(cityHash64(number)) FROM numbers(1000000000000)")
    assert answer[2]["X-ClickHouse-Exception-Code"] == "159"
    assert time.monotonic() - began < 8
    answer = curl(engine, "max_memory_usage=1000000", b"SELECT groupArray(number) FROM numbers(10000000)")
    assert answer[2]["X-ClickHouse-Exception-Code"] == "241"


def test_settings_and_databases_never_reach_the_next_request(engine: EngineProcess) -> None:
    ask = b"SELECT getSetting('max_block_size') = 7, currentDatabase()"
    for _ in range(4):
        assert curl(engine, "max_block_size=7&database=system", ask)[1] == "1\tsystem\n"
        curl(engine, "", b"SET max_block_size = 7")
        curl(engine, "", b"USE system")
        assert curl(engine, "", ask)[1] == "0\tdefault\n"


async def test_a_full_queue_refuses_at_once() -> None:
    release = threading.Event()

    def job(_: object) -> host.Answer:
        release.wait(20)
        return host.Answer(b"", {})

    workers = host._Workers(1, lambda: None)
    running = [asyncio.create_task(workers.run(job)) for _ in range(host.QUEUE_REQUESTS_MAX + 1)]
    await asyncio.sleep(0)
    with pytest.raises(EngineError) as caught:
        await workers.run(job)
    assert caught.value.code == 202
    release.set()
    await asyncio.gather(*running)
    await workers.close()


def test_a_second_host_on_one_path_is_refused_with_one_line(engine: EngineProcess) -> None:
    second = EngineProcess(engine.data).spawn()
    _, errors = second.communicate(timeout=30)
    assert second.returncode != 0
    assert f"{engine.data} is open in another engine process" in errors.splitlines()[-1]


def test_kill_9_loses_no_acknowledged_insert_and_a_stop_is_quick(tmp_path: Path) -> None:
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
            engine = EngineProcess(engine.data).start()
            assert curl(engine, "", b"SELECT count(), uniqExact(id) FROM t")[1] == f"{acknowledged}\t{acknowledged}\n"
        answers: list[Any] = []
        query = b"SELECT max(cityHash64(number)) FROM numbers(1e15)"
        slow = threading.Thread(target=lambda: answers.append(curl(engine, "", query)))
        slow.start()
        deadline = time.monotonic() + 10
        while (
            "1e15" not in curl(engine, "", b"SELECT query FROM system.processes WHERE query NOT LIKE '%processes%'")[1]
        ):
            assert time.monotonic() < deadline
        assert engine.stop() < 5
        slow.join(timeout=10)
        assert answers[0][2]["X-ClickHouse-Exception-Code"] == "394"  # it was told, not dropped
    finally:
        engine.stop()
