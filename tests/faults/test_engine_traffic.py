"""Random bytes, half requests and resets on both of the engine's ports; and what its log says of them: nothing."""

from __future__ import annotations

import http.client
import os
import random
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from tests.support.engine import PASSWORD, USER, EngineProcess
from tests.support.hostile import SENDS, Stranger, idle_connections, speaks_natively, strike
from tests.support.tier import sized

SEED = int(os.environ.get("PERSONLOG_TEST_SEED", "1"))

ROUNDS = sized(dev=3, ci=15, soak=300)
"""Of every kind of bytes to both ports."""

STRANGERS = 8
"""At once."""

IDLE_CONNECTIONS = 150
"""Of a port."""

GROWTH_BYTES_MAX = 512 << 20
"""Of the engine's own memory, the buffers that it keeps for later requests among it."""

TABLE = "CREATE TABLE hostile (number UInt64, text String, CONSTRAINT short CHECK length(text) < 10)"
FAILING = (
    "SELEC '{}'",
    "SELECT * FROM {}",
    "SELECT toUInt8('{}')",
    "SELECT throwIf(number = 300000, '{}') FROM numbers(1000000) SETTINGS max_block_size = 1000",  # in the middle
    "SELECT '{}', groupArray(number) FROM numbers(100000000) SETTINGS max_memory_usage = 10000000",
    "SELECT '{}', max(cityHash64(number)) FROM numbers(1e15) SETTINGS max_execution_time = 1",
    "INSERT INTO hostile VALUES ('{}', 'text')",
    "INSERT INTO hostile FORMAT TSV\n1\t{}\n",  # refused by the constraint
    "INSERT INTO hostile FORMAT TSV\n{}\ttext\n",
    'INSERT INTO hostile FORMAT JSONEachRow\n{{"number":"{}"}}\n',
    "INSERT INTO hostile FORMAT Native\n{}",
    "INSERT INTO hostile SELECT number, throwIf(number = 1, '{}')::String FROM numbers(3)",
    "ALTER TABLE hostile UPDATE text = toString(throwIf(1, '{}')) WHERE 1 SETTINGS mutations_sync = 1",
    "ALTER TABLE hostile ADD COLUMN text Enum('{}' = 1)",
    "KILL QUERY WHERE throwIf(1, '{}')",
)
"""Statements that fail at every stage, with a word of the customer's in each."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(tmp_path / "data").start()
    try:
        assert asked(engine, f"{TABLE} ENGINE = MergeTree ORDER BY number") == ""
        yield engine
    finally:
        engine.stop()


def asked(engine: EngineProcess, statement: str, **options: str) -> str:
    """The answer, also one that is an error, as far as it came."""
    key = PASSWORD.encode().decode("latin-1")  # urllib sends latin-1, so these are the bytes of UTF-8
    address = f"{engine.address}/?{urllib.parse.urlencode(options)}"
    sent = urllib.request.Request(address, statement.encode(), {"X-ClickHouse-User": USER, "X-ClickHouse-Key": key})
    try:
        with urllib.request.urlopen(sent, timeout=60) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
    except http.client.IncompleteRead as error:
        return bytes(error.partial).decode(errors="replace")


def said(engine: EngineProcess) -> bytes:
    """All that the engine has written down, except for its tables."""
    places = (engine.data / "logs", engine.data / "run")
    return b"".join(path.read_bytes() for place in places for path in place.rglob("*") if path.is_file())


@pytest.mark.fault
def test_nothing_that_is_sent_to_the_ports_ends_the_engine_or_is_written_down(
    engine: EngineProcess, record_property: Any
) -> None:
    assert engine.process is not None
    process, canary = psutil.Process(engine.process.pid), f"canary{uuid4().hex}".encode()
    ports, chosen = (engine.port, engine.native_port), random.Random(SEED)

    def turn(seed: int) -> list[str]:
        one = Stranger(random.Random(seed), canary)
        strikes = [(port, send) for send in SENDS for port in ports]
        one.chosen.shuffle(strikes)
        return [strike(port, send, one) for port, send in strikes]

    turn(SEED)  # the first of everything: threads, buffers
    before = process.memory_full_info().uss
    with ThreadPoolExecutor(STRANGERS) as strangers:
        turns = strangers.map(turn, [chosen.getrandbits(32) for _ in range(ROUNDS)])
        done = Counter(chain.from_iterable(turns))
    assert_serves(engine)
    with idle_connections(ports, IDLE_CONNECTIONS):
        assert_serves(engine)
    assert_serves(engine)
    grown = process.memory_full_info().uss - before
    told = f"traffic: {done.total():,} strikes of {len(done)} kinds, memory {grown / 1e6:+.0f} MB"
    record_property("faults", told)
    print(told)
    assert grown < GROWTH_BYTES_MAX
    assert canary not in said(engine)


def assert_serves(engine: EngineProcess) -> None:
    """The same process, and both ports."""
    assert engine.process is not None and engine.process.poll() is None
    rows = int(asked(engine, "SELECT count() FROM hostile"))
    assert asked(engine, f"INSERT INTO hostile VALUES ({rows}, 'text')") == ""
    assert int(asked(engine, "SELECT count() FROM hostile")) == rows + 1
    assert speaks_natively(engine)


@pytest.mark.fault
def test_no_statement_and_no_value_is_written_down_when_it_fails_or_the_engine_is_killed(engine: EngineProcess) -> None:
    canary = f"canary{uuid4().hex}"
    assert_serves(engine)
    for statement in FAILING:
        assert "Code: " in asked(engine, statement.format(canary)), statement
    assert "Code: " in asked(engine, "SELECT {number:UInt8}", param_number=canary)
    assert "Code: " in asked(engine, f"SELECT '{canary}'", no_such_setting="1")
    assert asked(engine, f"SELECT '{canary}'") == f"{canary}\n"
    assert canary.encode() not in said(engine)
    engine.kill()
    engine.start()
    assert_serves(engine)
    assert canary.encode() not in said(engine)
    assert engine.process is not None
    engine.process.terminate()
    for printed in engine.process.communicate(timeout=60):
        assert canary not in printed
    assert canary.encode() not in said(engine)
