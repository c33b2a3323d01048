"""Capture with 64 clients at once: every encoding, a log that is away, bodies that are too much. On both logs."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import psutil
import pytest

from services.api.http.guards.admission import RECEIVED_BYTES_MAX
from shared.log.port import PENDING_BYTES_MAX
from tests.support.flood import CLIENTS, ORIGIN, Connection, Flood, Reply, post
from tests.support.judge import judge
from tests.support.kafka import Cluster, empty
from tests.support.processes import TOKEN, Stack, running, wait_for
from tests.support.tier import TIER, sized

REQUESTS = sized(dev=3_200, ci=6_400, soak=64_000)

RSS_BYTES_MAX = 64_000_000
"""How much an API process may grow under requests as SDKs send them."""

RSS_FLOOD_BYTES_MAX = 2 * RECEIVED_BYTES_MAX + 2 * PENDING_BYTES_MAX
"""And under bodies that are too much: those received, one that is being handled, and what waits for the log."""

FLOOD_SECONDS_MAX = sized(dev=300, ci=300, soak=1_800)
"""A minute on a quiet machine at soak's size."""

SECONDS_MAX = 120.0
"""For what takes a few seconds on a quiet machine."""

SLOW = 8
"""Clients that send their body byte by byte, beside the others."""


class Running:
    """A stack, and how its log is taken away."""

    def __init__(self, stack: Stack, cluster: Cluster | None) -> None:
        self.stack, self.cluster = stack, cluster
        self.api = psutil.Process(stack.pid("api"))

    @property
    def faults(self) -> list[Callable[[], Any]]:
        if self.cluster is None:
            return [self.frozen_writer]
        return [self.frozen_broker] if TIER == "dev" else [self.frozen_broker, self.killed_broker]

    @contextmanager
    def frozen_writer(self) -> Iterator[None]:
        """As if a process had been stopped in the middle of a commit: it keeps the lock that writers take turns by."""
        with (self.stack.data / "log" / "write.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def frozen_broker(self) -> Iterator[None]:
        assert self.cluster is not None
        self.cluster.pause(1)
        try:
            yield
        finally:
            self.cluster.resume(1)

    @contextmanager
    def killed_broker(self) -> Iterator[None]:
        assert self.cluster is not None
        self.cluster.kill(1)
        try:
            yield
        finally:
            self.cluster.restart(1)
            self.cluster.wait_whole()


@pytest.fixture(
    scope="module",
    params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)],
)
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    cluster: Cluster | None = None
    environment = {}
    if request.param == "kafka":
        cluster = request.getfixturevalue("kafka_cluster")
        environment["PERSONLOG_KAFKA"] = empty(cluster)
    with running(tmp_path_factory.mktemp("load") / "data", **environment) as stack:
        yield Running(stack, cluster)


