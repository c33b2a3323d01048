"""The compose file and the image, read as data: no container engine is needed to see that they fit the program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli import main
from shared.runtime.settings import PREFIX, read

ROOT = Path(__file__).resolve().parents[2]
OURS = ("migrate", "api", "projector", "deleter")
LONG_RUNNING = ("kafka", "clickhouse", "api", "projector", "deleter")


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture
def services(compose: Any) -> dict[str, Any]:
    return dict(compose["services"])


def resolved(text: str) -> str:
    """What compose makes of `${NAME:-default}` when nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_whole_is_these_services(services: dict[str, Any]) -> None:
    assert set(services) == {*OURS, *LONG_RUNNING}


@pytest.mark.parametrize("name", OURS)
def test_the_program_accepts_the_environment(services: dict[str, Any], name: str) -> None:
    settings = read({key: resolved(value) for key, value in services[name]["environment"].items()})
    assert not settings.embedded
    assert settings.kafka == "kafka:19092"
    assert settings.personal_key == ""  # generated into the shared volume unless given


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_of_ours(services: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*services[name]["command"], "--help"])
    assert end.value.code == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_every_long_running_service_has_a_health_check(services: dict[str, Any], name: str) -> None:
    assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert services[name]["restart"] == "unless-stopped"


def test_health_is_asked_where_the_process_listens(services: dict[str, Any]) -> None:
    for name in ("api", "projector", "deleter"):
        environment = services[name]["environment"]
        port = environment[PREFIX + ("PORT" if name == "api" else "OPS_PORT")]
        assert f"http://127.0.0.1:{port}/readyz" in services[name]["healthcheck"]["test"][-1]


def test_services_start_after_the_migration(services: dict[str, Any]) -> None:
    for name in ("api", "projector", "deleter"):
        conditions = {key: value["condition"] for key, value in services[name]["depends_on"].items()}
        readers = dict.fromkeys(("projector", "deleter"), "service_started") if name == "api" else {}
        assert conditions == readers | {  # who reads commands is upgraded before who writes them
            "kafka": "service_healthy",
            "clickhouse": "service_healthy",
            "migrate": "service_completed_successfully",
        }
    assert services["migrate"]["depends_on"]["clickhouse"]["condition"] == "service_healthy"
    assert services["migrate"]["restart"] == "no"


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_what_is_kept_lies_in_named_volumes(compose: Any, services: dict[str, Any]) -> None:
    mounted = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert mounted == set(compose["volumes"]) == {"kafka", "clickhouse", "personlog"}
    for name in OURS:
        assert services[name]["volumes"] == [f"personlog:{services[name]['environment'][PREFIX + 'DATA']}"]


def test_every_image_is_pinned(services: dict[str, Any]) -> None:
    for service in services.values():
        assert re.search(r":\d+\.\d+(\.\d+)?$", service["image"]), service["image"]


def test_the_broker_is_the_one_that_the_tests_run(services: dict[str, Any]) -> None:
    tested = re.search(r"kafka_2\.13</artifactId><version>([^<]+)", (ROOT / "tests/support/kafka-pom.xml").read_text())
    assert tested is not None
    assert services["kafka"]["image"] == f"apache/kafka:{tested[1]}"


def test_a_single_broker_asks_for_no_second_replica(services: dict[str, Any]) -> None:
    environment = services["kafka"]["environment"]
    factors = {key: value for key, value in environment.items() if key.endswith(("REPLICATION_FACTOR", "MIN_ISR"))}
    assert len(factors) == 5
    assert set(factors.values()) == {"1"}
    listeners = {item.partition(":")[0] for item in environment["KAFKA_LISTENERS"].split(",")}
    mapped = {item.partition(":")[0] for item in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    assert listeners == mapped


def test_the_database_is_the_one_that_the_program_asks_for(services: dict[str, Any]) -> None:
    environment = {key: resolved(value) for key, value in services["clickhouse"]["environment"].items()}
    url = resolved(services["api"]["environment"]["PERSONLOG_CLICKHOUSE"])
    user, password = environment["CLICKHOUSE_USER"], environment["CLICKHOUSE_PASSWORD"]
    assert url == f"http://{user}:{password}@clickhouse:8123/{environment['CLICKHOUSE_DB']}"


def test_the_image_is_built_in_stages_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert sum(line.startswith("FROM ") for line in lines) == 2
    assert any(re.fullmatch(r"ARG PYTHON=3\.\d+\.\d+-slim-\w+", line) for line in lines)
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 10001:10001"]
    assert any("--require-hashes" in line for line in lines)


def test_containers_run_the_same_pins_as_everything_else() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z][\w.-]*==\S+", (ROOT / "requirements" / name).read_text(), re.M))

    assert pins("server.txt") < pins("run.txt") < pins("dev.txt")
    assert not any(pin.startswith("chdb") for pin in pins("server.txt"))


def test_only_what_the_image_needs_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert sent == {name for names in copied for name in names.split()}
