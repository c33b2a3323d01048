"""kill -9, SIGSTOP and rebalances on real processes while three writers send; then the whole log is judged again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.chaos import Chaos
from tests.support.judge import by_kind, judge, summary
from tests.support.kafka import Cluster, need_kafka
from tests.support.processes import Stack, running
from tests.support.tier import sized


class Size(NamedTuple):
    kills: int
    acknowledged: int


SIZE = sized(dev=Size(9, 2_000), ci=Size(12, 8_000), soak=Size(36, 32_000))
"""With nine kills every kind of fault has come once."""

KILLED = {"kill_api", "kill_projector", "kill_engine", "kill_deleter", "kill_all", "kill_joined"}


@pytest.mark.fault
def test_nothing_acknowledged_is_lost_and_nothing_takes_effect_twice(tmp_path: Path, record_property: Any) -> None:
    with running(tmp_path / "data") as stack:
        _judged("embedded", stack, None, record_property)


@pytest.mark.fault
@pytest.mark.kafka
def test_the_same_on_three_brokers_that_are_killed_too(tmp_path: Path, record_property: Any) -> None:
    need_kafka()
    cluster = Cluster(tmp_path / "kafka", nodes=3).start()
    try:
        settings = {"PERSONLOG_KAFKA": cluster.bootstrap, "PERSONLOG_KAFKA_REPLICATION": "3"}
        with running(tmp_path / "data", **settings) as stack:
            _judged("three Kafka nodes", stack, cluster, record_property)
    finally:
        cluster.close()


def _judged(log: str, stack: Stack, cluster: Cluster | None, record_property: Any) -> None:
    chaos = Chaos(stack, cluster, seed=int(os.environ.get("PERSONLOG_TEST_SEED", "1")))
    chaos.run(SIZE.kills, SIZE.acknowledged)
    verdict = judge(chaos)
    told = summary(log, chaos, verdict)
    record_property("faults", told)
    print(f"{told}\n{by_kind(chaos)}")
    assert (verdict.lost, verdict.duplicated, verdict.differences) == (0, 0, 0), (told, verdict.named)
    assert chaos.kills >= SIZE.kills and chaos.acknowledged >= SIZE.acknowledged
    assert chaos.faults.keys() >= KILLED | ({"kill_broker"} if cluster else set())
