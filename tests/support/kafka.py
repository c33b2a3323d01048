"""A real Apache Kafka from its jars: one or several nodes as plain processes, and the fixture `kafka`.

Never a container, never a mock. Where Java or Maven is missing the tests skip, saying so; with
PERSONLOG_TEST_NO_SKIP=1 they fail instead.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.processes import ROOT, Stack, free_port, running, wait_for

LIBS = ROOT / ".kafka" / "libs"
POM = ROOT / "tests" / "support" / "kafka-pom.xml"

START_ATTEMPTS_MAX = 3
"""On a loaded machine the first quorum may time out."""

START_SECONDS_MAX = 180.0
PAUSE_SECONDS_MAX = 60.0
FETCH_SECONDS_MAX = 300.0
HEAP = "256m"
QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""A start costs half as much, and how fast a broker is at last matters to no test."""

PROPERTIES = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor={replication}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replication}
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={replication}
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
log.cleaner.dedupe.buffer.size=2097152
"""


class Cluster:
    """`nodes` combined KRaft nodes on 127.0.0.1."""

    def __init__(self, folder: Path, nodes: int = 1) -> None:
        self._folder, self._nodes = folder, range(1, nodes + 1)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ports: dict[int, tuple[int, int]] = {}

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port, _ in self._ports.values())

    def start(self) -> Cluster:
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            folder = self._folder / f"attempt-{attempt}"
            self._format(folder)
            for node in self._nodes:
                self._spawn(node, folder)
            if asyncio.run(self._answers(START_SECONDS_MAX / START_ATTEMPTS_MAX)):
                return self
            self.close()
        raise RuntimeError(f"Kafka did not start; see {self._folder}")

    @property
    def nodes(self) -> list[int]:
        return list(self._nodes)

    def wait_whole(self) -> None:
        """Until every partition has all its replicas in sync: a second fault must not meet a cluster of one."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not asyncio.run(self._whole()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"The cluster did not become whole; see {self._folder}")
            time.sleep(0.2)

    def kill(self, node: int) -> None:
        """kill -9."""
        self._processes[node].kill()
        self._processes[node].wait(timeout=10)

    def restart(self, node: int) -> None:
        """Start a killed node on its data again."""
        self._spawn(node, self._running)

    def pause(self, node: int) -> None:
        """Freeze a node, and wait until it is: one thread has the signal, and the others work on until its turn."""
        process = self._processes[node]
        process.send_signal(signal.SIGSTOP)
        stopped = os.WSTOPPED | os.WNOHANG
        wait_for(lambda: os.waitid(os.P_PID, process.pid, stopped), PAUSE_SECONDS_MAX, "the node to stop")

    def resume(self, node: int) -> None:
        self._processes[node].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(timeout=10)
        self._processes.clear()

    def _format(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._running = folder
        self._ports = {node: (free_port(), free_port()) for node in self._nodes}
        voters = ",".join(f"{node}@127.0.0.1:{controller}" for node, (_, controller) in self._ports.items())
        number = b"\x01" + uuid4().bytes[1:]  # a text that began with a dash would be an option
        cluster = urlsafe_b64encode(number).decode().rstrip("=")
        for node, (port, controller) in self._ports.items():
            text = PROPERTIES.format(
                node=node, voters=voters, port=port, controller=controller, data=folder / f"data-{node}",
                replication=min(3, len(self._nodes)),
            )  # fmt: skip
            config = folder / f"server-{node}.properties"
            config.write_text(text)
            _java("-Xmx128m", "kafka.tools.StorageTool", "format", "-g", "-t", cluster, "-c", str(config))

    def _spawn(self, node: int, folder: Path) -> None:
        command = ["java", f"-Xms{HEAP}", f"-Xmx{HEAP}", *QUICK, "-XX:+ExitOnOutOfMemoryError"]
        command += ["-cp", f"{LIBS}/*", "kafka.Kafka", str(folder / f"server-{node}.properties")]
        with (folder / f"server-{node}.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder
            )

    async def _whole(self) -> bool:
        from aiokafka.admin import AIOKafkaAdminClient
        from aiokafka.errors import KafkaError

        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap.split(","), request_timeout_ms=3_000)
        try:
            await admin.start()
            topics = await admin.describe_topics()
            return all(
                len(partition["isr"]) == len(partition["replicas"]) and partition["leader"] >= 0
                for topic in topics
                for partition in topic["partitions"]
            )
        except (KafkaError, OSError, TimeoutError):
            return False
        finally:
            await admin.close()

    async def _answers(self, seconds: float) -> bool:
        from aiokafka.admin import AIOKafkaAdminClient
        from aiokafka.errors import KafkaError

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self._processes.values()):
                return False
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap.split(","), request_timeout_ms=3_000)
            try:
                await admin.start()
                await admin.list_topics()
                return True
            except (KafkaError, OSError):
                await asyncio.sleep(0.2)
            finally:
                await admin.close()
        return False


def need_kafka() -> None:
    """Fetch the jars once; skip, or fail where skipping is forbidden, when that cannot be."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on this machine: a real Kafka cannot be started")
    LIBS.parent.mkdir(exist_ok=True)
    with (LIBS.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run side by side
        stamp = LIBS.parent / "complete"
        if stamp.exists() and stamp.read_text() == POM.read_text():
            return
        shutil.rmtree(LIBS, ignore_errors=True)
        command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
        subprocess.run([*command, f"-DoutputDirectory={LIBS}"], check=True, timeout=FETCH_SECONDS_MAX, cwd=POM.parent)
        stamp.write_text(POM.read_text())


@pytest.fixture(scope="session")
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node for the whole session."""
    need_kafka()
    cluster = Cluster(tmp_path_factory.mktemp("kafka")).start()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def kafka(kafka_cluster: Cluster) -> str:
    """The bootstrap address of a node whose personlog topics are empty."""
    return empty(kafka_cluster)


def empty(cluster: Cluster) -> str:
    """Delete every topic; the bootstrap address."""
    asyncio.run(_delete_topics(cluster.bootstrap))
    return cluster.bootstrap


@pytest.fixture
def stack_settings() -> dict[str, str]:
    """Settings of `either_stack`; a module of tests that wants others has a fixture of this name."""
    return {}


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def either_stack(request: pytest.FixtureRequest, tmp_path: Path, stack_settings: dict[str, str]) -> Iterator[Stack]:
    """All of personlog, once on the embedded log and once on Kafka."""
    environment = {"PERSONLOG_KAFKA": request.getfixturevalue("kafka")} if request.param == "kafka" else {}
    with running(tmp_path / "data", **environment, **stack_settings) as started:
        yield started


async def _delete_topics(bootstrap: str) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if not name.startswith("__")]
        if names:
            await admin.delete_topics(names)
        deadline = time.monotonic() + START_SECONDS_MAX
        while set(names) & set(await admin.list_topics()):
            if time.monotonic() > deadline:
                raise RuntimeError("topics of an earlier test do not go away")
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


def _java(heap: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["java", heap, *QUICK, "-cp", f"{LIBS}/*", *command],
        capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ),
    )  # fmt: skip
