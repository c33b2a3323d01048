"""The log is gone: `up` says what to do, `personlog log renew` does it, and nothing of what was projected is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from shared.runtime.process.exits import WRONG_LOG
from tests.support.asking import sent, shown
from tests.support.kafka import Cluster, empty
from tests.support.processes import Stack, running
from tests.support.stacks import NEVER

pytestmark = pytest.mark.alone

COMMAND_SECONDS_MAX = 600.0
WHO = "ann@example.com"


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that was stopped, and whose log is gone."""
    environment = NEVER | {"PERSONLOG_PARTITIONS": "4"}
    cluster: Cluster | None = None
    if request.param == "kafka":
        cluster = request.getfixturevalue("kafka_cluster")
        environment |= {"PERSONLOG_KAFKA": empty(cluster)}
    with running(tmp_path_factory.mktemp("lost") / "data", **environment) as started:
        sent(started, WHO, **{"$set": {"plan": "kept"}})
        sent(started, "other", **{"$set": {"plan": "kept"}})
        started.stop()
        if cluster is None:
            shutil.rmtree(started.data / "log")
        else:
            empty(cluster)
        yield started


def test_what_was_projected_is_kept_and_writes_go_on(stack: Stack) -> None:
    refused = stack.call("up", seconds=COMMAND_SECONDS_MAX)
    assert refused.returncode == WRONG_LOG
    assert "personlog log renew" in refused.stderr
    asked = stack.call("log", "renew")
    assert (asked.returncode, "add --yes" in asked.stderr) == (2, True)
    done = stack.call("log", "renew", "--yes", seconds=COMMAND_SECONDS_MAX)  # starts the engine itself
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing that is left of generation 1 is projected" in done.stdout
    assert done.stdout.count("what was written after it is lost") == 4 + 4 + 1
    assert "generation 2 is open; partitions: personlog.commands 4" in done.stdout
    stack.start()
    person = shown(stack, WHO)
    assert person is not None and person["properties"] == {"plan": "kept"}
    sent(stack, WHO, **{"$set": {"plan": "new"}})
    sent(stack, "third", **{"$set": {"plan": "new"}})
    person = shown(stack, WHO)
    assert person is not None and person["properties"] == {"plan": "new"}
    assert stack.persons('/?include_total=true&properties=[{"key":"plan","value":"new"}]').json["count"] == 2
    verified = stack.call("rebuild", "--verify", seconds=COMMAND_SECONDS_MAX)
    assert (verified.returncode, "0 differences, 0 corrupt" in verified.stdout) == (0, True), verified.stdout
    assert stack.call("doctor").returncode == 0
