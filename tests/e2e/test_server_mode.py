"""Processes that know a ClickHouse server by its URL, each as the user of its role. Only the log is embedded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asking import sent
from tests.support.engine import EngineProcess
from tests.support.processes import Stack, wait_for

pytestmark = pytest.mark.alone

USERS = {"migrate": "migrator", "api": "api", "projector": "writer", "deleter": "deleter"}


class Server(Stack):
    """A stack without a supervisor, whose processes know a ClickHouse server."""

    def __init__(self, data: Path, engine: EngineProcess) -> None:
        super().__init__(data)
        self.engine = engine

    def as_user(self, user: str) -> dict[str, str]:
        return {"PERSONLOG_CLICKHOUSE": self.engine.url("personlog", user)}

    def begin(self) -> None:
        assert self.run("migrate", log="migrate.log", **self.as_user("migrator")).wait(60) == 0
        for name in ("api", "projector", "deleter"):
            self.spawn(name, log=f"{name}.log", **self.as_user(USERS[name]))
        wait_for(self.ready, 60, "the API")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    engine = EngineProcess(folder / "engine").start()
    server = Server(folder / "data", engine)
    try:
        server.begin()
        yield server
    finally:
        server.stop()
        engine.stop()


def test_a_person_lives_and_is_erased(stack: Server, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "free"}})
    path = f"/{stack.uuid(name)}/"
    assert stack.persons(path, "PATCH", {"properties": {"plan": "pro"}}).json["properties"] == {"plan": "pro"}
    assert [one["uuid"] for one in stack.persons("/?search=" + name).json["results"]] == [stack.uuid(name)]
    assert stack.persons(f"{path}?delete_events=true", "DELETE").status == 204
    assert stack.persons(path).status == 404
    run = stack.run("deletions", "run", log="deletions.log", **stack.as_user("deleter"))
    assert run.wait(120) == 0
    assert "1 verified, 0 failed, 0 left open" in (stack.data / "deletions.log").read_text()


def test_operators_commands_work_as_the_migrator(stack: Server, name: str) -> None:
    sent(stack, name, **{"$set": {"plan": "free"}})
    for command in (["doctor"], ["projects", "create", "Another"], ["keys", "list"], ["rebuild", "--verify"]):
        process = stack.run(*command, log="operator.log", **stack.as_user("migrator"))
        assert process.wait(120) == 0, (stack.data / "operator.log").read_text()
    assert "0 differences, 0 corrupt" in (stack.data / "operator.log").read_text()
    assert stack.persons(f"/{stack.uuid(name)}/").json["properties"] == {"plan": "free"}


def test_nothing_of_the_embedded_setup_is_made(stack: Server) -> None:
    assert not (stack.data / "engine").exists()
    assert not (stack.data / "run" / "changes").exists()
    keys = (stack.data / "keys.env").read_text() if (stack.data / "keys.env").exists() else ""
    assert "ENGINE" not in keys
