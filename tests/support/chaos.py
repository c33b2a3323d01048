"""Writers and faults for the fault tests on real processes; `judge` says what came of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from shared.domain.ids import COMMANDS, fragment_id, hash64, partition_of
from shared.runtime.settings import read
from tests.support.kafka import Cluster
from tests.support.processes import ROOT, TOKEN, Answer, Stack, wait_for

PERSONS, WRITERS, BATCH_MAX = 200, 3, 25
MERGES = {"$identify": "$anon_distinct_id", "$create_alias": "alias"}
PAUSE_SECONDS = 0.03
"""Between two requests of a writer: some hundred events a second, so that a fault meets work and not a backlog."""

RECOVERY_SECONDS_MAX = 120.0
"""Also how long a request is resent: by then service is back, or the run has failed."""

START = [sys.executable, "-c", "import aiohttp, aiokafka, clickhouse_connect, msgspec, prometheus_client, structlog"]
"""What a start costs before it does anything of ours: an interpreter and the libraries."""

STOPPED_SECONDS = 1.5
"""A stall: nobody notices it but the clients."""

UNANSWERED = (OSError, HTTPException)
"""What a client sees of a process that dies: no connection, or half an answer."""


class Acknowledged(NamedTuple):
    """An answer of 2xx: the `Position` it came with, and what must be in the log for it.

    `events` are uuids of captured events, `keys` those of the other commands: of the merges, and of a REST write.
    """

    position: str
    events: list[UUID]
    keys: list[int]


class Writer(threading.Thread):
    """Sends captures, batches, merges, writes, splits and deletes; resends each unchanged until it is acknowledged."""

    def __init__(self, stack: Stack, seed: int) -> None:
        super().__init__(daemon=True)
        self._stack, self._chosen = stack, random.Random(seed)
        self.answers: list[Acknowledged] = []
        self.acknowledged = self.resent = 0
        self.gave_up = ""
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.gave_up and not self.stopping.wait(PAUSE_SECONDS):
            kind = self._chosen.random()
            name = self._anybody()
            if kind < 0.75:
                self.capture([self._event(self._anybody()) for _ in range(self._chosen.randint(10, BATCH_MAX))])
            elif kind < 0.80:
                self.capture([self._event(name)], "/capture/")
            elif kind < 0.86:
                self.capture([merge("$identify", name, self._anybody())])
            elif kind < 0.90:
                self.capture([merge("$create_alias", name, self._anybody())])
            elif kind < 0.96:
                self._rest(name, "PATCH", "", {"properties": {"rest": self._chosen.randrange(1_000)}})
            elif kind < 0.99:
                self._rest(name, "POST", "split/", {"main_distinct_id": name})
            else:
                self._rest(name, "DELETE", "", None)

    def capture(self, events: list[dict[str, Any]], path: str = "/batch/") -> str:
        """The position of the events; empty if they were not acknowledged."""
        body = {"api_key": TOKEN, "batch": events} if path == "/batch/" else {"api_key": TOKEN, **events[0]}
        answer = self._until(lambda: self._stack.ask("POST", path, body, key=None))
        if answer is None or answer.status != 200:
            self.gave_up = self.gave_up or f"capture answered {answer and answer.status}"
            return ""
        keys = [hash64(f"merge:{event['uuid']}") for event in events if event["event"] in MERGES]
        uuids = [UUID(event["uuid"]) for event in events]
        self._remember(Acknowledged(answer.headers["Position"], uuids, keys))
        return answer.headers["Position"]

    def _anybody(self) -> str:
        return f"p{self._chosen.randrange(PERSONS)}"

    def _event(self, name: str) -> dict[str, Any]:
        key = f"n{self._chosen.randrange(8)}"
        changes = self._chosen.choice(
            [{"$set": {key: self._chosen.randrange(99)}}, {"$set_once": {key: "first"}}, {"$unset": [key]}]
        )
        return {"event": "tick", "distinct_id": name, "uuid": str(uuid4()), "properties": changes}

    def _rest(self, name: str, method: str, path: str, body: Any) -> None:
        fragment, key = fragment_id(1, name), uuid4().hex
        headers = {"Idempotency_Key": key, "Prefer": "respond-async"}
        answer = self._until(lambda: self._stack.persons(f"/{fragment}/{path}", method, body, **headers))
        if answer is not None and answer.status < 300:  # 404: nobody there yet, or no more; 400: nothing to split
            self._remember(Acknowledged(answer.headers["Position"], [], [hash64(f"1:{fragment}:{key}")]))

    def _remember(self, answer: Acknowledged) -> None:
        self.answers.append(answer)
        self.acknowledged += len(answer.events) or 1

    def _until(self, send: Callable[[], Answer]) -> Answer | None:
        """The answer, the request resent unchanged until there is one; None when stopping."""
        deadline = time.monotonic() + RECOVERY_SECONDS_MAX
        while time.monotonic() < deadline:
            with suppress(*UNANSWERED):
                answer = send()
                if answer.status < 500:
                    return answer
            self.resent += 1
            if self.stopping.wait(0.05):
                return None
        self.gave_up = f"no answer in {RECOVERY_SECONDS_MAX} s"
        return None


def merge(event: str, name: str, other: str) -> dict[str, Any]:
    """A captured event that merges; of one id with itself it is none."""
    other = other if other != name else f"{other}-other"
    return {"event": event, "distinct_id": name, "uuid": str(uuid4()), "properties": {MERGES[event]: other}}


class Chaos:
    """One run: writers, a seeded list of faults, and what came of it."""

    def __init__(self, stack: Stack, cluster: Cluster | None, seed: int) -> None:
        self.stack, self.cluster = stack, cluster
        self._chosen = random.Random(seed)
        self._coming: list[str] = []
        self._extra: subprocess.Popen[bytes] | None = None
        self.writers = [Writer(stack, seed * 100 + number) for number in range(WRITERS)]
        self.prober = Writer(stack, seed)
        self.kills = 0
        self.recoveries: list[tuple[str, Recovery]] = []
        self.starts: list[float] = []
        """Seconds of one START after each fault, beside the same writers: what the machine gives just then."""

    @property
    def faults(self) -> Counter[str]:
        return Counter(name for name, _ in self.recoveries)

    @property
    def answers(self) -> list[Acknowledged]:
        return [answer for writer in (*self.writers, self.prober) for answer in writer.answers]

    @property
    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    def run(self, kills: int, acknowledged: int) -> None:
        """Faults until there were so many kills and acknowledged writes."""
        for writer in self.writers:
            writer.start()
        try:
            while self.kills < kills or self.acknowledged < acknowledged:
                before = self.acknowledged
                wait_for(lambda: self._going(before + 100), RECOVERY_SECONDS_MAX, "writes to go on")  # noqa: B023
                if self.kills < kills:
                    self._fault()
        finally:
            for writer in self.writers:
                writer.stopping.set()
            for writer in self.writers:
                writer.join(timeout=RECOVERY_SECONDS_MAX)
            if self._extra is not None:
                self._extra.terminate()
                self._extra.wait(timeout=RECOVERY_SECONDS_MAX)

    def _going(self, acknowledged: int) -> bool:
        """Whether so many writes are acknowledged; fails when a writer gave up or died."""
        assert all(writer.is_alive() for writer in self.writers), [writer.gave_up for writer in self.writers]
        return self.acknowledged > acknowledged

    def _fault(self) -> None:
        if not self._coming:  # every kind once, in another order each time; who joined must come before who leaves
            names = ["kill_api", "kill_projector", "kill_engine", "kill_deleter", "kill_all", "stop_projector"]
            names += ["kill_broker", "stop_broker", "expel_projector"] if self.cluster else []
            self._chosen.shuffle(names)
            self._coming = ["join", names.pop(), "kill_joined", "join", *names, "leave"]
        name = self._coming.pop(0)
        watch = Watch(self.stack)
        try:
            ended: float = getattr(self, f"_{name}")()
            seconds = self._recovered(ended)
        finally:
            watch.stop()
        self.kills += 3 if name == "kill_all" else name.startswith("kill_")
        self.recoveries.append((name, Recovery(seconds, watch.moved(ended))))
        began = time.monotonic()
        subprocess.run(START, check=True, cwd=ROOT, timeout=RECOVERY_SECONDS_MAX)
        self.starts.append(time.monotonic() - began)
        if self.cluster:
            self.cluster.wait_whole()

    def _kill(self, *names: str) -> float:
        killed = {name: self.stack.kill(name) for name in names}
        at = time.monotonic()
        for name, pid in killed.items():
            self.stack.wait_restarted(name, pid, RECOVERY_SECONDS_MAX)
        return at

    def _kill_api(self) -> float:
        return self._kill("api")

    def _kill_projector(self) -> float:
        return self._kill("projector")

    def _kill_engine(self) -> float:
        return self._kill("engine")

    def _kill_deleter(self) -> float:
        return self._kill("deleter")

    def _kill_all(self) -> float:
        return self._kill("engine", "projector", "api")

    def _join(self) -> float:
        """A second projector: a rebalance."""
        self._extra = self.stack.spawn("projector", log="joined.log")
        return time.monotonic()

    def _kill_joined(self) -> float:
        return self._end_joined(signal.SIGKILL)

    def _leave(self) -> float:
        return self._end_joined(signal.SIGTERM)

    def _end_joined(self, how: signal.Signals) -> float:
        assert self._extra is not None
        if self._extra.poll() is not None:  # the engine was killed while it started; nobody starts it again but us
            told = (self.stack.data / "joined.log").read_text().strip().rpartition("\n")[2]
            assert "Cannot connect" in told, f"the joined projector ended by itself: {told}"
            self._join()
        self._extra.send_signal(how)
        at = time.monotonic()
        self._extra.wait(timeout=RECOVERY_SECONDS_MAX)
        self._extra = None
        return at

    def _stop_projector(self) -> float:
        pid = self.stack.pid("projector")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)  # the length of the fault itself; nothing is waited for
        os.kill(pid, signal.SIGCONT)
        return time.monotonic()

    def _expel_projector(self) -> float:
        """Frozen until the joined one serves every partition, then let go on with what it holds in memory: a zombie.

        On Kafka only: the embedded log's locks are the kernel's, and a frozen process keeps them.
        """
        pid = self.stack.pid("projector")
        os.kill(pid, signal.SIGSTOP)
        try:
            self._recovered(time.monotonic())
        finally:
            os.kill(pid, signal.SIGCONT)
        return time.monotonic()

    def _kill_broker(self) -> float:
        assert self.cluster is not None
        node = self._chosen.choice(self.cluster.nodes)
        self.cluster.kill(node)
        at = time.monotonic()
        self.cluster.restart(node)
        return at

    def _stop_broker(self) -> float:
        assert self.cluster is not None
        node = self._chosen.choice(self.cluster.nodes)
        self.cluster.pause(node)
        time.sleep(STOPPED_SECONDS)
        self.cluster.resume(node)
        return time.monotonic()

    def _recovered(self, ended: float) -> float:
        """Seconds until writes made after the fault, one to every commands partition and a merge, are all visible."""
        number = len(self.recoveries)
        events = [merge("$identify", f"probe{number}-a", f"probe{number}-b")]
        count, reached = read(self.stack.environment).topics[COMMANDS], set[int]()
        for name in (f"probe{one}" for one in range(100 * count)):
            if (partition := partition_of(fragment_id(1, name), count)) not in reached:
                reached.add(partition)
                changes = {"$set": {"after": number}}
                events.append({"event": "probe", "distinct_id": name, "uuid": str(uuid4()), "properties": changes})
        position = self.prober.capture(events)
        assert position, self.prober.gave_up

        def visible() -> bool:
            with suppress(*UNANSWERED):
                return self.stack.persons("/?limit=1", Min_Position=position).status == 200
            return False

        wait_for(visible, RECOVERY_SECONDS_MAX, "service after a fault")
        return time.monotonic() - ended


class Recovery(NamedTuple):
    """Seconds from the end of a fault.

    `served`: until writes made after it, to every partition, are acknowledged and visible to a read; this is the
    recovery that is reported. `moved`: until the first position row moves, as the reference defines it; that one
    partition goes on, be it with what was acknowledged before the fault.
    """

    served: float
    moved: float


class Watch(threading.Thread):
    """Notes when position rows move. It asks the engine's own port, for the API may be what was killed."""

    SQL = "SELECT sum(version) FROM (SELECT max(version) AS version FROM {} WHERE project = 0 GROUP BY fragment)"

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self._stack, self._stopping = stack, threading.Event()
        self._moves: list[float] = []
        self._seen = ""
        self.start()

    def run(self) -> None:
        while not self._stopping.wait(0.05):
            with suppress(*UNANSWERED):
                seen = self._stack.query(f"SELECT ({self.SQL.format('fragments')}) + ({self.SQL.format('identity')})")
                if seen != self._seen:
                    self._moves.append(time.monotonic())
                    self._seen = seen

    def stop(self) -> None:
        self._stopping.set()
        self.join(timeout=RECOVERY_SECONDS_MAX)

    def moved(self, ended: float) -> float:
        """Seconds from the end of the fault to the first movement after it."""
        return min((at for at in self._moves[1:] if at >= ended), default=time.monotonic()) - ended
