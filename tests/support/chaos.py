"""Writers and faults for the fault tests on real processes; `judge` says what came of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from shared.domain.ids import fragment_id
from tests.support.kafka import Cluster
from tests.support.processes import TOKEN, Stack, wait_for

PERSONS, WRITERS, BATCH = 200, 3, 15
PAUSE_SECONDS = 0.03
"""Between two requests of a writer: some hundred events a second, so that a fault meets work and not a backlog."""

RECOVERY_SECONDS_MAX = 60.0
STOPPED_SECONDS = 1.5


class Writer(threading.Thread):
    """Sends captures, batches, merges, writes, splits and deletes; resends each unchanged until it is acknowledged."""

    def __init__(self, stack: Stack, seed: int) -> None:
        super().__init__(daemon=True)
        self._stack, self._chosen = stack, random.Random(seed)
        self.events: list[UUID] = []
        self.positions: list[str] = []
        self.resent = 0
        self.stopping = threading.Event()

    @property
    def acknowledged(self) -> int:
        return len(self.events) + len(self.positions)

    def run(self) -> None:
        while not self.stopping.wait(PAUSE_SECONDS):
            kind = self._chosen.random()
            name = f"p{self._chosen.randrange(PERSONS)}"
            if kind < 0.80:
                self._capture([self._event(f"p{self._chosen.randrange(PERSONS)}") for _ in range(BATCH)])
            elif kind < 0.90:
                other = f"p{self._chosen.randrange(PERSONS)}"
                merge = {"event": "$identify", "distinct_id": name, "properties": {"$anon_distinct_id": other}}
                self._capture([merge | {"uuid": str(uuid4())}])
            elif kind < 0.96:
                self._rest(name, "PATCH", "", {"properties": {"rest": self._chosen.randrange(1_000)}})
            elif kind < 0.99:
                self._rest(name, "POST", "split/", {"main_distinct_id": name})
            else:
                self._rest(name, "DELETE", "", None)

    def _event(self, name: str) -> dict[str, Any]:
        key = f"n{self._chosen.randrange(8)}"
        changes = self._chosen.choice(
            [{"$set": {key: self._chosen.randrange(99)}}, {"$set_once": {key: "first"}}, {"$unset": [key]}]
        )
        return {"event": "tick", "distinct_id": name, "uuid": str(uuid4()), "properties": changes}

    def _capture(self, events: list[dict[str, Any]]) -> None:
        body = {"api_key": TOKEN, "batch": events}
        if self._until(lambda: self._stack.ask("POST", "/batch/", body, key=None).status == 200):
            self.events += [UUID(event["uuid"]) for event in events]

    def _rest(self, name: str, method: str, path: str, body: Any) -> None:
        headers = {"Idempotency_Key": uuid4().hex, "Prefer": "respond-async"}

        def send() -> bool:
            answer = self._stack.persons(f"/{fragment_id(1, name)}/{path}", method, body, **headers)
            if answer.status < 300 and "Position" in answer.headers:
                self.positions.append(answer.headers["Position"])
            return answer.status < 500  # 404: nobody there yet, or no more; 400: nothing to split

        self._until(send)

    def _until(self, send: Callable[[], bool]) -> bool:
        while True:
            with suppress(OSError):
                if send():
                    return True
            self.resent += 1
            if self.stopping.wait(0.05):
                return False


class Chaos:
    """One run: writers, a seeded list of faults, and what came of it."""

    def __init__(self, stack: Stack, cluster: Cluster | None, seed: int) -> None:
        self.stack, self.cluster = stack, cluster
        self._chosen = random.Random(seed)
        self._coming: list[str] = []
        self._extra: subprocess.Popen[bytes] | None = None
        self.writers = [Writer(stack, seed * 100 + number) for number in range(WRITERS)]
        self.faults: Counter[str] = Counter()
        self.recoveries: list[float] = []

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.faults.items() if name.startswith("kill"))

    @property
    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    def run(self, kills: int, acknowledged: int) -> None:
        """Faults until there were so many kills and acknowledged writes."""
        for writer in self.writers:
            writer.start()
        try:
            while self.kills < kills or self._coming or self.acknowledged < acknowledged:
                before = self.acknowledged
                wait_for(lambda: self.acknowledged > before + 100, RECOVERY_SECONDS_MAX, "writes to go on")  # noqa: B023
                if self.kills < kills or self._coming:
                    self._fault()
        finally:
            for writer in self.writers:
                writer.stopping.set()
            for writer in self.writers:
                writer.join(timeout=30)
            if self._extra is not None:
                self._extra.terminate()
                self._extra.wait(timeout=15)

    def _fault(self) -> None:
        if not self._coming:  # every kind once, in another order each time; who joined must come before who leaves
            names = ["kill_api", "kill_projector", "kill_engine", "kill_deleter", "kill_all", "stop_projector"]
            names += ["kill_broker", "stop_broker"] if self.cluster else []
            self._chosen.shuffle(names)
            self._coming = ["join", names.pop(), "kill_joined", "join", *names, "leave"]
        name = self._coming.pop(0)
        ended: float = getattr(self, f"_{name}")()
        self.faults[name] += 1
        self.recoveries.append(self._recovered(ended))

    def _kill(self, *names: str) -> float:
        killed = {name: self.stack.kill(name) for name in names}
        at = time.monotonic()
        for name, pid in killed.items():
            self.stack.wait_restarted(name, pid)
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
        at = self._kill("engine", "projector", "api")
        self.faults["kill_all"] += 2  # and the one that is counted for the fault
        return at

    def _join(self) -> float:
        """A second projector: a rebalance."""
        self._extra = self.stack.spawn("projector", log="joined.log")
        return time.monotonic()

    def _kill_joined(self) -> float:
        return self._end_joined(signal.SIGKILL)

    def _leave(self) -> float:
        return self._end_joined(signal.SIGTERM)

    def _end_joined(self, how: signal.Signals) -> float:
        assert self._extra is not None and self._extra.poll() is None, "the joined projector ended by itself"
        self._extra.send_signal(how)
        at = time.monotonic()
        self._extra.wait(timeout=20)
        self._extra = None
        return at

    def _stop_projector(self) -> float:
        """Frozen long enough that another one would take its partitions over, then let go on: a zombie."""
        pid = self.stack.pid("projector")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)  # the length of the fault itself; nothing is waited for
        with suppress(ProcessLookupError):
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
        """Seconds until a write made after the fault is acknowledged and visible; then the cluster is whole again."""

        def visible() -> float:
            with suppress(OSError):
                sent = self.stack.capture(event="probe", distinct_id="probe", properties={"$set": {"at": ended}})
                if sent.status == 200:
                    position = sent.headers["Position"]
                    if self.stack.persons("/?limit=1", Min_Position=position).status == 200:
                        return time.monotonic()
            return 0.0

        seconds = float(wait_for(visible, RECOVERY_SECONDS_MAX, "service after a fault")) - ended
        if self.cluster:
            self.cluster.wait_whole()
        return seconds
