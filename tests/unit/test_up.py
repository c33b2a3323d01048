"""Supervision: the parts of it that need no children. Those with children are in tests/e2e and tests/faults."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from services.up import (
    BACKOFF_SECONDS_MAX,
    BACKOFF_SECONDS_MIN,
    HEALTHY_SECONDS,
    BoundedLog,
    Supervisor,
    folder_lock,
    next_backoff,
    up,
)
from shared.runtime.process.ports import check_port
from shared.runtime.settings import BOOTSTRAP, GENERATED, SECRETS_OF, SettingsError, read


def test_the_first_restart_is_nearly_at_once() -> None:
    assert next_backoff(BACKOFF_SECONDS_MIN / 2, 0) == BACKOFF_SECONDS_MIN


def test_a_child_that_keeps_failing_waits_longer_and_never_longer_than_the_limit() -> None:
    waits = [BACKOFF_SECONDS_MIN]
    for _ in range(20):
        waits.append(next_backoff(waits[-1], 0.1))
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_SECONDS_MAX


def test_a_healthy_run_forgives_what_was_before() -> None:
    assert next_backoff(BACKOFF_SECONDS_MAX, HEALTHY_SECONDS) == BACKOFF_SECONDS_MIN


def test_a_log_is_bounded_and_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "api.log"
    log = BoundedLog(path, bytes_max=100)
    for number in range(50):
        log.write(b"line %02d\n" % number)
    log.close()
    kept = path.with_suffix(".log.1").read_bytes() + path.read_bytes()
    assert path.stat().st_size <= 100
    assert path.with_suffix(".log.1").stat().st_size <= 100
    assert kept.endswith(b"line 48\nline 49\n")
    assert kept.count(b"\n") >= 100 // len(b"line 00\n")


def test_a_log_goes_on_where_the_last_run_ended(tmp_path: Path) -> None:
    path = tmp_path / "api.log"
    for line in (b"one\n", b"two\n"):
        log = BoundedLog(path)
        log.write(line)
        log.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_second_supervisor_on_the_same_data_is_refused_with_one_line(tmp_path: Path) -> None:
    lock = tmp_path / "up.lock"
    with folder_lock(lock, tmp_path):
        with pytest.raises(SettingsError, match="already running on") as refused, folder_lock(lock, tmp_path):
            raise AssertionError("two supervisors")
        assert "\n" not in refused.value.detail
    with folder_lock(lock, tmp_path):
        pass


def test_a_taken_port_is_refused_with_its_number() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} for the API is taken on 127.0.0.1"):
            check_port("API", "127.0.0.1", port)
    check_port("API", "127.0.0.1", port)


def test_one_port_for_two_is_refused(tmp_path: Path) -> None:
    settings = read({"PERSONLOG_DATA": str(tmp_path), "PERSONLOG_PORT": "21010", "PERSONLOG_ENGINE_PORT": "21010"})
    with pytest.raises(SettingsError, match="port 21010 is set for the API and for the engine"):
        up(settings, announce_keys=False)


def test_children_do_not_share_an_ops_port(tmp_path: Path) -> None:
    supervisor = Supervisor(read({"PERSONLOG_DATA": str(tmp_path), "PERSONLOG_OPS_PORT": "21000"}))
    ports = [supervisor._environment(name)["PERSONLOG_OPS_PORT"] for name in ("projector", "deleter")]
    assert ports == ["21000", "21001"]


def test_children_get_the_settings_of_their_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONLOG_PERSONAL_KEY_FILE", str(tmp_path / "gone"))
    settings = read({"PERSONLOG_DATA": str(tmp_path), "PERSONLOG_PERSONAL_KEY": "phx_1", "PERSONLOG_PORT": "8099"})
    children = read(Supervisor(settings)._environment("api"))
    assert children.instance, "a child keeps its name in the group when it is started again"
    assert msgspec.structs.replace(children, instance="", personal_key="phx_1") == settings
    named = msgspec.structs.replace(settings, instance="pod-7")
    assert read(Supervisor(named)._environment("api")).instance == "pod-7"


def test_no_child_is_told_a_secret_that_it_does_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the bucket")
    given = {f"PERSONLOG_{field.upper()}": f"secret of {field}" for field in GENERATED}
    supervisor = Supervisor(read({"PERSONLOG_DATA": str(tmp_path), **given}))
    told = {name: supervisor._environment(name) for name in ("engine", "migrate", "api", "projector", "deleter")}
    for name, environment in told.items():
        known = {field for field in GENERATED if f"secret of {field}" in environment.values()}
        assert known == SECRETS_OF[name], name
    assert {name for name, one in told.items() if "AWS_SECRET_ACCESS_KEY" in one} == {"api", "deleter"}
    assert not {field for field in BOOTSTRAP if field in SECRETS_OF["api"] | SECRETS_OF["engine"]}