class Growth(threading.Thread):
    """How much the API's memory grew at most, looked at every 20 ms."""

    def __init__(self, api: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._api, self._stopping = api, threading.Event()
        self.before = self.most = api.memory_info().rss

    def __enter__(self) -> Growth:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        while not self._stopping.wait(0.02):
            self.most = max(self.most, self._api.memory_info().rss)

    @property
    def bytes(self) -> int:
        return self.most - self.before

    def __str__(self) -> str:
        return f"API memory {self.before >> 20} MiB before, {self.most >> 20} MiB at most"


@pytest.mark.fault
def test_64_clients_in_every_encoding_are_all_answered_and_kept_once(started: Running, record_property: Any) -> None:
    with Growth(started.api) as growth:
        flood = Flood(started.stack, requests=REQUESTS, seed=1)
        flood.start()
        flood.join(timeout=FLOOD_SECONDS_MAX)
    assert not flood.is_alive(), "the flood did not end"
    _tell(record_property, started, f"{_speed(flood)}; {growth}")
    assert (flood.wrong, flood.unanswered, flood.refused) == ([], 0, [])
    assert len(flood.answers) == REQUESTS // CLIENTS * CLIENTS
    _kept_once(flood)
    assert growth.bytes <= RSS_BYTES_MAX, growth


@pytest.mark.fault
def test_a_log_that_is_away_costs_a_503_and_nothing_that_was_acknowledged(
    started: Running, record_property: Any
) -> None:
    for number, fault in enumerate(started.faults, 2):
        flood = Flood(started.stack, seed=number)
        with Growth(started.api) as growth, _slow_bodies_beside(started.stack.port):
            flood.start()
            wait_for(lambda: len(flood.answers) > 2 * CLIENTS, SECONDS_MAX, "captures to go on")  # noqa: B023
            with fault():
                before = len(flood.answers)
                wait_for(lambda: len(flood.refused_by) == CLIENTS or flood.wrong, SECONDS_MAX, "every client's refusal")  # noqa: B023
                while_away = len(flood.answers) - before
            reached = len(flood.answers) + 2 * CLIENTS
            began = time.monotonic()
            try:
                wait_for(lambda: len(flood.answers) > reached or flood.wrong, SECONDS_MAX, "captures after the fault")  # noqa: B023
            except AssertionError as error:
                raise AssertionError(f"{error}; {_reasons(started.stack, flood)}") from error
            recovered = time.monotonic() - began
            flood.stopping.set()
            flood.join(timeout=SECONDS_MAX)
        told = f"{fault.__name__}: {len(flood.refused)} refused, longest answer {flood.longest:.2f} s, "
        _tell(record_property, started, f"{told}served again after {recovered:.2f} s; {growth}")
        assert flood.wrong == [] and flood.unanswered == 0
        assert while_away <= CLIENTS, "the fault did not take the log away"
        for reply in flood.refused:
            _is_documented(reply)
        _kept_once(flood)
        assert growth.bytes <= RSS_BYTES_MAX, growth
    _told_and_over(started.stack)


def _reasons(stack: Stack, flood: Flood) -> str:
    """What the last refusals say, and the API's last lines."""
    refusals = Counter(reply.body.decode(errors="replace")[:300] for reply in flood.refused[-CLIENTS:])
    lines = [line for line in (stack.data / "up.log").read_text().splitlines() if line.startswith("api: ")]
    return "\n".join([*(f"{count} times {body}" for body, count in refusals.items()), *lines[-40:]])


def _told_and_over(stack: Stack) -> None:
    """Why it refuses stands in the API's log, once and not with each refusal, and that it no longer does."""
    troubles = [line for line in (stack.data / "up.log").read_text().splitlines() if '"part": "log"' in line]
    api = [orjson.loads(line.partition(": ")[2]) for line in troubles if line.startswith("api: ")]
    assert api
    assert {one["event"] for one in api} == {"trouble", "trouble is over"}
    assert api[-1]["event"] == "trouble is over"
    assert len(api) <= 2 * CLIENTS


@pytest.mark.fault
def test_bodies_that_are_too_much_are_refused_and_never_gathered(started: Running, record_property: Any) -> None:
    padding = random.Random(1).randbytes(7_000_000).hex()
    plain = orjson.dumps({"api_key": TOKEN, "padding": padding, "batch": [{"event": "large", "distinct_id": "large"}]})
    zipped = gzip.compress(plain, 1)
    requests = [post("/batch/", zipped if number % 2 else plain) for number in range(CLIENTS)]
    with Growth(started.api) as growth:
        replies = asyncio.run(_at_once(started.stack.port, requests))
        kept_alive = asyncio.run(_in_turn(started.stack.port, [plain] * 24))
    statuses = Counter(reply.status for reply in replies)
    longest = max(reply.seconds for reply in replies)
    _tell(record_property, started, f"{CLIENTS} bodies of 7 and 14 MB: {dict(statuses)}, {longest:.2f} s; {growth}")
    assert set(statuses) == {200, 503}, "some fit, and not all"
    assert {reply.status for reply in kept_alive} == {200}
    for reply in replies:
        if reply.status == 503:
            _is_documented(reply)
    assert growth.bytes <= RSS_FLOOD_BYTES_MAX, growth
    bomb, hollow = gzip.compress(b" " * 40_000_000), b"[" + b"{}," * 6_900_000 + b"{}]"
    with Growth(started.api) as growth:
        replies = asyncio.run(_in_turn(started.stack.port, [bomb, zipped[:-9], hollow]))
    assert [reply.status for reply in replies] == [413, 400, 400]
    assert growth.bytes <= RSS_FLOOD_BYTES_MAX, growth
    assert started.stack.capture(event="after", distinct_id="after").status == 200


async def _at_once(port: int, requests: list[bytes]) -> list[Reply]:
    connections = [Connection(port) for _ in requests]
    try:
        return await asyncio.gather(*(one.ask(what) for one, what in zip(connections, requests, strict=True)))
    finally:
        for connection in connections:
            connection.close()


async def _in_turn(port: int, bodies: list[bytes]) -> list[Reply]:
    """One after the other, on connections that all stay open."""
    connections = [Connection(port) for _ in bodies]
    try:
        return [await one.ask(post("/batch/", body)) for one, body in zip(connections, bodies, strict=True)]
    finally:
        for connection in connections:
            connection.close()


@contextmanager
def _slow_bodies_beside(port: int) -> Iterator[None]:
    ends: list[Reply] = []
    thread = threading.Thread(target=lambda: ends.extend(asyncio.run(_slow_bodies(port))), daemon=True)
    thread.start()
    yield
    thread.join(timeout=SECONDS_MAX + 10)
    assert [reply.status for reply in ends] == [408] * SLOW, ends


async def _slow_bodies(port: int) -> list[Reply]:
    """What clients get that announce a body and send it byte by byte."""

    async def one() -> Reply:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        writer.write(post("/batch/", b"{" * 100_000)[:-100_000])
        answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        try:
            while not answer.done() and time.monotonic() - began < SECONDS_MAX:
                writer.write(b" ")
                await asyncio.wait({answer}, timeout=0.2)
            head = (await answer).decode()
            return Reply(int(head.split(" ")[1]), {}, b"", time.monotonic() - began)
        finally:
            answer.cancel()
            writer.close()

    return await asyncio.gather(*(one() for _ in range(SLOW)))


def _kept_once(flood: Flood) -> None:
    verdict = judge(flood)
    assert (verdict.lost, verdict.duplicated, verdict.differences) == (0, 0, 0), verdict.named


def _is_documented(reply: Reply) -> None:
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    told = orjson.loads(reply.body)
    if "error" in told:  # v1 has a shape of its own
        assert (list(told), told["error"]) == (["error", "error_description", "error_uri"], "service_unavailable")
    else:
        assert list(told) == ["type", "code", "detail", "attr"]
        assert (told["type"], told["code"], told["attr"]) == ("server_error", "unavailable", None)


def _speed(flood: Flood) -> str:
    every = sorted(one for each in flood.taken.values() for one in each)
    medians = ", ".join(f"{name} {statistics.median(times) * 1_000:.0f}" for name, times in flood.taken.items())
    p50, p99 = (every[len(every) * part // 100] * 1_000 for part in (50, 99))
    events = sum(len(answer.events) for answer in flood.answers)
    return (
        f"{len(every) / flood.seconds:.0f} requests/s, {events / flood.seconds:.0f} events/s, p50 {p50:.0f} ms,"
        f" p99 {p99:.0f} ms, longest {every[-1] * 1_000:.0f} ms (medians in ms: {medians})"
    )


def _tell(record_property: Any, started: Running, told: str) -> None:
    told = f"{'Kafka' if started.cluster else 'embedded'}: {told}"
    record_property("faults", told)
    print(told)
