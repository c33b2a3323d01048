"""Fixtures that every test may use, and the rule that CI never skips."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import HealthCheck, settings

from tests.support.tier import LEFT_OUT, TIER, sized, temporary_root

SIMULATED = (
    "episodes",
    "commands",
    "kills",
    "failures",
    "ambiguous",
    "frozen",
    "fenced",
    "redeliveries",
    "restores",
    "rebuilds",
)

pytest_plugins = [
    f"tests.support.{module}" for module in ("engine", "analyst", "kafka", "erasing", "s3", "chromium", "stacks")
]

settings.register_profile(
    TIER,
    max_examples=sized(dev=60, ci=400, soak=10_000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(TIER)

_left_out: Counter[str] = Counter()


def pytest_configure() -> None:
    """Data folders lie in memory where they may; pytest makes its own folder there, and keeps those of what failed."""
    if root := temporary_root(TIER):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(root))


@pytest.fixture
def name() -> str:
    """A distinct id that no other test has used."""
    return f"user-{uuid4().hex[:12]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With PERSONLOG_TEST_NO_SKIP=1 a skipped test has failed: CI must have what every test needs."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("PERSONLOG_TEST_NO_SKIP") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipping is forbidden here: {report.longrepr}"
    return report


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        _left_out[next((mark for mark in LEFT_OUT if item.get_closest_marker(mark)), "")] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the process that started it, which collects nothing itself, what is left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All workers collect the same."""
    _left_out.update(Counter(getattr(node, "workeroutput", {}).get("left_out", {})) - _left_out)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was left out; what the simulator did and found, summed over all workers."""
    if told := ", ".join(f"{_left_out[mark]} {mark}" for mark in LEFT_OUT if _left_out[mark]):
        terminalreporter.write_line(f"tier {TIER}: left out {told}; .ci/run runs all, `make soak` runs deeper")
    reports = [one for name in ("passed", "failed") for one in terminalreporter.stats.get(name, ())]
    noted = [pair for one in reports for pair in one.user_properties]
    simulated: Counter[str] = Counter()
    for name, value in noted:
        if name == "simulated":
            simulated.update(orjson.loads(value))
    if simulated:
        counts = ", ".join(f"{simulated[name]:,} {name}" for name in (*SIMULATED, "wrong"))
        terminalreporter.write_line(f"simulator: {counts}")
    for name, value in noted:
        if name in ("faults", "schemathesis"):
            terminalreporter.write_line(f"{name}: {value}")
    planted = [one for one in reports if "test_mutations.py" in one.nodeid]
    if planted:
        found = sorted(value for name, value in noted if name == "planted_fault_found")
        terminalreporter.write_line(f"planted faults: found {len(found)} / planted {len(planted)}: {', '.join(found)}")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes name no test: gzip puts the time into them, and workers that collect in different seconds disagree."""
    return argname if isinstance(val, bytes) else None
