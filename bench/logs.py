"""The two logs: questions are measured on the embedded log, and on Kafka with Java and Maven."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.report import Row
from shared.domain.ids import COMMANDS
from shared.log.connect import connect_log
from shared.runtime.settings import read, with_keys
from shared.store.clickhouse.queries import Query
from tests.support.kafka import Cluster, need_kafka
from tests.support.processes import Stack

EMBEDDED, KAFKA = "embedded log", "Kafka"

MERGES = "SELECT count() FROM system.merges"

PROJECTED = Query(
    name="projected",
    sql="""
SELECT sum(commands)
FROM
(
    SELECT bitAnd(max(version), 281474976710655) + 1 AS commands
    FROM fragments
    WHERE project = 0
    GROUP BY fragment
)""",
)
"""The number of commands that reads reflect, by the offsets of the position rows."""


def on_both_logs(
    data: Path, measure: Callable[[Path, str, dict[str, str]], list[Row]]
) -> list[Row]:
    """Run `measure` with a folder, a log's name, and its settings, on each log; return all rows."""
    rows = measure(data / "embedded", EMBEDDED, {})
    if shutil.which("java") is None or shutil.which("mvn") is None:
        print("Kafka left out: it needs Java and Maven", flush=True)
        return rows
    need_kafka()
    cluster = Cluster(data / "broker").start()
    try:
        return rows + measure(data / "kafka", KAFKA, {"PERSONLOG_KAFKA": cluster.bootstrap})
    finally:
        cluster.close()


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stop these processes meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def logged(stack: Stack) -> int:
    """Return the number of commands in the log."""
    settings, _ = with_keys(read(stack.environment))
    log = connect_log(settings)
    await log.start()
    try:
        return sum(head.next for head in await log.heads(COMMANDS))
    finally:
        await log.close()
